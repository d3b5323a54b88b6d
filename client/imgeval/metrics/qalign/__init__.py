"""Q-Align (Wu et al. 2023, arXiv 2312.17090): quality and aesthetics of an image, 1..5, from the model one-align.

    image.py       (H, W, 3) uint8 -> (3, 448, 448) float32
    vision.py      the ViT-L/14: pixels -> 1025 tokens
    abstractor.py  1025 tokens -> 64 queries and an end token, as wide as the language model
    llama.py       LLaMA-2 whose norms, keys and values have other weights for visual tokens than for text
    model.py       all of it: pixels and two constant prompts -> two times five logits
    scorer.py      images -> results; the way in
    config.py, prompts.py, checkpoint.py, quantise.py, attention.py: what these need

The reference is mPLUG-Owl2 (Ye et al. 2023, arXiv 2311.04257) as github.com/Q-Future/Q-Align has it. Importing this
package imports no torch; `config`, `prompts` and `image` do not either.
"""

"""An open_clip checkpoint of random numbers, with which exported models are compared without the published weights.

A comparison must be able to fail, so unlike a freshly initialised network this one tells images and prompts apart:

- the class token and the end-of-text token enter the blocks as almost nothing. What they end as is gathered from the
  patches and words, instead of being the same for every input but for a few percent;
- the blocks add three times the usual share (`BLOCK_GAIN`), for the same reason;
- the projections favour some axes of the joint space, the same ones for images and texts, so that cosines and aesthetic
  scores vary by several times what isotropic embeddings would give, 1 / sqrt(768) in the case of cosines. `AXES_SEED`
  orders the axes: of 200 seeds the one with which LAION's aesthetic head varies most.

Queries and keys are small (`ATTENTION_GAIN`): attention that jumps from patch to patch would blow up each rounding, and
what bfloat16 changes should be of the size that it has with trained weights. ViT-L/14, seed 0, over 8 photos and 10
prompts: cosines have standard deviation 0.07 and aesthetic scores 1.0; bfloat16 changes them by 0.004 and 0.02 at most.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from imgeval_export.clip import VIT_L_14, ClipSizes, expected_shapes

BLOCK_GAIN = 3.0
ATTENTION_GAIN = 0.5  # of queries and keys
IMAGE_DECAY = 0.75  # the n-th favoured axis has a share of n ** -decay
TEXT_DECAY = 0.2
AXES_SEED = 110
END_TOKEN_SCALE = 0.03
LOGIT_SCALE = math.log(100)  # what OpenAI's checkpoints hold


def random_clip_state(sizes: ClipSizes = VIT_L_14, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Names and shapes as open_clip saves them; the same seed gives the same numbers."""
    rng = np.random.default_rng(seed)
    state = {name: rng.standard_normal(shape, np.float32) for name, shape in expected_shapes(sizes).items()}
    for name, values in state.items():
        values *= _scale(name, values.shape, sizes)
        if "ln_" in name and name.endswith("weight"):
            values += 1
        if name.endswith("in_proj_weight"):
            values[: 2 * values.shape[1]] *= ATTENTION_GAIN

    order = np.random.default_rng(AXES_SEED).permutation(sizes.embedding)  # the axes, from the favourite on
    rank = np.argsort(order) + 1.0  # of each axis
    state["visual.proj"] *= rank**-IMAGE_DECAY
    state["text_projection"] *= rank**-TEXT_DECAY
    # ln_pre makes the class token as long as any patch, so put all of it on one channel and let ln_pre drop that one.
    state["visual.class_embedding"][:] = np.eye(1, sizes.width)[0]
    state["visual.positional_embedding"][0] = 0
    state["visual.ln_pre.weight"][0] = 0
    state["token_embedding.weight"][-1] *= END_TOKEN_SCALE
    state["logit_scale"] = np.array(LOGIT_SCALE, np.float32)
    return state


def _scale(name: str, shape: tuple[int, ...], sizes: ClipSizes) -> float:
    """Standard deviation of one tensor: about 1 / sqrt(inputs) of a matrix, so that activations stay about 1."""
    layers = sizes.layers if name.startswith("visual.") else sizes.text_layers
    if name.endswith("bias"):
        return 0.02
    if "ln_" in name or "positional" in name:
        return 0.1
    if name.endswith(("out_proj.weight", "c_proj.weight")):  # 2 * layers of these are added up
        return BLOCK_GAIN / math.sqrt(shape[1] * 2 * layers)
    if name.endswith(("in_proj_weight", "c_fc.weight")):
        return 1 / math.sqrt(shape[1])
    if name == "visual.conv1.weight":
        return 1 / math.sqrt(math.prod(shape[1:]))
    return 1.0  # words, and the projections, whose result is normalised

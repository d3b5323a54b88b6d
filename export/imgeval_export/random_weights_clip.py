"""An open_clip checkpoint of random numbers, with which exported models can be compared without the published weights.

A comparison must be able to fail, so unlike a fresh torch model this one tells images and prompts apart. Three choices
do it, each against one way in which random transformers forget their input:

- tokens enter the blocks small (`TOKEN_SCALE`), so that what the class token and the end-of-text token share in every
  row is soon outweighed by what they gather from the others;
- attention is peaked (`ATTENTION_SCALE`), so that it picks patches and words instead of averaging all;
- the projections favour the same few axes (`AXES`) of the joint space, so that the cosine of an image and a prompt
  varies like that of vectors with few axes, not like 1 / sqrt(768).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from imgeval_export.clip import VIT_L_14, ClipSizes, expected_shapes

TOKEN_SCALE = 0.3
ATTENTION_SCALE = 1.5
AXES = 16.0
LOGIT_SCALE = float(np.log(100))  # what OpenAI's checkpoints hold


def random_clip_state(sizes: ClipSizes = VIT_L_14, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Names and shapes as open_clip saves them, values from `seed`: the same seed gives the same numbers."""
    rng = np.random.default_rng(seed)
    return {name: _values(rng, name, shape) for name, shape in sorted(expected_shapes(sizes).items())}


def _values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    raise NotImplementedError

"""A small Q-Align with random weights that make scores vary, and images to score with it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from imgeval.metrics.qalign.config import AbstractorConfig, QAlignConfig, TextConfig, VisionConfig
from imgeval.metrics.qalign.model import QAlignModel
from imgeval.metrics.qalign.prompts import PromptIds, TaskPrompt
from imgeval_export.random_weights_qalign import random_state

# Every size is different from the others where the architecture lets it be, so that no two can be mixed up.
CONFIG = QAlignConfig(
    VisionConfig(width=64, layers=3, heads=4, mlp=128, image_px=70, patch_px=14),
    AbstractorConfig(queries=9, width=64, layers=2, heads=8, mlp=80),
    TextConfig(vocabulary=120, width=96, layers=4, heads=6, mlp=160),
)
# Of different lengths before and after the image.
PROMPTS = PromptIds(
    TaskPrompt((1, 17, 33, 8, 90, 44, 13), (29, 13, 55, 61, 72)),
    TaskPrompt((1, 17, 33, 8, 91, 92, 93, 44, 13), (29, 13, 55, 91, 92, 93, 61, 72)),
    (101, 55, 103, 104, 110),
)


def model() -> QAlignModel:
    tiny = QAlignModel(CONFIG)
    tiny.load_state_dict(random_state(CONFIG, seed=1))
    return tiny.eval().requires_grad_(False)


def images() -> list[NDArray[np.uint8]]:
    """Twelve images of different sizes: colour gradients, stripes and noise."""
    rng = np.random.default_rng(5)
    made = []
    for number in range(12):
        height, width = rng.integers(20, 200, 2)
        y, x = np.mgrid[:height, :width] / max(height, width)
        angle, frequency = rng.uniform(0, np.pi), rng.uniform(1, 30)
        wave = np.sin(frequency * (x * np.cos(angle) + y * np.sin(angle)))[..., None]
        noise = rng.normal(0, rng.uniform(0, 60), (height, width, 3)) if number % 3 == 0 else 0
        made.append(np.clip(rng.uniform(0, 255, 3) + wave * rng.uniform(-128, 128, 3) + noise, 0, 255).astype(np.uint8))
    return made


def score_of(logits: torch.Tensor) -> torch.Tensor:
    """The formula, once more: (..., 5) -> (...)."""
    return logits.double().softmax(-1) @ torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64)

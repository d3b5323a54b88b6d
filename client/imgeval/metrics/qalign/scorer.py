"""Images -> Q-Align scores: the way in for a server.

prompts = PromptIds.read(Path("prompts.json"))
scorer = QAlign.from_folder(Path("one-align"), prompts, device="cuda", precision="fp16")
scorer.score([rgb])[0].quality
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from imgeval.errors import BuildError
from imgeval.image import Pixels
from imgeval.metrics.qalign.checkpoint import load_model
from imgeval.metrics.qalign.image import preprocess
from imgeval.metrics.qalign.model import QAlignModel
from imgeval.metrics.qalign.prompts import LEVEL_VALUES, PromptIds
from imgeval.metrics.qalign.quantise import Quantisation

Precision = Literal["fp32", "bf16", "fp16", "int8", "int4"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_BITS = {"int8": 8, "int4": 4}

Levels = tuple[float, ...]  # five values in the order of prompts.LEVELS


@dataclass(frozen=True)
class QAlignResult:
    """Both scores, 1..5, and what they are computed from. NaN where half precision overflowed."""

    quality: float
    aesthetic: float
    quality_logits: Levels
    aesthetic_logits: Levels
    quality_probabilities: Levels
    aesthetic_probabilities: Levels


class QAlign:
    """A model with its prompts encoded. Not thread-safe to build, safe to use from many threads."""

    def __init__(self, model: QAlignModel, prompts: PromptIds, *, max_batch: int = 8) -> None:
        """Takes the model where it is; at most `max_batch` images are computed at once.

        Raises:
            BuildError: the prompts are not for this model.
        """
        self.model = model.eval()
        self.max_batch = max_batch
        self._prompts = model.encode(prompts)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        prompts: PromptIds,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        max_batch: int = 8,
    ) -> QAlign:
        """Load a `one-align` folder.

        `int8` and `int4` compute in half precision, upstream's float16 on a GPU and bfloat16 on a CPU.

        Raises:
            BuildError: the folder is not right, the prompts are not for it, or there is no such precision.
        """
        if precision in _BITS:
            quantisation: Quantisation | None = Quantisation(_BITS[precision])
            dtype = torch.float16 if torch.device(device).type == "cuda" else torch.bfloat16
        elif precision in _DTYPES:
            quantisation, dtype = None, _DTYPES[precision]
        else:
            raise BuildError(f"precision is {precision!r}, not fp32, bf16, fp16, int8 or int4")
        model = load_model(folder, dtype=dtype, device=device, quantisation=quantisation)
        scorer = cls(model, prompts, max_batch=max_batch)
        model.release_vocabulary()
        return scorer

    def score(self, images: Sequence[Pixels]) -> list[QAlignResult]:
        """Score RGB images (H, W, 3) uint8 of any sizes; the result of one does not depend on the others."""
        side = self.model.config.vision.image_px
        results: list[QAlignResult] = []
        for start in range(0, len(images), self.max_batch):
            pixels = np.stack([preprocess(rgb, side) for rgb in images[start : start + self.max_batch]])
            logits = self.model.logits(torch.from_numpy(pixels), self._prompts)  # (N, 2, 5)
            results += [_result(each) for each in logits.cpu().numpy().astype(np.float64)]
        return results


def _result(logits: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> QAlignResult:
    """logits (2, 5): score = softmax(logits) . (5, 4, 3, 2, 1), per task."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    quality, aesthetic = (probabilities @ np.array(LEVEL_VALUES, np.float64)).tolist()
    return QAlignResult(quality, aesthetic, *map(tuple, logits.tolist()), *map(tuple, probabilities.tolist()))

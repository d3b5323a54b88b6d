"""Images -> Q-Align scores: the way in for a server.

prompts = PromptIds.read(Path("prompts.json"))
scorer = QAlign.from_folder(Path("one-align"), prompts, device="cuda", precision="fp16")
scorer.score([rgb])[0].quality
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

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

Compiler = Callable[[Callable[..., Any]], Callable[..., Any]]
# Settings of `compile`. Shapes are static: one graph per size of a batch, of which there are few (`padded_size`).
COMPILERS: dict[str, Compiler | None] = {
    "off": None,
    **{
        mode: partial(torch.compile, mode=mode, fullgraph=True, dynamic=False)
        for mode in ("default", "reduce-overhead")
    },
}
PREPARING_THREADS = 8  # Pillow and NumPy let go of the interpreter; an image takes 15 ms of a core, a GPU 8 ms

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

    def __init__(
        self, model: QAlignModel, prompts: PromptIds, *, max_batch: int = 8, compiler: Compiler | None = None
    ) -> None:
        """Takes the model where it is; at most `max_batch` images are computed at once.

        With a `compiler`, one of COMPILERS, batches are filled up to a power of two, so that its graphs are reused.

        Raises:
            BuildError: the prompts are not for this model.
        """
        self.model = model.eval()
        self.max_batch = max_batch
        self._prompts = model.encode(prompts)
        self._padded = compiler is not None
        self._logits = model.logits if compiler is None else compiler(model.logits)

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        prompts: PromptIds,
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        max_batch: int = 8,
        compile: str = "off",
    ) -> QAlign:
        """Load a `one-align` folder.

        `int8` and `int4` compute in half precision, upstream's float16 on a GPU and bfloat16 on a CPU. `compile` is a
        mode of torch.compile, of which "reduce-overhead" replays CUDA graphs; then every size of a batch is run once.

        Raises:
            BuildError: the folder is not right, the prompts are not for it, or there is no such precision or mode.
        """
        if compile not in COMPILERS:
            raise BuildError(f"compile is {compile!r}; allowed: {', '.join(COMPILERS)}")
        if precision in _BITS:
            quantisation: Quantisation | None = Quantisation(_BITS[precision])
            dtype = torch.float16 if torch.device(device).type == "cuda" else torch.bfloat16
        elif precision in _DTYPES:
            quantisation, dtype = None, _DTYPES[precision]
        else:
            raise BuildError(f"precision is {precision!r}, not fp32, bf16, fp16, int8 or int4")
        model = load_model(folder, dtype=dtype, device=device, quantisation=quantisation)
        scorer = cls(model, prompts, max_batch=max_batch, compiler=COMPILERS[compile])
        model.release_vocabulary()
        if scorer._padded:  # now, not while a request waits
            for size in sorted({padded_size(count, max_batch) for count in range(1, max_batch + 1)}):
                scorer.score([np.zeros((1, 1, 3), np.uint8)] * size)
        return scorer

    def score(self, images: Sequence[Pixels]) -> list[QAlignResult]:
        """Score RGB images (H, W, 3) uint8 of any sizes; the result of one does not depend on the others."""
        prepare = partial(preprocess, image_px=self.model.config.vision.image_px)
        results: list[QAlignResult] = []
        with ThreadPoolExecutor(PREPARING_THREADS if self.model.device.type == "cuda" else 1) as pool:
            for start in range(0, len(images), self.max_batch):
                pixels = np.stack(list(pool.map(prepare, images[start : start + self.max_batch])))
                results += [_result(each) for each in self._compute(pixels).astype(np.float64)]
        return results

    def _compute(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """pixels (N, 3, S, S) -> (N, 2, 5) logits."""
        count = len(pixels)
        if self._padded and (missing := padded_size(count, self.max_batch) - count):
            pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.float32)])
        # On the device before the graph starts: CUDA graphs take nothing from the host.
        logits = self._logits(torch.from_numpy(pixels).to(self.model.device), self._prompts)
        return np.asarray(logits[:count].cpu().numpy())


def padded_size(count: int, max_batch: int) -> int:
    """The power of two that `count` images are filled up to, or `max_batch` where that is less."""
    return int(min(1 << (count - 1).bit_length(), max_batch))


def _result(logits: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> QAlignResult:
    """logits (2, 5): score = softmax(logits) . (5, 4, 3, 2, 1), per task."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    quality, aesthetic = (probabilities @ np.array(LEVEL_VALUES, np.float64)).tolist()
    return QAlignResult(quality, aesthetic, *map(tuple, logits.tolist()), *map(tuple, probabilities.tolist()))

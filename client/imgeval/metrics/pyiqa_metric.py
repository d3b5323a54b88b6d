"""Any no-reference metric of IQA-PyTorch (pyiqa), by name, behind one small adapter.

pyiqa is licensed under PolyForm Noncommercial 1.0: the optional extra `iqa`, never a part of
the base install. Range and direction are read from pyiqa, not retyped.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imgeval.errors import BuildError, InvalidInputError

DEFAULT_METRIC = "musiq"


@dataclass(frozen=True)
class MetricInfo:
    """What pyiqa says of a metric."""

    name: str
    score_range: str  # as pyiqa writes it, such as "~0, ~100"
    lower_is_better: bool


def info(name: str) -> MetricInfo:
    """Range and direction of a no-reference metric.

    Raises:
        InvalidInputError: pyiqa has no such metric, or it needs a reference image.
    """
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    known = sorted(key for key, config in DEFAULT_CONFIGS.items() if config.get("metric_mode") == "NR")
    if name not in known:
        raise InvalidInputError("iqa.metric", f"got {name!r}; allowed, pyiqa's no-reference ones: {', '.join(known)}")
    config = DEFAULT_CONFIGS[name]
    return MetricInfo(name, str(config.get("score_range", "")), bool(config.get("lower_better", False)))


class PyiqaMetric:
    """One metric, loaded."""

    def __init__(self, name: str = DEFAULT_METRIC, checkpoint: Path | None = None, device: str = "cpu") -> None:
        """Load a metric; `checkpoint` replaces the download that pyiqa would make.

        Raises:
            BuildError: no such metric, or a checkpoint that is not the metric's.
        """
        import pyiqa

        self.info = info(name)
        options: dict[str, Any] = {} if checkpoint is None else {"pretrained_model_path": str(checkpoint)}
        try:
            with _tensors_only():
                self._metric = pyiqa.create_metric(name, device=torch.device(device), **options)
        except (RuntimeError, OSError, KeyError, TypeError) as error:
            raise BuildError(f"iqa: {name}: {' '.join(str(error).split())[:500]}") from error

    def score(self, rgb: NDArray[np.uint8]) -> float:
        """Raw value of an image (H, W, 3) at its own resolution."""
        pixels = torch.from_numpy(rgb.astype(np.float32) / np.float32(255)).permute(2, 0, 1)[None]  # (1, 3, H, W)
        with torch.inference_mode():
            return float(self._metric(pixels).item())


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """pyiqa loads its checkpoints with `weights_only=False`, which runs what a pickle says; here it does not."""
    original = torch.load

    @functools.wraps(original)
    def load(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "weights_only": True})

    torch.load = load
    try:
        yield
    finally:
        torch.load = original

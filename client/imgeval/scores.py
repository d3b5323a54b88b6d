"""Raw metric values -> normalised values -> one combined score, by a preset that is data.

The server's step `details` calls it, and so may any Python program; the step `combine` is the same as an ONNX graph.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgeval.contract import METRIC_NAMES
from imgeval.errors import InvalidInputError

PRESETS_DIR = Path(__file__).parent / "presets"
DEFAULT_PRESET = "seed"


@dataclass(frozen=True)
class Scale:
    """How one metric counts: `low` maps to 0 and `high` to 1, linearly and without clamping; `weight` >= 0."""

    low: float
    high: float
    weight: float

    def normalise(self, raw: float) -> float:
        return (raw - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Preset:
    """A named, versioned way to combine metrics. A metric without a scale is reported and not weighed."""

    name: str
    version: int
    scales: Mapping[str, Scale]

    def __str__(self) -> str:
        return f"{self.name}-{self.version}"

    def weight(self, metric: str) -> float:
        return self.scales[metric].weight if metric in self.scales else 0.0

    def normalise(self, metric: str, raw: float) -> float | None:
        """`raw` on the preset's scale, where 1 is the top; None where the preset has no scale for this metric."""
        return self.scales[metric].normalise(raw) if metric in self.scales else None


def parse_preset(data: Mapping[str, Any]) -> Preset:
    """A preset from the content of its file.

    Raises:
        InvalidInputError: an unknown metric, an empty scale, a negative weight or a missing field.
    """
    try:
        scales = {
            name: Scale(float(scale["low"]), float(scale["high"]), float(scale["weight"]))
            for name, scale in data["metrics"].items()
        }
        preset = Preset(str(data["name"]), int(data["version"]), scales)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInputError("preset", f"not a preset: {error!r}") from error
    for name, scale in scales.items():
        if name not in METRIC_NAMES:
            raise InvalidInputError("preset", f"unknown metric {name!r}; allowed: {', '.join(METRIC_NAMES)}")
        if not (math.isfinite(scale.low) and math.isfinite(scale.high) and scale.low < scale.high):
            raise InvalidInputError("preset", f"{name}: low {scale.low} must be below high {scale.high}")
        if not (math.isfinite(scale.weight) and scale.weight >= 0):
            raise InvalidInputError("preset", f"{name}: weight {scale.weight} must be 0 or more")
    return preset


def load_preset(name: str = DEFAULT_PRESET) -> Preset:
    """One of the presets that ship with the package.

    Raises:
        InvalidInputError: no preset of that name.
    """
    path = PRESETS_DIR / f"{name}.json"
    known = sorted(file.stem for file in PRESETS_DIR.glob("*.json"))
    if name not in known:
        raise InvalidInputError("preset", f"unknown preset {name!r}; allowed: {', '.join(known)}")
    return parse_preset(json.loads(path.read_text(encoding="utf-8")))


def combine(preset: Preset, raw: Mapping[str, float]) -> float:
    """The combined score in [0, 1]: the weighted mean of the normalised values that are there, clamped.

    Args:
        preset: scales and weights.
        raw: raw value by metric name; a metric that is absent or NaN is unavailable and does not count.

    Returns:
        The score, or NaN where no metric of positive weight is available.
    """
    parts = {
        name: (scale.normalise(raw[name]), scale.weight)
        for name, scale in preset.scales.items()
        if scale.weight > 0 and not math.isnan(raw.get(name, math.nan))
    }
    terms, weights = _weighted(parts)
    total = 0.0
    for term in terms.values():  # not `sum`, which rounds otherwise from Python 3.12 on
        total += term
    return min(1.0, max(0.0, total / weights)) if weights else math.nan


def contributions(parts: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """What each metric adds to the combined score: their sum is the score before it is clamped.

    Args:
        parts: (normalised value, weight) by metric name; one of weight 0 adds nothing.

    Returns:
        weight * normalised value / sum of the weights, by name; empty where no metric has weight.
    """
    terms, weights = _weighted(parts)
    return {name: term / weights for name, term in terms.items()} if weights else {}


def _weighted(parts: Mapping[str, tuple[float, float]]) -> tuple[dict[str, float], float]:
    """Each metric's term of the weighted mean, and the sum of the weights that they are divided by."""
    weights = 0.0
    for _, weight in parts.values():
        weights += weight
    return {name: weight * normalised for name, (normalised, weight) in parts.items()}, weights


def is_complete(preset: Preset, raw: Mapping[str, float]) -> bool:
    """Whether every metric that the preset weighs is available in `raw`."""
    return all(not math.isnan(raw.get(name, math.nan)) for name, scale in preset.scales.items() if scale.weight > 0)

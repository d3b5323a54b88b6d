"""Histograms: counts in Python, drawn as SVG by a template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 24


@dataclass(frozen=True)
class Series:
    """The values of run number `run` (0 or 1) in a histogram, and their statistics.

    `heights` are the shares of the bins, 0..100 of the highest one of all series.
    """

    run: int
    heights: tuple[float, ...]
    count: int
    mean: float
    median: float

    @property
    def outline(self) -> str:
        """The bins as an SVG path of steps, in a box of 240 x 100."""
        width = 240 / len(self.heights)
        steps = [f"H{place * width:.2f}V{100 - height:.2f}" for place, height in enumerate(self.heights)]
        return f"M0 100{''.join(steps)}H240V100"


@dataclass(frozen=True)
class Histogram:
    """How the values of one metric are spread from `low` to `high`, for one run or two."""

    name: str
    low: float
    high: float
    lower: bool  # whether smaller values are better ones
    series: tuple[Series, ...]


def histogram(name: str, values: Sequence[Sequence[float]], lower: bool) -> Histogram:
    """A histogram of the finite values of each run, one at least; a run without values is left out."""
    present = [(run, np.asarray(each, np.float64)) for run, each in enumerate(values) if len(each)]
    low, high = min(each.min() for _, each in present), max(each.max() for _, each in present)
    edges = np.linspace(low, high, BINS + 1) if high > low else np.linspace(low - 0.5, high + 0.5, BINS + 1)
    counts = [np.histogram(each, edges)[0] for _, each in present]
    # Shares, not counts: two runs may have different numbers of rows.
    shares = [each / each.sum() for each in counts]
    top = max(float(each.max()) for each in shares)
    series = tuple(
        Series(
            run,
            tuple((100 * share / top).round(2).tolist()),
            len(each),
            float(each.mean()),
            float(np.median(each)),
        )
        for (run, each), share in zip(present, shares, strict=True)
    )
    return Histogram(name, float(low), float(high), lower, series)

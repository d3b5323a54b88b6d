"""The interval of a mean, without assuming how the values are distributed.

Percentile bootstrap (Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979; the
interval: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3): the values are drawn anew with
replacement, as many as there are, and the interval holds the middle of the means of all drawings.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 0  # fixed: the same runs give the same interval, and a gate the same answer
CHUNK_VALUES = 2**21  # drawn at a time, which bounds the memory to about 50 MiB

Interval = tuple[float, float]


def mean_interval(values: NDArray[np.float64]) -> Interval | None:
    """The bounds between which the mean of `values` (N,) lies with `CONFIDENCE`; None for fewer than two values.

    For paired runs the values are the differences of the pairs, so that a pair is drawn as a whole.
    """
    return mean_intervals(values[:, None])[0]


def mean_intervals(columns: NDArray[np.float64]) -> list[Interval | None]:
    """`mean_interval` of each column of (N, M). All share their drawings, which are most of the work."""
    count, width = columns.shape
    if count < 2:
        return [None] * width
    generator = np.random.default_rng(SEED)
    rows = max(1, CHUNK_VALUES // count)
    means = np.empty((RESAMPLES, width))
    for start in range(0, RESAMPLES, rows):
        size = min(rows, RESAMPLES - start)
        drawn = generator.integers(0, count, (size, count))  # (size, N)
        drawn += np.arange(size)[:, None] * count  # a range of numbers for each drawing
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)  # how often each was drawn
        means[start : start + size] = times.astype(np.float64) @ columns / count
    outside = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [outside, 1 - outside], axis=0)  # (M,) each
    return [(float(one), float(other)) for one, other in zip(low, high, strict=True)]

"""How well the segments of an image match the keywords of its prompt: the arithmetic of `sam_clip`.

segments (S, D), keywords (K, D) -> relevance (K, S) -> keyword_score, one per keyword -> sam_clip, their mean
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .unavailable import MetricUnavailable

LOGIT_SCALE = 100.0  # CLIP's learned temperature, exp(4.6052), at which its training clips it (Radford et al. 2021)
NEUTRAL_PROBABILITY = 0.3  # a segment above it speaks for the keyword, one below it against
NEUTRAL_SCORE = 0.5

Floats = NDArray[np.floating[Any]]


def cosines(left: Floats, right: Floats) -> Floats:
    """Cosine of every row of `left` (A, D) with every row of `right` (B, D): (A, B), -1..1 up to rounding.

    A row of zeros has cosine 0 with everything. Computed in the precision of the inputs and in the order of operations
    of scikit-learn's `cosine_similarity`, so that float32 results are the same to the last bit.
    """
    return _unit_rows(left) @ _unit_rows(right).T


def _unit_rows(rows: Floats) -> Floats:
    """`rows` (N, D), each divided by its L2 norm; rows of zeros stay."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))  # (N,)
    norms[norms == 0] = 1
    unit: Floats = rows / norms[:, np.newaxis]
    return unit


def relevance(segments: Floats, keywords: Floats, logit_scale: float = LOGIT_SCALE) -> NDArray[np.float32]:
    """Which segment a keyword is about: per keyword, the softmax over the segments of logit_scale * cosine.

    Computed in float64, because the scale multiplies rounding errors of the cosine by 100.

    Args:
        segments: (S, D) image embeddings of the segments, of any length.
        keywords: (K, D) text embeddings of the keywords, of any length.

    Returns:
        (K, S) probabilities, 0..1; each row sums to 1.

    Raises:
        MetricUnavailable: there is no segment or no keyword.
    """
    _require_both(keywords=len(keywords), segments=len(segments))
    each = cosines(keywords.astype(np.float64), segments.astype(np.float64))  # (K, S)
    return softmax_of_cosines(each, logit_scale).astype(np.float32)


def softmax_of_cosines(each: NDArray[np.float64], logit_scale: float = LOGIT_SCALE) -> NDArray[np.float64]:
    """softmax(logit_scale * cosine) over the last axis, as CLIP chooses: (..., N) -> (..., N), 0..1, sums to 1."""
    logits = logit_scale * each
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))  # the largest is 1: no overflow
    probabilities: NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True)
    return probabilities


def keyword_score(p: Floats) -> float:
    """Score 0..1 of one keyword from its probabilities `p` (S,) over the segments, in any order.

    s = 0.5; for each p of n: s += (p - 0.3)^2 / n if p > 0.3 else s -= (0.3 - p)^2 / n; clamped to [0, 1]. Both
    branches are d * |d| with d = p - 0.3. For probabilities the result is 0.41..0.99, and 0.99 only where there is a
    single segment.

    Raises:
        MetricUnavailable: there is no segment.
    """
    _require_both(keywords=1, segments=len(p))
    distance = p.astype(np.float64) - NEUTRAL_PROBABILITY  # (S,)
    score = NEUTRAL_SCORE + float(np.mean(distance * np.abs(distance)))
    return min(max(score, 0.0), 1.0)


def sam_clip(probabilities: Floats) -> float:
    """The metric, 0..1: the mean of `keyword_score` over the rows of `probabilities` (K, S) from `relevance`.

    Raises:
        MetricUnavailable: there is no segment or no keyword.
    """
    keywords, segments = probabilities.shape
    _require_both(keywords=keywords, segments=segments)
    return float(np.mean([keyword_score(row) for row in probabilities]))


def _require_both(*, keywords: int, segments: int) -> None:
    """Raises MetricUnavailable where a count is zero; the keyword is named first, being the cheaper one to find."""
    if keywords == 0:
        raise MetricUnavailable("the prompt has no keyword")
    if segments == 0:
        raise MetricUnavailable("the image has no segment that is large enough")

"""sam_clip's arithmetic against a plain transcription of design.md, and the properties that follow from it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from imgeval.metrics.relevance import cosines, keyword_score, relevance, sam_clip
from imgeval.metrics.unavailable import MetricUnavailable


def plain_probabilities(segments: NDArray[Any], keyword: NDArray[Any], scale: float) -> list[float]:
    """Softmax over segments of scale * cos(segment, keyword), in Python floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))

    logits = [scale * cosine(segment.tolist(), keyword.tolist()) for segment in segments]
    weights = [math.exp(logit - max(logits)) for logit in logits]
    return [weight / math.fsum(weights) for weight in weights]


def plain_keyword_score(probabilities: list[float]) -> float:
    """design.md section 2, line by line."""
    s, n = 0.5, len(probabilities)
    for p in probabilities:
        if p > 0.3:
            s += (p - 0.3) ** 2 / n
        else:
            s -= (0.3 - p) ** 2 / n
    return min(max(s, 0.0), 1.0)


def embeddings(rows: int, seed: int) -> NDArray[Any]:
    """(rows, 32) float32 that lie close together, as CLIP's do: a softmax at scale 100 is then not just 0 and 1."""
    generator = np.random.default_rng(seed)
    return (1 + 0.2 * generator.standard_normal((rows, 32))).astype(np.float32)


def test_equals_the_plain_transcription() -> None:
    probability_differences, score_differences = [], []
    for seed in range(40):
        segments, keywords = embeddings(1 + seed % 9, seed), embeddings(1 + seed % 5, 1000 + seed)
        got = relevance(segments, keywords)
        expected = [plain_probabilities(segments, keyword, 100.0) for keyword in keywords]
        assert got.shape == (len(keywords), len(segments)) and got.dtype == np.float32
        probability_differences.append(np.abs(got - np.array(expected)).ravel())
        expected_score = math.fsum(map(plain_keyword_score, expected)) / len(expected)
        score_differences.append(abs(sam_clip(got) - expected_score))
    differences = np.concatenate(probability_differences)
    print(f"\nrelevance: max difference {differences.max():.1e}, mean {differences.mean():.1e}")
    print(f"sam_clip:  max difference {max(score_differences):.1e}, mean {np.mean(score_differences):.1e}")
    assert differences.max() <= 2**-24  # half a float32 step below 1: only the final rounding
    assert max(score_differences) < 1e-7


@given(npst.arrays(np.float32, st.integers(1, 20), elements=st.floats(0, 1, width=32)))
def test_keyword_score_equals_the_loop(p: NDArray[Any]) -> None:
    assert keyword_score(p) == pytest.approx(plain_keyword_score(p.tolist()), abs=1e-12)


def test_known_scores() -> None:
    assert keyword_score(np.array([1.0])) == pytest.approx(0.99)
    assert keyword_score(np.array([0.3, 0.3])) == 0.5
    assert keyword_score(np.array([1.0, 0.0])) == pytest.approx(0.5 + (0.49 - 0.09) / 2)
    assert keyword_score(np.array([10.0])) == 1.0 and keyword_score(np.array([-10.0])) == 0.0  # clamped
    assert sam_clip(np.array([[1.0, 0.0], [0.3, 0.3]])) == pytest.approx((0.7 + 0.5) / 2)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_range_and_order(segment_count: int, keyword_count: int, seed: int) -> None:
    segments, keywords = embeddings(segment_count, seed), embeddings(keyword_count, seed + 1)
    probabilities = relevance(segments, keywords)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)
    score = sam_clip(probabilities)
    assert 0.41 < score <= 0.99 + 1e-9

    generator = np.random.default_rng(seed)
    shuffled = relevance(generator.permutation(segments), generator.permutation(keywords))
    assert sam_clip(shuffled) == pytest.approx(score, abs=1e-7)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_length_of_an_embedding_does_not_matter(a: float, b: float) -> None:
    segments, keywords = embeddings(4, 1).astype(np.float64), embeddings(3, 2).astype(np.float64)
    assert relevance(a * segments, b * keywords) == pytest.approx(relevance(segments, keywords), abs=1e-6)


def test_scale_zero_treats_all_segments_alike() -> None:
    assert (relevance(embeddings(4, 1), embeddings(2, 2), logit_scale=0.0) == 0.25).all()


def test_large_scale_does_not_overflow() -> None:
    probabilities = relevance(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), logit_scale=1e6)
    assert np.array_equal(probabilities, np.eye(2))


def test_cosine_of_a_zero_row_is_zero() -> None:
    assert cosines(np.zeros((1, 3)), np.ones((2, 3))).tolist() == [[0.0, 0.0]]


def test_nothing_to_compare_is_unavailable_with_the_reason() -> None:
    none, some = np.empty((0, 32), np.float32), embeddings(2, 0)
    with pytest.raises(MetricUnavailable, match="no segment"):
        relevance(none, some)
    with pytest.raises(MetricUnavailable, match="no keyword"):
        relevance(some, none)
    with pytest.raises(MetricUnavailable, match="no segment"):
        keyword_score(np.empty(0))
    with pytest.raises(MetricUnavailable, match="no segment"):
        sam_clip(np.empty((2, 0)))
    with pytest.raises(MetricUnavailable, match="no keyword"):
        sam_clip(np.empty((0, 2)))

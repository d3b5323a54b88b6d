"""COCO run-length encoding of masks: known examples, round trips, and agreement with segment-anything."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from imgeval.metrics.rle import decode_mask, encode_mask

masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12))


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        ([[0, 1], [0, 1]], [2, 2]),  # column-major: the left column, then the right one
        ([[0, 0], [1, 1]], [1, 1, 1, 1]),
        ([[1, 1], [1, 1]], [0, 4]),  # zeros come first, even none
        ([[0, 0], [0, 0]], [4]),
    ],
)
def test_runs_are_column_major_and_start_with_zeros(mask: list[list[int]], counts: list[int]) -> None:
    encoded = encode_mask(np.array(mask, bool))
    assert encoded == {"size": [2, 2], "counts": counts}
    assert all(type(count) is int for count in encoded["counts"])  # json.dumps refuses numpy integers


@given(masks)
def test_round_trip(mask: NDArray[Any]) -> None:
    decoded = decode_mask(encode_mask(mask))
    assert decoded.shape == mask.shape and decoded.dtype == np.bool_
    assert np.array_equal(decoded, mask)


@given(masks)
def test_runs_alternate_and_fill_the_mask(mask: NDArray[Any]) -> None:
    counts = encode_mask(mask)["counts"]
    assert sum(counts) == mask.size
    assert sum(counts[1::2]) == mask.sum()
    assert all(count > 0 for count in counts[1:])


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**32 - 1))
def test_segment_anything_reads_it_alike(size: tuple[int, int], seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever torch warns of while it is imported
        amg = pytest.importorskip("segment_anything.utils.amg")
    mask = np.random.default_rng(seed).random(size) < 0.5
    assert np.array_equal(amg.rle_to_mask(encode_mask(mask)), mask)


@pytest.mark.parametrize("counts", [[3], [5], [], [6, -2], [-1, 5]])
def test_runs_that_do_not_fill_the_mask_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="2 x 2"):
        decode_mask({"size": [2, 2], "counts": counts})


@pytest.mark.parametrize("mask", [np.zeros((2, 2), np.uint8), np.zeros(4, bool), np.zeros((1, 2, 2), bool)])
def test_only_masks_are_encoded(mask: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="expected bool"):
        encode_mask(mask)

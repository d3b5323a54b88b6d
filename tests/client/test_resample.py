"""imgeval.resample: equality with Pillow, on what floats find easy and on what they find hard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgeval import resample
from imgeval.resample import reduce_rows


def pillow(rgb: np.ndarray, width: int, columns: range) -> np.ndarray:
    resized = Image.fromarray(rgb).resize((width, len(rgb)), Image.Resampling.BICUBIC)
    return np.asarray(resized)[:, columns.start : columns.stop]


def noise(height: int, width: int, seed: int, levels: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(levels, np.uint8), (height, width, 3))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(1, 900),
    st.floats(1, 40),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(0, 2**32 - 1),
    st.sampled_from([tuple(range(256)), (0, 255), (0, 1), (100, 101), (7,)]),
)
@example(3, 4000, 4000 / 298, (0.1, 0.9), 1, (0, 255))
@example(3, 8192, 8192 / 224, (0.0, 1.0), 2, (0, 255))
@example(129, 448, 2.0, (0.0, 1.0), 3, (0, 1))
def test_rows_are_pillows(
    height: int, width_in: int, scale: float, part: tuple[float, float], seed: int, levels: tuple[int, ...]
) -> None:
    width = max(1, int(width_in / scale))
    start, last = sorted(int(at * (width - 1)) for at in part)
    columns = range(start, last + 1)
    rgb = noise(height, width_in, seed, levels)
    got, expected = reduce_rows(rgb, width, columns), pillow(rgb, width, columns)
    difference = np.abs(got.astype(int) - expected)
    print(f"{width_in} -> {width}, {len(columns)} columns: max {difference.max()}, mean {difference.mean():.2e}")
    assert got.dtype == np.uint8
    assert np.array_equal(got, expected)


def test_what_floats_get_wrong_is_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million random sums: without the second look some differ, by one level; with it none does."""
    rgb = noise(1500, 4000, 4, tuple(range(256)))
    expected = pillow(rgb, 298, range(298))
    mended = reduce_rows(rgb, 298, range(298))
    monkeypatch.setattr(resample._Taps, "doubt", 0.0)
    floats = reduce_rows(rgb, 298, range(298))
    difference = np.abs(floats.astype(int) - expected)
    print(f"floats alone: max {difference.max()}, {np.count_nonzero(difference)} of {difference.size}")
    assert np.array_equal(mended, expected)
    assert difference.max() == 1


@pytest.mark.parametrize(("width_in", "width"), [(4000, 298), (4096, 256), (512, 128)])
@pytest.mark.parametrize("step", [1, 3])
def test_sums_beside_the_half(width_in: int, width: int, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of v and v + 1 (or 3): nearly every sum is about v + 1/2, too many to sum again one by one."""
    rgb = np.empty((150, width_in, 3), np.uint8)
    rgb[:] = np.arange(150, dtype=np.uint8)[:, None, None]
    rgb[:, 1::2] += step
    one_by_one = []
    monkeypatch.setattr(resample, "_sum_again", lambda *of: one_by_one.append(of))
    assert np.array_equal(reduce_rows(rgb, width, range(width)), pillow(rgb, width, range(width)))
    assert not one_by_one

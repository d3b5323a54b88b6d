"""Segments: crops, and the classical segmentation on made and real images."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from imgeval.errors import InvalidInputError
from imgeval.metrics.segments import Segment, SegmentOptions, _restore, crop, felzenszwalb_segments

SHARED_ASSETS = Path(__file__).parents[3] / "shared" / "assets"  # beside the checkout, where there is one


def full_mask(segment: Segment, height: int, width: int) -> NDArray[Any]:
    """(height, width) bool."""
    mask = np.zeros((height, width), bool)
    x, y, w, h = segment.box
    mask[y : y + h, x : x + w] = segment.mask
    return mask


def quadrants(height: int, width: int) -> NDArray[Any]:
    """(height, width, 3) uint8: four flat colours that split the image at 1/2 across and 1/4 down."""
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[: height // 4, : width // 2] = (200, 0, 0)
    rgb[: height // 4, width // 2 :] = (0, 200, 0)
    rgb[height // 4 :, : width // 2] = (0, 0, 200)
    rgb[height // 4 :, width // 2 :] = (255, 255, 255)
    return rgb


def photos() -> dict[str, NDArray[Any]]:
    """Name to (H, W, 3) uint8: four that scikit-image ships, and the project's examples where they are."""
    data = Path(pytest.importorskip("skimage").__file__).parent / "data"
    files = [data / name for name in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")]
    files += sorted(SHARED_ASSETS.glob("*.jpg"))
    return {file.name: np.asarray(Image.open(file).convert("RGB")) for file in files}


# --- crop ------------------------------------------------------------------------------------------------------------
def test_crop_is_black_outside_the_mask() -> None:
    rgb = np.arange(1, 61, dtype=np.uint8).reshape(4, 5, 3)
    segment = Segment(np.array([[True, False], [True, True]]), box=(3, 1, 2, 2), area=3)
    expected = rgb[1:3, 3:5].copy()
    expected[0, 1] = 0
    got = crop(rgb, segment)
    assert got.dtype == np.uint8 and np.array_equal(got, expected)
    got[:] = 0
    assert rgb.min() == 1  # a copy


@pytest.mark.parametrize("box", [(4, 0, 2, 2), (0, 3, 2, 2), (-1, 0, 2, 2), (0, -1, 2, 2)])
def test_crop_refuses_a_box_that_leaves_the_image(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="5 x 4 px"):
        crop(np.zeros((4, 5, 3), np.uint8), Segment(np.ones((2, 2), bool), box, area=4))


@pytest.mark.parametrize("shape", [(2, 3), (0, 0)])
def test_a_mask_has_the_size_of_its_box(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="mask has shape"):
        Segment(np.ones(shape, bool), box=(0, 0, shape[0], shape[0]), area=1)


# --- back to the original size ---------------------------------------------------------------------------------------
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 20), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_restore_equals_enlarging_every_mask(h: int, w: int, more_rows: int, more_columns: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (h, w))
    height, width = h + more_rows, w + more_columns
    rows = ((np.arange(height) + 0.5) * h / height).astype(int)  # the small pixel in which each centre lies
    columns = ((np.arange(width) + 0.5) * w / width).astype(int)
    large = labels[np.ix_(rows, columns)]

    segments = _restore(labels, height, width, min_area_fraction=0.2)

    expected = {label for label in range(4) if 0 < 0.2 * large.size <= (large == label).sum()}
    got = {int(large[full_mask(segment, height, width)][0]) for segment in segments}
    assert got == expected and len(segments) == len(expected)
    for segment in segments:
        mask = full_mask(segment, height, width)
        assert np.array_equal(mask, large == large[mask][0])
        assert segment.area == mask.sum()
        assert segment.mask.any(axis=0)[[0, -1]].all() and segment.mask.any(axis=1)[[0, -1]].all()  # a tight box
    order = [(-segment.area, segment.box) for segment in segments]
    assert order == sorted(order)


# --- Felzenszwalb ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "width"), [(256, 128), (400, 640), (1500, 1000)])
def test_flat_areas_are_found(height: int, width: int) -> None:
    pytest.importorskip("skimage")
    rgb = quadrants(height, width)
    masks = [full_mask(segment, height, width) for segment in felzenszwalb_segments(rgb)]
    assert len(masks) == 4
    for y, x in [(0, 0), (0, -1), (-1, 0), (-1, -1)]:
        quadrant = (rgb == rgb[y, x]).all(axis=2)
        # Not exact: the blurred border between two colours is a component of its own, which joins a neighbour.
        assert max((mask & quadrant).sum() / (mask | quadrant).sum() for mask in masks) > 0.85


def test_photos_give_a_few_large_segments_each_time_the_same() -> None:
    counts = {}
    for name, rgb in photos().items():
        start = time.perf_counter()
        segments = felzenszwalb_segments(rgb)
        milliseconds = 1e3 * (time.perf_counter() - start)
        covered = sum(segment.area for segment in segments) / (rgb.shape[0] * rgb.shape[1])
        counts[name] = len(segments)
        print(f"\n{name:22}{rgb.shape[1]:5} x {rgb.shape[0]:4} px: {len(segments):2} segments, "
              f"{covered:4.0%} covered, {milliseconds:3.0f} ms", end="")  # fmt: skip
        again = felzenszwalb_segments(rgb)
        assert [(s.box, s.area) for s in segments] == [(s.box, s.area) for s in again]
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(segments, again, strict=True))
        assert covered <= 1 and all(segment.area >= 0.05 * rgb.shape[0] * rgb.shape[1] for segment in segments)
    print()
    assert all(3 <= count <= 12 for count in counts.values()), counts


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (1, 300), (300, 1), (8, 100_000)])
def test_any_size_gives_one_segment_where_all_is_one_colour(shape: tuple[int, int]) -> None:
    pytest.importorskip("skimage")
    (segment,) = felzenszwalb_segments(np.full((*shape, 3), 90, np.uint8))
    assert segment.box == (0, 0, shape[1], shape[0]) and segment.area == shape[0] * shape[1] and segment.mask.all()


def test_small_segments_are_dropped() -> None:
    pytest.importorskip("skimage")
    assert len(felzenszwalb_segments(quadrants(200, 200), SegmentOptions(min_area_fraction=0.3))) == 2
    assert felzenszwalb_segments(quadrants(200, 200), SegmentOptions(min_area_fraction=1.0)) == ()


@pytest.mark.parametrize("rgb", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_only_colour_images_are_segmented(rgb: NDArray[Any]) -> None:
    pytest.importorskip("skimage")
    with pytest.raises(ValueError, match="expected uint8"):
        felzenszwalb_segments(rgb)


@pytest.mark.parametrize(
    "option",
    [{"max_side_px": 0}, {"scale": 0.0}, {"sigma": -1.0}, {"min_area_fraction": 1.1}, {"min_size_fraction": -0.1}],
)
def test_options_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InvalidInputError, match=name):
        SegmentOptions(**option)

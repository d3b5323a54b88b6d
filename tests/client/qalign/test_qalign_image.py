"""Preprocessing equals Hugging Face's CLIPImageProcessor on an image that upstream padded."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from imgeval.metrics.qalign import image as qalign_image
from imgeval.metrics.qalign.image import MEAN, PADDING, STD, pad_to_square, preprocess

RNG = np.random.default_rng(2)
SIZES = [(448, 448), (300, 500), (500, 300), (17, 90), (91, 18), (1000, 777), (8, 8), (1, 33)]


def hugging_face(side: int) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        # 5 has two and calls the one that resizes with torchvision CLIPImageProcessor; 4 has the one with Pillow.
        kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    return kind(size={"shortest_edge": side}, crop_size=side, image_mean=MEAN, image_std=STD, resample=3)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [448, 70])
def test_equals_hugging_face(size: tuple[int, int], side: int) -> None:
    rgb = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = hugging_face(side).preprocess(padded_as_upstream(rgb), return_tensors="np")["pixel_values"][0]
    difference = np.abs(preprocess(rgb, side) - expected).max()
    print(f"{size}: max {difference:.1e} spread {expected.std():.2g}")
    assert difference < 1e-6


def padded_as_upstream(rgb: NDArray[np.uint8]) -> Image.Image:
    """Upstream's rule in arrays: the colour int(255 mean), the offset (long - short) // 2."""
    height, width, _ = rgb.shape
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(x * 255) for x in (0.48145466, 0.4578275, 0.40821073)]
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = rgb
    return Image.fromarray(square)


def test_the_padding() -> None:
    assert PADDING == (122, 116, 104)
    rgb = RNG.integers(0, 256, (4, 7, 3), dtype=np.uint8)
    square = np.asarray(pad_to_square(Image.fromarray(rgb)))
    assert square.shape == (7, 7, 3)
    assert np.array_equal(square[1:5], rgb)  # the odd row is below
    assert (square[[0, 5, 6]] == PADDING).all()


def test_pixels_are_float32_planes() -> None:
    got = preprocess(np.zeros((5, 9, 3), np.uint8), 70)
    assert got.shape == (3, 70, 70)
    assert got.dtype == np.float32


def test_very_long_images_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 x 8,000,000 would be padded to 64 terapixels; and just above the limit little changes."""
    stripes = np.broadcast_to(np.arange(200_000, dtype=np.uint8)[:, None, None], (200_000, 8, 3))
    assert preprocess(np.ascontiguousarray(stripes), 70).shape == (3, 70, 70)

    y, x = np.mgrid[:300, :900] / 900
    smooth = (127 + 100 * np.sin([[[6]], [[9]], [[11]]] * (x + y))).transpose(1, 2, 0).astype(np.uint8)
    exact = preprocess(smooth, 70)
    monkeypatch.setattr(qalign_image, "MAX_SIDE_PX", 600)
    assert np.abs(preprocess(smooth, 70) - exact).mean() < 0.05

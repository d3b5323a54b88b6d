"""Mask generation against SamAutomaticMaskGenerator, with upstream's own networks as encoder and decoder.

What differs is then the code under test alone: grid, resizing, upsampling, stability, boxes, filters, NMS. The exported
networks are tested in tests/export/test_sam.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgeval.errors import InvalidInputError
from imgeval.metrics.sam import (
    Decode,
    Encode,
    MaskOptions,
    encoder_input,
    generate_masks,
    large_segments,
    non_maximum_suppression,
    resized_shape,
)
from imgeval.metrics.sam_upsampling import TILE_PX, Upsampling
from tests.reference.sam import PHOTOS, TINY, by_point, differences, gap, photo, torch_quietly, upstream_masks
from tests.reference.sam import upstream_sam as build

SIDE = 8  # points per side: 192 candidates


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("onnx")  # of the module that writes the checkpoint
    from imgeval_export.random_weights_sam import random_sam_checkpoint

    checkpoint: Path = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    random_sam_checkpoint(checkpoint, TINY)
    return build(TINY, checkpoint)


def networks(sam: Any) -> tuple[Encode, Decode]:
    """Upstream's encoder and decoder as numpy functions."""
    torch = torch_quietly()

    @torch.no_grad()
    def encode(pixels: np.ndarray) -> np.ndarray:
        return sam.image_encoder(torch.from_numpy(pixels)).numpy()

    @torch.no_grad()
    def decode(embedding: np.ndarray, points: np.ndarray, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
        prompt = torch.from_numpy(points)[:, None], torch.ones(len(points), 1, dtype=torch.int)
        sparse, dense = sam.prompt_encoder(points=prompt, boxes=None, masks=None)
        masks, iou = sam.mask_decoder(
            image_embeddings=torch.from_numpy(embedding),
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return masks[iou > min_iou].numpy(), iou.numpy()

    return encode, decode


@pytest.mark.parametrize("name", PHOTOS)
def test_candidates_and_kept_masks_equal_upstream(sam: Any, name: str) -> None:
    rgb = photo(name)
    encode, decode = networks(sam)
    off: dict[str, Any] = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    shared = {"points_per_side": SIDE, "points_per_batch": 24}
    theirs = [mask for mask in upstream_masks(sam, rgb, **shared, **off) if mask["area"]]
    ours = generate_masks(rgb, encode, decode, MaskOptions(TINY.image_size_px, **shared, **off))
    assert len(theirs) > 100
    candidates = differences(tuple(sorted(ours, key=by_point)), sorted(theirs, key=by_point))
    print(f"\n{name}, {len(ours)} candidates: {candidates}")

    thresholds = {
        "pred_iou_thresh": gap(np.array([mask["predicted_iou"] for mask in theirs]), 0.3),
        "stability_score_thresh": gap(np.array([mask["stability_score"] for mask in theirs]), 0.4),
    }
    theirs = upstream_masks(sam, rgb, **shared, **thresholds)
    ours = generate_masks(rgb, encode, decode, MaskOptions(TINY.image_size_px, **shared, **thresholds))
    kept = differences(ours, theirs)
    print(f"{name}, {len(ours)} kept: {kept}")
    assert 10 <= len(ours) <= 100

    for found in (candidates, kept):
        assert found.iou < 1e-5 < found.iou_spread / 10
        assert found.stability < 1e-3 < found.stability_spread / 10
        assert found.box_px <= 1
        assert found.area < 1e-3
        assert found.pixels < 1e-3

    segments = large_segments(ours, *rgb.shape[:2])
    large = [mask for mask in theirs if mask["area"] >= 0.05 * rgb.shape[0] * rgb.shape[1]]
    assert [segment.area for segment in segments] == pytest.approx([mask["area"] for mask in large], rel=1e-3)
    assert segments


def test_filters_that_keep_nothing_give_nothing(sam: Any) -> None:
    options = MaskOptions(TINY.image_size_px, points_per_side=2, pred_iou_thresh=1.0, stability_score_thresh=1.0)
    assert generate_masks(photo("astronaut.png"), *networks(sam), options) == ()


@pytest.mark.parametrize("shape", [(512, 512), (400, 600), (427, 640), (31, 1000), (1, 300), (300, 2)])
def test_the_encoder_gets_what_upstream_gives_it(shape: tuple[int, int]) -> None:
    torch = torch_quietly()
    from segment_anything.utils.transforms import ResizeLongestSide

    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    resized = ResizeLongestSide(256).apply_image(rgb)
    assert resized_shape(*shape, 256) == resized.shape[:2]
    tensor = torch.from_numpy(resized).permute(2, 0, 1)[None]
    np.testing.assert_array_equal(encoder_input(rgb, 256), build(TINY).preprocess(tensor).numpy(), strict=True)


def test_an_image_too_thin_for_upstream_keeps_one_row() -> None:
    assert resized_shape(1, 4000, 256) == (1, 256)
    assert encoder_input(np.zeros((1, 4000, 3), np.uint8), 256).shape == (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("image", "input_px", "low_px"),
    [((427, 640), 256, 64), ((1100, 700), 1024, 256), ((33, 50), 256, 64), ((8, 900), 256, 64), ((256, 256), 256, 64)],
)
def test_upsampling_equals_upstream(image: tuple[int, int], input_px: int, low_px: int) -> None:
    torch = torch_quietly()
    from torch.nn.functional import interpolate

    # Smooth, so that some tiles lie wholly on one side, and with a plateau at each end
    coarse = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    low = interpolate(coarse, (low_px, low_px), mode="bicubic").clamp(-1, 1) * 5
    resized = resized_shape(*image, input_px)
    large = interpolate(low, (input_px, input_px), mode="bilinear", align_corners=False)[
        ..., : resized[0], : resized[1]
    ]
    theirs = interpolate(large, image, mode="bilinear", align_corners=False)[0, 0].numpy()

    upsampling = Upsampling(image, resized, input_px, low_px)
    ours = np.full(image, np.nan, np.float32)
    for tile in upsampling.tiles(low[0, 0].numpy(), lowest=-np.inf, highest=np.inf):
        assert np.isnan(ours[tile.rows, tile.columns]).all()
        ours[tile.rows, tile.columns] = tile.logits
    print(f"\n{image}: max {np.abs(ours - theirs).max():.1e}, spread {theirs.std():.2f}")
    np.testing.assert_allclose(ours, theirs, atol=2e-5)

    # Decided without being computed: nothing above is left out, and everything in a sure tile is above.
    seen = np.zeros(image, np.bool_)
    for tile in upsampling.tiles(low[0, 0].numpy(), lowest=-1, highest=1):
        seen[tile.rows, tile.columns] = True
        if isinstance(tile.logits, float):
            assert (theirs[tile.rows, tile.columns] > 1 - 1e-5).all()
            assert tile.area == theirs[tile.rows, tile.columns].size
    assert (theirs[~seen] <= -1 + 1e-5).all()
    assert max(image) <= 4 * TILE_PX or not seen.all()


def test_suppression_equals_torchvision() -> None:
    torch = torch_quietly()
    from torchvision.ops import batched_nms

    random = np.random.default_rng(0)
    for count in (1, 2, 50, 300):
        corner, size = random.integers(0, 40, (count, 2)), random.integers(0, 30, (count, 2))  # some have no area
        boxes = np.concatenate([corner, corner + size], axis=1)
        scores = random.integers(0, 20, count).astype(np.float32) / 20  # many are equal
        theirs = batched_nms(torch.from_numpy(boxes).float(), torch.from_numpy(scores), torch.zeros(count), 0.5)
        np.testing.assert_array_equal(non_maximum_suppression(boxes, scores, 0.5), theirs.numpy())


def test_a_mask_carries_its_box_twice(sam: Any) -> None:
    options = MaskOptions(TINY.image_size_px, points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0)
    for mask in generate_masks(photo("coffee.png"), *networks(sam), options):
        x, y, width, height = mask.segment.box
        assert mask.bbox == (x, y, width - 1, height - 1)
        assert mask.segment.mask.any(axis=0)[[0, -1]].all()
        assert mask.segment.mask.any(axis=1)[[0, -1]].all()
        assert mask.segment.mask.sum() == mask.segment.area


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_size_px", 0),
        ("points_per_side", 0),
        ("points_per_batch", 0),
        ("pred_iou_thresh", 1.1),
        ("stability_score_thresh", -0.1),
        ("stability_score_offset", -1.0),
        ("box_nms_thresh", float("nan")),
        ("arrays", "cupy"),
        ("memory_bytes", 0),
    ],
)
def test_options_out_of_range_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidInputError, match=name):
        MaskOptions(**{name: value})


def test_arrays_that_are_no_image_are_refused() -> None:
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="expected uint8"):
            generate_masks(wrong, lambda x: x, lambda x, _: (x, x))

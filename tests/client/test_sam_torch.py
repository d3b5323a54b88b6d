"""Mask generation on tensors: the masks of NumPy's way and of SamAutomaticMaskGenerator, in their order.

Runs on the CPU, and on a GPU where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgeval.metrics import sam as by_numpy
from imgeval.metrics.sam import MaskOptions, SamMask
from imgeval.metrics.segmenters import segmenter
from tests.reference.sam import (
    PHOTOS,
    TINY,
    by_point,
    differences,
    full_mask,
    gap,
    photo,
    torch_quietly,
    upstream_masks,
)
from tests.reference.sam import upstream_sam as build

torch = torch_quietly()

from imgeval.metrics import sam_torch  # noqa: E402

DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]
GRID: dict[str, Any] = {"points_per_side": 8, "points_per_batch": 24}  # 192 candidates
OFF: dict[str, Any] = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Any:
    pytest.importorskip("onnx")  # of the module that writes the checkpoint
    from imgeval_export.random_weights_sam import random_sam_checkpoint

    checkpoint: Path = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    random_sam_checkpoint(checkpoint, TINY)
    return build(TINY, checkpoint)


class Networks:
    """Upstream's encoder and decoder, on tensors and on arrays. Remembers the devices of what it was given."""

    def __init__(self, sam: Any, device: str = "cpu") -> None:
        self.sam, self.seen = sam.to(device), set()

    @torch.no_grad()
    def encode(self, pixels: Any) -> Any:
        self.seen.add(str(pixels.device))
        return self.sam.image_encoder(pixels)

    @torch.no_grad()
    def decode(self, embedding: Any, points: Any, min_iou: float) -> Any:
        self.seen |= {str(embedding.device), str(points.device)}
        prompt = points[:, None], torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, dense = self.sam.prompt_encoder(points=prompt, boxes=None, masks=None)
        masks, iou = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return masks[iou > min_iou], iou

    def arrays(self) -> tuple[Any, Any]:
        def decode(embedding: np.ndarray, points: np.ndarray, min_iou: float) -> tuple[np.ndarray, ...]:
            tensors = torch.from_numpy(embedding), torch.from_numpy(points)
            return tuple(each.numpy() for each in self.decode(*tensors, min_iou))

        return lambda pixels: self.encode(torch.from_numpy(pixels)).numpy(), decode


def thresholds(theirs: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "pred_iou_thresh": gap(np.array([mask["predicted_iou"] for mask in theirs]), 0.3),
        "stability_score_thresh": gap(np.array([mask["stability_score"] for mask in theirs]), 0.4),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", PHOTOS)
def test_candidates_and_kept_masks_equal_upstream(sam: Any, name: str, device: str) -> None:
    rgb, networks = photo(name), Networks(sam, device)
    theirs = [mask for mask in upstream_masks(sam, rgb, **GRID, **OFF) if mask["area"]]
    options = MaskOptions(TINY.image_size_px, **GRID, **OFF)
    ours = sam_torch.generate_masks(rgb, networks.encode, networks.decode, options, device)
    assert networks.seen == {device}
    candidates = differences(tuple(sorted(ours, key=by_point)), sorted(theirs, key=by_point))
    print(f"\n{name} on {device}, {len(ours)} candidates: {candidates}")

    chosen = thresholds(theirs)
    theirs = upstream_masks(sam, rgb, **GRID, **chosen)
    options = MaskOptions(TINY.image_size_px, **GRID, **chosen)
    ours = sam_torch.generate_masks(rgb, networks.encode, networks.decode, options, device)
    kept = differences(ours, theirs)
    print(f"{name} on {device}, {len(ours)} kept: {kept}")
    assert 10 <= len(ours) <= 100
    for found in (candidates, kept):
        assert found.iou < 1e-5 < found.iou_spread / 10
        assert found.stability < 1e-5 < found.stability_spread / 10
        assert found.box_px == 0
        assert found.area == 0
        assert found.pixels == 0


@pytest.mark.parametrize("name", PHOTOS)
def test_masks_are_those_of_the_numpy_way_in_its_order(sam: Any, name: str) -> None:
    rgb, networks = photo(name), Networks(sam)
    chosen = thresholds(upstream_masks(sam, rgb, **GRID, **OFF))
    options = MaskOptions(TINY.image_size_px, **GRID, **chosen)
    theirs = by_numpy.generate_masks(rgb, *networks.arrays(), options)
    ours = sam_torch.generate_masks(rgb, networks.encode, networks.decode, options)
    assert [mask.point for mask in ours] == [mask.point for mask in theirs]
    assert len(ours) >= 10
    area, stability, pixels, box = worst(ours, theirs, rgb.shape[:2])
    print(f"\n{name}: {len(ours)} masks; area {area:.1e}, stability {stability:.1e}, pixels {pixels:.1e}, box {box} px")
    assert area < 1e-3
    assert stability < 1e-3
    assert pixels < 1e-3
    assert box <= 1


def worst(ours: tuple[SamMask, ...], theirs: tuple[SamMask, ...], shape: tuple[int, int]) -> tuple[float, ...]:
    """Largest differences: area of the larger mask, stability, pixels of the image, box in pixels."""
    pairs = list(zip(ours, theirs, strict=True))
    return (
        max(abs(a.segment.area - b.segment.area) / max(a.segment.area, b.segment.area) for a, b in pairs),
        max(abs(a.stability - b.stability) for a, b in pairs),
        max(float(np.mean(full_mask(a, shape) != full_mask(b, shape))) for a, b in pairs),
        max(int(np.abs(np.subtract(a.bbox, b.bbox)).max()) for a, b in pairs),
    )


@pytest.mark.parametrize("memory_bytes", [1, 10_000_000])
def test_chunks_change_nothing(sam: Any, memory_bytes: int) -> None:
    rgb, networks = photo("coffee.png"), Networks(sam)
    ours, chunked = (
        sam_torch.generate_masks(
            rgb, networks.encode, networks.decode, MaskOptions(TINY.image_size_px, **GRID, **OFF, memory_bytes=memory)
        )
        for memory in (2**40, memory_bytes)
    )
    assert len(ours) > 100
    for one, other in zip(ours, chunked, strict=True):
        assert (one.point, one.predicted_iou, one.stability, one.segment.box, one.segment.area) == (
            other.point, other.predicted_iou, other.stability, other.segment.box, other.segment.area,
        )  # fmt: skip
        assert np.array_equal(one.segment.mask, other.segment.mask)
        assert one.segment.mask.sum() == one.segment.area


def test_small_masks_suppress_others_and_are_then_left_out(sam: Any) -> None:
    rgb, networks = photo("rocket.jpg"), Networks(sam)
    options = MaskOptions(TINY.image_size_px, **GRID, **{**OFF, "box_nms_thresh": 0.5})
    every = sam_torch.generate_masks(rgb, networks.encode, networks.decode, options)
    smallest = float(np.median([mask.segment.area for mask in every]))
    large = sam_torch.generate_masks(rgb, networks.encode, networks.decode, options, min_area_px=smallest)
    assert [mask.point for mask in large] == [mask.point for mask in every if mask.segment.area >= smallest]
    assert 0 < len(large) < len(every)


def test_the_segmenter_gives_the_same_segments_either_way(sam: Any) -> None:
    rgb, networks = photo("astronaut.png"), Networks(sam)
    chosen = thresholds(upstream_masks(sam, rgb, **GRID, **OFF))
    common = {"image_size_px": TINY.image_size_px, **GRID, **chosen}
    theirs = segmenter("sam", common, *networks.arrays())(rgb)
    ours = segmenter("sam", {**common, "arrays": "torch"}, networks.encode, networks.decode, "cpu")(rgb)
    assert len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(np.subtract(one.box, other.box)).max() <= 1
        assert one.area == pytest.approx(other.area, rel=1e-3)
        assert one.predicted_iou == pytest.approx(other.predicted_iou, abs=1e-5)


def test_nothing_passes_and_nothing_is_refused_quietly(sam: Any) -> None:
    networks = Networks(sam)
    options = MaskOptions(TINY.image_size_px, points_per_side=2, pred_iou_thresh=1.0, stability_score_thresh=1.0)
    assert sam_torch.generate_masks(photo("astronaut.png"), networks.encode, networks.decode, options) == ()
    with pytest.raises(ValueError, match="expected uint8"):
        sam_torch.generate_masks(np.zeros((4, 4), np.uint8), networks.encode, networks.decode, options)


def test_masks_that_do_not_belong_to_the_predictions_are_refused(sam: Any) -> None:
    networks = Networks(sam)

    def wrong(embedding: Any, points: Any, min_iou: float) -> Any:
        masks, iou = networks.decode(embedding, points, min_iou)
        return masks[1:], iou

    options = MaskOptions(TINY.image_size_px, points_per_side=2, pred_iou_thresh=0.0)
    with pytest.raises(ValueError, match="11 masks for 12 predicted IoUs"):
        sam_torch.generate_masks(photo("astronaut.png"), networks.encode, wrong, options)

"""`sam.generate_masks` with torch tensors: everything per pixel stays on the device that the decoder's masks lie on.

The same masks in the same order. Masks that the predicted IoU drops are never enlarged; the others are, a chunk at a
time and as upstream does it (segment_anything/modeling/sam.py, postprocess_masks), and of each only seven numbers come
to the host: where a mask is kept, its pixels inside its box as well.

NumPy's way to see a tile at a time saves arithmetic, which a GPU has to spare, and costs thousands of small steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .sam import (
    MASK_THRESHOLD,
    MaskOptions,
    SamMask,
    check_rgb,
    encoder_input,
    non_maximum_suppression,
    point_grid,
    resized_shape,
)
from .segments import Segment

Encode = Callable[[Tensor], Tensor]
"""(1, 3, S, S) pixels, normalised -> (1, C, h, w) embedding."""

Decode = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""As `sam.Decode`: embedding, (N, 2) points, least predicted IoU -> (M, k, k) logits of those above, (N, 3) IoU."""


@dataclass(frozen=True)
class _Enlarging:
    """From low-resolution logits to the image, and how many masks at once."""

    image: tuple[int, int]  # (H, W) of the original image
    resized: tuple[int, int]  # of the image as the encoder takes it, before padding
    input_px: int  # side of the encoder's input
    chunk: int  # masks

    def __call__(self, low: Tensor) -> Tensor:
        """(n, k, k) -> (n, H, W) logits."""
        height, width = self.resized
        square = (self.input_px, self.input_px)
        large = F.interpolate(low[:, None], square, mode="bilinear", align_corners=False)[..., :height, :width]
        return F.interpolate(large, self.image, mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True, eq=False)
class _Candidates:
    """Masks that passed the thresholds. Only `low` lies on the device."""

    low: Tensor  # (n, k, k)
    predicted_iou: NDArray[np.float32]  # (n,)
    stability: NDArray[np.float32]  # (n,)
    points: NDArray[np.float64]  # (n, 2), x and y
    boxes: NDArray[np.int64]  # (n, 4): left, top, right, bottom, the last pixels included
    areas: NDArray[np.int64]  # (n,)


def generate_masks(
    rgb: NDArray[np.uint8],
    encode: Encode,
    decode: Decode,
    options: MaskOptions,
    device: torch.device | str = "cpu",
    min_area_px: float = 0.0,
) -> tuple[SamMask, ...]:
    """The masks of `rgb` (H, W, 3), highest predicted IoU first; equal ones in the order of the grid.

    Args:
        device: where pixels and points are put for `encode` and `decode`; masks are computed where these leave them.
        min_area_px: smaller masks take part in the suppression of boxes and are then left out.

    Raises:
        ValueError: `rgb` is not an (H, W, 3) uint8 array with pixels.
    """
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    resized = resized_shape(height, width, options.image_size_px)
    chunk = max(1, options.memory_bytes // bytes_per_mask((height, width), options.image_size_px))
    enlarge = _Enlarging((height, width), resized, options.image_size_px, chunk)
    points = point_grid(options.points_per_side) * (width, height)  # (P, 2), x and y
    prompts = (points * (resized[1] / width, resized[0] / height)).astype(np.float32)
    with torch.inference_mode():
        embedding = encode(torch.from_numpy(encoder_input(rgb, options.image_size_px)).to(device))
        on_device = torch.from_numpy(prompts).to(device)
        starts = range(0, len(points), options.points_per_batch)
        batches = [slice(start, start + options.points_per_batch) for start in starts]
        found = [
            _candidates(*decode(embedding, on_device[batch], options.min_iou), points[batch], enlarge, options)
            for batch in batches
        ]
        return tuple(_kept(found, enlarge, options.box_nms_thresh, min_area_px))


def bytes_per_mask(image: tuple[int, int], input_px: int) -> int:
    """Memory of one mask while it is measured: float32 logits of the encoder's input and twice of the image, one of
    them for what `interpolate` and reductions keep, and three byte maps of the image."""
    height, width = image
    return 4 * input_px**2 + (2 * 4 + 3) * height * width


def _candidates(
    logits: Tensor, ious: Tensor, points: NDArray[np.float64], enlarge: _Enlarging, options: MaskOptions
) -> _Candidates:
    """The masks of one batch that pass the thresholds: logits (M, k, k), predicted IoU (N, 3), points (N, 2)."""
    above = (ious > float(np.float32(options.min_iou))).nonzero()  # (M, 2), as the logits
    if len(above) != len(logits):
        raise ValueError(f"{len(logits)} masks for {len(above)} predicted IoUs above {options.min_iou}")
    measured = [
        _measure(enlarge(logits[start : start + enlarge.chunk]), options.stability_score_offset)
        for start in range(0, len(logits), enlarge.chunk)
    ]
    numbers = torch.cat(measured or [torch.zeros(0, 7, dtype=torch.int64)]).cpu()  # (M, 7)
    certain, possible, areas, *edges = numbers.numpy().T
    some = areas > 0
    stability = np.divide(certain, possible, out=np.zeros(len(some), np.float32), where=some, dtype=np.float32)
    good = some & (stability >= np.float32(options.stability_score_thresh))
    passed = torch.from_numpy(good).to(logits.device)
    at = above[passed].cpu().numpy()  # (n, 2), point and which of its masks
    return _Candidates(
        low=logits[passed],  # a copy: the batch's other logits are free to go
        predicted_iou=ious[above[passed].unbind(1)].cpu().numpy(),
        stability=stability[good],
        points=points[at[:, 0]],
        boxes=np.stack(edges, axis=1)[good],
        areas=areas[good],
    )


def _measure(logits: Tensor, offset: float) -> Tensor:
    """logits (n, H, W) -> (n, 7) int64: pixels above the high threshold, above the wide one and above the mask's own;
    left, top, right, bottom of the mask, which mean nothing where it is empty."""
    height, width = logits.shape[1:]
    mask = logits > MASK_THRESHOLD
    in_row, in_column = (
        mask.any(dim=2).byte(),
        mask.any(dim=1).byte(),
    )  # (n, H), (n, W); argmax gives the first of equals
    return torch.stack(
        [
            (logits > MASK_THRESHOLD + offset).sum(dim=(1, 2)),
            (logits > MASK_THRESHOLD - offset).sum(dim=(1, 2)),
            mask.sum(dim=(1, 2)),
            in_column.argmax(dim=1),
            in_row.argmax(dim=1),
            width - 1 - in_column.flip(1).argmax(dim=1),
            height - 1 - in_row.flip(1).argmax(dim=1),
        ],
        dim=1,
    )


def _kept(
    found: Sequence[_Candidates], enlarge: _Enlarging, box_nms_thresh: float, min_area_px: float
) -> Iterator[SamMask]:
    """The candidates that no better one suppresses, drawn. Boxes are few, so that the host compares them."""
    ious, boxes, areas, stability, points = (
        np.concatenate([getattr(each, name) for each in found])
        for name in ("predicted_iou", "boxes", "areas", "stability", "points")
    )
    if not len(ious):
        return
    order = [index for index in non_maximum_suppression(boxes, ious, box_nms_thresh) if areas[index] >= min_area_px]
    low = torch.cat([each.low for each in found])
    for start in range(0, len(order), enlarge.chunk):
        chosen = order[start : start + enlarge.chunk]
        masks = _draw(enlarge(low[torch.tensor(chosen, device=low.device)]), boxes[chosen])
        for index, mask in zip(chosen, masks, strict=True):
            left, top, right, bottom = (int(edge) for edge in boxes[index])
            segment = Segment(mask, (left, top, right - left + 1, bottom - top + 1), int(areas[index]))
            x, y = points[index]
            yield SamMask(segment, float(ious[index]), float(stability[index]), (x, y))


def _draw(logits: Tensor, boxes: NDArray[np.int64]) -> list[NDArray[np.bool_]]:
    """The masks of logits (n, H, W) inside their boxes (n, 4), brought to the host in one copy."""
    crops = [
        each[top : bottom + 1, left : right + 1] > MASK_THRESHOLD
        for each, (left, top, right, bottom) in zip(logits, boxes.tolist(), strict=True)
    ]
    pixels = torch.cat([crop.flatten() for crop in crops]).cpu().numpy()
    ends = np.cumsum([crop.numel() for crop in crops])
    return [part.reshape(tuple(crop.shape)) for crop, part in zip(crops, np.split(pixels, ends[:-1]), strict=True)]

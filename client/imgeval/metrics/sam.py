"""Automatic mask generation with SAM: the masks of segment_anything's SamAutomaticMaskGenerator, found faster.

    image --resize, pad--> encoder --> embedding --+
    grid of points, in batches -----> decoder <----+
                                        |
    3 masks per point: predicted IoU -> logits of the image -> stability -> box NMS -> masks

Follows automatic_mask_generator.py, predictor.py and utils/{amg,transforms}.py with one crop, the whole image. What
is different costs nothing in exactness: masks that the predicted IoU drops are never enlarged; of the others full-size
logits are seen a tile at a time (`sam_upsampling`), and a mask is drawn only when it has passed every filter.

The models are the caller's: `Encode` and `Decode` may be torch, ONNX Runtime, OpenVINO or a server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvalidInputError
from .sam_upsampling import Logits, Upsampling
from .segments import MIN_AREA_FRACTION, Segment

PIXEL_MEAN = (123.675, 116.28, 103.53)  # of 0..255, red, green, blue (build_sam.py)
PIXEL_STD = (58.395, 57.12, 57.375)
_MEAN, _STD = (np.asarray(values, np.float32) for values in (PIXEL_MEAN, PIXEL_STD))
MASK_THRESHOLD = 0.0  # logits above belong to the mask (modeling/sam.py)
ARRAYS = ("numpy", "torch")

Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""(1, 3, S, S) pixels, normalised -> (1, C, h, w) embedding."""

Decode = Callable[[NDArray[np.float32], NDArray[np.float32], float], tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Embedding, (N, 2) points in pixels of the encoder's input, least predicted IoU -> (M, k, k) logits, (N, 3) IoU.

Logits are those of the masks whose predicted IoU is above the least, point by point.
"""


@dataclass(frozen=True)
class MaskOptions:
    """Options of `generate_masks`, with upstream's names and defaults; a threshold of 0 filters nothing.

    Raises InvalidInputError for a value outside its range.
    """

    image_size_px: int = 1024  # side of the encoder's input
    points_per_side: int = 32  # of the grid of prompts; 1 or more
    points_per_batch: int = 64  # prompts that the decoder gets at a time, 1 or more; decides speed and memory alone
    pred_iou_thresh: float = 0.88  # masks whose predicted IoU is not above are dropped; 0..1
    stability_score_thresh: float = 0.95  # masks whose stability is below are dropped; 0..1
    stability_score_offset: float = 1.0  # logits, between the threshold and its two shifted ones; 0 or more
    min_area_fraction: float = MIN_AREA_FRACTION  # of the image; sam_clip leaves smaller masks out; 0..1
    box_nms_thresh: float = 0.7  # of two masks whose boxes have a larger IoU, the lower predicted IoU is dropped; 0..1
    arrays: str = ARRAYS[0]  # what computes: "numpy", or "torch" on the device of the model's instance (sam_torch)
    memory_bytes: int = 2**30  # that torch takes for masks of the image's size; one mask's is taken in any case

    @property
    def min_iou(self) -> float:
        """What the predicted IoU of a mask must be above."""
        return self.pred_iou_thresh if self.pred_iou_thresh > 0 else -math.inf

    def __post_init__(self) -> None:
        in_range = {
            "image_size_px": self.image_size_px >= 1,
            "points_per_side": self.points_per_side >= 1,
            "points_per_batch": self.points_per_batch >= 1,
            "pred_iou_thresh": 0 <= self.pred_iou_thresh <= 1,
            "stability_score_thresh": 0 <= self.stability_score_thresh <= 1,
            "stability_score_offset": self.stability_score_offset >= 0,
            "box_nms_thresh": 0 <= self.box_nms_thresh <= 1,
            "min_area_fraction": 0 <= self.min_area_fraction <= 1,
            "memory_bytes": self.memory_bytes >= 1,
        }
        for name, ok in in_range.items():
            if not ok:
                raise InvalidInputError(name, f"got {getattr(self, name)}, which is out of range")
        if self.arrays not in ARRAYS:
            raise InvalidInputError("arrays", f"got {self.arrays!r}; allowed: {', '.join(ARRAYS)}")


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays has no single truth value
class SamMask:
    """A mask of an image, in pixels of the original image.

    Attributes:
        segment: the mask, its box (x, y, width, height) and its area. The box holds every pixel of the mask and no
            more; upstream's `bbox` is one pixel smaller each way, the distance from the first to the last pixel.
        predicted_iou: the model's own guess of the mask's quality.
        stability: IoU of the masks at thresholds shifted up and down.
        point: (x, y) of the prompt.
    """

    segment: Segment
    predicted_iou: float
    stability: float
    point: tuple[float, float]

    @property
    def bbox(self) -> tuple[int, int, int, int]:
        """(x, y, width, height) as upstream reports it."""
        x, y, width, height = self.segment.box
        return x, y, width - 1, height - 1


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A mask that is not drawn yet; box is (left, top, right, bottom), the last pixels included."""

    low: Logits  # (k, k)
    predicted_iou: np.float32
    point: tuple[float, float]
    stability: np.float32
    box: tuple[int, int, int, int]
    area: int


def generate_masks(
    rgb: NDArray[np.uint8], encode: Encode, decode: Decode, options: MaskOptions = MaskOptions()
) -> tuple[SamMask, ...]:
    """The masks of `rgb` (H, W, 3), highest predicted IoU first; equal ones in the order of the grid.

    A mask without a single pixel, which upstream keeps where `stability_score_thresh` is 0, is dropped.

    Raises:
        ValueError: `rgb` is not an (H, W, 3) uint8 array with pixels.
    """
    check_rgb(rgb)
    height, width = rgb.shape[:2]
    resized = resized_shape(height, width, options.image_size_px)
    embedding = encode(encoder_input(rgb, options.image_size_px))
    points = point_grid(options.points_per_side) * (width, height)  # (P, 2), x and y
    prompts = (points * (resized[1] / width, resized[0] / height)).astype(np.float32)

    candidates: list[_Candidate] = []
    upsampling: Upsampling | None = None
    for start in range(0, len(points), options.points_per_batch):
        batch = slice(start, start + options.points_per_batch)
        logits, ious = decode(embedding, prompts[batch], options.min_iou)  # (M, k, k), (N, 3)
        if upsampling is None:
            upsampling = Upsampling((height, width), resized, options.image_size_px, logits.shape[-1])
        candidates += _candidates(logits, ious, points[batch], upsampling, options)
    if upsampling is None or not candidates:
        return ()
    boxes = np.array([each.box for each in candidates])
    kept = non_maximum_suppression(boxes, np.array([each.predicted_iou for each in candidates]), options.box_nms_thresh)
    return tuple(_draw(candidates[index], upsampling) for index in kept)


def large_segments(
    masks: tuple[SamMask, ...], height: int, width: int, min_area_fraction: float = MIN_AREA_FRACTION
) -> tuple[Segment, ...]:
    """The segments that sam_clip uses: those of `min_area_fraction` of the image or more, in the order of `masks`."""
    return tuple(mask.segment for mask in masks if mask.segment.area >= min_area_fraction * (height * width))


def check_rgb(rgb: NDArray[np.uint8]) -> None:
    """Raise ValueError where `rgb` is not an (H, W, 3) uint8 array with pixels."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"rgb is {rgb.dtype} {rgb.shape}, expected uint8 (H, W, 3), not empty")


# --- what the models take --------------------------------------------------------------------------------------------
def resized_shape(height: int, width: int, image_size_px: int) -> tuple[int, int]:
    """(height, width) with the long side at `image_size_px` (ResizeLongestSide.get_preprocess_shape).

    Never 0, where upstream fails: for an image over 2000 times longer than wide.
    """
    scale = image_size_px * 1.0 / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def encoder_input(rgb: NDArray[np.uint8], image_size_px: int) -> NDArray[np.float32]:
    """`rgb` (H, W, 3) as the encoder takes it, (1, 3, S, S): resized, normalised, and 0 to the right and below."""
    height, width = resized_shape(rgb.shape[0], rgb.shape[1], image_size_px)
    # torchvision resizes a PIL image by Pillow itself: bilinear, with antialiasing.
    resized = np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
    pixels = np.zeros((1, 3, image_size_px, image_size_px), np.float32)
    normalised = (resized.astype(np.float32) - _MEAN) / _STD  # (h', w', 3)
    pixels[0, :, :height, :width] = normalised.transpose(2, 0, 1)
    return pixels


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """The centres of points_per_side x points_per_side cells of the unit square, row by row: (P, 2), x and y."""
    offset = 1 / (2 * points_per_side)
    side = np.linspace(offset, 1 - offset, points_per_side)
    grid: NDArray[np.float64] = np.stack(np.meshgrid(side, side), axis=-1)  # (y, x, 2)
    return grid.reshape(-1, 2)


# --- what becomes of their output ------------------------------------------------------------------------------------
def _candidates(
    logits: NDArray[np.float32],
    ious: NDArray[np.float32],
    points: NDArray[np.float64],
    upsampling: Upsampling,
    options: MaskOptions,
) -> Iterator[_Candidate]:
    """The masks of one batch that pass the thresholds: logits (M, k, k), predicted IoU (N, 3), points (N, 2)."""
    above = np.argwhere(ious > np.float32(options.min_iou))  # (M, 2), as the logits
    for low, (point, index) in zip(logits, above, strict=True):
        measured = _measure(low, upsampling, options.stability_score_offset)
        if measured is None:
            continue
        stability, box, area = measured
        if stability >= np.float32(options.stability_score_thresh):
            yield _Candidate(low.copy(), ious[point, index], (points[point, 0], points[point, 1]), stability, box, area)


def _measure(
    low: Logits, upsampling: Upsampling, offset: float
) -> tuple[np.float32, tuple[int, int, int, int], int] | None:
    """Stability, box and area of the mask of `low` (k, k) in the original image; None where it is empty."""
    high, wide = MASK_THRESHOLD + offset, MASK_THRESHOLD - offset
    certain = possible = area = 0  # pixels above the high threshold, above the wide one, and above the mask's own
    in_row, in_column = (np.zeros(size, np.bool_) for size in upsampling.image)
    for tile in upsampling.tiles(low, lowest=wide, highest=high):
        if isinstance(tile.logits, float):
            certain, possible, area = certain + tile.area, possible + tile.area, area + tile.area
            in_row[tile.rows] = in_column[tile.columns] = True
            continue
        mask = tile.logits > MASK_THRESHOLD
        certain += np.count_nonzero(tile.logits > high)
        possible += np.count_nonzero(tile.logits > wide)
        area += np.count_nonzero(mask)
        in_row[tile.rows] |= mask.any(axis=1)
        in_column[tile.columns] |= mask.any(axis=0)
    if not area:
        return None
    rows, columns = np.flatnonzero(in_row), np.flatnonzero(in_column)
    box = int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])
    return np.float32(certain) / np.float32(possible), box, area


def non_maximum_suppression(
    boxes: NDArray[np.int64], scores: NDArray[np.float32], iou_threshold: float
) -> NDArray[np.int64]:
    """Indexes of the boxes (N, 4), as left, top, right, bottom, that no better one overlaps; best first.

    As torchvision.ops.nms: areas are differences of coordinates, in float32, and of equal scores the first wins.
    """
    order = np.argsort(-scores, kind="stable")
    left, top, right, bottom = boxes[order].astype(np.float32).T
    areas = (right - left) * (bottom - top)
    alive = np.ones(len(order), np.bool_)
    for best in range(len(order)):
        if not alive[best]:
            continue
        rest = slice(best + 1, None)
        overlap_x = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        overlap_y = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        shared = np.maximum(overlap_x, 0) * np.maximum(overlap_y, 0)
        union = areas[best] + areas[rest] - shared
        # Two boxes without area have no IoU and do not suppress each other.
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
        alive[rest] &= ~(iou.astype(np.float64) > iou_threshold)
    return order[alive]


def _draw(candidate: _Candidate, upsampling: Upsampling) -> SamMask:
    left, top, right, bottom = candidate.box
    full = np.zeros(upsampling.image, np.bool_)
    for tile in upsampling.tiles(candidate.low, lowest=MASK_THRESHOLD, highest=MASK_THRESHOLD):
        full[tile.rows, tile.columns] = tile.logits > MASK_THRESHOLD
    mask = full[top : bottom + 1, left : right + 1].copy()
    segment = Segment(mask, (left, top, right - left + 1, bottom - top + 1), candidate.area)
    return SamMask(segment, float(candidate.predicted_iou), float(candidate.stability), candidate.point)

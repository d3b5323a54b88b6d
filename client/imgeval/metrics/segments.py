"""Segments of an image, and a classical way to find them where there are no SAM weights.

`felzenszwalb_segments` needs scikit-image, which only the machine that serves the starter profile has; the rest needs
numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InvalidInputError

MIN_AREA_FRACTION = 0.05  # of the image; smaller segments are dropped, SAM's as well as these


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays has no single truth value
class Segment:
    """A part of an image, in pixels of the original image.

    Attributes:
        mask: (height, width) bool, what belongs to the segment inside its box. Only this part of the full mask is
            stored, because an image has 12 megapixels and several segments.
        box: (x, y, width, height); x to the right and y downwards from the top left corner.
        area: pixels of the segment in the whole image, 1 or more.

    Raises ValueError where the mask has not the size of the box.
    """

    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    area: int
    predicted_iou: float | None = None  # SAM's own guess of the mask's quality

    def __post_init__(self) -> None:
        _, _, width, height = self.box
        if self.mask.shape != (height, width) or self.mask.size == 0:
            raise ValueError(f"mask has shape {self.mask.shape}, box {self.box} needs {(height, width)}, not empty")


@dataclass(frozen=True)
class SegmentOptions:
    """Options of `felzenszwalb_segments`; lengths are in pixels of the reduced image.

    scale, sigma and min_size_fraction were chosen on ten photos (six example images and four of scikit-image), where
    they give 3 to 10 segments that cover 74 to 99 % of the image. A smaller min_size_fraction leaves more of a
    textured image in crumbs below min_area_fraction; a larger scale merges plain images into one or two segments.

    Raises InvalidInputError for a value outside its range.
    """

    max_side_px: int = 256  # the long side is reduced to this; 1 or more. Time grows with its square
    scale: float = 200.0  # larger prefers larger segments (k of the paper, for colours 0..255); above 0
    sigma: float = 0.8  # px, of the Gaussian that smooths first, the paper's value; 0 or more
    min_size_fraction: float = 0.02  # of the image; smaller components join their nearest neighbour; 0..1
    min_area_fraction: float = MIN_AREA_FRACTION  # of the image; smaller segments are dropped; 0..1

    def __post_init__(self) -> None:
        in_range = {
            "max_side_px": self.max_side_px >= 1,
            "scale": self.scale > 0,
            "sigma": self.sigma >= 0,
            "min_size_fraction": 0 <= self.min_size_fraction <= 1,
            "min_area_fraction": 0 <= self.min_area_fraction <= 1,
        }
        for name, ok in in_range.items():
            if not ok:
                raise InvalidInputError(name, f"got {getattr(self, name)}, which is out of range")


def crop(rgb: NDArray[np.uint8], segment: Segment) -> NDArray[np.uint8]:
    """`rgb` (H, W, 3) cropped to the segment's box, black outside its mask: (height, width, 3) uint8, a copy.

    Raises ValueError where the box does not lie inside the image.
    """
    check_inside(segment.box, rgb.shape[1], rgb.shape[0])
    x, y, width, height = segment.box
    return rgb[y : y + height, x : x + width] * segment.mask[..., np.newaxis]


def check_inside(box: tuple[int, int, int, int], width: int, height: int) -> None:
    """Raises ValueError where a box (x, y, width, height) does not lie inside an image of this size in pixels."""
    x, y, box_width, box_height = box
    if x < 0 or y < 0 or x + box_width > width or y + box_height > height:
        raise ValueError(f"box {box} does not lie inside an image of {width} x {height} px")


def felzenszwalb_segments(rgb: NDArray[np.uint8], options: SegmentOptions = SegmentOptions()) -> tuple[Segment, ...]:
    """Segments of `rgb` (H, W, 3) by colour, largest first, then by box; none overlap, and they need not cover it.

    Felzenszwalb and Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004, on a reduced copy whose
    labels are brought back to the original size with nearest-neighbour sampling. Deterministic.

    Raises:
        ValueError: `rgb` is not an (H, W, 3) uint8 array with pixels.
        ImportError: scikit-image is not installed.
    """
    from skimage.segmentation import felzenszwalb  # 0.2 s to import, and not needed with SAM

    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ValueError(f"rgb is {rgb.dtype} {rgb.shape}, expected uint8 (H, W, 3), not empty")
    reduced = _reduce(rgb, options.max_side_px)  # (h, w, 3)
    min_size_px = max(1, round(options.min_size_fraction * reduced.shape[0] * reduced.shape[1]))
    labels = felzenszwalb(reduced, scale=options.scale, sigma=options.sigma, min_size=min_size_px)  # (h, w), 0..L-1
    return _restore(labels, rgb.shape[0], rgb.shape[1], options.min_area_fraction)


def _reduce(rgb: NDArray[np.uint8], max_side_px: int) -> NDArray[np.uint8]:
    """`rgb` (H, W, 3) antialiased so that its long side is at most `max_side_px`; never enlarged, no side below 1."""
    height, width = rgb.shape[:2]
    factor = max_side_px / max(height, width)
    if factor >= 1:
        return rgb
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    # reducing_gap: a box filter takes off whole multiples first, which is several times faster on large photos.
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def _restore(
    labels: NDArray[np.integer[Any]], height: int, width: int, min_area_fraction: float
) -> tuple[Segment, ...]:
    """The segments of `labels` (h, w), enlarged to (height, width) with nearest-neighbour sampling, in order.

    Areas and boxes come from the small labels and the number of pixels that each of their rows and columns becomes;
    only the boxes of the segments that stay are ever enlarged.
    """
    rows, columns = _nearest(height, labels.shape[0]), _nearest(width, labels.shape[1])  # (height,), (width,)
    pixels = np.outer(np.bincount(rows), np.bincount(columns))  # (h, w), original pixels per label pixel
    areas = np.bincount(labels.ravel(), weights=pixels.ravel())  # (L,), exact: far below 2**53
    segments = []
    for label in np.flatnonzero(areas >= max(1.0, min_area_fraction * (height * width))):
        small = labels == label  # (h, w) bool
        y0, y1 = _extent(small.any(axis=1), rows)
        x0, x1 = _extent(small.any(axis=0), columns)
        mask = small[:, columns[x0:x1]][rows[y0:y1]]  # columns while there are few rows: then whole rows are copied
        segments.append(Segment(mask, (x0, y0, x1 - x0, y1 - y0), int(areas[label])))
    return tuple(sorted(segments, key=lambda segment: (-segment.area, segment.box)))


def _nearest(size: int, small_size: int) -> NDArray[np.int64]:
    """For each of `size` pixels, the one of `small_size` (<= size) in which its centre lies: (size,), ascending."""
    return (2 * np.arange(size, dtype=np.int64) + 1) * small_size // (2 * size)


def _extent(used: NDArray[np.bool_], index: NDArray[np.int64]) -> tuple[int, int]:
    """First and one past the last original pixel that samples a `used` small one; `index` comes from `_nearest`."""
    inside = np.flatnonzero(used)
    return int(np.searchsorted(index, inside[0])), int(np.searchsorted(index, inside[-1], side="right"))

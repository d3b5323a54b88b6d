"""From SAM's low-resolution logits to the pixels of the original image, one tile at a time.

Upstream (segment_anything/modeling/sam.py, postprocess_masks) enlarges logits to the encoder's input, cuts off the
padding and resizes the rest to the original image, both times bilinearly. Each step is linear and separable, so
together they are one matrix per axis, R and C:

    logits of the image (H, W) = R (H, h) @ low-resolution logits (h, w) @ C (W, w)^T

with at most four neighbouring weights above 0 in a row of R or C, which sum to 1. A tile of the image therefore needs
a small part of the logits only, and no value in it lies outside the range of that part: a tile where that range does
not reach a threshold is decided without being computed, and full-size logits never exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]

TILE_PX = 128  # side of a tile in the original image; its logits, 64 KB, stay in the cache


@dataclass(frozen=True, eq=False)
class _Band:
    """Some of the rows (or columns) of the image, and the ones of the low-resolution logits that they come from."""

    image: slice
    source: slice
    weights: Logits  # (rows of the image, rows of the source)


@dataclass(frozen=True, eq=False)
class Tile:
    """A rectangle of the image.

    Attributes:
        rows, columns: where it lies, in pixels of the image.
        logits: (rows, columns), or one number for all pixels where all lie on its side of every threshold.
    """

    rows: slice
    columns: slice
    logits: Logits | float

    @property
    def area(self) -> int:
        """Pixels."""
        return int((self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start))


class Upsampling:
    """Enlarges low-resolution logits to an image.

    Args:
        image: (H, W) of the original image, in pixels.
        resized: (h', w') of the image as the encoder takes it, before padding.
        input_px: side of the encoder's input.
        low_px: side of the low-resolution logits.
    """

    def __init__(self, image: tuple[int, int], resized: tuple[int, int], input_px: int, low_px: int) -> None:
        self.image = image
        self._rows, self._columns = (
            _bands(_enlarge(low_px, input_px, kept, size)) for size, kept in zip(image, resized, strict=True)
        )

    def tiles(self, low: Logits, lowest: float, highest: float) -> Iterator[Tile]:
        """The tiles of `low` (low_px, low_px) in which some pixel may exceed `lowest`, row by row.

        A tile that lies wholly above `highest` has infinity for its logits.
        """
        for row in self._rows:
            source = low[row.source]
            if source.max() <= lowest:
                continue
            rows = row.weights @ source  # (rows, low_px)
            for column in self._columns:
                part = source[:, column.source]
                if part.max() <= lowest:
                    continue
                inside = part.min() > highest
                logits = np.inf if inside else rows[:, column.source] @ column.weights.T
                yield Tile(row.image, column.image, logits)


def _enlarge(low: int, middle: int, kept: int, size: int) -> NDArray[np.float64]:
    """The (size, low) matrix that enlarges `low` values to `middle`, keeps the first `kept` and resizes them to `size`.

    Each row is a weighted mean.
    """
    before, behind, weight = _neighbours(low, middle, kept)
    enlarged = np.zeros((kept, low))
    np.add.at(enlarged, (np.arange(kept), before), 1 - weight)
    np.add.at(enlarged, (np.arange(kept), behind), weight)
    before, behind, weight = _neighbours(kept, size, size)
    return np.asarray((1 - weight)[:, None] * enlarged[before] + weight[:, None] * enlarged[behind], np.float64)


def _neighbours(
    source: int, target: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Bilinear resizing from `source` to `target` values: the index before, the one behind, and the latter's weight.

    Each is (count,), for the first `count` targets; pixels have their centres at halves. In float32 as torch computes
    it (ATen/native/UpSample.h, area_pixel_compute_source_index): rounding moves a weight by up to 1e-4, which decides
    the sign of some logits.
    """
    scale = np.float32(source) / np.float32(target)
    centre = np.arange(count, dtype=np.float32) + np.float32(0.5)
    position = np.maximum(scale * centre - np.float32(0.5), np.float32(0))
    before = np.minimum(position.astype(np.int64), source - 1)
    weight = np.asarray(np.clip(position - before.astype(np.float32), 0, 1), np.float64)
    return before, np.minimum(before + 1, source - 1), weight


def _bands(matrix: NDArray[np.float64]) -> list[_Band]:
    """`matrix` (size, low) cut into bands of TILE_PX rows, each without the columns that are 0."""
    bands = []
    for start in range(0, len(matrix), TILE_PX):
        part = matrix[start : start + TILE_PX]
        used = np.flatnonzero(part.max(axis=0))
        source = slice(int(used[0]), int(used[-1]) + 1)
        weights = np.ascontiguousarray(part[:, source], np.float32)
        bands.append(_Band(slice(start, start + len(part)), source, weights))
    return bands

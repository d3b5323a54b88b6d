"""Pillow's bicubic resize and crop, bit for bit, with the work on large images done as matrix products.

Pillow (src/libImaging/Resample.c) resizes 8-bit images in two passes, rows first. Each sample of a pass is

    clip((sum of tap * sample + 2^21) >> 22, 0, 255)

with taps that are whole multiples of 2^-22. The first pass visits every pixel of the image and takes most of the time.
Here it is a product of float32 matrices, in blocks of few output columns since each depends on few input columns. The
float32 sums are off by less than `_Taps.doubt`, so a rounded sum can only be wrong where it lies that close to a half;
those few are summed again in integers. The result is Pillow's, whatever order the matrix product sums in.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

_MIN_REDUCTION = 3  # from here on `reduce_rows` is faster than Pillow
_MAX_TALL = (
    2  # height / width up to where every Pillow resizes rows first; from 13 on it does the columns of taller ones
)
_ONE = 1 << 22  # Pillow's PRECISION_BITS: 32 - 8 bits of a sample - 2 of headroom
_BLOCK_COLUMNS = 4  # output columns of one product; found by trial, as was the next
_BAND_ROWS = 128  # input rows of one product: what they become stays in the processor's cache
_MANY = 1 / 32  # of all sums: when more than these are doubtful, summing all in float64 takes less time


def resized_crop(rgb: Pixels, size: tuple[int, int], box: tuple[int, int, int, int]) -> Pixels:
    """Pillow's resize to `size` (width, height) and crop of `box` (left, top, right, bottom): (H, W, 3) to (h, w, 3).

    `box` may reach beyond the image; it is black there.
    """
    (width, height), (left, top, right, bottom) = size, box
    inside = left >= 0 and top >= 0 and right <= width and bottom <= height
    if inside and rgb.shape[1] >= _MIN_REDUCTION * width and rgb.shape[0] < _MAX_TALL * rgb.shape[1]:
        # Only the rows of which the crop is made; the others stay black, so that the second pass finds its place.
        scale = rgb.shape[0] / height
        reach = 2 * max(scale, 1) + 1  # of the bicubic kernel, and 1 for rounding
        rows = slice(max(0, int(top * scale - reach)), int(bottom * scale + reach) + 1)
        reduced = np.zeros((rgb.shape[0], right - left, 3), np.uint8)
        reduced[rows] = reduce_rows(rgb[rows], width, range(left, right))
        rgb, width, left, right = reduced, right - left, 0, right - left
    resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, right, bottom)))


def reduce_rows(rgb: Pixels, width: int, columns: range) -> Pixels:
    """The first pass of Pillow's bicubic resize to `width`, and of its result these columns.

    (H, W, 3) to (H, len(columns), 3); `width` is at most W, and `columns` lie within it.
    """
    height = rgb.shape[0]
    flat = rgb.reshape(height, -1)  # (H, 3 W)
    taps, blocks = _taps(rgb.shape[1], width), _blocks(rgb.shape[1], width, columns)
    result = np.empty((height, 3 * len(columns)), np.uint8)
    for top in range(0, height, _BAND_ROWS):
        band, target = flat[top : top + _BAND_ROWS], result[top : top + _BAND_ROWS]
        doubtful = _round(_sums(band, blocks, np.float32), target, taps.doubt)
        if len(doubtful) > _MANY * target.size:  # as of a pattern of thin lines
            _round(_sums(band, blocks, np.float64), target, 0.0)  # exact, as 31 bits are enough
        else:
            _sum_again(doubtful, target, band, taps, columns)
    return result.reshape(height, len(columns), 3)


@dataclass(frozen=True, eq=False)
class _Taps:
    """For each output column the first input column that it depends on, and its taps times 2^22, zero-padded."""

    first: npt.NDArray[np.int64]  # (width,)
    taps: npt.NDArray[np.int64]  # (width, longest)

    @property
    def doubt(self) -> float:
        """Bound of the error of a float32 sum of taps * samples, in levels of 255.

        n roundings of products and n of sums err by at most n * 2^-24 / (1 - n * 2^-24) of the sum of magnitudes
        (Higham, Accuracy and Stability of Numerical Algorithms, 3.1), for every order of summing; the taps themselves
        are exact, being below 2^24. To it comes what adding 0.5 rounds off below 2^10.
        """
        longest = self.taps.shape[1] + 1
        return float(1.001 * longest * 2.0**-24 * 255 * np.abs(self.taps).sum(axis=1).max() / _ONE + 2.0**-14)


@dataclass(frozen=True, eq=False)
class _Block:
    """Some output columns: samples [start, start + taken) of a row times `matrix` (taken, made); RGB interleaved."""

    start: int
    matrix: npt.NDArray[np.float32]


def _sums(band: Pixels, blocks: tuple[_Block, ...], dtype: type[np.floating[Any]]) -> npt.NDArray[Any]:
    """The sums of taps * samples, (rows, 3 W) to (rows, 3 columns), in levels of 255."""
    first, last = blocks[0].start, blocks[-1].start + len(blocks[-1].matrix)
    samples = band[:, first:last].astype(dtype)
    sums = np.empty((len(band), sum(block.matrix.shape[1] for block in blocks)), dtype)
    at = 0
    for block in blocks:
        start, (taken, made) = block.start - first, block.matrix.shape
        matrix = block.matrix.astype(dtype, copy=False)
        np.matmul(samples[:, start : start + taken], matrix, out=sums[:, at : at + made])
        at += made
    return sums


def _round(sums: npt.NDArray[Any], result: Pixels, doubt: float) -> npt.NDArray[np.int64]:
    """Round `sums`, which are overwritten, into `result`; returns the flat places of those within `doubt` of a half."""
    sums += sums.dtype.type(0.5)
    floor = np.floor(sums)
    sums -= floor  # in [0, 1): near 0 and near 1 the sum itself is near a half
    result[:] = np.clip(floor, 0, 255, out=floor)
    sums -= sums.dtype.type(0.5)
    return np.flatnonzero(np.abs(sums, out=sums) > sums.dtype.type(0.5 - doubt))


def _sum_again(doubtful: npt.NDArray[np.int64], result: Pixels, band: Pixels, taps: _Taps, columns: range) -> None:
    """Put the sums at the flat places `doubtful` of `result` (rows, 3 columns) right, in integers as Pillow does."""
    row, sample = np.divmod(doubtful, result.shape[1])
    column, channel = np.divmod(sample, 3)
    column += columns.start
    # (doubtful, longest): where padding reaches beyond the row, its taps are zero.
    source = taps.first[column][:, None] + np.arange(taps.taps.shape[1])
    source = np.minimum(3 * source + channel[:, None], band.shape[1] - 1)
    exact = (taps.taps[column] * band[row[:, None], source]).sum(axis=1)
    result[row, sample] = np.clip((exact + _ONE // 2) >> 22, 0, 255)


@lru_cache(maxsize=16)
def _blocks(width_in: int, width: int, columns: range) -> tuple[_Block, ...]:
    taps = _taps(width_in, width)
    scaled = (taps.taps / _ONE).astype(np.float32)  # exact: taps have less than 24 bits
    longest = scaled.shape[1]
    blocks = []
    for at in range(columns.start, columns.stop, _BLOCK_COLUMNS):
        members = range(at, min(at + _BLOCK_COLUMNS, columns.stop))
        start = int(taps.first[at])
        taken = int(taps.first[members[-1]]) + longest - start
        matrix = np.zeros((taken, 3, len(members), 3), np.float32)
        for member, column in enumerate(members):
            offset = int(taps.first[column]) - start
            for channel in range(3):
                matrix[offset : offset + longest, channel, member, channel] = scaled[column]
        matrix = matrix[: width_in - start]  # beyond the row there is only padding
        blocks.append(_Block(3 * start, np.ascontiguousarray(matrix.reshape(3 * len(matrix), -1))))
    return tuple(blocks)


@lru_cache(maxsize=16)
def _taps(width_in: int, width: int) -> _Taps:
    """precompute_coeffs and normalize_coeffs_8bpc of Pillow, operation by operation."""
    scale = width_in / width
    support = 2.0 * scale
    centre = (np.arange(width) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum((centre + support + 0.5).astype(np.int64), width_in)
    longest = int((stop - first).max())
    column = first[:, None] + np.arange(longest)  # (width, longest)
    kernel = np.where(column < stop[:, None], _bicubic((column - centre[:, None] + 0.5) * (1.0 / scale)), 0.0)
    kernel /= np.cumsum(kernel, axis=1)[:, -1:]  # summed in order, as Pillow does
    taps = kernel * _ONE
    return _Taps(first, np.trunc(np.where(taps < 0, taps - 0.5, taps + 0.5)).astype(np.int64))


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic with a = -1/2."""
    a = -0.5
    x = np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    result: npt.NDArray[np.float64] = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
    return result

"""Masks as short JSON: COCO's uncompressed run-length encoding.

The format of the COCO annotations (https://cocodataset.org/#format-data, "iscrowd=1"): the lengths of runs of equal
values in column-major order, the first being a run of zeros, which may have length 0.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray


class Rle(TypedDict):
    """A mask of `size` [height, width] px as the lengths of its runs, zeros first."""

    size: list[int]
    counts: list[int]


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """`mask` (h, w) bool as runs. Raises ValueError where it is not a two-dimensional bool array."""
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise ValueError(f"mask is {mask.dtype} {mask.shape}, expected bool (h, w)")
    # A leading False makes the first run one of zeros whatever the mask starts with; its pixel is taken off again.
    pixels = np.concatenate(([False], mask.ravel(order="F")))  # (1 + h * w,)
    starts = np.flatnonzero(pixels[1:] != pixels[:-1])  # where a run starts, in pixels of the mask
    counts = np.diff(starts, prepend=0, append=mask.size)
    height, width = mask.shape
    return Rle(size=[height, width], counts=counts.tolist())


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """The (h, w) bool mask of `rle`. Raises ValueError where its runs do not fill its size exactly."""
    height, width = rle["size"]
    counts = np.asarray(rle["counts"], dtype=np.int64)  # (runs,)
    if height < 0 or width < 0 or (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"runs of {int(counts.sum())} px in all do not fill a mask of {height} x {width} px")
    ones = np.arange(len(counts)) % 2 == 1  # every second run
    return np.repeat(ones, counts).reshape(width, height).T

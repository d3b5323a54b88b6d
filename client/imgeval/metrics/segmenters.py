"""Where sam_clip's segments come from: a name in the profile's settings -> a function of the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgeval.metrics.sam import Decode, Encode, MaskOptions, SamMask, generate_masks, large_segments
from imgeval.metrics.segments import Segment, SegmentOptions, felzenszwalb_segments

Segmenter = Callable[[NDArray[np.uint8]], tuple[Segment, ...]]  # rgb (H, W, 3) -> segments


def segment_options(name: str, options: Mapping[str, Any]) -> SegmentOptions | MaskOptions:
    """The options of the segmenter called `name`, "felzenszwalb" or "sam".

    Raises:
        InvalidInputError: a value that is out of range.
    """
    kinds: dict[str, type[SegmentOptions | MaskOptions]] = {"felzenszwalb": SegmentOptions, "sam": MaskOptions}
    return kinds[name](**options)


def segmenter(name: str, options: Mapping[str, Any], encode: Any, decode: Any, device: str = "cpu") -> Segmenter:
    """The segmenter called `name`; only "sam" uses the rest.

    `encode` and `decode` take and give the arrays that `options` name, NumPy's or torch's; `device` is torch's.
    """
    chosen = segment_options(name, options)
    if not isinstance(chosen, MaskOptions):
        return partial(felzenszwalb_segments, options=chosen)
    if chosen.arrays == "torch":
        return partial(sam_segments_torch, encode=encode, decode=decode, options=chosen, device=device)
    return partial(sam_segments, encode=encode, decode=decode, options=chosen)


def sam_segments_torch(
    rgb: NDArray[np.uint8], encode: Any, decode: Any, options: MaskOptions, device: str
) -> tuple[Segment, ...]:
    """As `sam_segments`, by torch on `device`: smaller masks never leave it."""
    from imgeval.metrics import sam_torch  # torch is no part of a server without a GPU

    min_area_px = options.min_area_fraction * (rgb.shape[0] * rgb.shape[1])
    masks = sam_torch.generate_masks(rgb, encode, decode, options, device, min_area_px)
    return tuple(mask.segment for mask in map(_upstream_box, masks))


def sam_segments(rgb: NDArray[np.uint8], encode: Encode, decode: Decode, options: MaskOptions) -> tuple[Segment, ...]:
    """SAM's masks of at least `options.min_area_fraction` of the image, in the generator's order."""
    masks = generate_masks(rgb, encode, decode, options)
    return large_segments(tuple(map(_upstream_box, masks)), rgb.shape[0], rgb.shape[1], options.min_area_fraction)


def _upstream_box(mask: SamMask) -> SamMask:
    """The mask cut to upstream's `bbox`, whose width and height reach from the first to the last pixel exclusive.

    Crops are made by that box, so they lack the mask's last row and column. The area stays the whole mask's.
    """
    x, y, width, height = mask.bbox
    width, height = max(width, 1), max(height, 1)
    segment = replace(
        mask.segment,
        mask=mask.segment.mask[:height, :width],
        box=(x, y, width, height),
        predicted_iou=mask.predicted_iou,
    )
    return replace(mask, segment=segment)

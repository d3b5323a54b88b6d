"""Pixels for pages: small copies, segments drawn over an image, and images as data URIs.

Everything starts from what `image.decode` gave, so the limits on images hold here too.
"""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imgeval.metrics.segments import Segment
from imgeval.pages import palette

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

TINT = 0.45  # of a segment's colour over the image
_BADGE_SEARCH_PX = 64  # the long side of the mask in which a badge's place is looked for

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@functools.cache
def font(size_px: int) -> Font:
    """Pillow's own font: nothing of the machine is needed, and so only Latin letters have a shape."""
    return ImageFont.load_default(size_px)


def data_uri(image: Image.Image, file_format: Literal["WEBP", "PNG"] = "WEBP", quality: int = 80) -> str:
    """An image as a `data:` URI."""
    file = io.BytesIO()
    image.save(file, file_format, quality=quality)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def reduced(rgb: Pixels, max_side_px: int) -> Image.Image:
    """`rgb` (H, W, 3) with its long side at most `max_side_px`; never enlarged."""
    image = Image.fromarray(rgb)
    image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return image


def draw_segments(rgb: Pixels, segments: Sequence[Segment], max_side_px: int) -> Image.Image:
    """The image, reduced, with each segment tinted, outlined and numbered from 1; large ones below small ones."""
    image = reduced(rgb, max_side_px)
    width, height = image.size
    masks = [_scaled(segment, rgb.shape[1], rgb.shape[0], width, height) for segment in segments]
    order = sorted(range(len(segments)), key=lambda index: -segments[index].area)  # stable
    tinted = np.asarray(image).astype(np.float32)  # (h, w, 3)
    owner = np.zeros((height, width), np.int32)  # number of the segment on top
    for index in order:
        owner[masks[index]] = index + 1
    for number in range(1, len(segments) + 1):
        top = owner == number
        colour = np.array(palette.colour(number), np.float32)
        tinted[top] = (1 - TINT) * tinted[top] + TINT * colour
    thickness = max(1, round(max(width, height) / 400))
    for index in order:
        tinted[_outline(masks[index], thickness)] = palette.colour(index + 1)
    drawn = Image.fromarray(tinted.round().astype(np.uint8))
    pen = ImageDraw.Draw(drawn)
    radius = max(9, round(max(width, height) / 50))
    for index in order:
        visible = owner == index + 1
        x, y = _inner_point(visible if visible.any() else masks[index])
        badge(pen, x, y, radius, index + 1)
    return drawn


def badge(pen: ImageDraw.ImageDraw, x: float, y: float, radius_px: float, number: int) -> None:
    """A segment's number on a disc of its colour."""
    colour = palette.colour(number)
    box = (x - radius_px, y - radius_px, x + radius_px, y + radius_px)
    pen.ellipse(box, fill=colour, outline=palette.BLACK, width=max(1, round(radius_px / 8)))
    pen.text((x, y), str(number), fill=palette.ink(colour), font=font(round(radius_px * 1.2)), anchor="mm")


def _scaled(segment: Segment, from_width: int, from_height: int, width: int, height: int) -> Mask:
    """The segment's mask of the whole image, (height, width) bool, sampled at the centres of the small pixels."""
    x, y, box_width, box_height = segment.box
    columns = (2 * np.arange(width) + 1) * from_width // (2 * width) - x  # (width,) in pixels of the box
    rows = (2 * np.arange(height) + 1) * from_height // (2 * height) - y  # (height,)
    in_x, in_y = (columns >= 0) & (columns < box_width), (rows >= 0) & (rows < box_height)
    mask = np.zeros((height, width), np.bool_)
    mask[np.ix_(in_y, in_x)] = segment.mask[np.ix_(rows[in_y], columns[in_x])]
    return mask


def _outline(mask: Mask, thickness_px: int) -> Mask:
    """The pixels of `mask` that are at most so far from its edge."""
    inner = mask
    for _ in range(thickness_px):
        inner = _eroded(inner)
    return mask & ~inner


def _eroded(mask: Mask) -> Mask:
    """`mask` without the pixels that have a neighbour outside it; outside the image is outside."""
    padded = np.pad(mask, 1)
    inside: Mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside


def _inner_point(mask: Mask) -> tuple[float, float]:
    """A point (x, y) well inside a mask, which may be hollow or in parts; the image's corner where it is empty."""
    step = max(1, -(-max(mask.shape) // _BADGE_SEARCH_PX))
    small = mask[step // 2 :: step, step // 2 :: step]
    if not small.any():
        small, step = mask, 1
    while (smaller := _eroded(small)).any():
        small = smaller
    rows, columns = np.nonzero(small)
    if not len(rows):
        return 0.0, 0.0
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(columns[nearest] * step + step // 2), float(rows[nearest] * step + step // 2)

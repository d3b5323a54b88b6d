"""From the bytes of a JPEG to what the image tower takes, against Pillow's plain path."""

from __future__ import annotations

import io

import click
import numpy as np
from PIL import Image

from benchmarks import options, pictures
from benchmarks.document import table
from benchmarks.timing import in_turns, ratio
from imgeval.image import decode, pixels
from imgeval_export.clip import CLIP_PIXELS

SIZES = ((4000, 3000), (2048, 1536), (1024, 1024), (640, 480))


def plain(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    """Pillow as a transform uses it: decode, convert, resize, crop, normalise; (3, 224, 224)."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = CLIP_PIXELS.resize_px
    scale = side / min(image.size)
    width, height = (round(length * scale) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    array = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    mean, std = (np.array(values, np.float32) for values in (CLIP_PIXELS.mean, CLIP_PIXELS.std))
    return np.asarray(((array - mean) / std).transpose(2, 0, 1))


@click.command()
@options.rounds(15)
@options.reported("decode")
def command(rounds: int) -> str:
    """Decoding and resizing of JPEG files of several sizes.

    Example: python -m benchmarks decode
    """
    rows = []
    for width, height in SIZES:
        data = pictures.jpeg(1, width, height)
        times = in_turns(
            {
                "plain": lambda data=data: plain(data),  # type: ignore[misc]
                "full": lambda data=data: pixels(decode(data).rgb, CLIP_PIXELS),  # type: ignore[misc]
            },
            rounds,
        )
        rows.append(
            [
                f"{width} x {height}, {len(data) / 1e6:.2f} MB",
                times["plain"].in_ms(),
                times["full"].in_ms(),
                ratio(times["plain"].seconds, times["full"].seconds),
            ]
        )
    headings = ["JPEG, quality 90, 4:2:0", "Pillow, plain, ms", "imgeval, ms", "plain / imgeval"]
    return f"medians (and quartiles) of {rounds} rounds in turns\n\n{table(headings, rows)}"

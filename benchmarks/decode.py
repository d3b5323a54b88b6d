"""From the bytes of a JPEG to what the image tower takes, against Pillow's plain path."""

from __future__ import annotations

import io

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import options, pictures
from benchmarks.document import table
from benchmarks.timing import in_turns, ratio
from imgeval.image import decode, pixels
from imgeval_export.clip import CLIP_PIXELS

SIZES = ((4000, 3000), (2048, 1536), (1024, 1024), (640, 480))
PHOTO = 1  # of `pictures.photos`


def plain(data: bytes) -> NDArray[np.float32]:
    """Pillow as a transform uses it: open, load, convert, resize, crop, normalise; (3, 224, 224)."""
    opened = Image.open(io.BytesIO(data))
    opened.load()
    image = opened.convert("RGB")
    side, short = CLIP_PIXELS.resize_px, min(image.size)
    width, height = (int(side * length / short) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - side) / 2), round((height - side) / 2)
    array = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / np.float32(255)
    mean, std = (np.array(values, np.float32) for values in (CLIP_PIXELS.mean, CLIP_PIXELS.std))
    return np.ascontiguousarray(((array - mean) / std).transpose(2, 0, 1))


def served(data: bytes) -> NDArray[np.float32]:
    """The server's first step without its prompt: the same, with all checks of the input rules."""
    return pixels(decode(data).rgb, CLIP_PIXELS)


@click.command()
@options.rounds(15)
@options.reported("decode")
def command(rounds: int) -> options.Report:
    """Decoding and resizing of JPEG files of several sizes.

    Example: python -m benchmarks decode
    """
    rows = []
    for width, height in SIZES:
        data = pictures.jpeg(PHOTO, width, height)
        sides = {
            "plain": lambda data=data: plain(data),
            "served": lambda data=data: served(data),
        }
        times = in_turns(sides, rounds)
        rows.append(
            [
                f"{width} x {height}, {len(data) / 1e6:.2f} MB",
                times["plain"].in_ms(),
                times["served"].in_ms(),
                ratio(times["plain"].seconds, times["served"].seconds),
                f"{width * height / 1e6 / times['served'].median:.0f}",
                f"{np.abs(plain(data) - served(data)).max():.2g}",
            ]
        )
    headings = ["JPEG, quality 90, 4:2:0", "Pillow, plain, ms", "imgeval, ms", "plain / imgeval", "MP/s", "differ by"]
    return options.Report(
        f"Medians (and quartiles) of {rounds} rounds in turns, one thread; a photo enlarged, with noise; the largest "
        f"difference of a normalised value is in the last column.\n\n{table(headings, rows)}"
    )

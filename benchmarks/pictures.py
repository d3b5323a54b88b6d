"""Test pictures: photos that scikit-image carries, at any size, as files."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image

from imgeval_export.verify import Sample, samples

NOISE = 4.0  # standard deviation, 0..255: a camera's, so that an enlarged photo is as hard to decode as a real one


def photos(count: int) -> list[Sample]:
    """Photos with prompts, `count` of at most four."""
    return samples(min(count, 4))


@functools.cache
def png(photo: int) -> bytes:
    """A photo as it is."""
    file = io.BytesIO()
    photos(4)[photo].image.save(file, "PNG")
    return file.getvalue()


@functools.cache
def jpeg(photo: int, width: int, height: int, quality: int = 90) -> bytes:
    """A photo resized, with noise, as a JPEG file with halved colour resolution."""
    image = Image.fromarray(photos(4)[photo].rgb).resize((width, height), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(photo).normal(0, NOISE, (height, width, 1))
    noisy = (np.asarray(image) + noise).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file.getvalue()


def jpeg_of_bytes(size: int, width: int = 1024, height: int = 1024) -> bytes:
    """A JPEG file of about `size` bytes."""
    return min(
        (jpeg(0, width, height, quality) for quality in range(30, 96, 5)), key=lambda data: abs(len(data) - size)
    )

"""Colour JPEG files by simplejpeg, where it is installed: the same pixels as by Pillow, straight into an array.

Both decode with libjpeg-turbo, whose accurate mode (the default of both) is defined bit by bit. Pillow keeps 4 bytes a
pixel of its own, which then have to be copied; simplejpeg writes the 3 that are wanted. What is decoded is the whole
image at full size: libjpeg's scaled decoding drops what is clipped at black and white in full size, and missed the
parity tolerance on photos and on text even at half scale.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import features

try:
    import simplejpeg
except ImportError:  # of the extra `serve`
    simplejpeg = None


def decode_colour(data: bytes, width: int, height: int) -> npt.NDArray[np.uint8] | None:
    """A JPEG file of `width` x `height` and three components as (height, width, 3) RGB, or None.

    None, for Pillow to decode or to refuse it: without simplejpeg, with a Pillow that has another JPEG library, for a
    file that libjpeg-turbo has the least complaint of, and for one that is larger than was said.
    """
    if simplejpeg is None or not features.check_feature("libjpeg_turbo"):
        return None
    buffer = np.empty((height, width, 3), np.uint8)
    try:
        decoded = simplejpeg.decode_jpeg(data, buffer=buffer, strict=True)
    except ValueError:
        return None
    return buffer if decoded.shape == buffer.shape else None

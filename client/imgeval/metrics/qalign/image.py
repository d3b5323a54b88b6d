"""Images as Q-Align takes them: padded to a square, resized, normalised.

The same as upstream's `expand2square` followed by Hugging Face's CLIPImageProcessor with the folder's
`preprocessor_config.json`: Pillow's bicubic on 8-bit pixels, then 1 / 255, then CLIP's mean and standard deviation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imgeval.image import Pixels, normalise

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
PADDING = (122, 116, 104)  # int(255 * MEAN)

# The square is as large as the long side, which takes 4 bytes per pixel: 256 MB at this side, 250 TB for 8 x 8,000,000.
MAX_SIDE_PX = 8192


def preprocess(rgb: Pixels, image_px: int = 448) -> NDArray[np.float32]:
    """(H, W, 3) uint8 -> (3, image_px, image_px) float32, the whole image in the middle of a square.

    One difference to upstream: an image whose long side is above MAX_SIDE_PX is first resized to that.
    """
    image = Image.fromarray(rgb)
    long = max(image.size)
    if long > MAX_SIDE_PX:
        size = [max(1, round(side * MAX_SIDE_PX / long)) for side in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    resized = pad_to_square(image).resize((image_px, image_px), Image.Resampling.BICUBIC)
    return normalise(np.asarray(resized), MEAN, STD)


def pad_to_square(image: Image.Image) -> Image.Image:
    """The RGB image centred in a square of PADDING; an odd pixel goes to the right or to the bottom."""
    width, height = image.size
    side = max(width, height)
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square

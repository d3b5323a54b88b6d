"""What a caller gives, checked and turned into what is sent: metric names, prompts, images.

Everything that is refused here is refused before anything is sent, by an InvalidInputError that names the field.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from imgeval.contract import MAX_ENCODED_BYTES, METRIC_NAMES
from imgeval.errors import InvalidInputError
from imgeval.text import decode_prompt

if TYPE_CHECKING:
    from PIL import Image

    ImageLike: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | LazyImage"

TIFF_MODES = ("CMYK", "YCbCr", "LAB")  # PIL modes that PNG cannot hold and TIFF can


@dataclass(frozen=True)
class LazyImage:
    """An image file that is read when it is scored: `read` gives its bytes, in any thread, or an ImgevalError."""

    label: str
    read: Callable[[], bytes]


def check_metrics(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics to compute, in the contract's order.

    Raises:
        InvalidInputError: an unknown name, or none at all.
    """
    if metrics is None:
        return METRIC_NAMES
    unknown = [name for name in metrics if name not in METRIC_NAMES]
    if unknown or not metrics:
        got = ", ".join(unknown) or "none"
        raise InvalidInputError("metrics", f"got {got}; allowed: {', '.join(METRIC_NAMES)}")
    return tuple(name for name in METRIC_NAMES if name in metrics)


def check_prompt(prompt: str) -> bytes:
    """The prompt as the server takes it, checked by the server's own rule.

    Raises:
        InvalidInputError: no text, blank, too long, or with bytes that were no UTF-8 on the command line.
    """
    if not isinstance(prompt, str):
        raise InvalidInputError("PROMPT", f"got {type(prompt).__name__}; allowed: text")
    try:
        encoded = prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError("PROMPT", f"got text that is not UTF-8 at character {error.start}") from error
    decode_prompt(encoded)
    return encoded


def encode_image(image: ImageLike) -> bytes:
    """The bytes of an image file; PIL images and arrays become PNG or TIFF, which keep every sample.

    A lazy image is read here.

    Raises:
        InvalidInputError: a file that is missing, unreadable, empty or too large, or an array of another shape or type.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _checked(bytes(image), "the bytes given")
    if isinstance(image, LazyImage):
        return _checked(image.read(), image_label(image))
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise InvalidInputError(
                "IMAGE", f"got an array of {image.dtype} {image.shape}; allowed: uint8 (H, W), (H, W, 3) or (H, W, 4)"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InvalidInputError("IMAGE", f"got {type(image).__name__}; allowed: path, bytes, PIL image or array")
    file = io.BytesIO()
    file_format = "TIFF" if image.mode in TIFF_MODES else "PNG"
    try:
        # With its EXIF, so that the server turns it as it would turn the file that it came from.
        image.save(file, file_format, exif=image.getexif(), **({"compress_level": 1} if file_format == "PNG" else {}))
    except Exception as error:
        # Broad because a lazy image is decoded here, and Pillow names no error type for broken files (see image.py).
        raise InvalidInputError(
            "IMAGE", f"got a PIL image of mode {image.mode} that cannot be sent: {error}"
        ) from error
    return _checked(file.getvalue(), f"the image as {file_format}")


def image_label(image: ImageLike) -> str:
    """What a result calls this image: its path or its label, or its kind where it has none."""
    if isinstance(image, LazyImage):
        image = image.label
    if not isinstance(image, (str, os.PathLike)):
        return f"<{type(image).__name__}>"
    try:
        name = os.fsencode(image)
    except UnicodeEncodeError:  # text that no file name can be
        name = os.fspath(image).encode("utf-8", "replace")
    return name.decode("utf-8", "replace")  # a file name may be any bytes, and JSON is UTF-8


def prompt_label(prompt: object) -> str:
    """What an outcome calls this prompt, which may be none that can be sent: text that is valid UTF-8."""
    text = prompt if isinstance(prompt, str) else repr(prompt)
    return text.encode("utf-8", "replace").decode("utf-8")


def _read(path: Path) -> bytes:
    label = image_label(path)
    try:
        if path.is_dir():
            raise InvalidInputError("IMAGE", f"{label} is a directory; allowed: an image file")
        with path.open("rb") as file:
            content = file.read(MAX_ENCODED_BYTES + 1)  # not its size first: a pipe has none
            size = max(len(content), os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise InvalidInputError("IMAGE", f"{label} does not exist") from error
    except (OSError, ValueError) as error:
        raise InvalidInputError("IMAGE", f"{label} cannot be read: {error}") from error
    return _checked(content, label, size)


def _checked(content: bytes, label: str, size: int | None = None) -> bytes:
    if not content:
        raise InvalidInputError("IMAGE", f"{label} is empty; allowed: an image file")
    if len(content) > MAX_ENCODED_BYTES:
        got = len(content) if size is None else size
        raise InvalidInputError("IMAGE", f"{label} has {got} bytes; allowed: at most {MAX_ENCODED_BYTES}")
    return content

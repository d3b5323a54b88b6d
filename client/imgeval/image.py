"""Encoded image files to arrays, and arrays to what the models take.

    bytes --decode--> (H, W, 3) uint8 --resize_crop--> (crop, crop, 3) uint8 --normalise--> (3, crop, crop) float32

`decode` is the boundary to Pillow: whatever Pillow and its codecs raise becomes InvalidInputError on IMAGE, and
whatever is done to an image beyond decoding it is listed in `ImageInfo.actions`.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from imgeval.contract import IMAGE, IMAGE_FORMATS, MAX_ENCODED_BYTES, MAX_PIXELS, MIN_SIDE_PX
from imgeval.errors import InvalidInputError
from imgeval.fast_jpeg import decode_colour
from imgeval.file_structure import gif_frames, jpeg_scans, tiff_frames
from imgeval.resample import resized_crop

Pixels = npt.NDArray[np.uint8]
PerChannel = tuple[float, float, float]

_ORIENTATION = 0x0112  # the EXIF and TIFF tag
_PHOTOMETRIC = 0x0106  # the TIFF tag
_TURNS = {  # EXIF orientation -> what puts the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow brings samples to 8 bits but leaves the transparent colour of a PNG's tRNS as the file has it.
_TRNS_SCALE = {"L;2": 255 / 3, "L;4": 255 / 15, "RGB;16B": 1 / 256}
_MAX_JPEG_SCANS = 100  # usual progressive files have about 10
_MAX_ASPECT = 64  # long side / short side of what is resized whole
_BAND_ROWS = 128  # of an image copied to an array; a band stays in the processor's cache
_ALLOWED = f"a whole {', '.join(IMAGE_FORMATS[:-1])} or {IMAGE_FORMATS[-1]} file"


@dataclass(frozen=True)
class ImageInfo:
    """What an image file was, and what was done to it.

    `width` and `height` are in pixels after `orientation` (EXIF 1..8, 1 is upright) was applied; `source_mode` is
    Pillow's; `frames` is at least 1 and counted to 10,000 at most in a GIF or TIFF.
    """

    format: str
    source_mode: str
    width: int
    height: int
    encoded_bytes: int
    orientation: int
    alpha_composited: bool
    frames: int
    actions: tuple[str, ...]

    def to_dict(self) -> dict[str, object]:
        """The same as an object that `json.dumps` takes."""
        return asdict(self) | {"actions": list(self.actions)}


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """`rgb` (H, W, 3) uint8, C-contiguous, read-only; sRGB is assumed."""

    rgb: Pixels
    info: ImageInfo


@dataclass(frozen=True)
class PixelSpec:
    """What a model takes: short side resized to `resize_px`, centre `crop_px` square, then (x / 255 - mean) / std."""

    resize_px: int
    crop_px: int
    mean: PerChannel
    std: PerChannel


# --- decoding --------------------------------------------------------------------------------------------------------
def decode(data: bytes) -> DecodedImage:
    """Decode an image file to 8-bit RGB, upright, on white where it is transparent.

    Of several frames the first is used; ICC profiles are ignored, as in open_clip. Raises InvalidInputError and nothing
    else: for what is not a whole image of contract.IMAGE_FORMATS within its limits, and for samples of 32 bits.
    """
    if len(data) > MAX_ENCODED_BYTES:
        raise _refusal(f"got {len(data)} bytes; allowed at most {MAX_ENCODED_BYTES}")
    try:
        with _pillow_warnings_ignored, Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            _check_header(image, data)
            return _decode_opened(image, data)
    except InvalidInputError:
        raise
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ") or "nothing"
        raise _refusal(f"got {len(data)} unreadable bytes, starting with {start}; allowed {_ALLOWED}") from error
    except Image.DecompressionBombError as error:  # at twice Pillow's own limit, which is above MAX_PIXELS
        raise _refusal(f"got a header of too many pixels; allowed at most {MAX_PIXELS} (width x height)") from error
    except Exception as error:
        # Broad because Pillow names no error type for broken files: struct.error, SyntaxError, ValueError, MemoryError,
        # zlib.error, KeyError, AssertionError and more occur. Nothing is hidden: each is raised again, typed.
        problem = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _refusal(f"got a broken file ({problem}); allowed {_ALLOWED}") from error


def _check_header(image: Image.Image, data: bytes) -> None:
    """Raise InvalidInputError for what would be refused or would cost too much, before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _refusal(f"got {width}x{height} = {width * height} pixels; allowed at most {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE_PX:
        raise _refusal(f"got {width}x{height} pixels; allowed sides of at least {MIN_SIDE_PX}")
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # Pillow < 11 opens a 16-bit PNG as I
        kind = "float" if image.mode == "F" else "32-bit integer"
        raise _refusal(f"got {kind} samples; allowed 8 or 16 bits per sample")
    # Each scan passes over the whole image, and 100 bytes make one: without a limit one small file costs hours.
    if image.format in ("JPEG", "MPO") and jpeg_scans(data) > _MAX_JPEG_SCANS:
        raise _refusal(f"got a JPEG of more than {_MAX_JPEG_SCANS} scans; allowed at most {_MAX_JPEG_SCANS}")


def _decode_opened(image: Image.Image, data: bytes) -> DecodedImage:
    """The first frame of `image`, which holds the file `data`, as RGB. Raises whatever Pillow raises."""
    actions: list[str] = []
    source_mode, source_format = image.mode, str(image.format)
    raw_mode = _raw_mode(image)  # Pillow forgets it on loading
    # Pillow turns a TIFF itself while loading it; what it leaves (every other format) is turned below.
    stored = _orientation(image) if source_format == "TIFF" else 1
    # MPO is Pillow's name for a JPEG with further images behind the first; many phones write it.
    kind = "JPEG" if source_format == "MPO" else source_format
    array = decode_colour(data, *image.size) if kind == "JPEG" and source_mode == "RGB" else None
    if array is None:
        image.load()
    pending = _orientation(image)
    count = {"GIF": gif_frames, "TIFF": tiff_frames}.get(source_format)
    frames = count(data) if count else getattr(image, "n_frames", 1)
    if frames > 1:
        actions.append(f"first of {frames} frames used")
    alpha = image.has_transparency_data
    rgb = _to_rgb(image, raw_mode, actions)
    if alpha:
        actions.append("alpha composited over white")
    orientation = stored if pending == 1 else pending
    if orientation != 1:
        actions.append(f"EXIF orientation {orientation} applied")
    if pending != 1:
        rgb = (rgb if array is None else Image.fromarray(array)).transpose(_TURNS[pending])
        array = None

    array = _array(rgb) if array is None else array
    array.setflags(write=False)
    info = ImageInfo(kind, source_mode, *rgb.size, len(data), orientation, alpha, frames, tuple(actions))
    return DecodedImage(array, info)


def _to_rgb(image: Image.Image, raw_mode: str, actions: list[str]) -> Image.Image:
    """A loaded image as RGB, transparency over white; appends what it did to `actions`."""
    mode, transparent = image.mode, image.info.get("transparency")
    if mode == "I" or mode.startswith("I;16"):
        full = 4095 if raw_mode == "I;12" else 65535
        actions += [f"{full.bit_length()}-bit samples scaled to 8", "grey expanded"]
        scaled = ((np.arange(full + 1) * 255 + full // 2) // full).astype(np.uint8)
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # 0 is white: Pillow inverts 8-bit samples, not these
            scaled = scaled[::-1]
        if transparent is not None:
            scaled[transparent] = 255
        return Image.fromarray(scaled[np.asarray(image)]).convert("RGB")

    if ";16" in raw_mode and image.format in ("PNG", "TIFF"):  # a BMP's "BGR;16" is 16 bits per pixel
        actions.append("16-bit samples scaled to 8")  # by Pillow, which keeps the high byte
    if mode in ("P", "PA"):
        actions.append("palette expanded")
    elif mode in ("1", "L", "LA"):
        actions.append("grey expanded")
    elif mode not in ("RGB", "RGBA"):
        actions.append(f"{mode} converted to RGB")
    if not image.has_transparency_data:
        return image if mode == "RGB" else image.convert("RGB")

    scale = _TRNS_SCALE.get(raw_mode)
    if transparent is not None and scale is not None:
        levels = tuple(int(sample * scale) for sample in np.atleast_1d(transparent))
        image.info["transparency"] = levels if len(levels) == 3 else levels[0]
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(rgba, mask=rgba)  # round((colour * alpha + 255 * (255 - alpha)) / 255), exactly
    return white


def _array(image: Image.Image) -> Pixels:
    """A loaded RGB image as (H, W, 3); in bands, since Pillow takes 3 times longer for the whole."""
    width, height = image.size
    array = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND_ROWS):
        stop = min(top + _BAND_ROWS, height)
        array[top:stop] = np.asarray(image.crop((0, top, width, stop)))
    return array


def _raw_mode(image: Image.Image) -> str:
    """Pillow's name for the samples as the file stores them, "" where it does not say."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 also where there is none or it cannot be read, since the pixels are still good."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except (SyntaxError, ValueError, KeyError, IndexError, TypeError, struct.error):
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _refusal(problem: str) -> InvalidInputError:
    return InvalidInputError(IMAGE.name, problem)


class _PillowWarningsIgnored:
    """Ignores the warnings of Pillow's modules while any thread is inside; such a file is decoded or refused.

    The first thread in saves the filters and the last one out restores them: `warnings.catch_warnings` in each thread
    would not do, since overlapping ones restore each other's filters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_pillow_warnings_ignored = _PillowWarningsIgnored()


# --- models' input ---------------------------------------------------------------------------------------------------
def resize_crop(rgb: Pixels, *, resize_px: int, crop_px: int) -> Pixels:
    """Resize the short side to `resize_px` (bicubic, antialiased) and cut the centre: (H, W, 3) to (crop, crop, 3).

    Bit for bit torchvision's Resize and CenterCrop of a PIL image, as open_clip uses them; black where the crop is the
    larger. One difference: of an image longer than 64 times its short side only the middle is resized, because the rest
    is cut off anyway and resizing 8 x 8,000,000 pixels whole would take 200 GB.
    """
    short, long = sorted(rgb.shape[:2])
    surplus = max(0, long - _MAX_ASPECT * short) // 2
    if surplus:
        middle = slice(surplus, long - surplus)
        rgb = rgb[middle] if rgb.shape[0] == long else rgb[:, middle]
        long -= 2 * surplus
    width, height = (resize_px if side == short else int(resize_px * long / short) for side in rgb.shape[1::-1])
    left, top = (_centre_offset(side, crop_px) for side in (width, height))
    return resized_crop(rgb, (width, height), (left, top, left + crop_px, top + crop_px))


def _centre_offset(side: int, crop: int) -> int:
    """Where torchvision's centre crop starts, negative where it pads; `round` takes halves to even, as there."""
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def normalise(rgb_u8: Pixels, mean: PerChannel, std: PerChannel) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 to (3, H, W) float32, (x / 255 - mean) / std; bit for bit torchvision's ToTensor + Normalize."""
    planes = np.ascontiguousarray(rgb_u8.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)
    planes -= np.asarray(mean, np.float32)[:, None, None]
    planes /= np.asarray(std, np.float32)[:, None, None]
    return planes


def pixels(rgb: Pixels, spec: PixelSpec) -> npt.NDArray[np.float32]:
    """A decoded image (H, W, 3) as a model takes it: (3, crop, crop) float32."""
    return normalise(resize_crop(rgb, resize_px=spec.resize_px, crop_px=spec.crop_px), spec.mean, spec.std)

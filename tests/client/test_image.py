"""imgeval.image: each input rule on real files, parity with torchvision, and nothing but InvalidInputError on junk."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from imgeval.contract import IMAGE_FORMATS, MAX_ENCODED_BYTES
from imgeval.errors import InvalidInputError
from imgeval.file_structure import gif_frames, jpeg_scans, tiff_frames
from imgeval.image import DecodedImage, PixelSpec, decode, normalise, pixels, resize_crop
from tests.hostile import MAGIC, gif, grey_tiff, hostile_images, jpeg_of_scans, png, png_chunk, real_file, saved

LOSSLESS = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}
CLIP = PixelSpec(224, 224, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HOSTILE = hostile_images()


def noise(height: int = 12, width: int = 20, channels: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """round(colour * a + 255 * (1 - a)) for a = alpha / 255, in integers; 255 is odd, so there are no halves."""
    blended = colour.astype(np.int64) * alpha + 255 * (255 - alpha.astype(np.int64))
    return (2 * blended + 255) // 510


def png_of(samples: bytes, row_bytes: int, *chunks: bytes, width: int, depth: int, colour: int) -> bytes:
    """A PNG of raw sample rows, for what Pillow cannot write."""
    rows = [samples[at : at + row_bytes] for at in range(0, len(samples), row_bytes)]
    idat = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return png(width, len(rows), *chunks, idat, depth=depth, colour=colour)


# --- formats and modes -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_pixels_that_were_saved(kind: str) -> None:
    rgb = noise()
    data = saved(Image.fromarray(rgb), kind, **LOSSLESS[kind])
    image = decode(data)
    assert np.array_equal(image.rgb, rgb)
    assert image.rgb.dtype == np.uint8
    assert image.rgb.flags.c_contiguous
    assert not image.rgb.flags.writeable
    assert json.loads(json.dumps(image.info.to_dict())) == {
        "format": kind,
        "source_mode": "RGB",
        "width": 20,
        "height": 12,
        "encoded_bytes": len(data),
        "orientation": 1,
        "alpha_composited": False,
        "frames": 1,
        "actions": [],
    }


def test_jpeg_is_close_to_what_was_saved() -> None:
    image = decode(saved(Image.new("RGB", (32, 16), (200, 60, 30)), "JPEG", quality=95))
    assert image.rgb.shape == (16, 32, 3)
    assert np.abs(image.rgb.astype(int) - (200, 60, 30)).max() <= 3


def test_jpeg_with_further_images_is_a_jpeg() -> None:
    first = Image.new("RGB", (32, 16), (255, 0, 0))
    data = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", (32, 16), (0, 0, 255))])
    image = decode(data)
    assert image.info.format == "JPEG"
    assert image.info.frames == 2
    assert "first of 2 frames used" in image.info.actions
    assert image.rgb[..., 0].min() > 240
    assert image.rgb[..., 2].max() < 15


def test_gif_palette_is_expanded() -> None:
    image = decode(saved(palette_image(), "GIF"))
    assert image.info.source_mode == "P"
    assert image.info.actions == ("palette expanded",)
    assert image.rgb[0, 0].tolist() == [10, 20, 30]
    assert image.rgb[0, 15].tolist() == [200, 100, 50]


def palette_image() -> Image.Image:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(1, (8, 0, 16, 16))
    return image


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_is_expanded(mode: str) -> None:
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8), (16, 1))
    image = decode(saved(Image.fromarray(ramp).convert(mode, dither=Image.Dither.NONE), "PNG"))
    expected = np.where(ramp > 127, 255, 0) if mode == "1" else ramp
    assert np.array_equal(image.rgb, np.stack([expected] * 3, axis=-1))
    assert image.info.source_mode == mode
    assert image.info.actions[0] == "grey expanded"


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_rounded(kind: str) -> None:
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    image = decode(saved(Image.fromarray(samples), kind))
    assert np.array_equal(image.rgb[..., 1], np.rint(samples * 255.0 / 65535.0))
    assert image.rgb[255, 255].tolist() == [255, 255, 255]
    assert image.info.actions == ("16-bit samples scaled to 8", "grey expanded")


@pytest.mark.parametrize(("photometric", "first"), [(0, 255), (1, 0)])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_tiff_whose_zero_is_white(bits: int, photometric: int, first: int) -> None:
    header = grey_tiff(16, 16, bits=bits, photometric=photometric, length=32 * bits)
    image = decode(header.ljust(200, b"\0") + bytes(32 * bits))
    assert image.rgb[0, 0].tolist() == [first] * 3


def test_12_bit_grey_is_scaled() -> None:
    header = grey_tiff(16, 16, bits=12, length=24 * 16)
    image = decode(header.ljust(200, b"\0") + b"\xff\xf0\x00" * 128)  # 4095, 0, 4095, 0 ...
    assert image.rgb[0, :4, 0].tolist() == [255, 0, 255, 0]
    assert image.info.actions == ("12-bit samples scaled to 8", "grey expanded")


def test_16_bit_colour_is_within_one_of_scaled() -> None:
    samples = np.random.default_rng(3).integers(0, 65536, (16, 16, 3)).astype(">u2")
    image = decode(png_of(samples.tobytes(), 96, width=16, depth=16, colour=2))
    assert np.abs(image.rgb - samples.astype(float) * 255 / 65535).max() <= 1
    assert image.info.actions == ("16-bit samples scaled to 8",)


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (90, 128, 128), (90, 90, 90)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
    ],
)
def test_other_colour_spaces_become_rgb(mode: str, colour: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    image = decode(saved(Image.new(mode, (16, 16), colour), "TIFF"))
    assert np.abs(image.rgb.astype(int) - rgb).max() <= 1
    assert image.info.actions == (f"{mode} converted to RGB",)


def test_cmyk_jpeg_becomes_rgb() -> None:
    image = decode(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    assert np.abs(image.rgb.astype(int) - (255, 0, 0)).max() <= 3
    assert image.info.source_mode == "CMYK"


def test_icc_profile_is_ignored() -> None:
    rgb = noise()
    assert np.array_equal(decode(saved(Image.fromarray(rgb), "PNG", icc_profile=b"not a profile")).rgb, rgb)


# --- transparency ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_composited_over_white_exactly(kind: str) -> None:
    colour, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = decode(saved(Image.fromarray(np.stack([colour, 255 - colour, colour, alpha], axis=-1)), kind))
    assert np.array_equal(image.rgb[..., 0], on_white(colour, alpha))
    assert np.array_equal(image.rgb[..., 1], on_white(255 - colour, alpha))
    assert image.info.alpha_composited
    assert image.info.actions == ("alpha composited over white",)


def test_grey_with_alpha_is_composited() -> None:
    values = noise(16, 16, 2)
    image = decode(saved(Image.merge("LA", bands(values)), "PNG"))
    assert np.array_equal(image.rgb[..., 2], on_white(values[..., 0], values[..., 1]))
    assert image.info.actions == ("grey expanded", "alpha composited over white")


def bands(values: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(np.ascontiguousarray(values[..., band])) for band in range(values.shape[-1])]


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entry_becomes_white(kind: str) -> None:
    image = decode(saved(palette_image(), kind, transparency=1))
    assert image.rgb[3, 3].tolist() == [10, 20, 30]
    assert image.rgb[3, 12].tolist() == [255, 255, 255]
    assert image.info.alpha_composited


def test_palette_with_an_alpha_per_entry_is_composited() -> None:
    image = decode(saved(palette_image(), "PNG", transparency=bytes([255, 100])))
    assert image.rgb[3, 3].tolist() == [10, 20, 30]
    assert image.rgb[3, 12].tolist() == on_white(np.array([200, 100, 50]), np.array([100] * 3)).tolist()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_becomes_white_at_every_depth(depth: int) -> None:
    """Rows of the lowest sample, which tRNS makes transparent, then rows of the second lowest."""
    low, second = bytes(2 * depth), {1: b"\xff", 2: b"\x55", 4: b"\x11", 8: b"\x01", 16: b"\x00\x01"}[depth]
    second = (second * 2 * depth)[: 2 * depth]
    for transparent, white_rows in ((0, slice(0, 8)), (1, slice(8, 16))):
        chunk = png_chunk(b"tRNS", struct.pack(">H", transparent))
        data = png_of(low * 8 + second * 8, 2 * depth, chunk, width=16, depth=depth, colour=0)
        expected = np.zeros((16, 16, 3))
        expected[8:] = {1: 255, 2: 85, 4: 17, 8: 1, 16: 0}[depth]
        expected[white_rows] = 255
        image = decode(data)
        assert np.array_equal(image.rgb, expected), f"{depth} bits, sample {transparent}"
        assert image.info.alpha_composited


@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colour_becomes_white(depth: int) -> None:
    form = ">3B" if depth == 8 else ">3H"
    scale = 1 if depth == 8 else 257
    kept, gone = (struct.pack(form, *(scale * v for v in colour)) for colour in ((9, 8, 7), (30, 20, 10)))
    chunk = png_chunk(b"tRNS", struct.pack(">3H", 30 * scale, 20 * scale, 10 * scale))
    row = kept * 8 + gone * 8
    image = decode(png_of(row * 8, len(row), chunk, width=16, depth=depth, colour=2))
    assert image.rgb[0, 0].tolist() == [9, 8, 7]
    assert image.rgb[0, 15].tolist() == [255, 255, 255]


# --- frames ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_of_several_frames_is_used(kind: str) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = [Image.new("RGB", (16, 16), colour) for colour in colours]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image = decode(saved(first, kind, save_all=True, append_images=others, **lossless))
    assert image.rgb.reshape(-1, 3).tolist() == [[255, 0, 0]] * 256
    assert image.info.frames == 3
    assert "first of 3 frames used" in image.info.actions


def test_a_broken_second_frame_does_not_matter() -> None:
    frames = [Image.fromarray(noise(64, 64, seed=seed)).quantize() for seed in (1, 2)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image = decode(data[: len(data) * 7 // 10])
    assert np.array_equal(image.rgb, decode(data).rgb)


def test_tiff_whose_directory_is_its_own_next_has_one_frame() -> None:
    data = bytearray(saved(Image.new("L", (16, 16), 70), "TIFF"))
    (ifd,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, ifd)
    struct.pack_into("<I", data, ifd + 2 + 12 * entries, ifd)
    image = decode(bytes(data))
    assert image.info.frames == 1
    assert image.rgb[0, 0].tolist() == [70, 70, 70]


def test_frames_are_counted_to_a_bound() -> None:
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    assert gif_frames(gif(16, 16, frame * 9_999, b";")) == 9_999
    assert gif_frames(gif(16, 16, frame * 20_000, b";")) == 10_000
    assert gif_frames(b"GIF89a") == 1
    assert tiff_frames(b"MM\0*") == 1


def test_big_tiff_frames_are_counted() -> None:
    pages = [Image.new("L", (16, 16), value) for value in (1, 2, 3)]
    image = decode(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], big_tiff=True))
    assert image.info.frames == 3
    assert image.rgb[0, 0].tolist() == [1, 1, 1]


def test_jpeg_scans_are_counted_and_bounded() -> None:
    assert jpeg_scans(real_file("JPEG")) == 1
    assert jpeg_scans(real_file("JPEG", progressive=True)) == 10  # libjpeg's script for colour
    thumbnail = real_file("JPEG", 16, 16)
    assert jpeg_scans(saved(Image.new("RGB", (16, 16)), "JPEG", exif=b"Exif\0\0" + thumbnail)) == 1
    within = jpeg_of_scans(95)
    assert jpeg_scans(within) <= 100
    assert decode(within).rgb.shape == (64, 64, 3)
    with pytest.raises(InvalidInputError, match="more than 100 scans"):
        decode(jpeg_of_scans(101))


# --- orientation -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "corners"),  # of an image stored as red, green over blue, white: read upright, row by row
    [(1, "RGBW"), (2, "GRWB"), (3, "WBGR"), (4, "BWRG"), (5, "RBGW"), (6, "BRWG"), (7, "WGBR"), (8, "GWRB")],
)
def test_exif_orientation_is_applied(kind: str, orientation: int, corners: str) -> None:
    colours = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
    stored = Image.new("RGB", (64, 32), colours["W"])
    stored.paste(colours["R"], (0, 0, 32, 16))
    stored.paste(colours["G"], (32, 0, 64, 16))
    stored.paste(colours["B"], (0, 16, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(saved(stored, kind, exif=exif))
    height, width = (64, 32) if orientation >= 5 else (32, 64)
    assert image.rgb.shape == (height, width, 3)
    assert image.rgb.flags.c_contiguous
    assert (image.info.height, image.info.width) == (height, width)
    found = [image.rgb[y, x].astype(int) for y in (2, height - 3) for x in (2, width - 3)]
    assert np.abs(np.array(found) - [colours[corner] for corner in corners]).max() <= 12
    assert image.info.orientation == orientation
    assert image.info.actions == ((f"EXIF orientation {orientation} applied",) if orientation > 1 else ())


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0garbage, not TIFF", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_unreadable_exif_is_ignored(exif: bytes) -> None:
    image = decode(saved(Image.new("RGB", (16, 8), (0, 0, 0)), "JPEG", exif=exif))
    assert image.rgb.shape == (8, 16, 3)
    assert image.info.orientation == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_undefined_orientation_is_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    image = decode(saved(Image.new("RGB", (16, 8)), "JPEG", exif=exif))
    assert image.rgb.shape == (8, 16, 3)
    assert image.info.orientation == 1


# --- limits ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_smallest_side(kind: str) -> None:
    assert decode(real_file(kind, 8, 8)).rgb.shape == (8, 8, 3)
    with pytest.raises(InvalidInputError, match=r"^IMAGE: got 8x7 pixels; allowed sides of at least 8$"):
        decode(real_file(kind, 8, 7))


def test_most_pixels() -> None:
    rows = png_chunk(b"IDAT", zlib.compress(bytes(8000 * 1001)))
    assert decode(png(8000, 8000, rows, depth=1, colour=0)).rgb.shape == (8000, 8000, 3)
    with pytest.raises(InvalidInputError, match="got 8000x8001 = 64008000 pixels; allowed at most 64000000"):
        decode(png(8000, 8001, rows, depth=1, colour=0))


def test_most_bytes() -> None:
    data = real_file("PNG")
    image = decode(data.ljust(MAX_ENCODED_BYTES, b"\0"))
    assert image.info.encoded_bytes == 33_554_432
    with pytest.raises(InvalidInputError, match="got 33554433 bytes; allowed at most 33554432"):
        decode(data.ljust(MAX_ENCODED_BYTES + 1, b"\0"))


@pytest.mark.parametrize(("mode", "name"), [("F", "float"), ("I", "32-bit integer")])
def test_32_bit_samples_are_refused(mode: str, name: str) -> None:
    with pytest.raises(InvalidInputError, match=f"got {name} samples; allowed 8 or 16 bits"):
        decode(saved(Image.new(mode, (16, 16)), "TIFF"))


# --- hostile files ---------------------------------------------------------------------------------------------------
def test_the_hostile_files_are_200_distinct_and_reproducible() -> None:
    assert len(HOSTILE) == 200
    assert len({label for label, _ in HOSTILE}) == 200
    assert hostile_images(200, 0) == HOSTILE
    assert hostile_images(200, 1) != HOSTILE


@pytest.mark.parametrize("data", [data for _, data in HOSTILE], ids=[label for label, _ in HOSTILE])
def test_hostile_files_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode(data)
    message = str(caught.value)
    assert caught.value.field == "IMAGE"
    assert message.startswith("IMAGE: got ")
    assert "; allowed " in message
    assert "\n" not in message
    assert len(message) < 400


def decodes_or_refuses(data: bytes) -> None:
    try:
        image = decode(data)
    except InvalidInputError:
        return
    assert isinstance(image, DecodedImage)
    assert image.rgb.dtype == np.uint8
    assert image.rgb.flags.c_contiguous
    assert image.rgb.shape == (image.info.height, image.info.width, 3)


@given(st.sampled_from([b"", *MAGIC.values()]), st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_decode_or_are_refused(magic: bytes, rest: bytes) -> None:
    decodes_or_refuses(magic + rest)


@given(
    st.sampled_from(IMAGE_FORMATS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
@example("TIFF", [], 1.0)
@settings(max_examples=300, deadline=None)
def test_changed_and_cut_files_decode_or_are_refused(kind: str, changes: list[tuple[float, int]], kept: float) -> None:
    data = bytearray(real_file(kind, 16, 16))
    for place, value in changes:
        data[int(place**3 * len(data))] = value  # cubed: most changes hit the headers
    decodes_or_refuses(bytes(data[: round(kept * len(data))]))


def test_pillow_warnings_stay_inside_in_every_thread() -> None:
    no_frames = png_chunk(b"acTL", struct.pack(">II", 0, 0))  # Pillow warns: Invalid APNG
    data = png_of(bytes(16 * 16), 16, no_frames, width=16, depth=8, colour=0)
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        with ThreadPoolExecutor(8) as pool:
            sizes = {image.rgb.shape for image in pool.map(decode, [data] * 400)}
        assert warnings.filters == filters
    assert sizes == {(16, 16, 3)}


# --- models' input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("height", "width", "resize_px", "crop_px"),
    [
        (224, 224, 224, 224),
        (300, 200, 224, 224),
        (200, 301, 224, 224),
        (333, 501, 224, 224),
        (97, 1023, 224, 224),
        (640, 427, 256, 225),
        (427, 640, 257, 224),
        (8, 512, 64, 64),
        (50, 70, 30, 60),
        (90, 45, 31, 48),
        (1200, 900, 336, 336),
    ],
)
def test_pixels_are_torchvisions(height: int, width: int, resize_px: int, crop_px: int) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    rgb = noise(height, width)
    geometry = transforms.Compose(
        [
            transforms.Resize(resize_px, transforms.InterpolationMode.BICUBIC, antialias=True),
            transforms.CenterCrop(crop_px),
        ]
    )
    cropped = geometry(Image.fromarray(rgb))
    values = transforms.Compose([transforms.ToTensor(), transforms.Normalize(CLIP.mean, CLIP.std)])
    expected = values(cropped).numpy()

    spec = PixelSpec(resize_px, crop_px, CLIP.mean, CLIP.std)
    got = pixels(rgb, spec)
    difference = np.abs(got.astype(np.float64) - expected)
    print(f"{width}x{height} -> {crop_px}: max {difference.max():.2e}, mean {difference.mean():.2e}")
    assert got.shape == (3, crop_px, crop_px)
    assert got.dtype == np.float32
    assert np.array_equal(resize_crop(rgb, resize_px=resize_px, crop_px=crop_px), np.asarray(cropped))
    assert difference.max() < 1e-6


@settings(max_examples=200, deadline=None)
@given(
    st.integers(8, 900),
    st.floats(1 / 4, 4),
    st.sampled_from([(20, 20), (32, 32), (40, 32), (64, 64), (64, 63)]),
    st.integers(0, 2**32 - 1),
)
@example(800, 2.0, (32, 32), 1)  # of taller ones Pillow 13 resizes the columns first
@example(500, 2.01, (32, 32), 2)
@example(500, 1.99, (32, 32), 3)
@example(1000, 8.0, (32, 32), 4)
def test_resize_crop_is_pillows(width: int, tall: float, target: tuple[int, int], seed: int) -> None:
    """At sizes that go through `reduce_rows` and at sizes that do not, of black and white noise, which overshoots."""
    resize_px, crop_px = target
    rgb = 255 * (noise(max(8, int(width * tall)), width, seed=seed) >> 7)
    short, long = sorted(rgb.shape[:2])
    size = [resize_px if side == short else int(resize_px * long / short) for side in rgb.shape[1::-1]]
    left, top = (round((side - crop_px) / 2) for side in size)
    whole = Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[top : top + crop_px, left : left + crop_px]
    assert np.array_equal(resize_crop(rgb, resize_px=resize_px, crop_px=crop_px), expected)


def test_normalise_by_hand() -> None:
    rgb = np.array([[[0, 51, 255]]], np.uint8)
    got = normalise(rgb, (0.0, 0.1, 0.5), (1.0, 0.5, 0.25))
    assert got[:, 0, 0].tolist() == pytest.approx([0.0, 0.2, 2.0], abs=1e-7)


@pytest.mark.parametrize("turned", [False, True])
def test_of_a_very_long_image_the_middle_is_used(turned: bool) -> None:
    """8 x 8,000,000 would be 200 GB when resized whole; where whole is possible, the middle gives the same."""
    rgb = np.repeat(noise(8, 80, seed=5), 25, axis=1)  # 8 x 2000, a ratio of 250
    strip = np.zeros((8, 1_000_000, 3), np.uint8)
    strip[:, 499_000:501_000] = rgb
    size, box = (8000, 32), (3984, 0, 4016, 32)
    if turned:
        rgb, strip = (np.ascontiguousarray(image.transpose(1, 0, 2)) for image in (rgb, strip))
        size, box = (32, 8000), (0, 3984, 32, 4016)
    whole = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC).crop(box))
    assert np.array_equal(resize_crop(rgb, resize_px=32, crop_px=32), whole)
    assert np.array_equal(resize_crop(strip, resize_px=32, crop_px=32), whole)

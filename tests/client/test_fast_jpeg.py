"""imgeval.fast_jpeg: Pillow's pixels in every kind of JPEG, and Pillow's verdict on what is no clean one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgeval import fast_jpeg, image
from imgeval.errors import InvalidInputError
from imgeval.fast_jpeg import decode_colour
from imgeval.image import decode
from tests.hostile import hostile_images, saved

simplejpeg = pytest.importorskip("simplejpeg")
HOSTILE = dict(hostile_images())


def picture(height: int, width: int, seed: int, blur: int) -> np.ndarray:
    """Noise, or noise of so few pixels enlarged."""
    small = np.random.default_rng(seed).integers(0, 256, (max(1, height // blur), max(1, width // blur), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(8, 200),
    st.integers(8, 200),
    st.integers(1, 100),
    st.sampled_from(["444", "422", "420", "440", "411"]),
    st.integers(1, 16),
    st.integers(0, 2**32 - 1),
)
def test_pixels_are_pillows(height: int, width: int, quality: int, sampling: str, blur: int, seed: int) -> None:
    data = simplejpeg.encode_jpeg(picture(height, width, seed, blur), quality=quality, colorsubsampling=sampling)
    got, expected = decode_colour(data, width, height), by_pillow(data)
    assert got is not None
    difference = np.abs(got.astype(int) - expected)
    print(f"{width}x{height} {sampling} quality {quality}: max {difference.max()}, mean {difference.mean()}")
    assert np.array_equal(got, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"keep_rgb": True}, {"optimize": True}], ids=str)
def test_a_whole_image_is_the_same_without_it(
    options: dict[str, bool], orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(picture(45, 70, 1, 3)), "JPEG", exif=exif, **options)
    used = []
    monkeypatch.setattr(image, "decode_colour", lambda *of: used.append(decode_colour(*of)) or used[-1])
    fast = decode(data)
    assert used[0] is not None
    monkeypatch.setattr(fast_jpeg, "simplejpeg", None)
    slow = decode(data)
    assert used[1] is None
    assert np.array_equal(fast.rgb, slow.rgb)
    assert fast.info == slow.info
    assert not fast.rgb.flags.writeable


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_left_to_pillow(cut: float) -> None:
    data = saved(Image.fromarray(picture(100, 100, 2, 1)), "JPEG")
    data = data[: int(len(data) * cut)]
    assert decode_colour(data, 100, 100) is None
    with pytest.raises(InvalidInputError, match="broken file"):
        decode(data)


def test_no_more_is_decoded_than_the_header_was_checked_for() -> None:
    data = saved(Image.new("RGB", (640, 480)), "JPEG")
    assert decode_colour(data, 64, 48) is None
    assert decode_colour(data, 480, 640) is None


def test_verdicts_on_hostile_files_are_the_same_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def verdicts() -> dict[str, object]:
        return {name: verdict(data) for name, data in HOSTILE.items()}

    with_it = verdicts()
    monkeypatch.setattr(fast_jpeg, "simplejpeg", None)
    assert with_it == verdicts()


def verdict(data: bytes) -> object:
    try:
        done = decode(data)
    except InvalidInputError as error:
        return str(error)
    return done.info, done.rgb.tobytes()


@settings(max_examples=200, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_damaged_files_end_as_they_do_without_it(choices: st.DataObject, seed: int) -> None:
    data = bytearray(saved(Image.fromarray(picture(40, 40, seed, 2)), "JPEG"))
    for _ in range(choices.draw(st.integers(1, 4))):
        data[choices.draw(st.integers(2, len(data) - 1))] = choices.draw(st.integers(0, 255))
    with_it = verdict(bytes(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_jpeg, "simplejpeg", None)
        assert with_it == verdict(bytes(data))

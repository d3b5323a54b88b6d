"""imgeval-client explain and report: the files they write and how they end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from PIL import Image
from tritonclient.grpc import service_pb2 as pb

from imgeval import client as library
from imgeval.cli import main
from imgeval.pages.report import local_file
from imgeval.runs import Row
from tests.client.pages._explained import HEIGHT, WIDTH, details
from tests.fake_triton import serving

Ended = tuple[int, str, str]


def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
    """The DETAILS of the small image, whatever is asked."""
    made = json.dumps(details()).encode()
    response = pb.ModelInferResponse(model_name=request.model_name)
    response.outputs.add(name="DETAILS", datatype="BYTES", shape=[1, 1])
    response.raw_output_contents.append(len(made).to_bytes(4, "little") + made)
    return response


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(answer) as served:
        yield served


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.new("RGB", (WIDTH, HEIGHT), "gold").save(tmp_path / "dog.png")
    return tmp_path / "dog.png"


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    rows = [
        Row(0, "dog.png", "a dog", 0.4, True, metrics={"clip": 0.4}, fingerprint="aa", weights="published"),
        Row(1, "gone.png", "a cat", error="IMAGE: gone.png does not exist"),
    ]
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(row.to_dict()) + "\n" for row in rows), encoding="utf-8")
    return tmp_path / "run.jsonl"


def ended(*arguments: object) -> Ended:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def assert_one_line(end: Ended, code: int, problem: str) -> None:
    got, out, err = end
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith(f"error: {problem}")


# --- explain ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "start"), [("why.html", b"<!doctype html>"), ("why.png", b"\x89PNG")])
def test_explain_writes_a_page_or_a_picture(url: str, image: Path, tmp_path: Path, name: str, start: bytes) -> None:
    code, out, err = ended("explain", image, "a dog on grass", "-o", tmp_path / name, "--url", url)
    assert (code, out, err) == (0, "", f"wrote {tmp_path / name}\n")
    assert (tmp_path / name).read_bytes().startswith(start)


def test_explain_prints_one_object(url: str, image: Path, tmp_path: Path) -> None:
    code, out, err = ended("explain", image, "a dog on grass", "--json", "--url", url)
    assert (code, err, out.count("\n")) == (0, "", 1)
    content: dict[str, Any] = json.loads(out)
    assert set(content) == {"result", "keywords", "unmatched", "segments", "contributions"}
    assert (content["result"]["image"], content["unmatched"]) == (str(image), ["nothing"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["IMAGE", "a dog"], "Missing option '-o'"),
        (["IMAGE", "a dog", "-o", "why.pdf"], "output: got why.pdf; allowed: a file name that ends in .html"),
        (["IMAGE", " ", "-o", "why.html"], "PROMPT: got blank text"),
        (["/nowhere/a.jpg", "a dog", "-o", "why.html"], "IMAGE: /nowhere/a.jpg does not exist"),
        (["IMAGE", "a dog", "-o", "why.html", "--metrics", "beauty"], "metrics: got beauty"),
    ],
)
def test_explain_refuses_bad_input_before_a_server_is_asked(
    arguments: list[str], problem: str, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMGEVAL_URL", raising=False)
    monkeypatch.setattr(library, "DEFAULT_URL", "this is no address: asking it would be another error")
    assert_one_line(ended("explain", *(image if each == "IMAGE" else each for each in arguments)), 2, problem)


def test_explain_without_a_server_or_a_place_to_write(url: str, image: Path, tmp_path: Path, unused_port: int) -> None:
    nowhere = f"127.0.0.1:{unused_port}"
    end = ended("explain", image, "a dog", "-o", tmp_path / "why.html", "--url", nowhere)
    assert_one_line(end, 3, f"no server at {nowhere}")
    assert not (tmp_path / "why.html").exists()
    assert_one_line(ended("explain", image, "a dog", "-o", tmp_path / "no" / "why.html", "--url", url), 3, "[Errno 2]")


# --- report ----------------------------------------------------------------------------------------------------------
def test_report_writes_a_page(run_file: Path, image: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    code, out, err = ended("report", run_file, "-o", page)
    assert (code, out, err) == (0, "", f"wrote {page} (rows: 2, pictures: 1)\n"), "dog.png lies beside the run"
    assert "<title>run.jsonl</title>" in page.read_text("utf-8")
    assert ended("report", run_file, "-o", page, "--thumbnails", 0)[2] == f"wrote {page} (rows: 2, pictures: 0)\n"


def test_report_finds_the_images_of_each_run(
    run_file: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(image, tmp_path / folder)
    image.unlink()
    page = tmp_path / "report.html"
    assert ended("report", run_file, "-o", page)[2] == f"wrote {page} (rows: 2, pictures: 0)\n"
    a, b = tmp_path / "a", tmp_path / "b"
    assert ended("report", run_file, "-o", page, "--images", a)[2] == f"wrote {page} (rows: 2, pictures: 1)\n"
    both = ended("report", run_file, run_file, "-o", page, "--images", a, "--images", b)
    assert both[2].endswith("pictures: 2)\n")
    monkeypatch.chdir(a)
    assert local_file("dog.png", b) == b / "dog.png", "and not the one of this name that is here"
    three = ended("report", run_file, "-o", page, *("--images", a) * 3)
    assert three == (2, "", "error: --images: got 3; allowed: one for RUN and one for RUN_B\n")


def test_report_compares_two_runs_of_one_name(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / "run.jsonl"
    other.write_bytes(run_file.read_bytes())
    assert ended("report", run_file, other, "-o", tmp_path / "report.html")[0] == 0
    assert f"<title>{run_file} and {other}</title>" in (tmp_path / "report.html").read_text("utf-8")


def test_report_refuses_what_is_no_run(run_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    (tmp_path / "empty.jsonl").write_text("")
    assert_one_line(ended("report", tmp_path / "empty.jsonl", "-o", page), 2, "run: ")
    assert_one_line(ended("report", tmp_path / "nowhere.jsonl", "-o", page), 2, "")
    assert_one_line(ended("report", run_file), 2, "Missing option '-o'")
    assert_one_line(ended("report", run_file, "-o", page, "--thumbnails", -1), 2, "Invalid value for '--thumbnails'")
    assert not page.exists()
    assert_one_line(ended("report", run_file, "-o", tmp_path / "no" / "report.html"), 3, "[Errno 2]")


@pytest.mark.parametrize("command", ["explain", "report"])
def test_help_has_an_example(command: str) -> None:
    code, out, _ = ended(command, "--help")
    assert code == 0
    assert f"Example: imgeval-client {command} " in " ".join(out.split())

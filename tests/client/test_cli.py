"""imgeval-client: what it prints, how it ends, and what it does not import."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import jsonschema
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2 as pb

from imgeval import client as library
from imgeval.cli import main
from imgeval.contract import MAX_ENCODED_BYTES, METRIC_NAMES
from imgeval.embedded.server import EmbeddedServer
from tests.fake_triton import answering, dying, refusing, serving

SCHEMA = json.loads(resources.files("imgeval").joinpath("schemas/result.schema.json").read_text(encoding="utf-8"))
SERVED = ("clip", "sam_clip", "iqa")  # by the starter profile
HEAVY = ("torch", "openvino", "tritonclient", "grpc", "numpy", "PIL", "rich", "onnx", "scipy", "skimage", "tokenizers")


@pytest.fixture
def photo(photos: dict[str, bytes], tmp_path: Path) -> Path:
    (tmp_path / "coffee.jpg").write_bytes(photos["coffee.png"])
    return tmp_path / "coffee.jpg"


def score(*arguments: object) -> tuple[int, str, str]:
    """`imgeval-client score ...` in this process: exit code, stdout, stderr. An exception would be a traceback."""
    result = CliRunner().invoke(main, ["score", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def assert_one_line(ended: tuple[int, str, str], code: int, *parts: str) -> None:
    got, out, err = ended
    assert (got, out) == (code, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for part in parts:
        assert part in err


# --- what it prints --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("metrics", [None, "clip", "iqa", "sam_clip, iqa", ",".join(METRIC_NAMES)])
def test_json_conforms_to_the_schema(server: EmbeddedServer, photo: Path, metrics: str | None) -> None:
    part = [] if metrics is None else ["--metrics", metrics]
    code, out, err = score(photo, "a cup of coffee on a table", "--url", server.url, "--json", *part)
    assert (code, err) == (0, "")
    assert out.count("\n") == 1
    content = json.loads(out)
    jsonschema.validate(content, SCHEMA, jsonschema.Draft202012Validator)
    asked = METRIC_NAMES if metrics is None else metrics.replace(" ", "").split(",")
    assert set(content["metrics"]) == set(asked) & set(SERVED)
    assert content["image"] == str(photo)
    assert content["prompt"] == "a cup of coffee on a table"


def test_the_table_names_metrics_models_reasons_and_the_score(server: EmbeddedServer, photo: Path) -> None:
    with library.Client(server.url) as client:
        expected = client.score(photo, "a cup of coffee")
    code, out, err = score(photo, "a cup of coffee", "--url", server.url)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    for name in SERVED:
        value = expected.metrics[name]
        assert f" {value.raw:.4f} " in rows[name]
        assert f" {value.weight:g} " in rows[name]
        assert value.model in rows[name]
        assert (f"{value.normalized:.4f}" if value.normalized is not None else " - ") in rows[name]
    for name, reason in expected.missing.items():
        assert rows[name].endswith("missing") or rows[name].rstrip().endswith("missing")
        assert f"missing {name}: {reason}" in out
    assert expected.score is not None
    assert f"score {expected.score:.4f} (preset seed-1, profile starter, incomplete: only clip, sam_clip)" in out


def test_a_missing_metric_says_how_to_get_it(server: EmbeddedServer, photo: Path) -> None:
    _, out, _ = score(photo, "a cup of coffee", "--url", server.url)
    reasons = [line for line in out.splitlines() if line.startswith("missing ")]
    assert len(reasons) == 3
    for reason in reasons:
        assert "imgeval-export" in reason or "pip install" in reason


def test_the_table_says_what_was_done_to_the_input(server: EmbeddedServer, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (64, 64), (255, 0, 0, 100)).save(tmp_path / "clear.png")
    code, out, _ = score(tmp_path / "clear.png", "red " * 500, "--url", server.url)
    assert code == 0
    assert "input: alpha composited over white" in out
    assert "246 tokens were left out" in out
    assert "missing iqa: " in out


def test_an_answer_of_random_weights_cannot_be_taken_for_a_score(photo: Path) -> None:
    metric = {"raw": 0.4, "normalized": 0.4, "weight": 1.0, "model": "random"}
    details: dict[str, Any] = {
        "score": 0.4, "complete": False, "profile": "cpu", "preset": "seed-1", "fingerprint": "0" * 16,
        "weights": "random", "metrics": {"clip": metric}, "missing": {}, "input": {}, "sam_clip": {},
    }  # fmt: skip
    with serving(answering(("DETAILS", "BYTES", [1, 1], bytes_tensor(json.dumps(details).encode())))) as url:
        code, out, _ = score(photo, "coffee", "--url", url)
    assert code == 0
    assert "WEIGHTS ARE RANDOM" in out


def bytes_tensor(value: bytes) -> bytes:
    return len(value).to_bytes(4, "little") + value


def test_without_url_the_running_embedded_server_is_found(
    server: EmbeddedServer, photo: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "DEFAULT_URL", f"127.0.0.1:{unused_port}")
    code, out, err = score(photo, "a cup of coffee", "--json")
    assert (code, err) == (0, ""), "nothing is started, so nothing is said"
    assert json.loads(out)["profile"] == "starter"


def test_the_url_may_come_from_the_environment(
    server: EmbeddedServer, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGEVAL_URL", server.url)
    assert score(photo, "a cup of coffee", "--json")[0] == 0
    monkeypatch.setenv("IMGEVAL_URL", "nonsense")
    assert_one_line(score(photo, "a cup of coffee"), 2, "url: got 'nonsense'")


# --- exit code 2: bad input ------------------------------------------------------------------------------------------
def write_bad_files(folder: Path, whole: bytes) -> None:
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("this is no image\n" * 10)
    (folder / "folder.jpg").mkdir()
    (folder / "tiny.bmp").write_bytes(b"BM")
    with (folder / "large.jpg").open("wb") as large:
        large.truncate(MAX_ENCODED_BYTES + 1)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("missing.jpg", "does not exist"),
        ("empty.jpg", "is empty"),
        ("folder.jpg", "is a directory"),
        ("large.jpg", f"has {MAX_ENCODED_BYTES + 1} bytes; allowed: at most {MAX_ENCODED_BYTES}"),
        ("coffee.jpg/inside.jpg", "cannot be read"),
        ("cut.jpg", "got a broken file"),
        ("text.jpg", "unreadable bytes"),
        ("tiny.bmp", "got 2 unreadable bytes"),
    ],
)
def test_bad_images(server: EmbeddedServer, photo: Path, name: str, problem: str) -> None:
    write_bad_files(photo.parent, photo.read_bytes())
    assert_one_line(score(photo.parent / name, "coffee", "--url", server.url), 2, "error: IMAGE: ", problem)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t", "\u3000"])
def test_blank_prompts(photo: Path, prompt: str) -> None:
    assert_one_line(score(photo, prompt), 2, "error: PROMPT: got blank text")


def test_a_prompt_that_is_too_long(photo: Path) -> None:
    assert_one_line(score(photo, "x" * 8193), 2, "error: PROMPT: got 8193 bytes; allowed: at most 8192")


@pytest.mark.parametrize(
    ("metrics", "got"), [("beauty", "beauty"), ("", "none"), (" , ", "none"), ("clip,CLIP", "CLIP")]
)
def test_bad_metrics(photo: Path, metrics: str, got: str) -> None:
    ended = score(photo, "coffee", "--metrics", metrics)
    assert_one_line(ended, 2, f"error: metrics: got {got}; allowed: {', '.join(METRIC_NAMES)}")


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8001", "localhost:http", "localhost:99999", "a b:1"])
def test_bad_urls(photo: Path, url: str) -> None:
    assert_one_line(score(photo, "coffee", "--url", url), 2, f"error: url: got '{url}'; allowed: HOST:PORT")


@pytest.mark.parametrize(
    "arguments", [[], ["only-an-image.jpg"], ["a", "b", "c"], ["a", "b", "--colour"], ["a", "b", "--timeout", "0"]]
)
def test_bad_usage(arguments: Sequence[str]) -> None:
    assert_one_line(score(*arguments), 2)


def test_bytes_that_are_not_utf8(run: Any, server: EmbeddedServer, photo: Path) -> None:
    """As a shell passes them on: bytes."""
    ended = run("imgeval-client", "score", photo, b"caf\xe9", "--url", server.url)
    assert_one_line(
        (ended.returncode, ended.stdout.decode(), ended.stderr.decode()), 2, "PROMPT: got text that is not UTF-8"
    )
    name = photo.parent / "missing"
    ended = run("imgeval-client", "score", bytes(name) + b"\xe9.jpg", "coffee", "--url", server.url)
    assert_one_line((ended.returncode, ended.stdout.decode(), ended.stderr.decode()), 2, "does not exist")


@pytest.mark.parametrize("form", [["--json"], []])
def test_a_file_name_that_is_not_utf8_is_no_problem(
    run: Any, server: EmbeddedServer, photo: Path, form: list[str]
) -> None:
    name = bytes(photo.parent) + b"/caf\xe9.jpg"
    Path(photo).rename(name.decode("utf-8", "surrogateescape"))
    ended = run("imgeval-client", "score", name, "coffee", "--url", server.url, *form)
    assert (ended.returncode, ended.stderr) == (0, b"")
    if form:
        jsonschema.validate(json.loads(ended.stdout), SCHEMA, jsonschema.Draft202012Validator)


# --- exit codes 3, 4 and 130: the server -----------------------------------------------------------------------------
def test_a_server_that_is_down(photo: Path, unused_port: int) -> None:
    url = f"127.0.0.1:{unused_port}"
    assert_one_line(score(photo, "coffee", "--url", url), 3, f"error: no server at {url}: ")


def test_a_server_that_is_not_ready(photo: Path) -> None:
    with serving(answering(), ready=False) as url:
        assert_one_line(score(photo, "coffee", "--url", url), 3, f"the server at {url} is not ready")


def test_a_server_that_is_slow_past_the_deadline(photo: Path) -> None:
    release = threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(20)
        return pb.ModelInferResponse()

    with serving(wait) as url:
        ended = score(photo, "coffee", "--url", url, "--timeout", "0.3")
        release.set()
    assert_one_line(ended, 4, "gave no answer within 0.3 s")


def test_a_server_that_dies_mid_request(photo: Path) -> None:
    with dying() as url:
        assert_one_line(score(photo, "coffee", "--url", url), 4, f"the server at {url} failed: UNAVAILABLE")


def test_a_server_that_fails(photo: Path) -> None:
    with serving(refusing(grpc.StatusCode.INTERNAL, "iqa: ZeroDivisionError:\n broken")) as url:
        assert_one_line(score(photo, "coffee", "--url", url), 4, "failed: INTERNAL: iqa: ZeroDivisionError: broken")


@pytest.mark.parametrize("details", [b"", b"not json", b"[]", b"{}", b'{"metrics": []}'])
def test_a_server_that_answers_nonsense(photo: Path, details: bytes) -> None:
    with serving(answering(("DETAILS", "BYTES", [1, 1], bytes_tensor(details)))) as url:
        assert_one_line(score(photo, "coffee", "--url", url), 4, f"the server at {url}")


# Where these tests run in the background of a shell, SIGINT is ignored, and programs inherit that. Not by `preexec_fn`,
# which forks a process in which gRPC is at work.
INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)


@pytest.mark.parametrize("command", ["score", "score several", "rank", "match"])
def test_ctrl_c(photo: Path, command: str) -> None:
    asked, release = threading.Event(), threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        asked.set()
        release.wait(60)
        return pb.ModelInferResponse()

    program = Path(sys.executable).parent / "imgeval-client"
    pair = (photo, "coffee")
    arguments = {"rank": pair[::-1], "score several": pair * 3}.get(command, pair)
    with serving(wait) as url:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTIBLE, program, command.split()[0], *arguments, "--url", url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        release.set()
    assert (process.returncode, out, err) == (130, b"", b"interrupted\n")


# --- what it imports -------------------------------------------------------------------------------------------------
def imported(code: str) -> set[str]:
    """The modules of HEAVY that a fresh Python has imported after `code`."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('imported', *(n for n in {HEAVY} if n in sys.modules))"],
        capture_output=True,
        check=True,
        text=True,
    )
    return set(ended.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "module", ["imgeval.cli", "imgeval.embedded.cli", "imgeval_export.cli"], ids=["client", "server", "export"]
)
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], None], ids=["help", "version", "command help"])
def test_help_imports_nothing_heavy(module: str, arguments: list[str] | None) -> None:
    command = {"imgeval.cli": "score", "imgeval.embedded.cli": "start", "imgeval_export.cli": "build"}[module]
    arguments = arguments or [command, "--help"]
    assert imported(f"import imgeval\nfrom {module} import main\nmain({arguments}, standalone_mode=False)") == set()


def test_the_library_imports_no_more_than_grpc_and_numpy() -> None:
    assert imported("import imgeval, imgeval.contract, imgeval.errors, imgeval.result, imgeval.scores") == set()
    assert imported("import imgeval, imgeval.client, imgeval.cli\nimgeval.Client") <= {"tritonclient", "grpc", "numpy"}

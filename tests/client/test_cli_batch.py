"""imgeval-client batch: what it prints, how it ends, signals, and a server that dies and comes back."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from rich.console import Console
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from imgeval.cli import main
from imgeval.commands.batch import batch
from imgeval.many import DEFAULT_CONCURRENCY
from imgeval.outages import WAIT_SERVER_S
from imgeval.progress import watching
from imgeval.run_files import read_run
from imgeval.runs import Row
from tests.conftest import free_port
from tests.fake_transport import DETAILS
from tests.fake_triton import Servicer, serving

WAIT_S = 20.0
Answer = Callable[[pb.ModelInferRequest, grpc.ServicerContext], pb.ModelInferResponse]


def ended(*arguments: object, stdin: bytes | None = None) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["batch", *map(str, arguments)], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def scoring(before: Callable[[], object] = lambda: None) -> Answer:
    """A server that likes every image, except one that is broken."""

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        before()
        given = {each.name: raw for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        if given["IMAGE"][4:] == b"broken":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "preprocess: IMAGE: got a broken file")
        made = json.dumps(DETAILS).encode()
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="DETAILS", datatype="BYTES", shape=[1, 1])
        response.raw_output_contents.append(len(made).to_bytes(4, "little") + made)
        return response

    return answer


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """20 rows, of which number 3 is a broken image and number 4 is none."""
    for name in ("good", "broken"):
        (tmp_path / name).write_text(name)
    names = ["good"] * 20
    names[3:5] = ["broken", "gone"]
    path = tmp_path / "in.csv"
    path.write_text("image,prompt\n" + "".join(f"{name},number {index}\n" for index, name in enumerate(names)))
    return path


def test_a_run_ends_with_one_line(table: Path) -> None:
    output = table.with_name("out.parquet")
    with serving(scoring()) as url:
        assert ended(table, "-o", output, "--url", url) == (
            0, "", f"{output}: 20 rows, 2 of them failed (see the column error; --retry-errors)\n"
        )  # fmt: skip
        complete = f"{output} is complete already; --overwrite starts anew, --retry-errors scores its errors again\n"
        assert ended(table, "-o", output, "--url", url) == (0, "", complete)
        code, out, _ = ended(table, "-o", output, "--url", url, "--retry-errors", "--json")
    assert (code, json.loads(out)) == (
        0, {"output": str(output), "rows": 20, "failed": 2, "scored": 2, "complete": False}
    )  # fmt: skip
    rows = list(read_run(output))
    assert [row.index for row in rows] == list(range(20))
    assert {row.index: row.error for row in rows if row.error} == {
        3: "IMAGE: got a broken file",
        4: "IMAGE: gone does not exist",
    }


def test_stdin_and_a_template(table: Path, tmp_path: Path) -> None:
    lines = b'{"file": "%s"}\n' % os.fsencode(tmp_path / "good") * 3
    output = tmp_path / "out.jsonl"
    with serving(scoring()) as url:
        code, _, err = ended(
            "-", "-o", output, "--url", url, "--image-column", "file", "--prompt-template", "a {stem} one", stdin=lines
        )
    assert (code, err) == (0, f"{output}: 3 rows\n")
    assert [row.prompt for row in read_run(output)] == ["a good one"] * 3


def test_a_file_name_that_is_no_utf_8_is_a_row_with_its_error(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"image,prompt\ncaf\xe9.jpg,a dog\n")
    with serving(scoring()) as url:
        code, _, err = ended(tmp_path / "in.csv", "-o", tmp_path / "out.jsonl", "--url", url)
    assert code == 2, err
    (row,) = read_run(tmp_path / "out.jsonl")
    assert row.error == "IMAGE: caf?.jpg does not exist"


def test_a_token_file_that_is_not_there_is_no_row(table: Path) -> None:
    output = table.with_name("out.csv")
    arguments = [table, "-o", output, "--url", "127.0.0.1:1", "--token-file", "/nowhere/token"]
    code, out, err = ended(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: token_file: /nowhere/token cannot be read")
    assert not output.exists() and not output.with_name("out.csv.partial").exists()


def test_only_where_every_row_failed_the_exit_code_says_so(table: Path) -> None:
    table.write_text("image,prompt\ngone,a dog\nbroken,a cat\n")
    output = table.with_name("out.csv")
    with serving(scoring()) as url:
        code, _, err = ended(table, "-o", output, "--url", url)
    assert code == 2
    assert err.startswith(f"{output}: 2 rows, 2 of them failed")
    assert len(list(read_run(output))) == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.csv", "-o", "out.csv"], "error: INPUT: none.csv does not exist"),
        (["in.csv", "-o", "out.xlsx"], "error: OUTPUT: got out.xlsx; allowed: a name that ends with .jsonl"),
        (["in.csv"], "error: Missing option '-o'"),
        (["in.csv", "-o", "out.csv", "--metrics", "beauty"], "error: metrics: got beauty"),
        (["in.csv", "-o", "out.csv", "--prompt-template", "{seed}"], "error: prompt template: got {seed}; allowed"),
        (["in.csv", "-o", "out.csv", "--overwrite", "--retry-errors"], "error: --overwrite and --retry-errors exclude"),
        (["in.csv", "-o", "out.csv", "--concurrency", "0"], "error: Invalid value for '--concurrency'"),
        (
            ["in.csv", "-o", "out.csv", "--image-column", "file"],
            "error: INPUT: in.csv has no column file; it has: image",
        ),
        (["in.csv", "-o", "in.csv", "--overwrite"], "error: OUTPUT: got in.csv, which is the INPUT"),
    ],
)
def test_bad_usage(table: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(table.parent)
    with serving(scoring()) as url:
        code, out, err = ended(*arguments, "--url", url)
    assert (code, out) == (2, "")
    assert err.startswith(says)
    assert err.count("\n") == 1
    assert not list(table.parent.glob("out*")), "nothing is left"


def test_the_defaults_are_the_librarys() -> None:
    defaults = {option.name: option.default for option in batch.params}
    assert (defaults["concurrency"], defaults["wait_server_s"]) == (DEFAULT_CONCURRENCY, WAIT_SERVER_S)


# --- signals ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_and_it_goes_on(table: Path, sent: signal.Signals) -> None:
    asked, release = threading.Semaphore(0), threading.Event()
    calls: list[None] = []

    def before() -> None:
        calls.append(None)
        if len(calls) > 8:
            asked.release()
            release.wait(WAIT_S)

    output = table.with_name("out.jsonl")
    program = Path(sys.executable).parent / "imgeval-client"
    with serving(scoring(before)) as url:
        command = [program, "batch", table, "-o", output, "--url", url, "--concurrency", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert asked.acquire(timeout=WAIT_S)
            process.send_signal(sent)
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out) == (130, b"")
        assert err == b"interrupted; to go on: the same command again\n"
        assert not output.exists()
        release.set()
        before_it = len(calls)
        assert ended(table, "-o", output, "--url", url)[0] == 0
    assert len(calls) - before_it < 19, "what was made is not made again"
    assert [row.index for row in read_run(output)] == list(range(20))


# --- a server that dies ----------------------------------------------------------------------------------------------
class Phoenix:
    """A server on one port, which is killed after some answers and started again after a while."""

    def __init__(self, kill_after: list[int], away_s: float) -> None:
        self.url = f"127.0.0.1:{free_port()}"
        self._kill_after, self._away_s = kill_after, away_s
        self._answered, self._lock = 0, threading.Lock()
        self._killer: threading.Thread | None = None
        self.deaths = 0
        self._start()

    def _start(self) -> None:
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(scoring(self._before), True), self._server)
        assert self._server.add_insecure_port(self.url)
        self._server.start()

    def _before(self) -> None:
        with self._lock:
            self._answered += 1
            dies = self._answered in self._kill_after
        if dies:
            self._killer = threading.Thread(target=self._die)
            self._killer.start()
            time.sleep(WAIT_S / 100)  # it dies on this request

    def _die(self) -> None:
        self._server.stop(grace=0).wait()
        self.deaths += 1
        time.sleep(self._away_s)
        self._start()

    def close(self) -> None:
        if self._killer:
            self._killer.join()
        self._server.stop(grace=0).wait()


def test_a_server_that_is_killed_and_started_again_is_waited_for(table: Path) -> None:
    phoenix, output = Phoenix([5, 14], away_s=0.5), table.with_name("out.csv")
    try:
        code, _, err = ended(table, "-o", output, "--url", phoenix.url, "--concurrency", 3, "--max-attempts", 1)
    finally:
        phoenix.close()
    assert phoenix.deaths == 2
    assert code == 0, err
    *notes, last = err.splitlines()
    assert len(notes) >= 2
    assert all("waiting up to 60 s for it" in note for note in notes)
    assert last == f"{output}: 20 rows, 2 of them failed (see the column error; --retry-errors)"
    rows = list(read_run(output))
    assert [row.index for row in rows] == list(range(20))
    assert [row.index for row in rows if row.error] == [3, 4], "no row is blamed for the server's death"


def test_a_server_that_stays_away_is_exit_code_3_and_the_run_goes_on(table: Path) -> None:
    phoenix, output = Phoenix([5], away_s=6.0), table.with_name("out.csv")
    try:
        arguments = [table, "-o", output, "--url", phoenix.url, "--concurrency", 1, "--max-attempts", 1]
        code, out, err = ended(*arguments, "--wait-server", 0.3)
        assert (code, out) == (3, "")
        assert re.search(r"^error: .*127\.0\.0\.1:\d+.*\(waited 0\.3 s\)$", err.splitlines()[-1])
        assert output.with_name("out.csv.partial").read_text().count("\n") == 6, "a header, and rows 0 to 4"
        assert ended(*arguments)[0] == 0
    finally:
        phoenix.close()
    assert [row.index for row in read_run(output) if not row.error] == [0, 1, 2, *range(5, 20)]


# --- progress --------------------------------------------------------------------------------------------------------
def test_a_terminal_gets_a_bar_with_rate_time_left_and_failures() -> None:
    screen = io.StringIO()
    with watching(Console(file=screen, force_terminal=True, width=120)) as watcher:
        assert watcher.wants_total
        watcher.start(40, 10, 1)
        for index in range(10, 30):
            watcher.row(Row(index, "a.png", "a dog", error="broken" if index == 12 else None))
            time.sleep(0.01)
        watcher.note("the server is [gone]")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "the server is [gone]" in shown
    last = [line for line in re.split(r"[\r\n]+", shown) if line.strip()][-1]
    assert re.search(r"scoring .* 30/40 +\d+\.\d/s +left +0:00:0\d +2 failed", last), last


def test_without_a_terminal_only_notes_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    with watching() as watcher:
        assert not watcher.wants_total
        watcher.start(None, 0, 0)
        watcher.row(Row(0, "a.png", "a dog"))
        watcher.note("the server is gone")
    assert capsys.readouterr() == ("", "the server is gone\n")

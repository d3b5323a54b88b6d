"""imgeval.batch on a fake transport: rows, formats, going on after every kind of end, and what is refused."""

from __future__ import annotations

import fcntl
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgeval import Client, ImgevalError, InvalidInputError, ServerUnavailableError, batch, journal
from imgeval.batch import OVERWRITE, RETRY, BatchOptions, Silent, Summary, run_batch
from imgeval.details import NOT_REQUESTED
from imgeval.remote import Fetcher
from imgeval.run_files import read_run
from imgeval.runs import Row
from imgeval.sources import SourceOptions, open_source
from imgeval.tabular import write_rows
from tests.fake_transport import DETAILS, FakeTransport

KILLS, KILLED_ROWS = 30, 3000
PATIENT_S = 60.0


class Interrupted(Exception):
    """What stands for Ctrl-C, or a kill, at a known place."""


class Bench:
    """A folder with a table of `count` rows, of which every seventh has no image; and runs on it."""

    def __init__(self, folder: Path, count: int = 20) -> None:
        self.folder = folder
        self.asked: list[str] = []  # prompts, by the last run
        self.changes: dict[str, Any] = {}  # of the details that the server gives
        (folder / "a.png").write_bytes(b"image")
        self.write(count)

    def write(self, count: int, changed: int | None = None) -> None:
        rows = [
            {"image": "gone.png" if index % 7 == 5 else "a.png", "prompt": f"number {index}{'!' * (index == changed)}"}
            for index in range(count)
        ]
        write_rows(self.folder / "in.jsonl", rows, {"image": str, "prompt": str}, "JSONL")

    def answer(self, image: bytes, prompt: str) -> dict[str, Any]:
        return {**DETAILS, "score": int(prompt.split()[1].rstrip("!")) / 1e4, **self.changes}

    def run(
        self,
        name: str = "out.jsonl",
        answer: Callable[[bytes, str], dict[str, Any]] | None = None,
        watcher: batch.Watcher | None = None,
        **options: Any,
    ) -> Summary:
        self.asked = asked = []  # a run that ended may still have calls under way

        def remembering(image: bytes, prompt: str) -> dict[str, Any]:
            asked.append(prompt)
            return (answer or self.answer)(image, prompt)

        client = Client(transport=FakeTransport(answer=remembering))
        source = open_source(str(self.folder / "in.jsonl"), SourceOptions(), Fetcher())
        return run_batch(client, source, self.folder / name, BatchOptions(**{"concurrency": 3, **options}), watcher)

    def rows(self, name: str = "out.jsonl") -> list[Row]:
        return list(read_run(self.folder / name))

    def run_until(self, prompt: str, **options: Any) -> None:
        """A run that is interrupted when this prompt's row was made."""

        class Interrupting(Silent):
            def row(self, row: Row) -> None:
                if row.prompt == prompt:
                    raise Interrupted

        with pytest.raises(Interrupted):
            self.run(watcher=Interrupting(), **options)

    def left(self) -> set[str]:
        """Files that a run left, beside its output."""
        return {path.name for path in self.folder.glob("out*")} - {"out.jsonl", "out.csv", "out.parquet"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def check_rows(rows: list[Row], count: int = 20) -> None:
    """Every row once, in order, with its own value or error."""
    assert [row.index for row in rows] == list(range(count))
    for row in rows:
        assert row.prompt == f"number {row.index}"
        if row.index % 7 == 5:
            assert (row.image, row.score, row.error) == ("gone.png", None, "IMAGE: gone.png does not exist")
        else:
            assert (row.image, row.score, row.error) == ("a.png", row.index / 1e4, None)
            assert (row.fingerprint, row.metrics, row.complete) == (DETAILS["fingerprint"], {"clip": 0.4}, False)


# --- a run -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_every_item_is_a_row_and_bad_ones_stop_nothing(bench: Bench, name: str) -> None:
    assert bench.run(name) == Summary(rows=20, failed=3, scored=20)
    check_rows(bench.rows(name))
    assert bench.left() == set()


def test_a_complete_output_is_left_alone(bench: Bench) -> None:
    bench.run()
    before = (bench.folder / "out.jsonl").stat()
    assert bench.run().complete
    assert bench.run(metrics=("clip",)).complete
    assert bench.asked == []
    assert (bench.folder / "out.jsonl").stat() == before
    assert bench.left() == set()


def test_an_input_without_rows_is_an_output_without_rows(bench: Bench) -> None:
    bench.write(0)
    assert bench.run("out.csv") == Summary(0, 0, 0)
    assert bench.rows("out.csv") == []


def test_the_input_is_never_the_output(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match=r"OUTPUT: got .*in\.jsonl, which is the INPUT"):
        bench.run("in.jsonl", mode=OVERWRITE)
    (bench.folder / "out.jsonl").symlink_to(bench.folder / "in.jsonl")
    with pytest.raises(InvalidInputError, match="which is the INPUT"):
        bench.run(mode=OVERWRITE)


def test_the_watcher_hears_of_every_row(bench: Bench) -> None:
    class Listening(Silent):
        wants_total = True

        def __init__(self) -> None:
            self.heard: list[Any] = []

        def start(self, total: int | None, done: int, failed: int) -> None:
            self.heard.append((total, done, failed))

        def row(self, row: Row) -> None:
            self.heard.append(row.index)

    bench.run_until("number 7")
    watcher = Listening()
    bench.run(watcher=watcher)
    assert watcher.heard == [(20, 8, 1), *range(8, 20)]


# --- going on --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stop", [0, 5, 13, 19])
def test_an_interrupted_run_goes_on_where_it_was(bench: Bench, stop: int) -> None:
    bench.run_until(f"number {stop}")
    assert bench.left() == {"out.jsonl.partial"}
    assert not (bench.folder / "out.jsonl").exists()
    assert bench.run() == Summary(rows=20, failed=3, scored=19 - stop)
    assert sorted(bench.asked) == sorted(f"number {index}" for index in range(stop + 1, 20) if index % 7 != 5)
    check_rows(bench.rows())


@pytest.mark.parametrize("lines", range(4))
def test_a_journal_that_was_cut_at_any_byte_goes_on(bench: Bench, lines: int) -> None:
    """What is left of the last line is not read, and nothing is appended to it."""
    bench.run_until("number 3")
    path = bench.folder / "out.jsonl.partial"
    whole = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    start, end = [0, *ends][lines : lines + 2]
    for cut in {start, start + 1, (start + end) // 2, end - 1}:
        path.write_bytes(whole[:cut])
        bench.run()
        check_rows(bench.rows())
        (bench.folder / "out.jsonl").unlink()


def test_zeros_that_a_crash_of_the_machine_left_are_cut_off(bench: Bench) -> None:
    bench.run_until("number 3")
    with (bench.folder / "out.jsonl.partial").open("ab") as file:
        file.write(bytes(5000))
    bench.run()
    check_rows(bench.rows())


@pytest.mark.parametrize("mode", ["new", OVERWRITE, RETRY])
@pytest.mark.parametrize("place", ["write", "fsync", "mark", "rename", "remove"])
def test_a_run_that_ends_while_it_finishes_is_finished(
    bench: Bench, mode: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode != "new":
        bench.changes = {"score": 1.0} if mode == OVERWRITE else {}
        bench.run()
        bench.changes = {}
    if mode == RETRY:
        (bench.folder / "gone.png").write_bytes(b"here now")

    def interrupted(*words: Any) -> None:
        raise Interrupted

    with monkeypatch.context() as patch:
        if place == "write":
            patch.setattr(batch, "write_run", interrupted)
        elif place == "fsync":
            patch.setattr(journal, "_to_disk", interrupted)
        elif place == "mark":
            patch.setattr(journal.Journal, "finish", lambda log, *paths: interrupted())
        elif place == "rename":
            patch.setattr(Path, "replace", interrupted)
        else:
            patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(Interrupted):
            bench.run(mode=mode)
    bench.run(mode=mode)
    assert bench.asked == []
    assert bench.left() == set()
    if mode == RETRY:
        assert [(row.index, row.score, row.error) for row in bench.rows()] == [(i, i / 1e4, None) for i in range(20)]
    else:
        check_rows(bench.rows())


CHILD = """
import random, sys, time
from pathlib import Path
from tests.client.test_batch import Bench
bench = Bench.__new__(Bench)
bench.folder, bench.changes = Path(sys.argv[1]), {}
delay_s = float(sys.argv[3])
def answer(image, prompt):
    if delay_s:
        time.sleep(random.uniform(0, delay_s))
    return bench.answer(image, prompt)
print("ready", flush=True)
bench.run(sys.argv[2], answer=answer, concurrency=4)
"""


def test_thirty_kills_at_random_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    name, seed = "out.parquet", random.randrange(2**32)
    print("seed", seed)  # shown where it fails
    chance = random.Random(seed)
    bench = Bench(tmp_path, KILLED_ROWS)
    journal_path, sizes = tmp_path / f"{name}.partial", [0]

    def started(delay_s: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(tmp_path), name, str(delay_s)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        return child

    for _ in range(KILLS):
        with started(0.02) as child:
            time.sleep(chance.uniform(0, 0.25))
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL, "it was still at work"
        sizes.append(journal_path.stat().st_size if journal_path.exists() else 0)
    assert not (tmp_path / name).exists()
    assert sizes[-1] > sizes[1], "the kills hit runs that made rows"
    with started(0) as child:
        assert child.wait(PATIENT_S) == 0
    check_rows(bench.rows(name), KILLED_ROWS)
    assert bench.left() == set()
    made = len(set(sizes)) - 1
    print(f"{KILLS} kills, {made} of them after at least one more row; journal of {sizes[-1]} bytes at the last")
    bench.run("out.jsonl")  # in one go
    assert bench.rows(name) == bench.rows("out.jsonl")


def test_stdin_goes_on_with_the_same_lines(bench: Bench) -> None:
    content = (
        (bench.folder / "in.jsonl").read_bytes().replace(b'"a.png"', json.dumps(str(bench.folder / "a.png")).encode())
    )
    asked: list[str] = []

    def run(stop: str | None) -> None:
        def answer(image: bytes, prompt: str) -> dict[str, Any]:
            asked.append(prompt)
            if prompt == stop:
                raise ServerUnavailableError("gone")
            return DETAILS

        client = Client(transport=FakeTransport(answer=answer))
        source = open_source("-", SourceOptions(), Fetcher(), io.BytesIO(content))
        run_batch(client, source, bench.folder / "out.csv", BatchOptions(concurrency=1, wait_server_s=0))

    with pytest.raises(ServerUnavailableError, match="gone"):
        run("number 9")
    run(None)
    assert asked.count("number 9") == 2
    assert all(asked.count(f"number {index}") == 1 for index in range(9) if index != 5)
    assert [row.prompt for row in bench.rows("out.csv")] == [f"number {index}" for index in range(20)]


# --- modes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_only_errors_are_scored_again(bench: Bench, name: str) -> None:
    bench.run(name)
    (bench.folder / "gone.png").write_bytes(b"here now")
    assert bench.run(name, mode=RETRY) == Summary(rows=20, failed=0, scored=3)
    assert sorted(bench.asked) == ["number 12", "number 19", "number 5"]
    assert [(row.index, row.score, row.error) for row in bench.rows(name)] == [(i, i / 1e4, None) for i in range(20)]
    assert bench.run(name, mode=RETRY).complete, "none is left"
    assert bench.left() == set()


def test_scoring_errors_again_goes_on_too(bench: Bench) -> None:
    bench.run()
    (bench.folder / "gone.png").write_bytes(b"here now")
    bench.run_until("number 12", mode=RETRY)
    check_rows(bench.rows())
    with pytest.raises(
        InvalidInputError, match=r"out\.jsonl\.partial is under way: finish it first, with --retry-errors"
    ):
        bench.run()
    assert bench.run(mode=RETRY) == Summary(rows=20, failed=0, scored=1)
    assert bench.asked == ["number 19"]


def test_what_was_wrong_with_a_row_may_be_put_right(bench: Bench) -> None:
    """A prompt, or the line itself: rows with values must be the same, those with an error need not."""
    lines = (bench.folder / "in.jsonl").read_text().splitlines(keepends=True)
    (bench.folder / "in.jsonl").write_text("".join([*lines[:4], "{\n"]))
    bench.run()
    (bench.folder / "in.jsonl").write_text("".join(lines[:5]))
    bench.run(mode=RETRY)
    check_rows(bench.rows(), 5)


def test_errors_can_be_scored_again_only_where_there_are_some(bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match=r"--retry-errors: .*out\.jsonl does not exist"):
        bench.run(mode=RETRY)
    assert bench.left() == set()
    bench.run_until("number 3")
    with pytest.raises(InvalidInputError, match=r"--retry-errors: .*out\.jsonl does not exist"):
        bench.run(mode=RETRY)


def test_overwriting_replaces_at_the_end_and_goes_on_too(bench: Bench) -> None:
    bench.changes = {"score": 1.0}
    bench.run()
    bench.changes = {}
    bench.run_until("number 9", mode=OVERWRITE)
    assert bench.rows()[0].score == 1.0
    assert bench.run(mode=OVERWRITE).scored == 10, "the same arguments go on"
    check_rows(bench.rows())


def test_overwriting_discards_a_run_that_was_begun_otherwise(bench: Bench) -> None:
    bench.run_until("number 9")
    assert bench.run(mode=OVERWRITE).scored == 20
    bench.run_until("number 9", mode=OVERWRITE)
    assert bench.run(mode=OVERWRITE, metrics=("clip",)).scored == 20
    bench.run_until("number 9", mode=OVERWRITE)
    (bench.folder / "out.jsonl").unlink()
    assert bench.run().scored == 10, "without --overwrite it goes on"


# --- what is refused -------------------------------------------------------------------------------------------------
def refused(bench: Bench, match: str, **options: Any) -> None:
    before = (bench.folder / "out.jsonl.partial").read_bytes()
    with pytest.raises(InvalidInputError, match=match):
        bench.run(**options)
    assert (bench.folder / "out.jsonl.partial").read_bytes() == before, "nothing is lost by trying"


def test_another_input_is_refused(bench: Bench) -> None:
    bench.run_until("number 9")
    bench.write(20, changed=4)
    refused(
        bench, r"^INPUT: row 4 is 'a\.png' with 'number 4!', and row 4 in .*partial is 'a\.png' with 'number 4': give"
    )
    bench.write(8)
    refused(
        bench, r"^INPUT: has no row 8, which is in .*out\.jsonl\.partial: give .* or remove .*partial to start anew"
    )
    assert bench.asked == []
    bench.write(25)
    assert bench.run().rows == 25, "what comes after is still open"


def test_another_input_is_refused_for_errors_too(bench: Bench) -> None:
    bench.run()
    for count, changed, says in ((20, 4, "row 4 is"), (19, None, "no row 19"), (21, None, "row 20 is not in")):
        bench.write(count, changed)
        (bench.folder / "out.jsonl.partial").unlink(missing_ok=True)
        if count == 19:  # an error row, which may differ, but not be gone
            bench.run_until("number 12", mode=RETRY)
        with pytest.raises(InvalidInputError, match=f"INPUT: .*{says}"):
            bench.run(mode=RETRY)
        assert len(bench.rows()) == 20


def test_other_metrics_are_refused(bench: Bench) -> None:
    bench.run_until("number 9", metrics=("clip", "iqa"))
    refused(bench, r"^metrics: the run began with clip,iqa; go on with these, or remove", metrics=("clip",))
    refused(bench, r"^metrics: the run began with clip,iqa; go on with these, or remove")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fingerprint": "f" * 16}, f"fingerprint {'f' * 16}; the run began with fingerprint {DETAILS['fingerprint']}"),
        ({"preset": "other-2"}, "preset other-2; the run began with preset seed-1"),
        ({"weights": "random"}, "weights random; the run began with weights published"),
    ],
)
def test_other_models_are_refused(bench: Bench, change: dict[str, str], says: str) -> None:
    bench.run_until("number 9")
    bench.changes = change
    refused(bench, f"^server: fake:1 has {says}, and its values would not be comparable")
    bench.changes = {}
    bench.run()
    bench.changes = change
    (bench.folder / "gone.png").write_bytes(b"here now")
    with pytest.raises(InvalidInputError, match=says):
        bench.run(mode=RETRY)
    check_rows(bench.rows())


def test_models_that_change_during_a_run_are_noticed(bench: Bench) -> None:
    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        return {**bench.answer(image, prompt), **({"fingerprint": "f" * 16} if int(prompt.split()[1]) >= 10 else {})}

    with pytest.raises(InvalidInputError, match="would not be comparable"):
        bench.run(answer=answer)
    assert bench.run().scored == 10


def test_errors_are_scored_again_with_the_metrics_of_the_others(bench: Bench) -> None:
    bench.run()
    (bench.folder / "gone.png").write_bytes(b"here now")
    bench.changes = {"missing": {**DETAILS["missing"], "iqa": "too small"}}
    assert DETAILS["missing"]["iqa"] == NOT_REQUESTED
    with pytest.raises(InvalidInputError, match=r"has metrics left out .*; the run began with metrics left out .*iqa"):
        bench.run(mode=RETRY)


def test_two_processes_do_not_write_one_output(bench: Bench) -> None:
    bench.run_until("number 9")
    with (bench.folder / "out.jsonl.partial").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        refused(bench, r"^OUTPUT: another process is writing .*out\.jsonl; wait")
        refused(bench, r"^OUTPUT: another process is writing .*out\.jsonl; wait", mode=OVERWRITE)
    bench.run()
    check_rows(bench.rows())


def test_the_lock_of_a_run_that_has_just_finished_is_no_lock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and locking the file may have been finished and removed: the lock would be on nothing."""
    real, path = fcntl.flock, bench.folder / "out.jsonl.partial"
    removed = []

    def finished_before(file: Any, how: int) -> None:
        if not removed:
            removed.append(path.read_bytes())
            path.unlink()
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", finished_before)
    bench.run()
    check_rows(bench.rows())


@pytest.mark.parametrize(
    "content", ["my own notes", "my own notes\n", '{"imgeval_run": 99}\n', '{"index": 0}\n', "[]\n"]
)
def test_a_file_that_is_no_journal_is_not_touched(bench: Bench, content: str) -> None:
    (bench.folder / "out.jsonl.partial").write_text(content)
    for mode in batch.MODES:
        refused(bench, r"^OUTPUT: .*out\.jsonl\.partial is in the way", mode=mode)


def test_a_folder_that_is_not_there_is_one_line(bench: Bench) -> None:
    with pytest.raises(OSError, match=r"nowhere.out\.csv\.partial"):
        bench.run("nowhere/out.csv")
    with pytest.raises(ImgevalError, match=r"OUTPUT: got .*out\.txt; allowed"):
        bench.run("out.txt")

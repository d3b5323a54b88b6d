"""A run on a real server that is killed, and then stopped, while it works, and started again each time."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from imgeval import Client
from imgeval.batch import BatchOptions, Silent, run_batch
from imgeval.embedded import server as embedded
from imgeval.embedded.server import VERIFICATION, EmbeddedServer
from imgeval.remote import Fetcher
from imgeval.run_files import read_run
from imgeval.runs import Row
from imgeval.sources import SourceOptions, open_source
from tests.conftest import free_port

ROWS = 60
BAD = 31  # a row whose image is none
NAME = f"batch{VERIFICATION}"


class Endings(Silent):
    """Ends the server after some rows, and starts it again on the same port."""

    def __init__(self, running: EmbeddedServer, endings: dict[int, Callable[[EmbeddedServer], None]]) -> None:
        self.running, self._endings = running, endings
        self._thread: threading.Thread | None = None
        self.notes: list[str] = []

    def row(self, row: Row) -> None:
        if end := self._endings.get(row.index):
            self.join()
            self._thread = threading.Thread(target=self._again, args=(end,))
            self._thread.start()

    def note(self, line: str) -> None:
        self.notes.append(line)

    def join(self) -> None:
        if self._thread:
            self._thread.join()

    def _again(self, end: Callable[[EmbeddedServer], None]) -> None:
        before = self.running
        end(before)
        embedded.stop(before)  # returns when nothing of it is left
        self.running = embedded.start(Path(before.repository), NAME, port=before.port)


def kill(running: EmbeddedServer) -> None:
    """The server itself, as a crash ends it."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "bin/tritonserver" in words and running.shm_prefix in words:
            os.kill(int(entry.parent.name), signal.SIGKILL)
            return
    raise AssertionError("there is none")


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    """Photos with prompts of their own, and a file that is no image."""
    contents = list(photos.values())
    for index in range(ROWS):
        (tmp_path / f"{index:03}.jpg").write_bytes(b"no image" if index == BAD else contents[index % len(contents)])
        (tmp_path / f"{index:03}.txt").write_text(f"photo number {index} of a cup of coffee\n")
    return tmp_path


def test_no_row_is_lost_doubled_or_blamed_where_the_server_ends_twice(
    folder: Path, repository: Path, client: Client, tmp_path: Path
) -> None:
    def run(name: str, client: Client, watcher: Silent) -> list[Row]:
        source = open_source(str(folder), SourceOptions(), Fetcher())
        output = tmp_path / name
        summary = run_batch(client, source, output, BatchOptions(("clip", "sam_clip"), 4), watcher)
        rows = list(read_run(output))
        assert [row.error for row in rows if row.error and row.index != BAD] == []
        assert (summary.rows, summary.failed) == (ROWS, 1)
        return rows

    running = embedded.start(repository, NAME, port=free_port())
    watcher = Endings(running, {7: kill, 25: embedded.stop})
    try:
        with Client(running.url) as fallible:
            found = run("out.parquet", fallible, watcher)
    finally:
        watcher.join()
        embedded.stop(watcher.running)
    print(*watcher.notes, sep="\n")
    assert len(watcher.notes) >= 2
    assert watcher.running.pid != running.pid
    assert [row.index for row in found] == list(range(ROWS))
    assert [row.index for row in found if row.error] == [BAD]
    for row, expected in zip(found, run("uninterrupted.jsonl", client, Silent()), strict=True):
        assert (row.image, row.prompt, row.error) == (expected.image, expected.prompt, expected.error)
        assert row.fingerprint == expected.fingerprint
        assert row.metrics == pytest.approx(expected.metrics, abs=1e-5)
        assert row.score == pytest.approx(expected.score, abs=1e-5)

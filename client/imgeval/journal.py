"""The journal of a run that is under way: OUTPUT.partial, a header and then a line for each row, in order.

A row is there as soon as its line is, so a run that is killed goes on after the last whole line. The operating system
has the line by then; only what a crash of the whole machine takes with it is scored again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from imgeval.errors import InvalidInputError
from imgeval.runs import Row
from imgeval.tabular import json_line

VERSION = 1
_BEGINS = b'{"imgeval_run": '
_FINISHED = b'{"finished": true}\n'


@dataclass(frozen=True)
class Header:
    """What a run was begun with, and goes on with."""

    mode: str  # one of `batch.MODES`
    metrics: tuple[str, ...]


class Journal:
    """An open journal, which nobody else has open. `header` is None in one without rows."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self._file = path, file
        line = file.readline()
        self.header, self._header_bytes = _header(path, line), len(line)
        if self.empty:
            self.header = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing, not even a part of a row, after the header."""
        return os.fstat(self._file.fileno()).st_size <= self._header_bytes

    @property
    def finished(self) -> bool:
        """Whether `finish` has begun, so that only `finish_interrupted` is left to do."""
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - len(_FINISHED)))
        return self._file.read() == _FINISHED

    def begin(self, header: Header) -> None:
        """Start anew, whatever was there."""
        self._file.seek(0)
        self._file.truncate()
        line = json_line({"imgeval_run": VERSION, **asdict(header)}).encode()
        self._write(line)
        self.header, self._header_bytes = header, len(line)

    def rows(self) -> Iterator[Row]:
        """The rows that are there. What was being written when a run ended is cut off after the last one."""
        with self.path.open("rb") as file:
            end = len(file.readline())
            for line in file:
                row = _row(line)
                if row is None:
                    break
                yield row
                end += len(line)
        self._file.truncate(end)

    def append(self, row: Row) -> None:
        """Write one row behind the others; `rows` was read to its end before, which cuts off what is torn."""
        self._write(json_line(row.to_dict()).encode())

    def finish(self, result: Path, output: Path) -> None:
        """Put the file made of the rows in the place of the output, and remove the journal: all of it or nothing.

        A run that is killed in here is finished by `finish_interrupted`.
        """
        _to_disk(result)
        self._write(_FINISHED)
        _to_disk(self.path)
        self.finish_interrupted(result, output)

    def finish_interrupted(self, result: Path, output: Path) -> None:
        """What is left of `finish` once the journal says that it is finished."""
        if result.exists():
            result.replace(output)
        self.path.unlink()

    def _write(self, line: bytes) -> None:
        self._file.seek(0, os.SEEK_END)
        self._file.write(line)
        self._file.flush()


@contextmanager
def opened(path: Path) -> Iterator[Journal]:
    """The journal at this path, made if it is not there; one that stays without rows is removed.

    Raises:
        InvalidInputError: another process has it open, or it is something else.
        OSError: it cannot be made.
    """
    with _locked(path) as file:
        journal = Journal(path, file)
        try:
            yield journal
        finally:
            if journal.empty:
                path.unlink()


def _locked(path: Path) -> IO[bytes]:
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError as error:
            file.close()
            problem = f"another process is writing {path.with_suffix('')}; wait for it or give another OUTPUT"
            raise InvalidInputError("OUTPUT", problem) from error
        except BaseException:
            file.close()
            raise
        file.close()  # the one that had it has just finished, and removed it


def _header(path: Path, line: bytes) -> Header | None:
    """The header in the first line; None where there is none yet, not even a part."""
    torn = not line.endswith(b"\n")
    if torn and (_BEGINS.startswith(line) or line.startswith(_BEGINS)):
        return None
    try:
        content: dict[str, Any] = json.loads(line)
        if content["imgeval_run"] == VERSION:
            return Header(content["mode"], tuple(content["metrics"]))
    except (ValueError, LookupError, TypeError):
        pass
    raise InvalidInputError("OUTPUT", f"{path} is in the way: it is no journal of this version; move it")


def _row(line: bytes) -> Row | None:
    """The row in a line; None where the line was not written to its end."""
    if not line.endswith(b"\n"):
        return None
    try:
        return Row.from_dict(json.loads(line))
    except (ValueError, LookupError, TypeError):
        return None


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

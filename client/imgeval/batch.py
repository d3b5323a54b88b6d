"""A run over many items that can end at any moment and goes on where it was: `imgeval-client batch`.

source --what has no row yet--> Client.score_many --rows in order--> journal --at the end, all at once--> output

The rows of the journal are the first of those that the run is about. Starting again reads them beside the input, which
must be the same, and scores the rest. A run with `retry-errors` is about the rows of the output that have an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imgeval import journal
from imgeval.details import NOT_REQUESTED
from imgeval.errors import InvalidInputError
from imgeval.inputs import check_metrics, image_label, prompt_label
from imgeval.journal import Header, Journal
from imgeval.many import DEFAULT_CONCURRENCY
from imgeval.outages import WAIT_SERVER_S, Outages, ToDo, scored_rows
from imgeval.run_files import read_run, write_run
from imgeval.runs import Row
from imgeval.sources import Item, Source
from imgeval.tabular import format_of

if TYPE_CHECKING:
    from imgeval.client import Client

NEW, OVERWRITE, RETRY = MODES = ("new", "overwrite", "retry-errors")
SHORT_CHARACTERS = 60  # of a path or prompt in a message
JOURNAL_SUFFIX, RESULT_SUFFIX = ".partial", ".partial-result"  # after the output's name


@dataclass(frozen=True)
class BatchOptions:
    """How a run is made.

    `mode` is "new" (an output that is there is left alone), "overwrite" (it is replaced at the end) or "retry-errors"
    (only its rows with an error are scored again).
    """

    metrics: tuple[str, ...] | None = None
    concurrency: int = DEFAULT_CONCURRENCY
    mode: str = NEW
    wait_server_s: float = WAIT_SERVER_S


@dataclass(frozen=True)
class Summary:
    """How a run ended. `scored` rows were made by this process; `complete` says that there was nothing to do."""

    rows: int
    failed: int
    scored: int
    complete: bool = False


COMPLETE = Summary(0, 0, 0, complete=True)


class Watcher(Protocol):
    """Is told how a run goes."""

    wants_total: bool  # for which the input may be read once more

    def start(self, total: int | None, done: int, failed: int) -> None:
        """`done` of `total` rows are there already, `failed` of them with an error; None is not known."""

    def row(self, row: Row) -> None:
        """A row was made."""

    def note(self, line: str) -> None:
        """Something that a person should know."""


class Silent:
    """A watcher that says nothing."""

    wants_total = False

    def start(self, total: int | None, done: int, failed: int) -> None: ...

    def row(self, row: Row) -> None: ...

    def note(self, line: str) -> None: ...


def run_batch(
    client: Client, source: Source, output: Path, options: BatchOptions | None = None, watcher: Watcher | None = None
) -> Summary:
    """Score every item of a source into a file of rows, or go on with it where an earlier call ended.

    Args:
        source: as `sources.open_source` gives it; the same one for a run that goes on.
        output: a file whose name says its format; OUTPUT.partial stands beside it as long as the run is under way.

    Raises:
        InvalidInputError: an input, output or option that cannot be used; a run that goes on with another input,
            other options or other models; an output that another process is writing.
        MissingPackageError: Parquet without pyarrow.
        ServerUnavailableError: no server for `wait_server_s`; as after every other error, the run can go on.
        OSError: a disk that is full, a folder that cannot be written.
    """
    options, watcher = options or BatchOptions(), watcher or Silent()
    file_format = format_of(output, "OUTPUT")
    metrics = check_metrics(options.metrics)
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise InvalidInputError("OUTPUT", f"got {output}, which is the INPUT")
    log_path, result = (output.with_name(output.name + suffix) for suffix in (JOURNAL_SUFFIX, RESULT_SUFFIX))
    if options.mode == NEW and output.exists() and not log_path.exists():
        return COMPLETE
    with journal.opened(log_path) as log:
        if log.header is not None and log.finished:
            log.finish_interrupted(result, output)
            return COMPLETE
        retry = options.mode == RETRY
        old = _OldRun.read(output) if retry and output.exists() else None
        if (old is not None and not old.failed) or not _begin(log, output, Header(options.mode, metrics)):
            return COMPLETE
        todo = _to_do(source, output if retry else None)
        made_by, done, failed = old.made_by if old else None, 0, 0
        for row in log.rows():
            _check_same(row, next(todo, None), log_path)
            made_by = made_by or _made_by(row)
            done, failed = done + 1, failed + (row.error is not None)
        total = old.failed if old else source.count() if watcher.wants_total else None
        watcher.start(total, done, failed)
        scored = 0
        outages = Outages(client, options.wait_server_s, watcher.note)
        for row in scored_rows(client, todo, metrics, options.concurrency, outages):
            made_by = made_by or _made_by(row)
            _check_comparable(row, made_by, client.url, log_path)
            log.append(row)
            watcher.row(row)
            scored += 1
        counts = _Counts()
        rows = _merged(read_run(output), log.rows()) if retry else log.rows()
        write_run(result, counts.counted(rows), file_format)
        log.finish(result, output)
    return Summary(counts.rows, counts.failed, scored)


# --- what a run is about, and what it has -----------------------------------------------------------------------------
def _begin(log: Journal, output: Path, header: Header) -> bool:
    """Begin a run, or check that the one of the journal is this one; False where there is nothing to do."""
    before, mode = log.header, header.mode
    if before is None and mode == NEW and output.exists():
        return False  # finished by another process a moment ago
    if mode == RETRY and not output.exists():
        raise InvalidInputError("--retry-errors", f"{output} does not exist, so there is nothing to score again")
    if before is None or (mode == OVERWRITE and before != header):
        log.begin(header)
        return True
    if (mode == RETRY) != (before.mode == RETRY):
        use = "without" if mode == RETRY else "with"
        raise InvalidInputError("OUTPUT", f"{log.path} is under way: finish it first, {use} --retry-errors")
    if before.metrics != header.metrics:
        began = ",".join(before.metrics)
        raise InvalidInputError("metrics", f"the run began with {began}; go on with these, or {_anew(log.path)}")
    return True


def _to_do(source: Source, retried: Path | None) -> ToDo:
    """The items of a run: all, or those whose rows have an error in the output that is to be made better."""
    items = enumerate(source.items())
    if retried is None:
        yield from items
        return
    for row in read_run(retried):
        found = next(items, None)
        _check_same(row, found, retried)
        if row.error is not None and found is not None:
            yield found
    if more := next(items, None):
        raise InvalidInputError("INPUT", f"row {more[0]} is not in {retried}; give the input that it was made of")


def _check_same(row: Row, found: tuple[int, Item] | None, where: Path) -> None:
    if found is None:
        problem = f"has no row {row.index}, which is in {where}"
    else:
        index, item = found
        got, there = (image_label(item.image), prompt_label(item.prompt)), (row.image, row.prompt)
        if index == row.index and (row.error is not None or got == there):
            return  # what was wrong with an item may have been put right in between
        problem = f"row {index} is {_short(got)}, and row {row.index} in {where} is {_short(there)}"
    raise InvalidInputError("INPUT", f"{problem}: give the input that the run began with, or {_anew(where)}")


def _short(pair: tuple[str, str]) -> str:
    short = (text if len(text) <= SHORT_CHARACTERS else f"{text[:SHORT_CHARACTERS]}..." for text in pair)
    return " with ".join(map(repr, short))


def _anew(log: Path) -> str:
    return f"remove {log} to start anew"


MadeBy = tuple[str | None, ...]


def _made_by(row: Row) -> MadeBy | None:
    """What has to be the same for values to be comparable; None where there are none."""
    if row.error is not None:
        return None
    left_out = ",".join(sorted(name for name, reason in row.missing.items() if reason == NOT_REQUESTED))
    return row.fingerprint, row.preset, row.weights, left_out


def _check_comparable(row: Row, made_by: MadeBy | None, url: str, where: Path) -> None:
    this = _made_by(row)
    if this is None or this == made_by:
        return
    names = ("fingerprint", "preset", "weights", "metrics left out")
    differ = [each for each in zip(names, made_by or (), this, strict=True) if each[1] != each[2]]
    began, now = (", ".join(f"{each[0]} {each[side]}" for each in differ) for side in (1, 2))
    raise InvalidInputError(
        "server",
        f"{url} has {now}; the run began with {began}, and its values would not be comparable. "
        f"Use the server that it began with, or {_anew(where)}",
    )


@dataclass(frozen=True)
class _OldRun:
    """The output whose errors are scored again."""

    failed: int
    made_by: MadeBy | None

    @classmethod
    def read(cls, path: Path) -> _OldRun:
        failed, made_by = 0, None
        for row in read_run(path):
            failed += row.error is not None
            made_by = made_by or _made_by(row)
        return cls(failed, made_by)


def _merged(old: Iterator[Row], new: Iterator[Row]) -> Iterator[Row]:
    """The old rows, with the new ones in their places."""
    better = next(new, None)
    for row in old:
        if better is not None and better.index == row.index:
            yield better
            better = next(new, None)
        else:
            yield row


@dataclass
class _Counts:
    rows: int = 0
    failed: int = 0

    def counted(self, rows: Iterable[Row]) -> Iterator[Row]:
        for row in rows:
            self.rows, self.failed = self.rows + 1, self.failed + (row.error is not None)
            yield row

"""A progress bar on stderr for people, and silence for everybody else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from imgeval.batch import Silent, Watcher
from imgeval.runs import Row

REFRESHES_PER_S = 4


class RateColumn(ProgressColumn):
    """Rows per second, of those that this process made."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-/s" if speed is None else f"{speed:.1f}/s")


class Bar:
    """A watcher that keeps a bar up to date: rows, rate, time left, failures."""

    wants_total = True

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._failed = 0

    def start(self, total: int | None, done: int, failed: int) -> None:
        self._failed = failed
        self._task = self._progress.add_task("scoring", total=total, completed=done, failed=failed)

    def row(self, row: Row) -> None:
        self._failed += row.error is not None
        self._progress.update(self._task, advance=1, failed=self._failed)

    def note(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False)


class Lines(Silent):
    """A watcher without a terminal: only what a person has to know, as lines."""

    def note(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


@contextmanager
def watching(console: Console | None = None) -> Iterator[Watcher]:
    """A bar while the block runs, where stderr is a terminal."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        RateColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]} failed"),
    )
    with Progress(*columns, console=console, refresh_per_second=REFRESHES_PER_S) as progress:
        yield Bar(progress)

"""One run, or two side by side, as a self-contained page: what is in it, and what may be compared.

Rows -> Run -> places or pairs, and what to beware of -> pages/report.py
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgeval.contract import METRIC_NAMES
from imgeval.errors import InvalidInputError
from imgeval.result import SCORE
from imgeval.runs import Row

DEFAULT_THUMBNAILS = 200


@dataclass(frozen=True)
class Run:
    """The rows of one run. `folder` is where images with a relative path are looked for, before the current folder."""

    name: str
    rows: tuple[Row, ...]
    folder: Path | None = None

    @classmethod
    def of(cls, name: str, rows: Iterable[Row], folder: Path | None = None) -> Run:
        return cls(name, tuple(rows), folder)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(sorted({row.fingerprint for row in self.rows if row.fingerprint}))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to say in red: these numbers are no scores."""
        return tuple(sorted({row.weights_warning for row in self.rows} - {""}))


@dataclass(frozen=True)
class Pair:
    """The rows of two runs for one prompt; None where a run has none."""

    prompt: str
    a: Row | None
    b: Row | None


@dataclass(frozen=True)
class Written:
    """What is in a page that was written."""

    rows: int
    thumbnails: int


def write_report(
    run: Run, path: str | Path, other: Run | None = None, *, max_thumbnails: int = DEFAULT_THUMBNAILS
) -> Written:
    """Write the page of a run, or of two runs side by side.

    Args:
        run: its rows, in any order.
        path: of the page.
        other: a second run; the n-th row of a prompt is compared with the n-th row of the same prompt here.
        max_thumbnails: pictures in the page, half from the top of the order and half from the bottom; 0 or more.

    Raises:
        InvalidInputError: a run without rows, or a number that is not allowed.
        OSError: the page cannot be written.
    """
    if max_thumbnails < 0:
        raise InvalidInputError("thumbnails", f"got {max_thumbnails}; allowed: 0 or more")
    for each in (run, other):
        if each is not None and not each.rows:
            raise InvalidInputError("run", f"{each.name} has no rows; allowed: one or more")
    from imgeval.pages import report

    return report.write(run, other, Path(path), max_thumbnails)


def value(row: Row | None, by: str) -> float | None:
    """The score or a metric of a row; None where there is none, or none that is finite."""
    found = None if row is None else row.value(by)
    return found if found is not None and math.isfinite(found) else None


def valued(*runs: Run) -> tuple[str, ...]:
    """The score and the metrics that any row has, in the contract's order."""
    return tuple(
        name for name in (SCORE, *METRIC_NAMES) if any(value(row, name) is not None for run in runs for row in run.rows)
    )


def lower_is_better(by: str, *runs: Run) -> bool:
    """Whether smaller values are better ones, as the models' names say."""
    return any(row.lower_is_better(by) for run in runs for row in run.rows)


def comparable(*runs: Run) -> bool:
    """Whether all values were made by the same models, and are scores."""
    return len({mark for run in runs for mark in run.fingerprints}) <= 1 and not any(run.warnings for run in runs)


def places(rows: Sequence[Row], by: str, lower: bool) -> list[int | None]:
    """For each row its place from 1, equal values sharing one; None without a value."""
    found = [value(row, by) for row in rows]
    present = sorted((each for each in found if each is not None), reverse=not lower)
    first: dict[float, int] = {}
    for place, each in enumerate(present, 1):
        first.setdefault(each, place)
    return [None if each is None else first[each] for each in found]


def pairs(a: Run, b: Run) -> list[Pair]:
    """The n-th row of each prompt in one run with its n-th row in the other; what has no partner is there alone."""
    left, right = _numbered(a), _numbered(b)
    keys = [*left, *(key for key in right if key not in left)]
    return [Pair(key[0], left.get(key), right.get(key)) for key in keys]


def difference(pair: Pair, by: str) -> float | None:
    """The second run's value minus the first's; None where one of them is not there."""
    a, b = value(pair.a, by), value(pair.b, by)
    return None if a is None or b is None else b - a


def caveats(*runs: Run) -> Iterator[str]:
    """Sentences on what to beware of, for people."""
    marks = sorted({mark for run in runs for mark in run.fingerprints})
    if len(marks) > 1:
        what = "no places" if len(runs) == 1 else "no differences"
        yield f"not comparable, so {what}: the values were made by different models (fingerprints {', '.join(marks)})"
    for run in runs:
        failed = sum(row.error is not None for row in run.rows)
        if failed:
            yield f"{run.name}: {failed:,} of {rows(len(run.rows))} could not be scored"
    scored = [row for run in runs for row in run.rows if row.score is not None]
    if scored and not any(row.complete for row in scored):
        yield "every row is incomplete: metrics that the preset weighs are missing, see the end of the page"
    sets = Counter(tuple(row.normalized) for row in scored)
    if len(sets) > 1:
        parts = "; ".join(f"{', '.join(names)} ({rows(count)})" for names, count in sets.most_common())
        yield f"the combined values are means of different metrics: {parts}"


def rows(count: int) -> str:
    """So many rows, in words."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def missing(*runs: Run) -> list[tuple[str, str, int]]:
    """(metric, reason, rows) for what is not there, the most frequent first."""
    reasons = Counter((name, reason) for run in runs for row in run.rows for name, reason in row.missing.items())
    return [(name, reason, count) for (name, reason), count in reasons.most_common()]


def models(*runs: Run) -> list[tuple[str, str]]:
    """(metric, what made its values), in the contract's order."""
    found = {(name, model) for run in runs for row in run.rows for name, model in row.models.items()}
    return sorted(found, key=lambda each: (METRIC_NAMES.index(each[0]), each[1]))


def _numbered(run: Run) -> dict[tuple[str, int], Row]:
    seen: Counter[str] = Counter()
    numbered = {}
    for row in sorted(run.rows, key=lambda each: each.index):
        numbered[row.prompt, seen[row.prompt]] = row
        seen[row.prompt] += 1
    return numbered

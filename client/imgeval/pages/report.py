"""The page of one run or two: its rows as JSON for the script, its charts and notes as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgeval.errors import InvalidInputError
from imgeval.image import decode
from imgeval.inputs import encode_image
from imgeval.pages import charts, picture, render
from imgeval.report import (
    Pair,
    Run,
    Written,
    caveats,
    comparable,
    difference,
    lower_is_better,
    missing,
    models,
    pairs,
    places,
    value,
    valued,
)
from imgeval.report import rows as counted
from imgeval.result import SCORE
from imgeval.runs import Row

THUMBNAIL_PX = 96
THUMBNAIL_QUALITY = 70

# Why a row has no picture.
NOT_CHOSEN = "no picture"
NO_FILE = "file not found"
REMOTE = "remote image"
UNREADABLE = "unreadable image"


def write(run: Run, other: Run | None, path: Path, max_thumbnails: int) -> Written:
    """Write the page; `imgeval.report.write_report` says what is in it. Raises OSError."""
    runs = (run,) if other is None else (run, other)
    names = valued(*runs)
    lower = {name: lower_is_better(name, *runs) for name in names}
    same = comparable(*runs)
    by = names[0] if names else SCORE
    if other is None:
        found = [Pair(row.prompt, row, None) for row in run.rows]
        order = places(run.rows, by, lower.get(by, False)) if same else [None] * len(found)
        keys = [value(pair.a, by) for pair in found]
    else:
        found, order = pairs(run, other), []
        keys = [difference(pair, by) if same else value(pair.a, by) for pair in found]
    thumbnails = _Thumbnails()
    shown = _ends(keys, max_thumbnails // len(runs), lower.get(by, False))
    rows = [
        [
            pair.prompt,
            order[index] if order else None,
            *(_side(row, each, names, thumbnails if index in shown else None) for row, each in _sides(pair, runs)),
        ]
        for index, pair in enumerate(found)
    ]
    no_scores = any(each.warnings for each in runs)
    labels = {name: "value (no score)" if name == SCORE and no_scores else name for name in names}
    page = render.render_page(
        "report.html",
        script="report.js",
        warnings=sorted({warning for each in runs for warning in each.warnings}),
        caveats=list(caveats(*runs)),
        runs=runs,
        no_scores=no_scores,
        by=labels.get(by, by),
        histograms=[
            charts.histogram(
                labels[name],
                [[each for row in run.rows if (each := value(row, name)) is not None] for run in runs],
                lower[name],
            )
            for name in names
        ],
        summary=[_compared(found, labels[name], name, lower[name], same) for name in names] if other else [],
        comparable=same,
        counted=counted,
        missing=missing(*runs),
        models=models(*runs),
        chosen=len(shown),
        total=len(found),
        data={
            "runs": [each.name for each in runs],
            "comparable": same,
            "tags": any(row.complete for each in runs for row in each.rows),  # no tag that every row would have
            "values": [{"label": labels[name], "better": -1 if lower[name] else 1} for name in names],
            "thumbnails": thumbnails.uris,
            "rows": rows,
        },
    )
    render.write_page(path, page)
    return Written(len(found), len(thumbnails.uris))


def _sides(pair: Pair, runs: Sequence[Run]) -> list[tuple[Row | None, Run]]:
    return list(zip((pair.a, pair.b), runs, strict=False))


def _side(row: Row | None, run: Run, names: Sequence[str], thumbnails: _Thumbnails | None) -> list[Any] | None:
    """[index, image, values, error, incomplete, thumbnail or why there is none] of one run's row."""
    if row is None:
        return None
    shown = NOT_CHOSEN if thumbnails is None else thumbnails.add(row.image, run.folder)
    values = [None if (each := value(row, name)) is None else round(each, 6) for name in names]
    return [row.index, row.image, values, row.error, row.complete is False, shown]


def _ends(keys: Sequence[float | None], count: int, lower: bool) -> set[int]:
    """The `count` rows that have pictures: half from the top and half from the bottom, then those without a value."""
    order = sorted((index for index, key in enumerate(keys) if key is not None), key=lambda index: keys[index] or 0.0)
    if not lower:
        order.reverse()
    rest = [index for index, key in enumerate(keys) if key is None]
    if len(order) >= count:
        return {*order[: count - count // 2], *order[len(order) - count // 2 :]}
    return {*order, *rest[: count - len(order)]}


def _compared(found: Sequence[Pair], label: str, by: str, lower: bool, same: bool) -> dict[str, Any]:
    """One value over all pairs that have it on both sides."""
    both = [(a, b) for pair in found if (a := value(pair.a, by)) is not None and (b := value(pair.b, by)) is not None]
    count = len(both)
    better = sum((b < a) if lower else (b > a) for a, b in both)
    equal = sum(a == b for a, b in both)
    return {
        "name": label,
        "pairs": count,
        "a": sum(a for a, _ in both) / count if count else None,
        "b": sum(b for _, b in both) / count if count else None,
        "difference": sum(b - a for a, b in both) / count if count and same else None,
        "better": better,
        "worse": count - better - equal,
        "equal": equal,
        "lower": lower,
    }


class _Thumbnails:
    """Small copies of image files as data URIs, each file once."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._known: dict[tuple[str, Path | None], int | str] = {}

    def add(self, image: str, folder: Path | None) -> int | str:
        """The number of the image's thumbnail, or why there is none."""
        key = image, folder
        if key not in self._known:
            self._known[key] = self._made(image, folder)
        return self._known[key]

    def _made(self, image: str, folder: Path | None) -> int | str:
        if "://" in image:
            return REMOTE
        path = local_file(image, folder)
        if path is None:
            return NO_FILE
        try:
            small = picture.reduced(decode(encode_image(path)).rgb, THUMBNAIL_PX)
        except InvalidInputError:
            return UNREADABLE
        self.uris.append(picture.data_uri(small, quality=THUMBNAIL_QUALITY))
        return len(self.uris) - 1


def local_file(image: str, folder: Path | None) -> Path | None:
    """The regular file of this name: in `folder`, else as it is."""
    for path in (*([folder / image] if folder else []), Path(image)):
        try:
            if path.is_file():  # a pipe or a device would be read for ever
                return path
        except (OSError, ValueError):  # a name that no file can have
            continue
    return None

"""Runs on disk: rows to and from JSONL, CSV and Parquet, in memory that does not grow with the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from imgeval import tabular
from imgeval.contract import METRIC_NAMES
from imgeval.errors import InvalidInputError
from imgeval.runs import Row
from imgeval.tabular import format_of, read_rows, write_rows

_NUMBERS = {"score", *METRIC_NAMES, *(f"{name}_normalized" for name in METRIC_NAMES)}
COLUMNS: dict[str, type] = {
    name: {"index": int, "complete": bool}.get(name, float if name in _NUMBERS else str)
    for name in Row(0, "", "").to_dict()
}
MAX_LINE_BYTES = 8 * tabular.MAX_LINE_BYTES  # a row has what an input's row had, escaped perhaps, and its results
_ALWAYS_THERE = ("index", "image", "prompt")  # also where they are empty
_FROM_TEXT: dict[type, Callable[[str], Any]] = {
    int: int,
    float: float,
    bool: {"true": True, "false": False}.__getitem__,
    str: str,
}


def read_run(path: Path) -> Iterator[Row]:
    """The rows of a run, in its order; the format is that of the file's name.

    Raises:
        InvalidInputError: a file that cannot be read, or a row that is none of a run; the field is "run".
        MissingPackageError: Parquet without pyarrow.
    """
    is_text = format_of(path, "run") == "CSV"
    for number, content in enumerate(read_rows(path, "run", max_line_bytes=MAX_LINE_BYTES)):
        if isinstance(content, InvalidInputError):
            raise InvalidInputError("run", f"{path}: {content}")
        try:
            yield Row.from_dict(_checked(_from_text(content) if is_text else content))
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError("run", f"{path}: row {number} is no row of a run: {error!r}") from error


def write_run(path: Path, rows: Iterable[Row], file_format: str) -> None:
    """Write a run anew, in one of the formats of `tabular.FORMATS`.

    Raises:
        OSError: the file cannot be written.
    """
    write_rows(path, (row.to_dict() for row in rows), COLUMNS, file_format)


def _checked(flat: dict[str, Any]) -> dict[str, Any]:
    """The columns, each of its type or null. Raises KeyError or ValueError."""
    for name, kind in COLUMNS.items():
        value = flat[name]
        allowed = (int, float) if kind is float else kind  # JSON writes 1.0 as 1
        fits = isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))
        if not fits and (value is not None or name in _ALWAYS_THERE):
            raise ValueError(f"{name} is {value!r}")
    return flat


def _from_text(content: dict[str, str]) -> dict[str, Any]:
    return {
        name: _FROM_TEXT[kind](content[name]) if content[name] or name in _ALWAYS_THERE else None
        for name, kind in COLUMNS.items()
    }

"""Runs on disk. Temporary: only JSONL, until the module of this name that reads every format is merged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from imgeval.errors import InvalidInputError
from imgeval.runs import Row


def read_run(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file.

    Raises:
        InvalidInputError: a file that cannot be read, or a line that is no row.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield Row.from_dict(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise InvalidInputError("run", f"{path}, line {number}: no row of a run: {error!r}") from error
    except OSError as error:
        raise InvalidInputError("run", f"{path} cannot be read: {error.strerror}") from error

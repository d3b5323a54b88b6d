"""Temporary: reads a run that is JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from imgeval.errors import InvalidInputError
from imgeval.runs import Row


def read_run(path: str | Path) -> Iterator[Row]:
    """The rows of a run. Raises InvalidInputError."""
    try:
        with Path(path).open(encoding="utf-8") as lines:
            for line in lines:
                yield Row.from_dict(json.loads(line))
    except (OSError, ValueError, KeyError) as error:
        raise InvalidInputError("run", f"{path} cannot be read: {error}") from error

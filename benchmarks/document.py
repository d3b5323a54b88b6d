"""Results -> docs/benchmarks.md: one section per benchmark, between two comments that name it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from pathlib import Path

PATH = Path(__file__).parent.parent / "docs" / "benchmarks.md"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, readable as it is: the first column to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in (headings, *rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(headings))]
    lines = [
        "| "
        + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def section(name: str, command: str, machine: str, result: str) -> str:
    """What stands between the comments of the benchmark called `name`."""
    today = datetime.date.today().isoformat()
    indented = "\n".join(f"    {line}" for line in machine.splitlines())
    return f"<!-- {name} -->\n`{command}`, {today}, on\n\n{indented}\n\n{result.strip()}\n<!-- /{name} -->"


def put(text: str, name: str, replacement: str) -> str:
    """`text` with the section called `name` replaced, or added at the end."""
    pattern = re.compile(rf"<!-- {re.escape(name)} -->.*?<!-- /{re.escape(name)} -->", re.DOTALL)
    if pattern.search(text):
        return pattern.sub(lambda _: replacement, text, count=1)
    return f"{text.rstrip()}\n\n## {name}\n\n{replacement}\n"

"""Colour on a terminal, none with NO_COLOR, and nothing but text in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imgeval.runs import Row

COLOUR = re.compile(rb"\x1b\[[\d;]*3[1-7][\d;]*m")


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """One that warns in red and asks no server."""
    row = Row(
        0, "a.png", "a", 0.1, True, "cpu", "seed-1", "f" * 16, "random", {"clip": 0.1}, {"clip": 0.1}, {"clip": "x"}
    )
    (tmp_path / "a.jsonl").write_text(json.dumps(row.to_dict()) + "\n")
    program = Path(sys.executable).parent / "imgeval-client"
    return [str(program), "compare", str(tmp_path / "a.jsonl"), str(tmp_path / "a.jsonl")]


def environment(**changed: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLORTERM")}
    return {**kept, "TERM": "xterm-256color", **changed}


def on_a_terminal(command: list[str], **changed: str) -> bytes:
    reader, writer = pty.openpty()
    try:
        with subprocess.Popen(command, stdout=writer, stderr=writer, env=environment(**changed)) as process:
            os.close(writer)
            out = b""
            while True:
                try:
                    part = os.read(reader, 65536)
                except OSError:  # how Linux says that the other side has closed it
                    break
                if not part:
                    break
                out += part
        assert process.returncode == 0, out
        return out
    finally:
        os.close(reader)


def test_colour_on_a_terminal_and_none_with_no_color(command: list[str]) -> None:
    assert COLOUR.search(on_a_terminal(command))
    without = on_a_terminal(command, NO_COLOR="1")
    assert b"WEIGHTS ARE RANDOM" in without
    assert not COLOUR.search(without)


def test_a_pipe_gets_text_alone(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, env=environment(), check=True)
    assert b"WEIGHTS ARE RANDOM" in ended.stdout
    assert b"\x1b" not in ended.stdout
    assert ended.stderr == b""

"""How long it takes to begin: import, help, server, first answer, and a warm command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks import options, serving
from benchmarks.document import table
from benchmarks.timing import Times, in_turns

SERVER_STARTS = 3  # at most: each loads every model


@click.command()
@options.repository_options
@options.rounds(7)
@options.reported("start")
def command(
    chosen: serving.Chosen,
    rounds: int,
) -> options.Report:
    """Times from a command to its answer, each in a process of its own.

    Example: python -m benchmarks start --profile starter
    """
    image = str(Path(__file__).parent.parent / "examples" / "coffee.jpg")
    scripts = Path(sys.executable).parent
    with serving.setup(chosen) as setup:
        starts = []
        for _ in range(min(rounds, SERVER_STARTS)):
            begin = time.perf_counter()
            with serving.served(setup):
                starts.append(time.perf_counter() - begin)
        with serving.served(setup) as running:
            warm = [str(scripts / "imgeval-client"), "score", image, "a cup of coffee", "--url", running.url]
            commands = {
                "python -c 'import imgeval'": [sys.executable, "-c", "import imgeval"],
                "python -c 'from imgeval import Client'": [sys.executable, "-c", "from imgeval import Client"],
                "imgeval-client --help": [str(scripts / "imgeval-client"), "--help"],
                "imgeval-client score, warm server, all metrics": warm,
                "imgeval-client score --metrics clip": [*warm, "--metrics", "clip"],
            }
            times = in_turns({name: _runner(line) for name, line in commands.items()}, rounds)
    rows = [[name, each.in_ms()] for name, each in times.items()]
    rows.insert(3, ["server start to its first answer, all metrics", Times(tuple(starts)).in_ms()])
    return options.Report(f"{setup.notice}\n{table(['what', 'ms, median (quartiles)'], rows)}", setup.subject)


def _runner(line: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(line, check=True, capture_output=True, env=os.environ)

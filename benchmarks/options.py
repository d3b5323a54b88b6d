"""What the benchmarks' commands share: options, and the end of each: print, and write if asked to."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from benchmarks import document, machine


def repository_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which repository is measured."""
    for option in (
        click.option("--random-weights", is_flag=True, help="Stand-ins for checkpoints: speeds, no scores."),
        click.option("--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="As imgeval-export build."),
        click.option("--precision", multiple=True, metavar="[MODEL=]P", help="As imgeval-export build."),
        click.option(
            "--repository",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="One that is built already (with --cache-mib 0), in place of the three options before.",
        ),
        click.option("--profile", default="starter", show_default=True),
    ):
        command = option(command)
    return command


def rounds(default: int) -> Callable[..., Any]:
    return click.option("--rounds", default=default, show_default=True, type=click.IntRange(min=1))


def reported(name: str) -> Callable[..., Any]:
    """A command that returns its result as Markdown: printed, and put into docs/benchmarks.md with `--write`."""

    def decorate(command: Callable[..., str]) -> Callable[..., None]:
        @click.option("--write", is_flag=True, help="Put the result into docs/benchmarks.md.")
        @functools.wraps(command)
        def run(*args: Any, write: bool, **kwargs: Any) -> None:
            result = command(*args, **kwargs)
            described = machine.describe()
            click.echo(f"{described}\n\n{result}")
            if write:
                arguments = [each for each in sys.argv[1:] if each != "--write"]
                line = shlex.join(["python", "-m", "benchmarks", *_without_paths(arguments)])
                text = document.PATH.read_text(encoding="utf-8") if document.PATH.exists() else "# Benchmarks\n"
                fresh = document.put(text, name, document.section(name, line, described, result))
                document.PATH.write_text(fresh, encoding="utf-8")

        return run

    return decorate


def _without_paths(arguments: list[str]) -> list[str]:
    """A folder of this machine says nothing on another one."""
    return ["REPOSITORY" if before == "--repository" else each for before, each in zip(["", *arguments], arguments)]  # noqa: B905

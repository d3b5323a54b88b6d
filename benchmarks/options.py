"""What the benchmarks' commands share: options, and the end of each: print, and write if asked to."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks import document, machine, serving
from imgeval.errors import ImgevalError


def repository_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which repository is measured: the command gets it as one `serving.Chosen`, its first argument."""

    @functools.wraps(command)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        own = {name: kwargs.pop(name) for name in serving.Chosen.__dataclass_fields__}
        return command(serving.Chosen(**own), *args, **kwargs)

    decorated: Callable[..., Any] = chosen
    for option in (
        click.option("--random-weights", is_flag=True, help="Stand-ins for checkpoints: speeds, no scores."),
        click.option("--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="As imgeval-export build."),
        click.option("--without", "without_parts", multiple=True, help="As imgeval-export build."),
        click.option("--precision", multiple=True, metavar="[MODEL=]P", help="As imgeval-export build."),
        click.option(
            "--repository",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="One that is built already (with --cache-mib 0), in place of the other options.",
        ),
        click.option("--profile", default="starter", show_default=True),
    ):
        decorated = option(decorated)
    return decorated


def rounds(default: int) -> Callable[..., Any]:
    return click.option("--rounds", default=default, show_default=True, type=click.IntRange(min=1))


@dataclass(frozen=True)
class Report:
    """What a benchmark found: Markdown, and pictures that it shows, by file name.

    `subject` tells the sections of a benchmark apart in the document: what it measured, such as "cpu bf16".
    """

    text: str
    subject: str = ""
    pictures: Mapping[str, str] = field(default_factory=dict)


class NotMeasuredError(Exception):
    """This machine lacks what the benchmark needs; nothing is written."""


def reported(name: str) -> Callable[..., Any]:
    """A command that returns a report: printed, and put into docs/benchmarks.md with `--write`."""

    def decorate(command: Callable[..., Report]) -> Callable[..., None]:
        @click.option("--write", is_flag=True, help="Put the result into docs/benchmarks.md.")
        @functools.wraps(command)
        def run(*args: Any, write: bool, **kwargs: Any) -> None:
            others = machine.others_at_work()
            try:
                report = command(*args, **kwargs)
            except NotMeasuredError as reason:
                click.echo(f"{name}: not measured: {reason}")
                return
            except ImgevalError as error:
                raise click.ClickException(str(error)) from error
            described = f"{machine.describe()}\n{others}"
            click.echo(f"{described}\n\n{report.text.strip()}")
            if write:
                arguments = [each for each in sys.argv[1:] if each != "--write"]
                line = shlex.join(["python", "-m", "benchmarks", *_without_paths(arguments)])
                text = document.PATH.read_text(encoding="utf-8") if document.PATH.exists() else "# Benchmarks\n"
                title = f"{name} {report.subject}".strip()
                fresh = document.put(text, title, document.section(title, line, described, report.text))
                document.PATH.write_text(fresh, encoding="utf-8")
                for file, picture in report.pictures.items():
                    document.PATH.with_name(file).write_text(picture, encoding="utf-8")

        return run

    return decorate


def _without_paths(arguments: list[str]) -> list[str]:
    """A folder of this machine says nothing on another one."""
    pairs = zip(["", *arguments], arguments, strict=False)  # each with the one before it
    return ["REPOSITORY" if before == "--repository" else each for before, each in pairs]

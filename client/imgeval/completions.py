"""What the shell offers for an option or argument when Tab is pressed."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from imgeval.contract import METRIC_NAMES
from imgeval.result import SCORE


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def metrics(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names for the last part of A,B, but those that stand there already."""
    before, comma, last = incomplete.rpartition(",")
    there = before.split(",")
    return [f"{before}{comma}{name}" for name in METRIC_NAMES if name.startswith(last) and name not in there]


def values(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The score or a metric."""
    return [name for name in (SCORE, *METRIC_NAMES) if name.startswith(incomplete)]


def profiles(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Those that the manifest of the weight files names: reading it is quick, importing the profiles is not."""
    from imgeval_export.manifest import manifest

    names = dict.fromkeys(name for file in manifest() for name in file.profiles)
    return [name for name in names if name.startswith(incomplete)]

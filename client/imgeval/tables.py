"""Results and rankings as tables for people."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgeval.compare import Ranking
from imgeval.contract import METRIC_NAMES
from imgeval.result import SCORE, Result

PIPE_WIDTH = 160  # columns where the output is no terminal and so has no width of its own


def print_result(result: Result, console: Console | None = None) -> None:
    """Print metrics, what is missing, what was done to the input, and the combined score."""
    console = _sized(console)
    console.print(_metrics(result))
    for name, reason in result.missing.items():
        console.print(Text(f"missing {name}: {reason}"), soft_wrap=True)
    for action in result.input.get("actions", ()):
        console.print(Text(f"input: {action}"), soft_wrap=True)
    if dropped := result.input.get("tokens_dropped"):
        console.print(Text(f"input: the prompt is too long for the text tower, {dropped} tokens were left out"))
    if result.weights_warning:
        console.print(Text(result.weights_warning, style="bold red"))
    value = "none: no weighted metric is available" if result.score is None else f"{result.score:.4f}"
    console.print(Text(f"score {value} ({_origin(result)})", style="bold"), soft_wrap=True)


def print_ranking(ranking: Ranking, of: Literal["image", "prompt"], console: Console | None = None) -> None:
    """Print the rows, best first, what to beware of, and what the values are.

    Args:
        ranking: from `Client.rank` or `Client.match`.
        of: what the rows are called by.
        console: where to; by default stdout.
    """
    console = _sized(console)
    console.print(_rows(ranking, of))
    for row in ranking.rows:
        if row.outcome.error:
            console.print(Text(f"failed {getattr(row.outcome, of)}: {row.outcome.error}"), soft_wrap=True)
    results = [row.outcome.result for row in ranking.rows if row.outcome.result]
    warnings = {result.weights_warning for result in results}
    for caveat in ranking.caveats:
        console.print(Text(caveat, style="bold red" if caveat in warnings else "bold"), soft_wrap=True)
    if ranking.by == SCORE:
        origins = {_origin(result) for result in results}
    else:
        origins = {result.metrics[ranking.by].model for result in results if ranking.by in result.metrics}
    for origin in sorted(origins):
        console.print(Text(f"by {ranking.by} ({origin})"), soft_wrap=True)


def _sized(console: Console | None) -> Console:
    console = console or Console(highlight=False)
    return console if console.is_terminal else Console(file=console.file, width=PIPE_WIDTH, highlight=False)


def _metrics(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("metric", "raw", "normalized", "weight"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    table.add_column("model", overflow="fold")
    for name in METRIC_NAMES:
        if name in result.metrics:
            value = result.metrics[name]
            table.add_row(name, _number(value.raw), _number(value.normalized), f"{value.weight:g}", Text(value.model))
        else:
            table.add_row(name, "-", "-", "-", "missing")
    return table


def _rows(ranking: Ranking, of: Literal["image", "prompt"]) -> Table:
    outcomes = [row.outcome for row in ranking.rows]
    others = [
        name
        for name in METRIC_NAMES
        if name != ranking.by and any(outcome.result and name in outcome.result.metrics for outcome in outcomes)
    ]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("place", ranking.by, "probability", *others):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(of, overflow="fold")
    for row in ranking.rows:
        result = row.outcome.result
        numbers = [row.value, row.probability, *(result.value(name) if result else None for name in others)]
        table.add_row(
            "-" if row.place is None else str(row.place),
            *map(_number, numbers),
            Text(getattr(row.outcome, of)),
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _origin(result: Result) -> str:
    weighed = [name for name, metric in result.metrics.items() if metric.weight > 0]
    part = "" if result.complete or result.score is None else f", incomplete: only {', '.join(weighed)}"
    return f"preset {result.preset}, profile {result.profile}{part}"

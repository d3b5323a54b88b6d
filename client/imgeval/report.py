"""A result as a table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgeval.contract import METRIC_NAMES
from imgeval.result import Result

PIPE_WIDTH = 160  # columns where the output is no terminal and so has no width of its own


def print_result(result: Result, console: Console | None = None) -> None:
    """Print metrics, what is missing, what was done to the input, and the combined score."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=PIPE_WIDTH, highlight=False)
    console.print(_metrics(result))
    for name, reason in result.missing.items():
        console.print(Text(f"missing {name}: {reason}"), soft_wrap=True)
    for action in result.input.get("actions", ()):
        console.print(Text(f"input: {action}"), soft_wrap=True)
    if dropped := result.input.get("tokens_dropped"):
        console.print(Text(f"input: the prompt is too long for the text tower, {dropped} tokens were left out"))
    if result.weights != "published":
        console.print(Text(f"WEIGHTS ARE {result.weights.upper()}: these numbers are no scores", style="bold red"))
    console.print(Text(_score_line(result), style="bold"), soft_wrap=True)


def _metrics(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("metric", "raw", "normalized", "weight"):
        table.add_column(heading, justify="left" if heading == "metric" else "right", no_wrap=True)
    table.add_column("model", overflow="fold")
    for name in METRIC_NAMES:
        if name in result.metrics:
            value = result.metrics[name]
            normalized = "-" if value.normalized is None else f"{value.normalized:.4f}"
            table.add_row(name, f"{value.raw:.4f}", normalized, f"{value.weight:g}", Text(value.model))
        else:
            table.add_row(name, "-", "-", "-", "missing")
    return table


def _score_line(result: Result) -> str:
    value = "none: no weighted metric is available" if result.score is None else f"{result.score:.4f}"
    weighed = [name for name, metric in result.metrics.items() if metric.weight > 0]
    part = "" if result.complete or result.score is None else f", incomplete: only {', '.join(weighed)}"
    return f"score {value} (preset {result.preset}, profile {result.profile}{part})"

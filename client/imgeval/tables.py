"""Results, rankings and comparisons as tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from imgeval.compare import Ranking
from imgeval.contract import METRIC_NAMES
from imgeval.many import Outcome
from imgeval.result import SCORE, Result

if TYPE_CHECKING:
    from imgeval.doctor.check import Check
    from imgeval.gates import Gate
    from imgeval.run_comparison import PromptDifference, RunComparison
    from imgeval.served import ServedMetrics

STATE_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
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


def print_outcomes(outcomes: Sequence[Outcome], console: Console | None = None) -> None:
    """Print several pairs in their order, a row each, what could not be scored, and what to beware of."""
    console = _sized(console)
    results = [outcome.result for outcome in outcomes if outcome.result]
    names = [name for name in METRIC_NAMES if any(name in result.metrics for result in results)]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in (SCORE, *names):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("image", "prompt"):
        table.add_column(heading, overflow="fold")
    for outcome in outcomes:
        numbers = [outcome.result.value(name) if outcome.result else None for name in (SCORE, *names)]
        table.add_row(*map(_number, numbers), Text(outcome.image), Text(outcome.prompt))
    console.print(table)
    for outcome in outcomes:
        if outcome.error:
            console.print(Text(f"failed {outcome.image}: {outcome.error}"), soft_wrap=True)
    for warning in sorted({result.weights_warning for result in results} - {""}):
        console.print(Text(warning, style="bold red"))
    for origin in dict.fromkeys(map(_origin, results)):
        console.print(Text(f"scores by {origin}", style="bold"), soft_wrap=True)


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


def print_comparison(comparison: RunComparison, gates: Sequence[Gate], by: str, console: Console | None = None) -> None:
    """Print the differences, B's largest wins and losses by one value, what to beware of, and the gates."""
    console = _sized(console)
    console.print(_differences(comparison))
    value = comparison.values[by]
    for title, pairs in (("wins", value.wins), ("losses", value.losses)):
        if pairs:
            console.print(Text(f"\nlargest {title} of B by {by}", style="bold"))
            console.print(_pairs(pairs))
    console.print()
    for caveat in comparison.caveats:
        console.print(Text(caveat, style="bold"), soft_wrap=True)
    if comparison.weights_warning:
        console.print(Text(comparison.weights_warning, style="bold red"), soft_wrap=True)
    for gate in gates:
        verdict = "passed" if gate.passed else "FAILED"
        line = f"gate {gate.option} {gate.name}={gate.limit:g} {verdict}: {gate.seen}"
        console.print(Text(line, style="" if gate.passed else "bold red"), soft_wrap=True)
    console.print(Text(f"{comparison.pairs} prompts in both runs", style="bold"))


def _differences(comparison: RunComparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("value", "mean A", "mean B", "B - A", "95 % interval", "B wins", "ties", "pairs", "better"):
        table.add_column(heading, justify="left" if heading in ("value", "better") else "right", no_wrap=True)
    for value in comparison.values.values():
        interval = "-" if value.interval is None else f"{value.interval[0]:+.4f} .. {value.interval[1]:+.4f}"
        table.add_row(
            value.name + (" (lower is better)" if value.lower_is_better else ""),
            _number(value.mean_a),
            _number(value.mean_b),
            f"{value.difference:+.4f}",
            interval,
            f"{value.win_rate:.1%}",
            str(value.ties),
            str(value.pairs),
            value.better or "-",
        )
    return table


def _pairs(pairs: Sequence[PromptDifference]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("B - A", "A", "B"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("prompt", overflow="fold")
    for pair in pairs:
        table.add_row(f"{pair.difference:+.4f}", _number(pair.a), _number(pair.b), Text(pair.prompt))
    return table


def print_served(served: ServedMetrics, console: Console | None = None) -> None:
    """Print what a server serves, whom to cite, and how to get what is missing."""
    console = _sized(console)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("metric", "range", "better"):
        table.add_column(heading, no_wrap=True)
    for heading in ("model", "licence of the weights"):
        table.add_column(heading, overflow="fold")
    papers: dict[str, list[str]] = {}
    for name, metric in served.metrics.items():
        license_names = "; ".join(metric.licenses) or "see terms"
        commercial = "" if metric.commercial_use else " (commercial use not clearly allowed)"
        better = "lower" if metric.lower_is_better else "higher"
        table.add_row(name, Text(metric.range), better, Text(metric.model), Text(license_names + commercial))
        for paper in metric.citations:
            papers.setdefault(paper, []).append(name)
    console.print(table)
    lines = [f"terms of {name}: {metric.terms}" for name, metric in served.metrics.items() if metric.terms]
    lines += [f"cite for {', '.join(names)}: {paper}" for paper, names in papers.items()]
    lines += [f"missing {name}: {reason}" for name, reason in served.missing.items()]
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    if served.weights != "published":
        warning = f"WEIGHTS ARE {served.weights.upper()}: their numbers are no scores"
        console.print(Text(warning, style="bold red"))
    origin = f"profile {served.profile}, preset {served.preset}, fingerprint {served.fingerprint}"
    console.print(Text(f"served at {served.url} ({origin})", style="bold"), soft_wrap=True)


def print_check(check: Check, console: Console | None = None) -> None:
    """Print what a check has seen, and beneath it what to do."""
    console = _sized(console)
    line = Text.assemble((f"{check.state:5}", STATE_STYLES[check.state]), (check.name, "bold"), f": {check.seen}")
    console.print(line, soft_wrap=True)
    if check.advice:
        console.print(Text(f"     -> {check.advice}"), soft_wrap=True)

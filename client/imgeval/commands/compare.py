"""`imgeval-client compare`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from imgeval import completions
from imgeval.cli_errors import one_line_errors
from imgeval.commands.output import echo_json

GATE_FAILED = 1
RUN = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("run_a", type=RUN)
@click.argument("run_b", type=RUN)
@click.option(
    "--by",
    shell_complete=completions.values,
    help="What wins and losses are listed by; default: score, else the first metric there is.",
)
@click.option("--top", type=click.IntRange(min=0), help="How many of the largest wins and losses to list.")
@click.option(
    "--fail-below",
    multiple=True,
    metavar="NAME=VALUE",
    help="Exit code 1 if B's mean is below VALUE (lower is better: above).",
)
@click.option(
    "--max-regression",
    multiple=True,
    metavar="NAME=VALUE",
    help="Exit code 1 if B is worse than A by more than VALUE in the mean.",
)
@click.option(
    "--confident", is_flag=True, help="For --max-regression: only if the whole 95 % interval is beyond VALUE."
)
@click.option(
    "--max-errors",
    type=click.IntRange(min=0),
    metavar="N",
    help="Exit code 1 if more rows of B than N could not be scored; other gates leave these out.",
)
@click.option("--allow-different-models", is_flag=True, help="Compare runs that different models or presets made.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@one_line_errors
def compare(
    run_a: Path,
    run_b: Path,
    by: str | None,
    top: int | None,
    fail_below: tuple[str, ...],
    max_regression: tuple[str, ...],
    confident: bool,
    max_errors: int | None,
    allow_different_models: bool,
    as_json: bool,
) -> None:
    """Compare two runs of `batch` by prompt: is RUN_B better than RUN_A, and how sure is that.

    NAME is score or a metric. Several images of a prompt count as their mean. The interval is a paired bootstrap of the
    mean difference, a tie is half a win. Gates may be given several times; exit code 1 says that one has failed.

    Example: imgeval-client compare old.jsonl new.jsonl --max-regression score=0.01 --fail-below clip=0.25
    """
    from imgeval import gates
    from imgeval.errors import InvalidInputError
    from imgeval.run_comparison import DEFAULT_TOP, VALUES, compare_runs
    from imgeval.run_files import read_run

    below = gates.parse_limits(gates.FAIL_BELOW, fail_below)
    regression = gates.parse_limits(gates.MAX_REGRESSION, max_regression)
    if by is not None and by not in VALUES:
        raise InvalidInputError("by", f"got {by}; allowed: {', '.join(VALUES)}")
    comparison = compare_runs(
        read_run(run_a),
        read_run(run_b),
        allow_different_models=allow_different_models,
        top=DEFAULT_TOP if top is None else top,
    )
    if by is not None and by not in comparison.values:
        raise InvalidInputError("by", f"got {by}; compared were: {', '.join(comparison.values) or 'none'}")
    checked = gates.check(comparison, below, regression, confident=confident, max_errors=max_errors)
    if as_json:
        echo_json({**comparison.to_dict(), "gates": [gate.to_dict() for gate in checked]})
    else:
        from imgeval.tables import print_comparison

        print_comparison(comparison, checked, by or next(iter(comparison.values)))
    failed = [gate for gate in checked if not gate.passed]
    for gate in failed:
        click.echo(f"error: gate failed: {gate.option} {gate.name}={gate.limit:g}: {gate.seen}", err=True)
    if failed:
        sys.exit(GATE_FAILED)

"""`imgeval-client report`."""

from __future__ import annotations

import click

from imgeval.cli_errors import one_line_errors
from imgeval.report import DEFAULT_THUMBNAILS


@click.command()
@click.argument("run")
@click.argument("other", required=False, metavar="[RUN_B]")
@click.option("-o", "--output", metavar="FILE", required=True, help="The page to write.")
@click.option(
    "--thumbnails",
    "max_thumbnails",
    metavar="N",
    default=DEFAULT_THUMBNAILS,
    show_default=True,
    type=click.IntRange(min=0),
    help="At most so many pictures, half of the best rows and half of the worst.",
)
@one_line_errors
def report(run: str, other: str | None, output: str, max_thumbnails: int) -> None:
    """Make a page of RUN, a file that `batch` wrote; with RUN_B the two are compared, prompt by prompt.

    The page is one file that needs no network: a table to sort and filter, pictures of the best and the worst rows, and
    how the values are spread.

    Example: imgeval-client report run.jsonl -o report.html
    """
    from pathlib import Path

    from imgeval.report import Run, write_report
    from imgeval.run_files import read_run

    runs = [Run.of(Path(name).name, read_run(Path(name)), Path(name).parent) for name in (run, other) if name]
    if len(runs) == 2 and runs[0].name == runs[1].name:
        runs = [Run(name, each.rows, each.folder) for name, each in zip((run, str(other)), runs, strict=True)]
    written = write_report(runs[0], output, *runs[1:], max_thumbnails=max_thumbnails)
    click.echo(f"wrote {output} (rows: {written.rows}, pictures: {written.thumbnails})", err=True)

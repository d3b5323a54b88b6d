"""`imgeval-client report`."""

from __future__ import annotations

import click

from imgeval.cli_errors import one_line_errors


@click.command()
@click.argument("run")
@click.argument("other", required=False, metavar="[RUN_B]")
@click.option("-o", "--output", metavar="FILE", required=True, help="The page to write.")
@click.option("--thumbnails", metavar="N", default=200, show_default=True, type=int, help="At most so many pictures.")
@one_line_errors
def report(run: str, other: str | None, output: str, thumbnails: int) -> None:
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
    written = write_report(runs[0], output, *runs[1:], max_thumbnails=thumbnails)
    click.echo(f"wrote {output}: {written.rows} rows, {written.thumbnails} pictures", err=True)

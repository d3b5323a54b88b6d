"""`imgeval-client report`."""

from __future__ import annotations

import click

from imgeval import completions
from imgeval.cli_errors import one_line_errors
from imgeval.report import DEFAULT_THUMBNAILS


@click.command()
@click.argument("run", shell_complete=completions.files)
@click.argument("other", required=False, metavar="[RUN_B]", shell_complete=completions.files)
@click.option(
    "-o", "--output", metavar="FILE", required=True, shell_complete=completions.files, help="The page to write."
)
@click.option(
    "--thumbnails",
    "max_thumbnails",
    metavar="N",
    default=DEFAULT_THUMBNAILS,
    show_default=True,
    type=click.IntRange(min=0),
    help="At most so many pictures, half of the best rows and half of the worst.",
)
@click.option(
    "--images",
    "folders",
    metavar="DIR",
    multiple=True,
    type=click.Path(exists=True, file_okay=False),
    help="Where relative image paths start, for batch's INPUT was a folder; again for RUN_B. Default: beside the run.",
)
@one_line_errors
def report(run: str, other: str | None, output: str, max_thumbnails: int, folders: tuple[str, ...]) -> None:
    """Make a page of RUN, a file that `batch` wrote; with RUN_B the two are compared, prompt by prompt.

    The page is one file that needs no network: a table to sort and filter, pictures of the best and the worst rows, and
    how the values are spread.

    Example: imgeval-client report run.jsonl --images renders -o report.html
    """
    from pathlib import Path

    from imgeval.errors import InvalidInputError
    from imgeval.report import Run, write_report
    from imgeval.run_files import read_run

    if len(folders) > 2:
        raise InvalidInputError("--images", f"got {len(folders)}; allowed: one for RUN and one for RUN_B")
    runs = []
    for index, name in enumerate(filter(None, (run, other))):
        folder = Path(folders[min(index, len(folders) - 1)]) if folders else Path(name).parent
        runs.append(Run.of(Path(name).name, read_run(Path(name)), folder))
    if len(runs) == 2 and runs[0].name == runs[1].name:
        runs = [Run(name, each.rows, each.folder) for name, each in zip((run, str(other)), runs, strict=True)]
    written = write_report(runs[0], output, *runs[1:], max_thumbnails=max_thumbnails)
    click.echo(f"wrote {output} (rows: {written.rows}, pictures: {written.thumbnails})", err=True)

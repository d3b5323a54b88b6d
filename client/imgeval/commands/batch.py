"""`imgeval-client batch`."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from imgeval import completions
from imgeval.cli_errors import INTERRUPTED, one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import echo_json

if TYPE_CHECKING:
    from imgeval.batch import Summary

ALL_FAILED = 2  # exit code of a run in which no row could be scored


@click.command()
@click.argument("source", metavar="INPUT", shell_complete=completions.files)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help=".jsonl, .csv or .parquet"
)
@click.option("--image-column", default="image", show_default=True, help="Of a table.")
@click.option("--prompt-column", default="prompt", show_default=True, help="Of a table.")
@click.option("--prompt-template", metavar="TEXT", help="The prompt of every image; may hold {stem}, {name}, {folder}.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Refuse local files outside of this folder: for a table that somebody else wrote.",
)
@click.option("--concurrency", default=8, show_default=True, type=click.IntRange(min=1), help="Calls at once.")
@click.option(
    "--wait-server",
    "wait_server_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds to wait for a server that is gone.",
)
@click.option("--overwrite", is_flag=True, help="Start anew, and replace OUTPUT at the end.")
@click.option("--retry-errors", is_flag=True, help="Score the rows of OUTPUT again that have an error.")
@with_server_options
@one_line_errors
def batch(
    options: ServerOptions,
    source: str,
    output: Path,
    image_column: str,
    prompt_column: str,
    prompt_template: str | None,
    root: Path | None,
    concurrency: int,
    wait_server_s: float,
    overwrite: bool,
    retry_errors: bool,
) -> None:
    """Score every image and prompt of INPUT into OUTPUT, a row for each.

    INPUT is a folder of images (the prompt of a.png is in a.txt, or in a.json under "prompt"), a .jsonl, .csv or
    .parquet file with the columns image and prompt, or - for JSONL on stdin. An image is a path, relative to INPUT's
    folder, or a URL (http, https, s3, gs, az).

    A run that is interrupted or killed goes on when it is started again with the same arguments. An image that cannot
    be scored is a row with its error; the exit code is 2 only where every row is one.

    Example: imgeval-client batch prompts.csv -o scores.parquet --metrics clip,aesthetic
    """
    from imgeval.batch import NEW, OVERWRITE, RETRY, BatchOptions, run_batch
    from imgeval.inputs import check_metrics
    from imgeval.progress import watching
    from imgeval.remote import Fetcher
    from imgeval.sources import SourceOptions, open_source
    from imgeval.tabular import format_of

    if overwrite and retry_errors:
        raise click.UsageError("--overwrite and --retry-errors exclude each other")
    mode = OVERWRITE if overwrite else RETRY if retry_errors else NEW
    run_options = BatchOptions(check_metrics(options.metrics), concurrency, mode, wait_server_s)
    format_of(output, "OUTPUT")
    fetcher = Fetcher()
    items = open_source(source, SourceOptions(image_column, prompt_column, prompt_template, root), fetcher)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with connect(options) as client, watching() as watcher:
            summary = run_batch(client, items, output, run_options, watcher)
    except KeyboardInterrupt:
        click.echo("interrupted; to go on: the same command again", err=True)
        sys.exit(INTERRUPTED)
    finally:
        fetcher.close()
        signal.signal(signal.SIGTERM, before)
    click.echo(_sentence(summary, output), err=True)
    if options.as_json:
        echo_json({"output": str(output), **asdict(summary)})
    if summary.rows and summary.failed == summary.rows:
        sys.exit(ALL_FAILED)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does."""
    raise KeyboardInterrupt


def _sentence(summary: Summary, output: Path) -> str:
    if summary.complete:
        return f"{output} is complete already; --overwrite starts anew, --retry-errors scores its errors again"
    failed = f", {summary.failed} of them failed (see the column error; --retry-errors)" if summary.failed else ""
    return f"{output}: {summary.rows} rows{failed}"

"""What several commands print, and the exit codes that go with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from imgeval.cli_options import ServerOptions
    from imgeval.compare import Ranking


def echo_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    click.echo(json.dumps(content, ensure_ascii=False))


def show_ranking(ranking: Ranking, of: Literal["image", "prompt"], options: ServerOptions) -> None:
    """Print a ranking in which something could be scored; one line and the exit code for what could not."""
    errors = [row.outcome.error for row in ranking.rows if row.outcome.error]
    if len(errors) < len(ranking.rows):
        if options.as_json:
            echo_json(ranking.to_dict())
        else:
            from imgeval.tables import print_ranking

            print_ranking(ranking, of)
    if errors:
        first = " ".join(str(errors[0]).split())
        click.echo(f"error: {len(errors)} of {len(ranking.rows)} could not be scored: {first}", err=True)
        sys.exit(max(error.exit_code for error in errors))

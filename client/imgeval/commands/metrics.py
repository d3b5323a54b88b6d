"""`imgeval-client metrics`."""

from __future__ import annotations

import click

from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import echo_json


@click.command()
@with_server_options
@one_line_errors
def metrics(options: ServerOptions) -> None:
    """Say what the server serves: models, ranges, direction, licences, whom to cite, and how to get what is missing.

    Example: imgeval-client metrics --url localhost:8001
    """
    from imgeval.inputs import check_metrics

    names = check_metrics(options.metrics)
    with connect(options) as client:
        served = client.metrics().only(names)
    if options.as_json:
        echo_json(served.to_dict())
    else:
        from imgeval.tables import print_served

        print_served(served)

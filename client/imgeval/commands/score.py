"""`imgeval-client score`."""

from __future__ import annotations

import click

from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import echo_json


@click.command()
@click.argument("image")
@click.argument("prompt")
@with_server_options
@one_line_errors
def score(options: ServerOptions, image: str, prompt: str) -> None:
    """Score IMAGE, a file, against PROMPT.

    Without --url the server on localhost:8001 is used if it is ready, else an embedded one that runs already, else one
    is started and left running.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table" --metrics clip,iqa --json
    """
    from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label

    names = check_metrics(options.metrics)
    check_prompt(prompt)
    encoded = encode_image(image)  # before a server is started for it
    with connect(options) as client:
        result = client.score(encoded, prompt, metrics=names, label=image_label(image))
    if options.as_json:
        echo_json(result.to_dict())
    else:
        from imgeval.tables import print_result

        print_result(result)

"""`imgeval-client explain`."""

from __future__ import annotations

import click

from imgeval import completions
from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import echo_json


@click.command()
@click.argument("image", shell_complete=completions.files)
@click.argument("prompt")
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=completions.files,
    help="A page (.html) or a picture (.png); optional with --json.",
)
@with_server_options
@one_line_errors
def explain(options: ServerOptions, image: str, prompt: str, output: str | None) -> None:
    """Say why IMAGE, a file, has its score for PROMPT.

    Shows the segments over the image, how relevant each is to each keyword of the prompt, the keywords that no segment
    matches, and what each metric contributes to the score.

    Example: imgeval-client explain photo.jpg "a cup of coffee on a wooden table" -o why.html
    """
    from imgeval.explanation import check_output
    from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label

    if output is None and not options.as_json:
        raise click.UsageError("Missing option '-o' / '--output'.")
    if output is not None:
        check_output(output)
    names = check_metrics(options.metrics)
    check_prompt(prompt)
    encoded = encode_image(image)  # before a server is started for it
    with connect(options) as client:
        explanation = client.explain(encoded, prompt, metrics=names, label=image_label(image))
    if output is not None:
        explanation.write(output)
        click.echo(f"wrote {output}", err=True)
    if options.as_json:
        echo_json(explanation.to_dict())

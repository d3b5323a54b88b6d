"""`imgeval-client match`."""

from __future__ import annotations

import click

from imgeval import completions
from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import show_ranking


@click.command()
@click.argument("image", shell_complete=completions.files)
@click.argument("prompts", nargs=-1, required=True)
@click.option(
    "--by",
    shell_complete=completions.values,
    default="clip",
    show_default=True,
    help="A metric: then only it is computed; or the score.",
)
@with_server_options
@one_line_errors
def match(options: ServerOptions, image: str, prompts: tuple[str, ...], by: str) -> None:
    """Say which of PROMPTS fits IMAGE, a file: the best comes first.

    The probability is the softmax of 100 x clip: how CLIP, made to choose one of them, divides its belief. The profile
    starter has no CLIP, and its probabilities are a rough guide. A prompt that cannot be scored is a row with its
    error, and the exit code says so.

    Example: imgeval-client match photo.jpg "a cup of coffee" "a cup of tea" "an empty table"
    """
    from imgeval.compare import check_by
    from imgeval.inputs import check_prompt, encode_image, image_label

    names = check_by(by, options.metrics)
    encoded = encode_image(image)
    if not any(map(str.strip, prompts)):
        check_prompt(prompts[0])  # raises
    with connect(options) as client:
        ranking = client.match(encoded, prompts, by=by, metrics=names, label=image_label(image))
    show_ranking(ranking, "prompt", options)

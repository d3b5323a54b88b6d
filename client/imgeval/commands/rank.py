"""`imgeval-client rank`."""

from __future__ import annotations

import os

import click

from imgeval import completions
from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import show_ranking


@click.command()
@click.argument("prompt")
@click.argument("images", shell_complete=completions.files, nargs=-1, required=True)
@click.option(
    "--by",
    shell_complete=completions.values,
    default="score",
    show_default=True,
    help="The score, or a metric: then only it is computed.",
)
@with_server_options
@one_line_errors
def rank(options: ServerOptions, prompt: str, images: tuple[str, ...], by: str) -> None:
    """Rank IMAGES, files, by how good they are for PROMPT: the best comes first.

    The probability is the softmax of 100 x clip: how CLIP, made to choose one of them, divides its belief. The profile
    starter has no CLIP, and its probabilities are a rough guide. A file that cannot be scored is a row with its error,
    and the exit code says so.

    Example: imgeval-client rank "a red car in the snow" seed1.png seed2.png seed3.png
    """
    from imgeval.compare import check_by
    from imgeval.inputs import check_prompt, encode_image

    names = check_by(by, options.metrics)
    check_prompt(prompt)
    if not any(os.path.exists(image) and not os.path.isdir(image) for image in images):
        encode_image(images[0])  # raises, before a server is started for nothing
    with connect(options) as client:
        ranking = client.rank(prompt, images, by=by, metrics=names)
    show_ranking(ranking, "image", options)

"""`imgeval-client`: parses, calls the library, prints, and sets the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from imgeval.cli_errors import Commands, one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options

if TYPE_CHECKING:
    from imgeval.compare import Ranking


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Score generated images: how good they are and how well they match their prompt.

    Without --url the server on localhost:8001 is used if it is ready, else an embedded one that runs already, else one
    is started and left running.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table"
    """


@main.command()
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
        _echo_json(result.to_dict())
    else:
        from imgeval.report import print_result

        print_result(result)


@main.command()
@click.argument("prompt")
@click.argument("images", nargs=-1, required=True)
@click.option("--by", default="score", show_default=True, help="The score, or a metric: then only it is computed.")
@with_server_options
@one_line_errors
def rank(options: ServerOptions, prompt: str, images: tuple[str, ...], by: str) -> None:
    """Rank IMAGES, files, by how good they are for PROMPT: the best comes first.

    The probability is CLIP's if it had to choose one of them: the softmax of 100 x clip. A file that cannot be scored
    is a row with its error, and the exit code says so.

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
    _show(ranking, "image", options)


@main.command()
@click.argument("image")
@click.argument("prompts", nargs=-1, required=True)
@click.option("--by", default="clip", show_default=True, help="A metric: then only it is computed; or the score.")
@with_server_options
@one_line_errors
def match(options: ServerOptions, image: str, prompts: tuple[str, ...], by: str) -> None:
    """Say which of PROMPTS fits IMAGE, a file: the best comes first.

    The probability is CLIP's if it had to choose one of them: the softmax of 100 x clip. A prompt that cannot be scored
    is a row with its error, and the exit code says so.

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
    _show(ranking, "prompt", options)


def _show(ranking: Ranking, of: Literal["image", "prompt"], options: ServerOptions) -> None:
    """Print a ranking in which something could be scored; one line and the exit code for what could not."""
    errors = [row.outcome.error for row in ranking.rows if row.outcome.error]
    if len(errors) < len(ranking.rows):
        if options.as_json:
            _echo_json(ranking.to_dict())
        else:
            from imgeval.report import print_ranking

            print_ranking(ranking, of)
    if errors:
        first = " ".join(str(errors[0]).split())
        click.echo(f"error: {len(errors)} of {len(ranking.rows)} could not be scored: {first}", err=True)
        sys.exit(max(error.exit_code for error in errors))


def _echo_json(content: Mapping[str, Any]) -> None:
    import json

    click.echo(json.dumps(content, ensure_ascii=False))

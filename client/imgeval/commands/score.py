"""`imgeval-client score`."""

from __future__ import annotations

import sys

import click

from imgeval import completions
from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, connect, with_server_options
from imgeval.commands.output import echo_json


@click.command()
@click.argument(
    "pairs", shell_complete=completions.files, nargs=-1, required=True, metavar="IMAGE PROMPT [IMAGE PROMPT]..."
)
@with_server_options
@one_line_errors
def score(options: ServerOptions, pairs: tuple[str, ...]) -> None:
    """Score IMAGE, a file, against PROMPT; of several pairs, each image against the prompt that follows it.

    Without --url the server on localhost:8001 is used if it is ready, else an embedded one that runs already, else one
    is started and left running. Of several pairs, one that cannot be scored is a row with its error, the others are
    scored, and the exit code says so.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table" --metrics clip,iqa --json
    """
    if len(pairs) % 2:
        raise click.UsageError(
            f"got {len(pairs)} arguments; allowed: pairs, IMAGE PROMPT or IMAGE PROMPT IMAGE PROMPT ...",
            click.get_current_context(),
        )
    images, prompts = pairs[::2], pairs[1::2]
    if len(images) == 1:
        _score_one(options, images[0], prompts[0])
    else:
        _score_several(options, images, prompts)


def _score_one(options: ServerOptions, image: str, prompt: str) -> None:
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


def _score_several(options: ServerOptions, images: tuple[str, ...], prompts: tuple[str, ...]) -> None:
    from imgeval.inputs import check_metrics
    from imgeval.many import Outcome

    names = check_metrics(options.metrics)
    _refuse_where_no_pair_is_good(images, prompts)
    outcomes: list[Outcome] = []
    with connect(options) as client:
        for outcome in client.score_many(zip(images, prompts, strict=True), metrics=names):
            outcomes.append(outcome)
            if options.as_json:
                result = outcome.result
                refused = {"image": outcome.image, "prompt": outcome.prompt, "error": str(outcome.error)}
                echo_json(result.to_dict() if result else refused)
    if not options.as_json:
        from imgeval.tables import print_outcomes

        print_outcomes(outcomes)
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if errors:
        first = " ".join(str(errors[0]).split())
        click.echo(f"error: {len(errors)} of {len(outcomes)} could not be scored: {first}", err=True)
        sys.exit(max(error.exit_code for error in errors))


def _refuse_where_no_pair_is_good(images: tuple[str, ...], prompts: tuple[str, ...]) -> None:
    """Raise the first pair's error if none can be sent: before a server is started for nothing."""
    from imgeval.errors import InvalidInputError
    from imgeval.inputs import check_prompt, encode_image

    first: InvalidInputError | None = None
    for image, prompt in zip(images, prompts, strict=True):
        try:
            check_prompt(prompt)
            encode_image(image)
            return
        except InvalidInputError as error:
            first = first or error
    if first:
        raise first

"""`imgeval-client`: parses, calls the library, prints, and sets the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imgeval.cli_errors import Commands, one_line_errors

if TYPE_CHECKING:
    from imgeval.client import Client

READY_TIMEOUT_S = 2.0  # to find out whether the server on the default port is one of ours
IDLE_TIMEOUT_S = 900.0  # of a server that this command starts


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Score generated images: how good they are and how well they match their prompt.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table"
    """


@main.command()
@click.argument("image")
@click.argument("prompt")
@click.option(
    "--url", envvar="IMGEVAL_URL", metavar="HOST:PORT", help="Server; default: a local one, started if there is none."
)
@click.option("--metrics", metavar="A,B", help="Only these metrics; the others cost nothing. Default: all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--profile", envvar="IMGEVAL_PROFILE", help="Of the local server; default: whichever runs, else starter.")
@click.option(
    "--timeout",
    "timeout_s",
    default=60.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Deadline in seconds for the server's answer.",
)
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    default=IDLE_TIMEOUT_S,
    show_default=True,
    envvar="IMGEVAL_IDLE_TIMEOUT",
    type=click.FloatRange(min=0, min_open=True),
    help="A server that this command starts stops after so many seconds without a request.",
)
@one_line_errors
def score(
    image: str,
    prompt: str,
    url: str | None,
    metrics: str | None,
    as_json: bool,
    profile: str | None,
    timeout_s: float,
    idle_timeout_s: float,
) -> None:
    """Score IMAGE, a file, against PROMPT.

    Without --url the server on localhost:8001 is used if it is ready, else an embedded one that runs already, else one
    is started and left running.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table" --metrics clip,iqa --json
    """
    from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label

    names = check_metrics(None if metrics is None else [name for name in map(str.strip, metrics.split(",")) if name])
    check_prompt(prompt)
    encoded = encode_image(image)  # before a server is started for it
    with _connect(url, profile, timeout_s, idle_timeout_s) as client:
        result = client.score(encoded, prompt, metrics=names, label=image_label(image))
    if as_json:
        import json

        click.echo(json.dumps(result.to_dict(), ensure_ascii=False))
    else:
        from imgeval.report import print_result

        print_result(result)


def _connect(url: str | None, profile: str | None, timeout_s: float, idle_timeout_s: float) -> Client:
    from imgeval.client import DEFAULT_URL, Client
    from imgeval.contract import ENSEMBLE
    from imgeval.errors import ServerUnavailableError
    from imgeval.transport import GrpcTransport

    if url:
        return Client(url, timeout_s=timeout_s)
    local = GrpcTransport(DEFAULT_URL)
    try:
        local.check_ready(ENSEMBLE, READY_TIMEOUT_S)
        return Client(transport=local, timeout_s=timeout_s)
    except ServerUnavailableError:
        local.close()
    from imgeval.embedded.launch import DEFAULT_PROFILE, launch
    from imgeval.embedded.server import find

    if there := find(profile=profile):
        return Client(there.url, timeout_s=timeout_s)
    server = launch(
        profile or DEFAULT_PROFILE, idle_timeout_s=idle_timeout_s, progress=lambda line: click.echo(line, err=True)
    )
    return Client(server.url, timeout_s=timeout_s)

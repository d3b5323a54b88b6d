"""The options of every command that asks a server, and the server that they mean."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from imgeval import completions

if TYPE_CHECKING:
    from imgeval.client import Client

READY_TIMEOUT_S = 2.0  # to find out whether the server on the default port is one of ours
IDLE_TIMEOUT_S = 900.0  # of a server that a command starts

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    click.option(
        "--url",
        envvar="IMGEVAL_URL",
        metavar="HOST:PORT",
        help="Server; default: a local one, started if there is none.",
    ),
    click.option(
        "--metrics",
        envvar="IMGEVAL_METRICS",
        metavar="A,B",
        shell_complete=completions.metrics,
        help="Only these metrics; the others cost nothing.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    click.option(
        "--profile",
        envvar="IMGEVAL_PROFILE",
        shell_complete=completions.profiles,
        help="Of the local server; default: whichever runs, else starter.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        envvar="IMGEVAL_TIMEOUT",
        default=60.0,
        show_default=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Deadline in seconds for each of the server's answers.",
    ),
    click.option(
        "--idle-timeout",
        "idle_timeout_s",
        default=IDLE_TIMEOUT_S,
        show_default=True,
        envvar="IMGEVAL_IDLE_TIMEOUT",
        type=click.FloatRange(min=0, min_open=True),
        help="A server that this command starts stops after so many seconds without a request.",
    ),
)


@dataclass(frozen=True)
class ServerOptions:
    """What `with_server_options` parsed. `metrics` are names as typed, not checked; None for the command's default."""

    url: str | None
    metrics: tuple[str, ...] | None
    as_json: bool
    profile: str | None
    timeout_s: float
    idle_timeout_s: float


def with_server_options(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Decorate a click command: it gets the options as one ServerOptions, its first argument."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        own: dict[str, Any] = {name: kwargs.pop(name) for name in ServerOptions.__dataclass_fields__}
        if own["metrics"] is not None:
            own["metrics"] = tuple(name for name in map(str.strip, own["metrics"].split(",")) if name)
        return command(ServerOptions(**own), *args, **kwargs)

    decorated: Callable[P, R] = wrapped
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def connect(options: ServerOptions) -> Client:
    """The server of --url; else the one on the default port, else an embedded one that runs, else a new one."""
    return find(options) or start(options)


def find(options: ServerOptions) -> Client | None:
    """The server of --url, which is not asked yet; else one that is there; None where there is none."""
    from imgeval.client import DEFAULT_URL, Client
    from imgeval.contract import ENSEMBLE
    from imgeval.errors import ServerUnavailableError
    from imgeval.transport import GrpcTransport

    if options.url:
        return Client(options.url, timeout_s=options.timeout_s)
    local = GrpcTransport(DEFAULT_URL)
    try:
        local.check_ready(ENSEMBLE, READY_TIMEOUT_S)
        return Client(transport=local, timeout_s=options.timeout_s)
    except ServerUnavailableError:
        local.close()
    from imgeval.embedded import server

    there = server.find(profile=options.profile)
    return Client(there.url, timeout_s=options.timeout_s) if there else None


def start(options: ServerOptions) -> Client:
    """A new embedded server, which is left running."""
    from imgeval.client import Client
    from imgeval.embedded.launch import DEFAULT_PROFILE, launch

    server = launch(
        options.profile or DEFAULT_PROFILE,
        idle_timeout_s=options.idle_timeout_s,
        progress=lambda line: click.echo(line, err=True),
    )
    return Client(server.url, timeout_s=options.timeout_s)

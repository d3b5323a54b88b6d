"""The options of every command that asks a server, and the server that they mean."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, get_args

import click
from click.core import ParameterSource

from imgeval import completions
from imgeval.connection import DEFAULT_TIMEOUT_S, Compression, Connection

if TYPE_CHECKING:
    from imgeval.client import Client

READY_TIMEOUT_S = 2.0  # to find out whether the server on the default port is one of ours
IDLE_TIMEOUT_S = 900.0  # of a server that a command starts

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = (
    click.option(
        "--url",
        multiple=True,
        envvar="IMGEVAL_URL",
        metavar="HOST:PORT",
        callback=lambda context, option, values: ",".join(values) or None,
        help="Server, or several: repeated, or with commas; default: a local one, started if there is none.",
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
        default=DEFAULT_TIMEOUT_S,
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

_FILE = click.Path(dir_okay=False)
# Arguments of `Connection`, by their names. A token is none of them: everybody on a machine can read command lines.
_CONNECTION_OPTIONS = (
    click.option("--tls", is_flag=True, envvar="IMGEVAL_TLS", help="Encrypt; any certificate turns it on."),
    click.option("--ca-cert", type=_FILE, envvar="IMGEVAL_CA_CERT", help="PEM root certificates to trust."),
    click.option("--client-cert", type=_FILE, envvar="IMGEVAL_CLIENT_CERT", help="PEM certificate of this client."),
    click.option("--client-key", type=_FILE, envvar="IMGEVAL_CLIENT_KEY", help="PEM key of this client."),
    click.option("--server-name", envvar="IMGEVAL_SERVER_NAME", help="In the server's certificate, if not its host."),
    click.option(
        "--token-file",
        type=_FILE,
        envvar="IMGEVAL_TOKEN_FILE",
        help="Holds the authorization header's value, or a bearer token; or the variable IMGEVAL_TOKEN does.",
    ),
    click.option(
        "--compression",
        type=click.Choice(get_args(Compression)),
        default="none",
        show_default=True,
        envvar="IMGEVAL_COMPRESSION",
        help="Of what is sent.",
    ),
    click.option(
        "--shared-memory",
        is_flag=True,
        envvar="IMGEVAL_SHARED_MEMORY",
        help="Send images through memory that a server on this machine reads.",
    ),
    click.option(
        "--max-attempts",
        type=int,
        default=Connection.max_attempts,
        show_default=True,
        envvar="IMGEVAL_MAX_ATTEMPTS",
        help="How often to ask while no server answers.",
    ),
)
_CONNECTION = tuple(name for name in Connection.__dataclass_fields__ if name not in ("urls", "token"))


@dataclass(frozen=True)
class ServerOptions:
    """What `with_server_options` parsed. `metrics` are names as typed, not checked; None for the command's default.

    `connection` makes the Connection to an address; it raises InvalidInputError for options that are not allowed.
    """

    url: str | None
    connection: functools.partial[Connection]
    metrics: tuple[str, ...] | None
    as_json: bool
    profile: str | None
    timeout_s: float
    idle_timeout_s: float


def with_server_options(command: Callable[Concatenate[ServerOptions, P], R]) -> Callable[P, R]:
    """Decorate a click command: it gets the options as one ServerOptions, its first argument."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        how: dict[str, Any] = {name: kwargs.pop(name) for name in _CONNECTION}
        token = os.environ.get("IMGEVAL_TOKEN") or None
        source = click.get_current_context().get_parameter_source("token_file")
        if token and source is ParameterSource.DEFAULT_MAP:  # the environment stands above the file
            how["token_file"] = None
        if how["token_file"] is None:
            how["token"] = token
        own: dict[str, Any] = {
            name: kwargs.pop(name) for name in ServerOptions.__dataclass_fields__ if name != "connection"
        }
        own["connection"] = functools.partial(Connection, **how)
        if own["metrics"] is not None:
            own["metrics"] = tuple(name for name in map(str.strip, own["metrics"].split(",")) if name)
        return command(ServerOptions(**own), *args, **kwargs)

    decorated: Callable[P, R] = wrapped
    for option in reversed(_OPTIONS + _CONNECTION_OPTIONS):
        decorated = option(decorated)
    return decorated


def connect(options: ServerOptions) -> Client:
    """The server of --url; else the one on the default port, else an embedded one that runs, else a new one."""
    return find(options) or start(options)


def find(options: ServerOptions) -> Client | None:
    """The server of --url, which is not asked yet; else one that is there; None where there is none."""
    if options.url:
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes about handshakes to stderr, and errors are one line
    from imgeval.client import DEFAULT_URL, Client
    from imgeval.contract import ENSEMBLE
    from imgeval.errors import InvalidInputError, ServerUnavailableError
    from imgeval.transport import GrpcTransport

    if options.url:
        return Client(options.connection(options.url), timeout_s=options.timeout_s)
    connection = options.connection(DEFAULT_URL)
    if connection.secure or connection.has_token:
        raise InvalidInputError("url", "got none beside TLS or a token; allowed: --url of the server that they are for")
    local = GrpcTransport(connection)
    try:
        local.check_ready(ENSEMBLE, READY_TIMEOUT_S)
        return Client(transport=local, timeout_s=options.timeout_s)
    except ServerUnavailableError:
        local.close()
    from imgeval.embedded import server

    there = server.find(profile=options.profile)
    return Client(options.connection(there.url), timeout_s=options.timeout_s) if there else None


def start(options: ServerOptions) -> Client:
    """A new embedded server, which is left running."""
    from imgeval.client import Client
    from imgeval.embedded.launch import DEFAULT_PROFILE, launch

    server = launch(
        options.profile or DEFAULT_PROFILE,
        idle_timeout_s=options.idle_timeout_s,
        progress=lambda line: click.echo(line, err=True),
    )
    return Client(options.connection(server.url), timeout_s=options.timeout_s)

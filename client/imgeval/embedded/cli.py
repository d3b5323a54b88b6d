"""`imgeval-server`: the embedded server's commands. Parses, calls, prints."""

from __future__ import annotations

import time

import click

from imgeval.cli_errors import Commands, one_line_errors


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Run imgeval's Triton server on this machine (127.0.0.1 only).

    Example: imgeval-server start --port 9001
    """


@main.command()
@click.option("--profile", default="starter", show_default=True, envvar="IMGEVAL_PROFILE", help="What to serve.")
@click.option("--port", type=click.IntRange(1, 65535), help="gRPC port; default: 8001, or a free one if that is taken.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Loopback only; anything else is refused.")
@click.option(
    "--idle-timeout",
    "idle_timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after so many seconds without a request; default: never.",
)
@one_line_errors
def start(profile: str, port: int | None, host: str, idle_timeout_s: float | None) -> None:
    """Start a server and wait for its first answer. One that runs already is left alone.

    Example: imgeval-server start --profile starter
    """
    from imgeval.embedded.launch import launch

    server = launch(
        profile,
        port=port,
        host=host,
        idle_timeout_s=idle_timeout_s,
        progress=lambda line: click.echo(line, err=True),
    )
    click.echo(f"ready: gRPC {server.url}, HTTP port {server.http_port}, profile {server.profile}, log {server.log}")


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="gRPC port of the server to stop; default: all.")
@one_line_errors
def stop(port: int | None) -> None:
    """Stop servers; returns when all their processes are gone.

    Example: imgeval-server stop --port 8001
    """
    from imgeval.embedded import server

    servers = [each for each in server.running() if port in (None, each.port)]
    for each in servers:
        server.stop(each)
        click.echo(f"stopped: {each.url}")
    if not servers:
        click.echo("no embedded server is running" + (f" on port {port}" if port else ""))


@main.command()
@one_line_errors
def status() -> None:
    """List the servers; each is asked to score a real image. Exit code 3 if one does not answer, or none runs.

    Example: imgeval-server status
    """
    from imgeval.embedded import server
    from imgeval.errors import ImgevalError, ServerUnavailableError
    from imgeval.probe import probe

    servers, silent = server.running(), 0
    for each in servers:
        start = time.perf_counter()
        try:
            probe(each.url, timeout_s=30)
            health = f"answers in {(time.perf_counter() - start) * 1e3:.0f} ms"
        except ImgevalError as error:
            silent += 1
            health = f"DOES NOT ANSWER: {error}"
        idle = f"{each.idle_timeout_s:.0f} s" if each.idle_timeout_s else "never"
        up_s = time.time() - each.started_at
        click.echo(
            f"{each.url}  profile {each.profile}  pid {each.pid}  up {up_s:.0f} s  stops when idle: {idle}  {health}\n"
            f"  HTTP port {each.http_port}, metrics port {each.metrics_port}, log {each.log}"
        )
    if not servers:
        raise ServerUnavailableError("no embedded server is running; start one with: imgeval-server start")
    if silent:
        raise ServerUnavailableError(
            f"{silent} of {len(servers)} servers do not answer; restart with: imgeval-server stop"
        )


@main.command()
@click.option("--port", type=click.IntRange(1, 65535), help="gRPC port; default: the server started last.")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(min=1), help="How many lines.")
@one_line_errors
def logs(port: int | None, lines: int) -> None:
    """Print the end of a server's log, also after it has ended.

    Example: imgeval-server logs --lines 200
    """
    from collections import deque

    from imgeval.embedded import paths
    from imgeval.errors import ServerUnavailableError

    found = sorted(paths.servers().glob(f"{port or '*'}/log.txt"), key=lambda log: log.stat().st_mtime)
    if not found:
        raise ServerUnavailableError("no embedded server has run here" + (f" on port {port}" if port else ""))
    with found[-1].open(encoding="utf-8", errors="replace") as log:
        for line in deque(log, maxlen=lines):
            click.echo(line, nl=False)

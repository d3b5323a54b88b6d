"""`imgeval-client doctor`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from imgeval.cli_errors import one_line_errors
from imgeval.cli_options import ServerOptions, find, with_server_options
from imgeval.cli_options import start as start_server
from imgeval.commands.output import echo_json

if TYPE_CHECKING:
    from imgeval.doctor.check import Check

SOURCES = {"COMMANDLINE": "flag", "ENVIRONMENT": "environment", "DEFAULT_MAP": "file"}  # as click calls them
FAILED = 3  # as for a server that is not there: something that a result needs is missing


@click.command()
@click.option("--start", is_flag=True, help="Start a server if there is none; without this, none is started.")
@with_server_options
@click.pass_context
@one_line_errors
def doctor(context: click.Context, options: ServerOptions, start: bool) -> None:
    """Check everything between you and a result, and say what to do: versions, server, one inference per metric ...

    "warn" is what a result can be had with, "fail" what keeps it away: then the exit code is 3.

    Example: imgeval-client doctor --url localhost:8001
    """
    from imgeval.inputs import check_metrics

    names = check_metrics(options.metrics)
    checks = []
    for check in _checks(context, options, names, start):
        checks.append(check)
        if not options.as_json:
            from imgeval.tables import print_check

            print_check(check)
    failed = sum(check.state == "fail" for check in checks)
    if options.as_json:
        echo_json({"ok": not failed, "checks": [check.to_dict() for check in checks]})
    if failed:
        click.echo(f"error: {failed} of {len(checks)} checks failed", err=True)
        sys.exit(FAILED)


def _checks(context: click.Context, options: ServerOptions, names: tuple[str, ...], start: bool) -> Iterator[Check]:
    """This machine, then what is in force, then the server."""
    from imgeval.client import DEFAULT_URL
    from imgeval.doctor import machine
    from imgeval.doctor.check import Check, run
    from imgeval.doctor.server import START_ADVICE, ServerChecks
    from imgeval.errors import ImgevalError

    group = context.find_root().command
    commands = {}
    if isinstance(group, click.Group):
        commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    known = {name: command for name, command in commands.items() if command}
    yield from run((*machine.CHECKS, partial(machine.configuration, known)))
    yield Check("options", "ok", ", ".join(_in_force(context, options)))
    try:
        client = find(options) or (start_server(options) if start else None)
    except ImgevalError as error:
        yield Check("server", "fail", str(error), START_ADVICE)
        return
    yield from run((partial(machine.proxies, client.url if client else DEFAULT_URL),))
    if client is None:
        yield Check("server", "fail", f"none at {DEFAULT_URL}, and no embedded one runs", START_ADVICE)
        return
    with client:
        yield from ServerChecks(client, options.timeout_s, names).run()


def _in_force(context: click.Context, options: ServerOptions) -> Iterator[str]:
    """Each option of the server, its value, and where that came from."""
    how: dict[str, Any] = options.connection.keywords
    for name, value in (
        ("url", options.url or "a local server"),
        ("profile", options.profile or "any"),
        ("metrics", ",".join(options.metrics or ["all"])),
        ("timeout_s", f"{options.timeout_s:g} s"),
        ("idle_timeout_s", f"{options.idle_timeout_s:g} s"),
        *((name, str(each)) for name, each in how.items() if name != "token" and each not in (None, False)),
    ):
        source = context.get_parameter_source(name)
        said = SOURCES.get(source.name if source else "", "default")
        yield f"{name.removesuffix('_s')} {value} ({said})"

"""`imgeval-client`: the group of its commands. Each is a file in `commands/`, imported when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import click

from imgeval import config
from imgeval.cli_errors import Commands
from imgeval.errors import InvalidInputError

COMMANDS = (  # in the order of --help; each is the function of that name in its file
    "score",
    "rank",
    "match",
    "batch",
    "explain",
    "report",
    "compare",
    "metrics",
    "doctor",
    "completion",
)
WITHOUT_CONFIG = ("doctor", "completion")  # that work where the configuration file is broken


class ClientCommands(Commands):
    """Finds a command in the file that has its name: what is not used is not imported."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"imgeval.commands.{name}"), name)
        for key, option in config.options_of(command).items():
            option.envvar = option.envvar or config.variable(name, key)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the values of the configuration file below those of environment and flags."""
        name, command, rest = super().resolve_command(context, args)
        if name and command and not context.resilient_parsing and not _asks_for_help(rest):
            try:
                file = config.path()
                values = config.defaults(config.read(file), file, name, COMMANDS, config.options_of(command))
            except InvalidInputError as error:
                if name not in WITHOUT_CONFIG:
                    raise click.UsageError(str(error)) from error
            else:
                context.default_map = {name: values}
        return name, command, rest


def _asks_for_help(args: Sequence[str]) -> bool:
    """Whether help is all that is wanted, which a broken file must not keep away."""
    flags = args[: args.index("--")] if "--" in args else args
    return "--help" in flags or "-h" in flags


@click.group(cls=ClientCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Score generated images: how good they are and how well they match their prompt.

    Without --url the server on localhost:8001 is used if it is ready, else an embedded one that runs already, else one
    is started and left running. Options come from flags, else environment variables, else the configuration file:
    --timeout is IMGEVAL_TIMEOUT and timeout, `rank --by` IMGEVAL_RANK_BY and by in [rank]; `doctor` shows them.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table"
    """

"""`imgeval-client`: the group of its commands. Each is a file in `commands/`, imported when it is used."""

from __future__ import annotations

import importlib

import click

from imgeval.cli_errors import Commands

COMMANDS = ("score", "rank", "match", "batch")  # in the order of --help; each is the function of that name in its file


class ClientCommands(Commands):
    """Finds a command in the file that has its name: what is not used is not imported."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"imgeval.commands.{name}"), name)
        return command


@click.group(cls=ClientCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Score generated images: how good they are and how well they match their prompt.

    Without --url the server on localhost:8001 is used if it is ready, else an embedded one that runs already, else one
    is started and left running.

    Example: imgeval-client score photo.jpg "a cup of coffee on a wooden table"
    """

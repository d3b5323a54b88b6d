"""The command line of the benchmarks."""

from __future__ import annotations

import importlib

import click

NAMES = (
    "batch-memory",
    "decode",
    "gpu",
    "limit",
    "overhead",
    "repeat",
    "scale",
    "start",
    "stream",
    "upstream",
    "where",
)


class Benchmarks(click.Group):
    """Each benchmark is the command of the module of its name, with _ for -."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in NAMES:
            return None
        command: click.Command = importlib.import_module(f"benchmarks.{name.replace('-', '_')}").command
        return command


@click.group(cls=Benchmarks, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Measure imgeval on this machine.

    Example: python -m benchmarks overhead --profile starter
    """


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")

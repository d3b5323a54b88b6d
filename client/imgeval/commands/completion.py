"""`imgeval-client completion`."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from imgeval.cli_errors import one_line_errors

PROGRAM = "imgeval-client"
SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
VARIABLE = "_IMGEVAL_CLIENT_COMPLETE"  # by which the script asks the program, as click names it


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
@one_line_errors
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, metrics, profiles and files in SHELL.

    \b
    bash: put  eval "$(imgeval-client completion bash)"  into ~/.bashrc
    zsh:  put  eval "$(imgeval-client completion zsh)"  into ~/.zshrc
    fish: imgeval-client completion fish > ~/.config/fish/completions/imgeval-client.fish

    Example: eval "$(imgeval-client completion bash)"
    """
    script = SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE)
    click.echo(script.source())

"""How every command ends: a typed error becomes one line on stderr and its exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import click

from imgeval.config import origin
from imgeval.errors import BuildError, ImgevalError, InvalidInputError, install_hint

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class Commands(click.Group):
    """A group of commands whose usage errors are one line too."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.pop("standalone_mode", True):
            return super().main(*args, standalone_mode=False, **kwargs)  # type: ignore[call-overload]
        try:
            sys.exit(super().main(*args, standalone_mode=False, **kwargs))  # type: ignore[call-overload]
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = error.ctx if isinstance(error, click.UsageError) else None
            hint = f" (see {context.command_path} --help)" if context else ""
            parameter = error.param if isinstance(error, click.BadParameter) else None
            where = origin(context, parameter.name or "") if context and parameter else ""
            click.echo(f"error: {where}{' '.join(error.format_message().split())}{hint}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a click command: ImgevalError -> `error: ...` and its exit code; Ctrl-C -> 130."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ImgevalError as error:
            context = click.get_current_context(silent=True)
            where = origin(context, error.field) if context and isinstance(error, InvalidInputError) else ""
            click.echo(f"error: {where}" + " ".join(str(error).split()), err=True)
            sys.exit(error.exit_code)
        except ImportError as error:  # a command of an extra, in an install without it
            click.echo(f"error: {error}; {install_hint('embedded')}", err=True)
            sys.exit(BuildError.exit_code)
        except OSError as error:  # a disk that is full, a folder that cannot be written
            click.echo("error: " + " ".join(str(error).split()), err=True)
            sys.exit(BuildError.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)

    return wrapped

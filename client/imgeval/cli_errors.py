"""How every command ends: a typed error becomes one line on stderr and its exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import click

from imgeval.errors import ImgevalError

P = ParamSpec("P")
R = TypeVar("R")

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Decorate a click command: ImgevalError -> `error: ...` and its exit code; Ctrl-C -> 130."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except ImgevalError as error:
            click.echo("error: " + " ".join(str(error).split()), err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)

    return wrapped

"""The user's settings: a TOML file, below environment variables and flags, above the defaults.

    url = "gpu-server:8001"        # options of every command that has them
    timeout = 120

    [rank]                         # options of one command
    by = "clip"

A key is the name of a flag without its dashes. The file is `IMGEVAL_CONFIG`, else `imgeval/config.toml` in the user's
configuration folder. Its values go the same way as those of flags, and are checked by the same rules.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from imgeval.errors import InvalidInputError

VARIABLE = "IMGEVAL_CONFIG"
SHARED = (
    "url",
    "metrics",
    "profile",
    "timeout",
    "idle-timeout",
    "tls",
    "ca-cert",
    "client-cert",
    "client-key",
    "server-name",
    "token-file",
    "compression",
    "shared-memory",
    "max-attempts",
)  # that may stand above the tables


def path() -> Path:
    """Where the file is, or would be."""
    if configured := os.environ.get(VARIABLE):
        return Path(configured).expanduser()
    folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))  # the specification says to ignore a relative one
    return (folder if folder.is_absolute() else Path.home() / ".config") / "imgeval" / "config.toml"


def read(file: Path) -> dict[str, Any]:
    """What stands in a configuration file; nothing where there is no file, unless `IMGEVAL_CONFIG` names it.

    Raises:
        InvalidInputError: it cannot be read, or is no TOML.
    """
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # the same, by name
    try:
        content: dict[str, Any] = toml.loads(file.read_text(encoding="utf-8"))
        return content
    except FileNotFoundError:
        if os.environ.get(VARIABLE):
            raise InvalidInputError(VARIABLE, f"{file} does not exist") from None
        return {}
    except OSError as error:
        raise InvalidInputError(str(file), f"cannot be read: {error.strerror}") from error
    except ValueError as error:  # no UTF-8, no TOML
        raise InvalidInputError(str(file), f"no TOML: {error}") from error


def defaults(
    content: Mapping[str, Any], file: Path, command: str, commands: Collection[str], options: Mapping[str, click.Option]
) -> dict[str, Any]:
    """The values for one command, by the names of its parameters, as click's `default_map` takes them.

    Args:
        content: of the file.
        file: named in errors.
        command: whose values are wanted; its table stands above the shared keys.
        commands: all there are: a key of the file is one of these, a table, or one of `SHARED`.
        options: of the command, by key.

    Raises:
        InvalidInputError: an unknown key, or a value of a type that its option never has; file and key are named.
    """
    tables = {key: value for key, value in content.items() if key in commands and isinstance(value, dict)}
    shared = {key: value for key, value in content.items() if key not in tables}
    for key, value in shared.items():  # `metrics` is an option, and as a table the command of that name
        if key in commands and key not in SHARED:
            raise InvalidInputError(str(file), f"{key}: got {value!r}; allowed: a table, [{key}]")
        if key not in SHARED:
            allowed = ", ".join(dict.fromkeys((*SHARED, *commands)))
            raise InvalidInputError(str(file), f"unknown key {key!r}; allowed: {allowed}")
    own = tables.get(command, {})
    if unknown := [key for key in own if key not in options]:
        allowed = ", ".join(options) or "none"
        raise InvalidInputError(str(file), f"unknown key {unknown[0]!r} in [{command}]; allowed: {allowed}")
    given = {key: (key, value) for key, value in shared.items() if key in options}
    given |= {key: (f"{command}.{key}", own[key]) for key in own}
    return {
        option.name: _value(f"{file}: {name}", option, value)
        for key, (name, value) in given.items()
        if (option := options[key]).name
    }


def options_of(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by the keys that the file calls them by: their long flags without dashes."""
    found = {}
    for option in command.params:
        flag = max(option.opts, key=len)
        if isinstance(option, click.Option) and flag.startswith("--"):
            found[flag.removeprefix("--")] = option
    return found


def variable(command: str, key: str) -> str:
    """The environment variable of an option that has no shorter one."""
    return f"IMGEVAL_{command}_{key}".replace("-", "_").upper()


def origin(context: click.Context, name: str) -> str:
    """What to say before an error about the parameter or flag `name`: the file, if its value came from there."""
    source = context.get_parameter_source(name.lstrip("-").replace("-", "_"))
    return f"{path()}: " if source is ParameterSource.DEFAULT_MAP else ""


def _value(where: str, option: click.Option, value: Any) -> Any:
    """A value as flags give it: `metrics = ["clip", "iqa"]` is "clip,iqa", and of an option that repeats, a list."""
    if isinstance(value, list) and option.name == "metrics":
        value = ",".join(map(str, value))
    if option.multiple and isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    if option.is_flag:
        allowed, fits = "true or false", isinstance(value, bool)
    else:
        allowed, fits = "text or a number", isinstance(value, (str, int, float)) and not isinstance(value, bool)
        if isinstance(option.type, click.types.IntParamType) and isinstance(value, float):
            allowed, fits = "a whole number", False
    if not fits:
        raise InvalidInputError(where, f"got {value!r}; allowed: {allowed}")
    return [value] if option.multiple else value

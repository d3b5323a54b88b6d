"""The configuration file: its place, its order below environment and flags, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from imgeval import cli, cli_options, config
from imgeval.cli import main
from imgeval.cli_options import ServerOptions
from imgeval.connection import Connection


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMGEVAL_CONFIG", str(tmp_path / "mine.toml"))
    for name in ("IMGEVAL_URL", "IMGEVAL_PROFILE", "IMGEVAL_METRICS", "IMGEVAL_TIMEOUT", "IMGEVAL_IDLE_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "mine.toml"


class Connected(Exception):
    """What the command would have asked the server with."""

    def __init__(self, options: ServerOptions) -> None:
        self.options = options


@pytest.fixture
def in_force(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `rank` up to where it would connect: its options."""
    (tmp_path / "a.png").write_bytes(b"not empty")

    def connect(options: ServerOptions) -> None:
        raise Connected(options)

    from imgeval.commands import rank

    monkeypatch.setattr(rank, "connect", connect)

    def run(*arguments: str) -> ServerOptions:
        result = CliRunner().invoke(main, ["rank", "a dog", str(tmp_path / "a.png"), *arguments])
        assert isinstance(result.exception, Connected), result.stderr
        return result.exception.options

    return run


def ended(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


# --- order -----------------------------------------------------------------------------------------------------------
def test_flag_then_environment_then_file_then_default(
    file: Path, in_force: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("")
    assert in_force().timeout_s == 60
    file.write_text('url = "a:1"\ntimeout = 7\nidle-timeout = 9.5\nprofile = "cpu"\nmetrics = ["clip", "iqa"]\n')
    given = in_force()
    assert given.connection("b:1") == Connection("b:1")
    assert given == ServerOptions("a:1", given.connection, ("clip", "iqa"), False, "cpu", 7.0, 9.5)
    file.write_text('url = ["a:1", "b:1"]\nca-cert = "ca.pem"\nmax-attempts = 2\ntls = true\n')
    given = in_force()
    assert given.url == "a:1,b:1"
    assert given.connection("c:1") == Connection("c:1", tls=True, ca_cert="ca.pem", max_attempts=2)
    file.write_text('timeout = 7\nmetrics = "clip"\n[rank]\ntimeout = 8\njson = true\n[match]\ntimeout = 9\n')
    assert (in_force().timeout_s, in_force().as_json, in_force().metrics) == (8, True, ("clip",))
    monkeypatch.setenv("IMGEVAL_TIMEOUT", "11")
    monkeypatch.setenv("IMGEVAL_RANK_JSON", "0")
    assert (in_force().timeout_s, in_force().as_json) == (11, False)
    assert (in_force("--timeout", "12").timeout_s, in_force("--json").as_json) == (12, True)
    monkeypatch.setenv("IMGEVAL_TIMEOUT", "")
    assert in_force().timeout_s == 8, "an empty variable is none"


def test_every_option_has_a_variable_and_a_key() -> None:
    context = click.Context(main)
    for name in cli.COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        for key, option in config.options_of(command).items():
            assert f"--{key}" in option.opts
            assert str(option.envvar).startswith("IMGEVAL_"), (name, key)
    rank = main.get_command(context, "rank")
    assert rank is not None
    assert config.options_of(rank)["by"].envvar == "IMGEVAL_RANK_BY"
    assert config.options_of(rank)["idle-timeout"].envvar == "IMGEVAL_IDLE_TIMEOUT"
    shared = {
        key
        for option in (*cli_options._OPTIONS, *cli_options._CONNECTION_OPTIONS)
        for key in config.options_of(click.Command("x", params=[made(option)]))
    }
    assert shared == {*config.SHARED, "json"}


def made(decorator: Any) -> click.Parameter:
    @decorator
    def function() -> None: ...

    (parameter,) = function.__click_params__  # type: ignore[attr-defined]
    assert isinstance(parameter, click.Parameter)
    return parameter


def test_metrics_is_an_option_and_a_table(file: Path) -> None:
    file.write_text('[metrics]\nurl = "nonsense"\n')
    assert ended("metrics")[2].startswith(f"error: {file}: url: got 'nonsense'")
    file.write_text('metrics = "beauty"\n')
    assert ended("metrics")[2].startswith(f"error: {file}: metrics: got beauty")


def test_options_that_repeat(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    runs = (tmp_path / "a.jsonl", tmp_path / "a.jsonl")
    for text in ('fail-below = "clip"', 'fail-below = ["clip"]'):
        file.write_text(f"[compare]\n{text}\n")
        code, _, err = ended("compare", *runs)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"error: {file}: --fail-below: got 'clip'; allowed: NAME=VALUE")


# --- place -----------------------------------------------------------------------------------------------------------
def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("IMGEVAL_CONFIG", raising=False)
    for folder in ("", "relative"):
        monkeypatch.setenv("XDG_CONFIG_HOME", folder)
        assert config.path() == tmp_path / ".config" / "imgeval" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert config.path() == tmp_path / "xdg" / "imgeval" / "config.toml"
    assert config.read(config.path()) == {}, "there need not be one"
    monkeypatch.setenv("IMGEVAL_CONFIG", "~/mine.toml")
    assert config.path() == tmp_path / "mine.toml"


def test_a_file_that_is_named_must_be_there(file: Path) -> None:
    assert ended("rank", "a dog", "a.png") == (2, "", f"error: IMGEVAL_CONFIG: {file} does not exist\n")


# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("url = ", "FILE: no TOML: "),
        (
            "colour = 1",
            "FILE: unknown key 'colour'; allowed: url, metrics, profile, timeout, idle-timeout, tls, ca-cert",
        ),
        ("json = true", "FILE: unknown key 'json'"),
        ("[rank]\ncolour = 1", "FILE: unknown key 'colour' in [rank]; allowed: by, url, metrics, json, profile"),
        ("rank = 1", "FILE: rank: got 1; allowed: a table, [rank]"),
        ("timeout = true", "FILE: timeout: got True; allowed: text or a number"),
        ("timeout = [1]", "FILE: timeout: got [1]; allowed: text or a number"),
        ("[rank]\njson = 1", "FILE: rank.json: got 1; allowed: true or false"),
        ("url = {a = 1}", "FILE: url: got {'a': 1}; allowed: text or a number"),
        ("timeout = 'soon'", "FILE: Invalid value for '--timeout': 'soon' is not a valid float"),
        ("timeout = 0", "FILE: Invalid value for '--timeout': 0.0 is not in the range x>0"),
        ("metrics = ['beauty']", "FILE: metrics: got beauty; allowed: "),
        ("[rank]\nby = 'beauty'", "FILE: by: got beauty; allowed: score, "),
        ("url = 'nonsense'", "FILE: url: got 'nonsense'; allowed: HOST:PORT"),
    ],
)
def test_bad_files_are_one_line_with_file_and_key(file: Path, tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "a.png").write_bytes(b"not empty")
    file.write_text(text)
    code, out, err = ended("rank", "a dog", tmp_path / "a.png")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("error: " + problem.replace("FILE", str(file))), err


def test_bytes_that_are_not_utf8_and_a_folder(file: Path) -> None:
    file.write_bytes(b"url = '\xe9'")
    assert ended("rank", "a", "b")[2].startswith(f"error: {file}: no TOML: ")
    file.unlink()
    file.mkdir()
    assert ended("rank", "a", "b") == (2, "", f"error: {file}: cannot be read: Is a directory\n")


def test_an_error_of_a_flag_does_not_blame_the_file(file: Path) -> None:
    file.write_text("timeout = 7")
    code, _, err = ended("rank", "a", "b", "--timeout", "0")
    assert (code, err.startswith("error: Invalid value for '--timeout'")) == (2, True)


def test_a_broken_file_does_not_keep_help_and_completion_away(file: Path) -> None:
    file.write_text("broken")
    assert ended("rank", "--help")[0] == 0
    assert ended("completion", "bash")[0] == 0
    assert ended("rank", "-h", "--", "--help")[0] == 0
    assert ended("rank", "--", "a", "--help")[0] == 2

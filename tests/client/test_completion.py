"""Completion: the scripts, and what they offer, asked in the way that a shell asks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner

from imgeval.cli import COMMANDS, main
from imgeval.commands.completion import SHELLS, VARIABLE
from imgeval.contract import METRIC_NAMES
from imgeval_export import profiles
from tests.conftest import Run


def offered(*words: str) -> list[str]:
    """What is offered for the last of these words."""
    *before, last = words
    return [item.value for item in BashComplete(main, {}, "imgeval-client", VARIABLE).get_completions(before, last)]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("sc",), ["score"]),
        (("",), list(COMMANDS)),
        (("score", "--metrics", ""), list(METRIC_NAMES)),
        (("score", "--metrics", "qal"), ["qalign_quality", "qalign_aesthetic"]),
        (
            ("score", "--metrics", "clip,sam_clip,"),
            [f"clip,sam_clip,{name}" for name in METRIC_NAMES if "clip" not in name],
        ),
        (("rank", "--by", "s"), ["score", "sam_clip"]),
        (("match", "--by", "i"), ["iqa"]),
        (("score", "--profile", ""), list(profiles.NAMES)),
        (("metrics", "--pro"), ["--profile"]),
        (("completion", ""), ["bash", "zsh", "fish"]),
    ],
)
def test_what_is_offered(words: tuple[str, ...], values: list[str]) -> None:
    assert offered(*words) == values


@pytest.mark.parametrize("words", [("score", "a"), ("match", "a"), ("rank", "a dog", "a"), ("compare", "a")])
def test_files_are_left_to_the_shell(words: tuple[str, ...]) -> None:
    *before, last = words
    items = BashComplete(main, {}, "imgeval-client", VARIABLE).get_completions(before, last)
    assert [(item.value, item.type) for item in items] == [("a", "file")]


@pytest.mark.parametrize("shell", list(SHELLS))
def test_the_scripts(run: Run, shell: str, tmp_path: Path) -> None:
    ended = run("imgeval-client", "completion", shell)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"imgeval-client" in ended.stdout
    assert VARIABLE.encode() in ended.stdout
    (tmp_path / "script").write_bytes(ended.stdout)
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n", tmp_path / "script"], capture_output=True).returncode == 0


def test_the_program_answers_the_bash_script(run: Run) -> None:
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": "imgeval-client score --metrics ae", "COMP_CWORD": "3"}
    ended = run("imgeval-client", env=asked)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"plain,aesthetic\n", b"")


def test_a_broken_configuration_file_offers_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.toml").write_text("broken")
    monkeypatch.setenv("IMGEVAL_CONFIG", str(tmp_path / "broken.toml"))
    assert offered("score", "--metrics", "ae") == ["aesthetic"]


def test_other_shells_are_refused() -> None:
    result = CliRunner().invoke(main, ["completion", "tcsh"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)


def commands() -> list[tuple[str, click.Group, str]]:
    from imgeval.embedded.cli import main as server
    from imgeval_export.cli import main as export

    groups = {"imgeval-client": main, "imgeval-server": server, "imgeval-export": export}
    return [
        (program, group, name)
        for program, group in groups.items()
        for name in group.list_commands(click.Context(group))
    ]


@pytest.mark.parametrize(
    ("program", "group", "name"), commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_help_has_an_example(program: str, group: click.Group, name: str) -> None:
    result = CliRunner().invoke(group, [name, "--help"])
    assert result.exit_code == 0
    (example,) = [line for line in result.stdout.splitlines() if "Example: " in line]
    assert f"{program} {name}" in example

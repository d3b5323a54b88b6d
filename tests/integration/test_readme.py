"""The README's commands, run as a new user would: a clean copy of the project, a new environment, nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgeval.contract import METRIC_NAMES
from imgeval.embedded.server import DEFAULT_PORT, is_free
from tests.conftest import ROOT


def command(marker: str) -> str:
    """The command block after an HTML comment in the README."""
    found = re.search(rf"<!-- {marker} -->\n```\n(.+?)\n```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert found, marker
    return found[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a clone of the project would hold, with uncommitted changes."""
    folder = tmp_path_factory.mktemp("clone") / "imgeval"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def environment(home: Path) -> dict[str, str]:
    """A new user's: this Python's folder first, no virtual environment, a cache folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("IMGEVAL_", "VIRTUAL_ENV"))}
    return {**kept, "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin", "IMGEVAL_HOME": str(home)}


def run(command: str | list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=cwd, env=env, shell=isinstance(command, str), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@dataclass(frozen=True)
class Installed:
    """What the README's first command left behind and printed."""

    programs: Path
    env: dict[str, str]
    printed: str
    said: str


@pytest.fixture(scope="module")
def installed(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if not is_free(DEFAULT_PORT):
        pytest.skip(f"port {DEFAULT_PORT} is in use: that server would answer in place of the one to be started")
    env = environment(tmp_path_factory.mktemp("home"))
    done = run(command("run"), checkout, env)
    programs = checkout / ".venv" / "bin"
    yield Installed(programs, env, done.stdout, done.stderr)
    run([str(programs / "imgeval-server"), "stop"], checkout, env)


def test_first_command_scores_a_photo(installed: Installed) -> None:
    for metric in METRIC_NAMES:
        assert re.search(rf"^{metric} .*(\d\.\d{{4}}|missing)", installed.printed, re.M), installed.printed
    assert re.search(r"^score 0\.\d{4} \(preset seed-1, profile starter, incomplete", installed.printed, re.M)
    assert re.search(r"^missing aesthetic: .*imgeval-export", installed.printed, re.M)
    for step in ("fetching", "building the model repository", "starting the embedded Triton server"):
        assert step in installed.said


def test_first_command_installs_no_torch(installed: Installed) -> None:
    listed = run([str(installed.programs / "python"), "-m", "pip", "list"], installed.programs, installed.env)
    assert "imgeval" in listed.stdout
    assert not re.search(r"^(torch|sentence-transformers|transformers)\b", listed.stdout, re.M)


def test_second_score_finds_the_running_server(installed: Installed, checkout: Path) -> None:
    photo = str(checkout / "examples" / "coffee.jpg")
    score = [str(installed.programs / "imgeval-client"), "score", photo, "a cup of coffee", "--json"]
    done = run(score, checkout, installed.env)
    assert done.stderr == ""
    assert json.loads(done.stdout)["metrics"]["clip"]["raw"] > 0.2


def test_the_commands_for_many_images(installed: Installed, checkout: Path) -> None:
    done = run("set -e\n" + command("many"), checkout, installed.env)
    rows = [json.loads(line) for line in (checkout / "scores.jsonl").read_text().splitlines()]
    assert [(row["image"], row["error"]) for row in rows] == [
        (f"{name}.jpg", None) for name in ("cat", "coffee", "rocket")
    ]
    assert all(row["clip"] > 0 for row in rows)
    ranked = [line.split()[-1] for line in done.stdout.splitlines() if line.strip().startswith(("1 ", "2 ", "3 "))]
    assert ranked[0] == "examples/cat.jpg" and len(ranked) == 3, done.stdout
    assert "(rows: 3, pictures: 3)" in done.stderr
    for page in ("scores.html", "cat.html"):
        assert (checkout / page).read_text().startswith("<!doctype html>")


def test_installed_wheel_works_without_the_checkout(installed: Installed, checkout: Path, tmp_path: Path) -> None:
    """The main job from nothing but the installed package: sources gone, another folder, a cache of its own."""
    for source in ("client", "export", "model_repository", "weights"):
        (checkout / source).rename(checkout / f"{source}-gone")
    env = {**installed.env, "IMGEVAL_HOME": str(tmp_path / "home"), "IMGEVAL_OFFLINE": "1"}
    env["IMGEVAL_WEIGHTS"] = str(Path(installed.env["IMGEVAL_HOME"]) / "weights")
    started = run([str(installed.programs / "imgeval-server"), "start"], tmp_path, env)
    try:
        url = re.search(r"gRPC (\S+),", started.stdout)
        assert url, started.stdout
        photo = str(checkout / "examples" / "coffee.jpg")
        score = [str(installed.programs / "imgeval-client"), "score", photo, "coffee", "--json", "--url", url[1]]
        assert json.loads(run(score, tmp_path, env).stdout)["score"] > 0
    finally:
        run([str(installed.programs / "imgeval-server"), "stop"], tmp_path, env)
        for source in ("client", "export", "model_repository", "weights"):
            (checkout / f"{source}-gone").rename(checkout / source)


def test_ci_runs_the_second_command_of_the_readme() -> None:
    """`.ci/run` takes the command out of the README with the same marker as here; it is too long to nest in itself."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extraction = re.search(r"command=\$\((awk .*)\)\n", script)
    assert extraction
    assert run(extraction[1], ROOT, dict(os.environ)).stdout.strip() == command("tests").strip()
    assert command("tests").rstrip().endswith("scripts/check")

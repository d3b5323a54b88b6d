"""imgeval-client metrics, doctor, and score of several pairs, on a real server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from imgeval import Client
from imgeval import client as library
from imgeval.cli import main
from imgeval.contract import METRIC_NAMES
from imgeval.embedded import server as embedded
from imgeval.embedded.server import EmbeddedServer
from imgeval.probe import probe
from imgeval_export import starter

SERVED = ("clip", "sam_clip", "iqa")  # by the starter profile


def ended(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def photo(photos: dict[str, bytes], tmp_path: Path) -> Path:
    (tmp_path / "coffee.jpg").write_bytes(photos["coffee.png"])
    return tmp_path / "coffee.jpg"


# --- metrics ---------------------------------------------------------------------------------------------------------
def test_metrics_says_what_results_say(server: EmbeddedServer, client: Client, photo: Path) -> None:
    served, result = client.metrics(), client.score(photo, "a cup of coffee")
    assert {name: metric.model for name, metric in served.metrics.items()} == {
        name: value.model for name, value in result.metrics.items()
    }
    assert served.missing == result.missing
    assert (served.profile, served.preset) == (result.profile, result.preset)
    assert (served.fingerprint, served.weights) == (result.fingerprint, result.weights)
    for name, value in result.metrics.items():
        assert served.metrics[name].lower_is_better == value.lower_is_better


def test_the_command_metrics(server: EmbeddedServer) -> None:
    code, out, err = ended("metrics", "--url", server.url)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    for name in SERVED:
        assert starter.PROFILE.made_by[name] in rows[name]
        assert starter.PROFILE.about[name].range in rows[name]
    assert " lower " in rows["iqa"]
    assert "BSD-3-Clause" in rows["iqa"]
    assert "missing aesthetic: needs CLIP ViT-L/14" in out
    code, out, err = ended("metrics", "--url", server.url, "--json", "--metrics", "iqa,aesthetic")
    content = json.loads(out)
    assert (code, err, list(content["metrics"]), list(content["missing"])) == (0, "", ["iqa"], ["aesthetic"])
    assert content["metrics"]["iqa"]["licenses"] == ["BSD-3-Clause"]
    assert content["metrics"]["iqa"]["commercial_use"] is True


# --- doctor ----------------------------------------------------------------------------------------------------------
def test_doctor_on_a_server_that_is_well_and_stays_so(server: EmbeddedServer) -> None:
    code, out, err = ended("doctor", "--url", server.url, "--json")
    assert (code, err) == (0, ""), out
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert [checks[f"metric {name}"]["state"] for name in METRIC_NAMES] == [
        "ok" if name in SERVED else "warn" for name in METRIC_NAMES
    ]
    for name in set(METRIC_NAMES) - set(SERVED):
        assert checks[f"metric {name}"]["advice"] == starter.PROFILE.missing[name]
    for name in ("server", "models", "server version", "server's shared memory"):
        assert checks[name]["state"] == "ok", checks[name]
    assert "triton 2." in checks["server version"]["seen"]
    for _ in range(3):
        assert ended("doctor", "--url", server.url, "--metrics", "clip")[0] == 0
    probe(server.url, timeout_s=30)
    assert embedded.find(port=server.port) == server


@pytest.fixture
def harmed(server: EmbeddedServer, repository: Path) -> Iterator[EmbeddedServer]:
    """A server of its own, for a test that harms it; found by its own name only."""
    running = embedded.start(repository, f"harmed{embedded.VERIFICATION}", port=embedded.free_port())
    yield running
    embedded.stop(running)


def test_doctor_on_a_server_with_a_dead_step(harmed: EmbeddedServer) -> None:
    (pid,) = [
        int(entry.parent.name)
        for entry in Path("/proc").glob("[0-9]*/cmdline")
        if harmed.shm_prefix in (words := entry.read_bytes().decode(errors="replace")) and "/iqa/1/model.py" in words
    ]
    os.kill(pid, signal.SIGKILL)
    code, out, err = ended("doctor", "--url", harmed.url, "--metrics", "clip,iqa", "--timeout", "20")
    assert code == 3
    assert err.startswith("error: 1 of ")
    lines = out.splitlines()
    assert any(line.startswith("ok   metric clip: ") for line in lines)
    (failed,) = [number for number, line in enumerate(lines) if line.startswith("fail ")]
    assert lines[failed].startswith("fail metric iqa: ")
    assert "imgeval-server" in lines[failed + 1]


def test_doctor_starts_a_server_when_it_is_told_to(
    server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    (tmp_path / "repositories").mkdir()
    (tmp_path / "repositories" / "starter").symlink_to(server.repository)
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path))
    monkeypatch.setattr(library, "DEFAULT_URL", f"127.0.0.1:{unused_port}")
    monkeypatch.setattr(embedded, "DEFAULT_PORT", unused_port)
    try:
        code, out, err = ended("doctor", "--start", "--metrics", "clip", "--idle-timeout", "300")
        assert (code, err) == (0, "starting the embedded Triton server, profile starter\n"), out
        (started,) = embedded.running()
        assert f"ok   server: {started.url} is ready" in out
    finally:
        for left in embedded.running():
            embedded.stop(left)


# --- score -----------------------------------------------------------------------------------------------------------
def test_several_pairs_score_as_each_alone(server: EmbeddedServer, photo: Path, tmp_path: Path) -> None:
    pairs = [(str(photo), "a cup of coffee"), (str(photo), "a rocket"), (str(tmp_path / "none.jpg"), "nothing")]
    code, out, err = ended("score", *(part for pair in pairs for part in pair), "--url", server.url, "--json")
    assert (code, err.count("\n")) == (2, 1)
    lines = [json.loads(line) for line in out.splitlines()]
    assert "does not exist" in lines[2]["error"]
    for line, pair in zip(lines[:2], pairs, strict=False):
        alone = json.loads(ended("score", *pair, "--url", server.url, "--json")[1])
        del alone["timing_ms"], line["timing_ms"]
        assert line == alone

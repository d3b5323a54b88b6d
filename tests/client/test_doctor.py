"""doctor: each check where all is well and where something is wrong, and how the command ends."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from imgeval import Client, ServerFailedError, ServerUnavailableError
from imgeval import client as library
from imgeval.cli import main
from imgeval.contract import METRIC_NAMES
from imgeval.doctor import machine
from imgeval.doctor import server as doctor_server
from imgeval.doctor.check import Check, run
from imgeval.doctor.server import ServerChecks, photo
from imgeval.embedded import runtime
from imgeval.errors import EmbeddedServerError
from imgeval.image import decode
from imgeval_export import about, profiles
from tests.fake_transport import FakeTransport


def states(checks: Iterable[Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def only(checks: Iterable[Check]) -> Check:
    (check,) = checks
    return check


# --- what a check is -------------------------------------------------------------------------------------------------
def test_a_check_that_breaks_is_a_failed_one_and_stops_no_other() -> None:
    def broken_disk() -> list[Check]:
        raise RuntimeError("two\nlines")

    def good() -> list[Check]:
        return [Check("good", "ok", "well")]

    first, second = run((broken_disk, good))
    assert first == Check("broken disk", "fail", "the check broke: RuntimeError: two lines")
    assert second.state == "ok"


# --- this machine ----------------------------------------------------------------------------------------------------
def test_python_and_packages_of_this_environment() -> None:
    assert states([*machine.python(), *machine.packages()])["python"] == "ok"
    first, _ = machine.packages()
    assert first.state == "ok", first
    assert f"click {importlib.metadata.version('click')}" in first.seen


def test_a_python_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.8.1")
    check = only(machine.python())
    assert (check.state, check.seen.startswith("Python 3.8.1")) == ("fail", True)
    assert "install with a Python " in check.advice


def test_requirements() -> None:
    version = importlib.metadata.version("click")
    requirements = [
        "click>=8",
        "click<1",
        "no-such-package>=2",
        "numpy<0; extra == 'embedded'",
        "no-such-package; python_version < '3'",
        "imgeval[other]; extra == 'embedded'",
    ]
    missing, found = machine.compare_requirements(requirements, extra="")
    assert found == [f"click {version}"]
    assert missing == [f"click<1 is needed, {version} is installed", "no-such-package>=2 is not installed"]
    missing, found = machine.compare_requirements(requirements, extra="embedded")
    assert (len(missing), found) == (1, [])
    assert missing[0].startswith("numpy<0 is needed, ")


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["no-such-package>=2", "neither-this; extra == 'embedded'"]
    monkeypatch.setattr(machine.importlib.metadata, "requires", lambda name: needed)
    light, embedded = machine.packages()
    assert (light.state, embedded.state) == ("fail", "warn")
    assert "pip install" in light.advice
    assert "[embedded]" in embedded.advice


def test_an_embedded_server_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise EmbeddedServerError("the embedded server needs the nvidia-pytriton package")

    monkeypatch.setattr(runtime, "prepare", missing)
    check = only(machine.embedded_server())
    assert (check.state, "nvidia-pytriton" in check.seen, "--url" in check.advice) == ("warn", True, True)


def test_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path / "not" / "yet"))
    assert only(machine.home()).state == "ok"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path / "file"))
    assert "cannot be written" in only(machine.home()).seen
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path))
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: real._replace(free=10**9))
    check = only(machine.home())
    assert (check.state, check.seen) == ("warn", f"{tmp_path}, 1.0 GB free")
    assert check.advice.startswith("free 2.1 GB")


def test_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from imgeval.embedded import supervisor

    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(supervisor, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: real._replace(free=10**9))
    assert only(machine.shared_memory()).state == "ok"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: real._replace(free=64 * 10**6))
    check = only(machine.shared_memory())
    assert (check.state, check.advice) == ("warn", "in a container: --shm-size=1g")
    monkeypatch.setattr(supervisor, "SHARED_MEMORY", tmp_path / "none")
    assert "cannot be written" in only(machine.shared_memory()).seen


@pytest.mark.parametrize(
    ("url", "environment", "state"),
    [
        ("gpu:8001", {}, "ok"),
        ("gpu:8001", {"https_proxy": "http://me:secret@proxy:80"}, "warn"),
        ("gpu:8001", {"https_proxy": "http://me:secret@proxy:80", "no_proxy": "gpu"}, "ok"),
        ("localhost:8001", {"http_proxy": "http://me:secret@proxy:80"}, "ok"),
    ],
)
def test_proxies(monkeypatch: pytest.MonkeyPatch, url: str, environment: dict[str, str], state: str) -> None:
    for name in (*machine.PROXIES, "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    check = only(machine.proxies(url))
    assert check.state == state
    assert "secret" not in check.seen
    assert ("proxy:80" in check.seen) == bool(environment)


def test_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    check = only(machine.deadline())
    assert check.name == "deadline"
    assert check.seen.startswith("a call with 200 ms that nobody answers ended ")
    monkeypatch.setattr(machine, "MAX_LATE_S", -1.0)
    late = only(machine.deadline())
    assert (late.state, "--timeout" in late.advice) == ("warn", True)


# --- a server --------------------------------------------------------------------------------------------------------
def of_server(transport: FakeTransport, *metrics: str) -> dict[str, Check]:
    with Client(transport=transport) as client:
        return {check.name: check for check in ServerChecks(client, 5.0, metrics or METRIC_NAMES).run()}


def config(weights: str = "published") -> dict[str, Any]:
    text = about.metrics_text(profiles.get("starter"), "seed-1", "f" * 16, weights)
    return {"parameters": {"imgeval_metrics": {"string_value": text}}}


def test_no_server_is_one_failure_with_what_to_do() -> None:
    checks = of_server(FakeTransport(error=ServerUnavailableError("no server at fake:1")))
    assert states(checks.values()) == {"server": "fail", "clock": "ok"}
    assert "imgeval-server start" in checks["server"].advice


def test_metrics_that_are_there_missing_and_broken() -> None:
    checks = of_server(FakeTransport(config=config()), "clip", "sam_clip")
    assert (checks["server"].state, checks["models"].state, checks["server version"].seen) == ("ok", "ok", "fake 1")
    assert checks["metric clip"].seen.startswith("0.4000 in ")
    assert checks["metric clip"].seen.endswith("by ConSE")
    assert (checks["metric sam_clip"].state, checks["metric sam_clip"].advice) == ("warn", "not requested")
    broken = of_server(FakeTransport(config=config(), error=ServerFailedError("iqa: broken")), "iqa")
    assert (broken["metric iqa"].state, broken["metric iqa"].seen) == ("fail", "iqa: broken")
    assert "imgeval-server logs" in broken["metric iqa"].advice


def test_random_weights_and_old_repositories_are_warnings() -> None:
    assert "its numbers are no scores" in of_server(FakeTransport(config=config("random")), "clip")["models"].seen
    old = of_server(FakeTransport(config={}), "clip")
    assert (old["models"].state, "older version" in old["models"].seen) == ("warn", True)
    assert old["metric clip"].state == "ok"


def test_a_clock_that_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(transport=FakeTransport()) as client:
        checks = ServerChecks(client, 5.0, ("clip",))
        real = doctor_server.time.time
        monkeypatch.setattr(doctor_server.time, "time", lambda: real() + 3600)
        check = only(checks.clock())
    assert (check.state, "synchronise" in check.advice) == ("warn", True)


def test_the_picture_is_a_new_one_each_time() -> None:
    first, second = photo(), photo()
    assert first != second
    assert decode(first)


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture
def nowhere(tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without servers, and none on the default port."""
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path))
    monkeypatch.delenv("IMGEVAL_URL", raising=False)
    monkeypatch.setattr(library, "DEFAULT_URL", f"127.0.0.1:{unused_port}")
    return tmp_path


def ended(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_it_starts_nothing_and_says_what_to_do(nowhere: Path) -> None:
    code, out, err = ended()
    assert code == 3
    assert err.startswith("error: 1 of ")
    lines = out.splitlines()
    assert lines[-2].startswith("fail server: none at 127.0.0.1:")
    assert lines[-1].startswith("     -> start one here: imgeval-server start, or doctor --start")
    assert not list(nowhere.glob("servers/*/state.json"))


def test_json_and_the_options_in_force(nowhere: Path, monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    (nowhere / "mine.toml").write_text(f'url = "127.0.0.1:{unused_port}"\n')
    monkeypatch.setenv("IMGEVAL_CONFIG", str(nowhere / "mine.toml"))
    monkeypatch.setenv("IMGEVAL_TIMEOUT", "7")
    monkeypatch.setenv("IMGEVAL_SOME_TOKEN", "secret")
    code, out, _ = ended("--json", "--metrics", "clip")
    assert code == 3
    assert "secret" not in out
    content = json.loads(out)
    checks = {check["name"]: check for check in content["checks"]}
    assert content["ok"] is False
    assert checks["options"]["seen"] == (
        f"url 127.0.0.1:{unused_port} (file), profile any (default), metrics clip (flag), timeout 7 s (environment), "
        "idle_timeout 900 s (default), compression none (default), max_attempts 4 (default)"
    )
    assert checks["configuration file"]["seen"] == f"{nowhere / 'mine.toml'}: url"
    assert "IMGEVAL_SOME_TOKEN=..." in checks["environment"]["seen"]
    assert checks["server"]["state"] == "fail"


@pytest.mark.parametrize("text", ["broken", "colour = 1", "[rank]\ncolour = 1", "[match]\nby = [1]"])
def test_a_broken_configuration_file_is_a_failed_check(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    (nowhere / "mine.toml").write_text(text)
    monkeypatch.setenv("IMGEVAL_CONFIG", str(nowhere / "mine.toml"))
    code, out, _ = ended("--json")
    (check,) = [each for each in json.loads(out)["checks"] if each["name"] == "configuration file"]
    assert (code, check["state"]) == (3, "fail")
    assert check["seen"].startswith(str(nowhere / "mine.toml"))


def test_bad_values_are_refused(nowhere: Path) -> None:
    code, out, err = ended("--metrics", "beauty")
    assert (code, out, err.count("\n")) == (2, "", 1)
    code, out, _ = ended("--url", "nonsense", "--json")
    assert (code, json.loads(out)["checks"][-1]["state"]) == (3, "fail")

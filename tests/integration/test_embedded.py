"""imgeval-server on real servers: two side by side, every way to end one, and what keeps one from starting.

Each test has a home of its own, whose repository is the session's, so that nothing is built twice.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from imgeval import Client, EmbeddedServerError, ImgevalError
from imgeval import client as library
from imgeval.cli import main as client_main
from imgeval.embedded import paths, runtime, server, supervisor
from imgeval.embedded.cli import main
from imgeval.embedded.server import EmbeddedServer
from imgeval.errors import install_hint
from imgeval.probe import probe

PATIENT_S = 60.0  # far more than anything here takes
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F"}  # 127.0.0.1 in /proc/net/tcp and, mapped, in tcp6
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def home(server: EmbeddedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home without servers; stops those that a test leaves behind."""
    (tmp_path / "repositories").mkdir()
    (tmp_path / "repositories" / "starter").symlink_to(server.repository)
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path))
    yield tmp_path
    for left in running():
        stop(left)


def running() -> list[EmbeddedServer]:
    return server.running()


def stop(running: EmbeddedServer) -> None:
    server.stop(running)


@pytest.fixture
def command(run: Run, home: Path) -> Callable[..., Ended]:
    """`imgeval-server` as a process of its own."""

    def run_server(*arguments: object) -> Ended:
        done = run("imgeval-server", *map(str, arguments))
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run_server


def in_process(*arguments: object) -> Ended:
    """`imgeval-server` in this process, where parts of the system can be replaced."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def last_error(ended: Ended) -> str:
    """The one line of an error, which follows lines of progress at most."""
    assert ended.code == 3, ended
    assert ended.out == ""
    *progress, error = ended.err.splitlines()
    assert error.startswith("error: ")
    assert all(line.startswith(("starting ", "building ")) for line in progress)
    return error


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENT_S
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def processes(prefix: str) -> dict[int, str]:
    """Supervisor, tritonserver and stubs of a server, by process id: they carry its prefix or its spec."""
    folder = str(paths.servers() / prefix.split("-")[1])
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue
        if prefix in words or f"{folder}/spec.json" in words:
            found[int(entry.parent.name)] = words
    return found


def process(prefix: str, name: str) -> int:
    """The one process of a server whose command has this in it."""
    (pid,) = [pid for pid, words in processes(prefix).items() if name in words]
    return pid


def listening_addresses(port: int) -> set[str]:
    """The addresses, as the kernel writes them, on which anything listens at this port."""
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    return {words[1].split(":")[0] for words in lines if words[1].endswith(f":{port:04X}") and words[3] == "0A"}


def shared_memory(prefix: str) -> list[str]:
    return [path.name for path in supervisor.SHARED_MEMORY.glob(f"{prefix}*")]


def assert_gone(ended: EmbeddedServer) -> None:
    assert processes(ended.shm_prefix) == {}
    assert shared_memory(ended.shm_prefix) == []
    assert not (paths.servers() / str(ended.port) / "state.json").exists()
    assert server.is_free(ended.port)
    assert server.is_free(ended.http_port)


@pytest.fixture
def started(home: Path, repository: Path) -> EmbeddedServer:
    return server.start(repository, "starter", port=server.free_port())


# --- the commands ----------------------------------------------------------------------------------------------------
def test_two_servers_side_by_side(
    command: Callable[..., Ended], photos: dict[str, bytes], unused_port: int, home: Path
) -> None:
    first = command("start", "--port", unused_port)
    assert first.code == 0, first.err
    log = home / "servers" / str(unused_port) / "log.txt"
    ready = rf"ready: gRPC 127\.0\.0\.1:{unused_port}, HTTP port \d+, profile starter, log {log}\n"
    assert re.fullmatch(ready, first.out)
    again = command("start", "--port", unused_port)
    assert (again.code, again.out, again.err) == (0, first.out, ""), "one that runs is left alone"

    other_port = server.free_port()
    assert command("start", "--port", other_port).code == 0
    one, other = sorted(running(), key=lambda each: each.port != unused_port)
    assert (one.port, other.port) == (unused_port, other_port)
    assert len(processes(one.shm_prefix)) == len(processes(other.shm_prefix)) > 5
    scores = []
    for each in (one, other):
        with Client(each.url) as client:
            scores.append(client.score(photos["coffee.png"], "a cup of coffee").metrics)
    assert scores[0] == scores[1]

    status = command("status")
    assert (status.code, status.err) == (0, "")
    for each in (one, other):
        assert re.search(
            rf"{each.url}  profile starter  pid {each.pid}  up \d+ s  .*never  answers in \d+ ms", status.out
        )
        assert each.log in status.out
    for port in (one.port, one.http_port, one.metrics_port):
        assert listening_addresses(port) <= LOOPBACK
        assert listening_addresses(port)

    logs = command("logs", "--port", one.port, "--lines", 1000)
    assert logs.code == 0
    assert "Started GRPCInferenceService" in logs.out
    assert len(command("logs", "--port", one.port, "-n", 3).out.splitlines()) == 3

    assert command("stop", "--port", one.port) == (0, f"stopped: {one.url}\n", "")
    assert_gone(one)
    assert "Started GRPCInferenceService" in command("logs", "--port", one.port, "-n", 1000).out, "the log stays"
    assert command("stop", "--port", one.port).out == f"no embedded server is running on port {one.port}\n"
    probe(other.url, PATIENT_S)
    assert command("stop") == (0, f"stopped: {other.url}\n", "")
    assert_gone(other)
    assert last_error(command("status")).startswith("error: no embedded server is running; start one with: ")


def test_where_nothing_ran_there_are_no_logs(home: Path) -> None:
    assert last_error(in_process("logs")) == "error: no embedded server has run here"
    assert last_error(in_process("logs", "--port", 7)) == "error: no embedded server has run here on port 7"
    assert in_process("stop") == (0, "no embedded server is running\n", "")


def test_the_client_starts_a_server_and_leaves_it_running(
    home: Path, photos: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    (home / "coffee.jpg").write_bytes(photos["coffee.png"])
    monkeypatch.setattr(library, "DEFAULT_URL", f"127.0.0.1:{unused_port}")
    monkeypatch.setattr(server, "DEFAULT_PORT", unused_port)
    arguments = ["score", str(home / "coffee.jpg"), "a cup of coffee"]
    first = CliRunner().invoke(client_main, [*arguments, "--idle-timeout", "600"])
    assert (first.exit_code, first.stderr) == (0, "starting the embedded Triton server, profile starter\n")
    (left,) = running()
    assert (left.port, left.idle_timeout_s) == (unused_port, 600)
    second = CliRunner().invoke(client_main, arguments)
    assert (second.exit_code, second.stderr) == (0, "")
    assert second.stdout == first.stdout
    assert running() == [left]


# --- ways to end -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("victim", ["imgeval.embedded.supervisor", "bin/tritonserver"])
def test_a_crash_leaves_nothing_and_is_recognised(
    started: EmbeddedServer, command: Callable[..., Ended], victim: str, repository: Path
) -> None:
    os.kill(process(started.shm_prefix, victim), signal.SIGKILL)
    until(lambda: running() == [] and processes(started.shm_prefix) == {}, "the server's other processes end too")
    assert_gone(started)
    assert last_error(command("status")).startswith("error: no embedded server is running")
    assert server.start(repository, "starter", port=started.port).pid != started.pid


def test_a_server_that_crashes_is_started_again(started: EmbeddedServer, photos: dict[str, bytes]) -> None:
    """As this Triton does where several requests run out of time at the same moment."""
    probe(started.url, timeout_s=60)
    before = process(started.shm_prefix, "bin/tritonserver")
    time.sleep(supervisor.MIN_LIFE_S)
    os.kill(before, signal.SIGSEGV)

    def another() -> bool:
        found = [pid for pid, words in processes(started.shm_prefix).items() if "bin/tritonserver" in words]
        return bool(found) and before not in found

    until(another, "it is there again")
    with Client(started.url) as client:
        until(lambda: _answers(client, photos["coffee.png"]), "it answers")
    assert running() == [started] and "is started again" in Path(started.log).read_text()
    stop(started)
    assert_gone(started)


def _answers(client: Client, photo: bytes) -> bool:
    try:
        return client.score(photo, "a cup of coffee", metrics=["clip"]).metrics["clip"].raw > 0
    except ImgevalError:
        return False


def test_a_state_file_of_another_process_is_stale(server: EmbeddedServer, imgeval_home: Path) -> None:
    """After a reboot the process id may be another's; so may a file be cut, or written by another version."""
    started = server
    state = paths.servers() / str(started.port) / "state.json"
    content = state.read_text()
    for stale in (
        content.replace(f'"start_ticks": {started.start_ticks}', '"start_ticks": 1'),
        content.replace(f'"pid": {started.pid}', '"pid": 999999999'),
        content[:40],
        "[]",
        "{}",
        content.replace('"pid"', '"process"'),
    ):
        other = paths.servers() / "1" / "state.json"
        other.parent.mkdir(exist_ok=True)
        other.write_text(stale.replace(started.shm_prefix, "imgeval-1-"))
        assert running() == [started]
        assert not other.exists()


def test_a_dead_step_is_noticed(started: EmbeddedServer, command: Callable[..., Ended]) -> None:
    """Triton's ready flag stays up, so that only a real inference tells."""
    os.kill(process(started.shm_prefix, "/iqa/1/model.py"), signal.SIGKILL)
    ended = command("status")
    assert ended.code == 3
    assert f"{started.url}  profile starter" in ended.out
    assert re.search(r"DOES NOT ANSWER: .*iqa", ended.out)
    assert ended.err == "error: 1 of 1 servers do not answer; restart with: imgeval-server stop\n"
    stop(started)
    assert_gone(started)


def test_an_idle_server_stops_by_itself(command: Callable[..., Ended], unused_port: int) -> None:
    assert command("start", "--port", unused_port, "--idle-timeout", 3).code == 0
    (started,) = running()
    assert started.idle_timeout_s == 3
    until(lambda: processes(started.shm_prefix) == {}, "it stops when nobody asks any more")
    assert running() == []
    assert_gone(started)


def test_a_half_started_server_does_not_stay_behind(
    home: Path, repository: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(url: str, timeout_s: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.start(repository, "starter", port=unused_port)
    until(lambda: processes(f"imgeval-{unused_port}-") == {}, "no process stays")
    assert shared_memory(f"imgeval-{unused_port}-") == []
    assert running() == []


# --- what keeps a server from starting -------------------------------------------------------------------------------
@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.1", "::", "example.com", ""])
def test_other_addresses_are_refused_with_the_reason(home: Path, unused_port: int, host: str) -> None:
    error = last_error(in_process("start", "--port", unused_port, "--host", host))
    assert error.startswith(f"error: got host {host}; allowed: 127.0.0.1 only")
    assert "security fixes" in error


def test_other_addresses_are_refused_where_a_server_runs(
    server: EmbeddedServer,
) -> None:
    assert "allowed: 127.0.0.1 only" in last_error(in_process("start", "--host", "0.0.0.0"))


def test_a_port_in_use_is_refused(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        error = last_error(in_process("start", "--port", port))
    assert error == f"error: port {port} is in use on 127.0.0.1; give another one with --port, or none"


def test_without_a_port_a_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(server, "DEFAULT_PORT", listener.getsockname()[1])
        assert server._grpc_port(None) not in (server.DEFAULT_PORT, 0)
        assert server.is_free(server._grpc_port(None))


def test_a_missing_wheel_is_named_with_the_command(
    home: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec

    def without_pytriton(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "pytriton" else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_pytriton)
    error = last_error(in_process("start", "--port", unused_port))
    assert error == "error: the embedded server needs the nvidia-pytriton package: " + install_hint("embedded")


@pytest.mark.parametrize(("platform", "machine"), [("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")])
def test_other_machines_are_named(monkeypatch: pytest.MonkeyPatch, platform: str, machine: str) -> None:
    monkeypatch.setattr(runtime.sys, "platform", platform)
    monkeypatch.setattr(runtime.platform, "machine", lambda: machine)
    with pytest.raises(EmbeddedServerError, match=f"this is {platform} on {machine}; use --url"):
        runtime.prepare()


def test_too_little_shared_memory_is_named(home: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB is what Docker gives."""
    real = shutil.disk_usage

    def small(path: Any) -> Any:
        usage = real(path)
        return usage._replace(free=64 * 2**20) if str(path) == "/dev/shm" else usage

    monkeypatch.setattr(shutil, "disk_usage", small)
    error = last_error(in_process("start", "--port", unused_port))
    assert error == "error: got 67 MB free in /dev/shm; needed: 537 MB (in a container: --shm-size=1g)"


@pytest.mark.parametrize(
    ("model", "file", "content"),
    [
        ("preprocess", "settings.json", b"{"),
        ("clip_image", "model.onnx", b"no model"),
    ],
)
def test_a_model_that_does_not_load_is_named(
    home: Path, repository: Path, unused_port: int, model: str, file: str, content: bytes
) -> None:
    (home / "repositories" / "starter").unlink()
    copy = shutil.copytree(repository, home / "repositories" / "starter", copy_function=os.link)
    (copy / model / "1" / file).unlink()
    (copy / model / "1" / file).write_bytes(content)
    error = last_error(in_process("start", "--port", unused_port))
    assert error.startswith("error: the server did not start: ")
    assert model in error
    log = home / "servers" / str(unused_port) / "log.txt"
    assert error.endswith(f"(log: {log})")
    assert model in log.read_text()
    assert running() == []
    until(lambda: processes(f"imgeval-{unused_port}-") == {}, "no process stays")
    assert shared_memory(f"imgeval-{unused_port}-") == []


def test_a_home_that_cannot_be_written_is_one_line(
    tmp_path: Path, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMGEVAL_HOME", str(tmp_path / "file"))
    assert str(tmp_path / "file") in last_error(in_process("start", "--port", unused_port))


def test_the_backend_folder_is_made_once(home: Path) -> None:
    first = runtime.prepare()
    made = {path: path.stat().st_mtime_ns for path in paths.backends().rglob("*")}
    second = runtime.prepare()
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in paths.backends().rglob("*")} == made
    assert os.access(first.backends / "python" / "triton_python_backend_stub", os.X_OK)
    assert (first.backends / "onnxruntime" / "model.py").is_file()


# --- when to stop ----------------------------------------------------------------------------------------------------
def test_the_idle_clock() -> None:
    clock = supervisor.IdleClock(timeout_s=10, now=100)
    assert not clock.expired(served=None, now=150), "a server that is still starting is not idle"
    assert not clock.expired(served=0, now=155)
    assert not clock.expired(served=0, now=164.9), "the first count starts it"
    assert clock.expired(served=0, now=165)
    assert not clock.expired(served=3, now=165), "a new request does too"
    assert not clock.expired(served=None, now=174)
    assert clock.expired(served=None, now=175), "silence is no request"

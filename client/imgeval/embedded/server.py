"""Start, stop, find and check embedded servers."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from imgeval.embedded import paths, runtime, supervisor
from imgeval.errors import EmbeddedServerError, ImgevalError, ServerUnavailableError
from imgeval.probe import probe

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8001  # Triton's own default for gRPC
START_TIMEOUT_S = 900.0  # Q-Align's 16 GB take minutes to load; a server that ends instead is noticed at once
STOP_TIMEOUT_S = 30.0
# Each Python step keeps its tensors in shared memory; a decoded image of the largest size allowed is 192 MB.
MIN_SHARED_MEMORY_BYTES = 512 * 1024 * 1024
VERIFICATION = "-verify"  # ends the profile name of a server that `imgeval-export verify` started
SHM_GROWTH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class EmbeddedServer:
    """A running embedded server, as `state.json` describes it."""

    port: int  # gRPC
    http_port: int
    metrics_port: int
    profile: str
    repository: str
    log: str
    idle_timeout_s: float | None  # None: runs until it is stopped
    started_at: float  # seconds since the epoch
    pid: int  # of the supervisor
    start_ticks: int  # of the supervisor, tells it from a later process of the same id
    shm_prefix: str

    @property
    def url(self) -> str:
        return f"{LOOPBACK}:{self.port}"


def running() -> list[EmbeddedServer]:
    """The embedded servers that run now, by port. State that a crash left behind is recognised and removed."""
    found = []
    for state in sorted(paths.servers().glob("*/state.json")):
        try:
            server = _read(state)
        except (OSError, ValueError, TypeError):  # Vanished meanwhile, cut, or of another version.
            if not _owner_runs(state):
                state.unlink(missing_ok=True)
            continue
        if supervisor.process_start_ticks(server.pid) == server.start_ticks:
            found.append(server)
        else:
            supervisor.remove_leftovers(server.shm_prefix)
            state.unlink(missing_ok=True)
    return sorted(found, key=lambda server: server.port)


def _owner_runs(state: Path) -> bool:
    """Whether a state that this version cannot read is that of a server that runs."""
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        return supervisor.process_start_ticks(int(content["pid"])) == int(content["start_ticks"])
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _read(state: Path) -> EmbeddedServer:
    content = json.loads(state.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{state} holds no object")
    known = {field.name for field in fields(EmbeddedServer)}
    return EmbeddedServer(**{name: value for name, value in content.items() if name in known})


def find(port: int | None = None, profile: str | None = None) -> EmbeddedServer | None:
    """The first running server with this port and profile, where they are given.

    A server under verification is found by its own name or port only: it may hold random weights.
    """
    for server in running():
        is_meant = server.profile == profile if profile else port or not server.profile.endswith(VERIFICATION)
        if port in (None, server.port) and is_meant:
            return server
    return None


def check_host(host: str) -> None:
    """Raise EmbeddedServerError unless this is the one address that the server may listen on."""
    if host != LOOPBACK:
        raise EmbeddedServerError(
            f"got host {host}; allowed: {LOOPBACK} only, because this Triton (24.10) predates the security fixes of "
            "2025-26; use NVIDIA's current container for other addresses"
        )


@contextlib.contextmanager
def start_lock() -> Iterator[None]:
    """One start at a time, so that two clients that find no server do not both start one."""
    try:
        paths.servers().mkdir(parents=True, exist_ok=True)
        lock = open(paths.servers() / "lock", "w", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError as error:
        raise EmbeddedServerError(
            f"cannot write {paths.home()}: {error}; give another folder as IMGEVAL_HOME"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def start(
    repository: Path,
    profile: str,
    *,
    port: int | None = None,
    host: str = LOOPBACK,
    idle_timeout_s: float | None = None,
    timeout_s: float = START_TIMEOUT_S,
) -> EmbeddedServer:
    """Start a server and return once it has answered a real request.

    Args:
        repository: a model repository that is complete.
        profile: its name, for `find` and `status`.
        port: for gRPC; by default 8001, or a free one where that is taken.
        host: 127.0.0.1, the only address allowed.
        idle_timeout_s: stop by itself after so long without a request; None: never.
        timeout_s: how long it may take to the first answer.

    Raises:
        EmbeddedServerError: it cannot start here; the message says why and what to do.
    """
    check_host(host)
    launched = runtime.prepare()
    _check_shared_memory()
    port = _grpc_port(port)
    http_port, metrics_port = free_port(), free_port()
    folder = paths.servers() / str(port)
    folder.mkdir(parents=True, exist_ok=True)
    log, state = folder / "log.txt", folder / "state.json"
    log.write_bytes(b"")
    state.unlink(missing_ok=True)
    shm_prefix = f"imgeval-{port}-{secrets.token_hex(4)}-"
    public = {
        "port": port,
        "http_port": http_port,
        "metrics_port": metrics_port,
        "profile": profile,
        "repository": str(repository),
        "log": str(log),
        "idle_timeout_s": idle_timeout_s,
        "started_at": time.time(),
    }
    spec = supervisor.Spec(
        command=_command(launched, repository, port, http_port, metrics_port, shm_prefix),
        log=str(log),
        state=str(state),
        shm_prefix=shm_prefix,
        metrics_url=f"http://{LOOPBACK}:{metrics_port}/metrics",
        idle_timeout_s=idle_timeout_s,
        public=public,
    )
    (folder / "spec.json").write_text(json.dumps(asdict(spec)), encoding="utf-8")
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "imgeval.embedded.supervisor", str(folder / "spec.json")],
            env=launched.environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # survives this process and its terminal
        )
    try:
        return _wait_until_answering(process, state, log, port, timeout_s)
    except BaseException:  # Also on Ctrl-C: a half-started server must not stay behind.
        _terminate(process)
        raise
    finally:
        process.returncode = process.returncode or 0  # it runs on; it is not this process's to wait for


def stop(server: EmbeddedServer) -> None:
    """Stop a server; returns when it and all its processes are gone.

    Raises:
        EmbeddedServerError: it did not end in time and was killed.
    """
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while supervisor.process_start_ticks(server.pid) == server.start_ticks:
        if time.monotonic() > deadline:
            os.kill(server.pid, signal.SIGKILL)
            supervisor.remove_leftovers(server.shm_prefix)
            raise EmbeddedServerError(
                f"the server on port {server.port} did not stop in {STOP_TIMEOUT_S:.0f} s; killed"
            )
        time.sleep(0.05)


def _command(
    launched: runtime.Runtime, repository: Path, port: int, http_port: int, metrics_port: int, shm_prefix: str
) -> list[str]:
    options = {
        "model-repository": repository,
        "backend-directory": launched.backends,
        "grpc-address": LOOPBACK,
        "grpc-port": port,
        "http-address": LOOPBACK,
        "http-port": http_port,
        "metrics-address": LOOPBACK,
        "metrics-port": metrics_port,
        "exit-timeout-secs": supervisor.EXIT_TIMEOUT_S // 2,
    }
    backend = {"shm-region-prefix-name": shm_prefix, "shm-growth-byte-size": SHM_GROWTH_BYTES}
    return [
        str(launched.binary),
        "--disable-auto-complete-config",  # every configuration is complete, and a server must not guess
        *(f"--{name}={value}" for name, value in options.items()),
        *(f"--backend-config=python,{name}={value}" for name, value in backend.items()),
    ]


def _check_shared_memory() -> None:
    free = shutil.disk_usage(supervisor.SHARED_MEMORY).free
    if free < MIN_SHARED_MEMORY_BYTES:
        raise EmbeddedServerError(
            f"got {free / 1e6:.0f} MB free in {supervisor.SHARED_MEMORY}; "
            f"needed: {MIN_SHARED_MEMORY_BYTES / 1e6:.0f} MB (in a container: --shm-size=1g)"
        )


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _grpc_port(port: int | None) -> int:
    if port is None:
        return DEFAULT_PORT if is_free(DEFAULT_PORT) else free_port()
    if not is_free(port):
        raise EmbeddedServerError(f"port {port} is in use on {LOOPBACK}; give another one with --port, or none")
    return port


def free_port() -> int:
    """A port of the loopback address that nothing listens on now."""
    with socket.socket() as any_port:
        any_port.bind((LOOPBACK, 0))
        port: int = any_port.getsockname()[1]
        return port


def _wait_until_answering(
    process: subprocess.Popen[bytes], state: Path, log: Path, port: int, timeout_s: float
) -> EmbeddedServer:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EmbeddedServerError(f"the server did not start: {_why(log)} (log: {log})")
        try:
            probe(f"{LOOPBACK}:{port}", timeout_s=max(1.0, deadline - time.monotonic()))
        except ServerUnavailableError:
            time.sleep(0.1)
            continue
        except ImgevalError as error:
            raise EmbeddedServerError(
                f"the server started and its first request failed: {error} (log: {log})"
            ) from error
        return _read(state)
    raise EmbeddedServerError(f"the server gave no answer within {timeout_s:.0f} s (log: {log})")


def _why(log: Path) -> str:
    """The reason that a Triton log gives for a start that failed, in one line."""
    text = log.read_text(encoding="utf-8", errors="replace")
    patterns = (
        r"failed to load '([^']+)' version \d+: (.*)",
        r"\[Errno 28\]|No space left on device|Failed to initialize Python stub.*",
        r"error: (.*)",
        r"(\w*Error: .*)",
    )
    for pattern in patterns:
        if match := re.search(pattern, text):
            return " ".join(match.group(0).split())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E")]  # Triton's own level letter
    return (errors or lines or ["tritonserver ended without giving a reason"])[-1]


def _terminate(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()

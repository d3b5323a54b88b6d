"""The process that owns one `tritonserver`: starts it, watches it, stops it, and leaves nothing behind.

Run as `python -m imgeval.embedded.supervisor SPEC` with the path of a JSON `Spec`. It stays small (standard library
only), writes `state.json` beside the spec, and ends when it is told to (SIGTERM), when tritonserver ends, or when no
request came for `idle_timeout_s`. One that crashes is started again: this Triton (2.51) does so where several requests
are cancelled, or run out of time, at the same moment. If it is killed itself, the kernel kills tritonserver, and
Triton's stubs follow.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

SHARED_MEMORY = Path("/dev/shm")
EXIT_TIMEOUT_S = 10  # for requests under way, then for tritonserver as a whole
POLL_INTERVAL_S = 0.2
PR_SET_PDEATHSIG = 1  # linux/prctl.h
CRASHES = tuple(-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL))  # exit statuses
MAX_RESTARTS = 10  # of one server; what crashes more often than that is of no use
MIN_LIFE_S = 5.0  # what crashes sooner may do so while it loads, and would again,
MAX_SHORT_LIVES = 3  # or of one request that is sent again: `outages.MAX_ATTEMPTS`
# Loopback, so never by a proxy that the environment names.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Spec:
    """One server: the command that starts it, in the supervisor's own environment, and how to watch it."""

    command: list[str]
    log: str
    state: str
    shm_prefix: str
    metrics_url: str
    idle_timeout_s: float | None
    public: dict[str, object]  # goes into state.json as it is


def process_start_ticks(pid: int) -> int | None:
    """When a process started, in kernel ticks since boot, which tells it from a later namesake; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def remove_leftovers(prefix: str) -> None:
    """End the stubs of a server that is gone, and remove what they left in shared memory.

    Stubs end by themselves when tritonserver is killed, but for one that waits just then for a lock that it held.
    """
    for pid in _stubs(prefix):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for leftover in SHARED_MEMORY.glob(f"{prefix}*"):
        leftover.unlink(missing_ok=True)


def requests_served(metrics_url: str) -> float | None:
    """How many requests the server has taken, successful or not, over all models; None if it cannot say now."""
    try:
        with _DIRECT.open(metrics_url, timeout=2) as response:
            lines = response.read().decode("utf-8").splitlines()
    except (OSError, urllib.error.URLError):
        return None
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(("nv_inference_request_success{", "nv_inference_request_failure{"))
    )


class IdleClock:
    """Says when `timeout_s` have passed without a new request."""

    def __init__(self, timeout_s: float, now: float) -> None:
        self.timeout_s = timeout_s
        self._served: float | None = None
        self._since = now

    def expired(self, served: float | None, now: float) -> bool:
        if self._served is None or (served is not None and served != self._served):  # None: still starting
            self._served, self._since = served, now
        return now - self._since >= self.timeout_s


class Stop(Exception):
    """SIGTERM or SIGINT arrived."""


def _raise_stop(signal_number: int, frame: FrameType | None) -> None:
    raise Stop


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(spec: Spec) -> int:
    """Run one server to its end; returns tritonserver's exit status."""
    state = Path(spec.state)
    server = _start(spec)
    pid = os.getpid()
    content = {**spec.public, "pid": pid, "start_ticks": process_start_ticks(pid), "shm_prefix": spec.shm_prefix}
    fresh = state.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=2), encoding="utf-8")
    fresh.replace(state)
    try:
        short = 0  # lives in a row that were too short
        for left in reversed(range(MAX_RESTARTS + 1)):
            started = time.monotonic()
            _watch(server, spec)
            short = short + 1 if time.monotonic() - started < MIN_LIFE_S else 0
            if server.poll() not in CRASHES or short > MAX_SHORT_LIVES or not left:
                break
            remove_leftovers(spec.shm_prefix)
            server = _start(spec, f"tritonserver ended with status {server.returncode}, and is started again\n")
    except Stop:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        server.terminate()
        try:
            server.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        _wait_for_stubs(spec.shm_prefix)
        remove_leftovers(spec.shm_prefix)
        state.unlink(missing_ok=True)
    return server.returncode


def _start(spec: Spec, said: str = "") -> subprocess.Popen[bytes]:
    with open(spec.log, "ab", buffering=0) as log:
        log.write(said.encode())
        return subprocess.Popen(
            spec.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_die_with_parent,
        )


def _watch(server: subprocess.Popen[bytes], spec: Spec) -> None:
    """Return when tritonserver has ended or has been idle for too long."""
    clock = IdleClock(spec.idle_timeout_s, time.monotonic()) if spec.idle_timeout_s else None
    next_look = 0.0
    while server.poll() is None:
        now = time.monotonic()
        if clock and now >= next_look:
            if clock.expired(requests_served(spec.metrics_url), now):
                return
            next_look = now + min(10.0, clock.timeout_s / 10)
        time.sleep(POLL_INTERVAL_S)


def _wait_for_stubs(shm_prefix: str, timeout_s: float = 5.0) -> None:
    """Give the stubs of this server time to end by themselves."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and _stubs(shm_prefix):
        time.sleep(0.1)


def _stubs(shm_prefix: str) -> list[int]:
    """The process ids of a server's stubs: each has the name of its shared memory in its command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:  # It ended while we looked.
            continue
        if command[0].endswith("triton_python_backend_stub") and any(word.startswith(shm_prefix) for word in command):
            found.append(int(entry.parent.name))
    return found


def main() -> int:
    signal.signal(signal.SIGTERM, _raise_stop)
    signal.signal(signal.SIGINT, _raise_stop)
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    return run(spec)


if __name__ == "__main__":
    sys.exit(main())

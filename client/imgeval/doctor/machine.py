"""Checks of this machine."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Mapping

import click
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from imgeval import config
from imgeval.doctor.check import Check
from imgeval.errors import EmbeddedServerError, ImgevalError, InvalidInputError, install_hint

PACKAGE = "imgeval"
EMBEDDED = "embedded"  # the extra
MIN_FREE_BYTES = 2 * 2**30  # the starter profile takes 1.1 GB, packages apart
DEADLINE_S, MAX_LATE_S = 0.2, 0.5
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # that gRPC reads
SECRETS = re.compile("TOKEN|SECRET|PASSWORD|KEY")  # in the name of a variable whose value is not shown


def python() -> Iterator[Check]:
    """The version of Python, against what the package needs."""
    needed = importlib.metadata.metadata(PACKAGE)["Requires-Python"]
    version = platform.python_version()
    fits = SpecifierSet(needed).contains(version, prereleases=True)
    seen = f"Python {version}, {PACKAGE} {importlib.metadata.version(PACKAGE)} (needs Python {needed})"
    yield Check("python", "ok" if fits else "fail", seen, "" if fits else f"install with a Python {needed}")


def packages() -> Iterator[Check]:
    """The packages of the light client and, where the embedded server is installed, of that too."""
    missing, found = compare_requirements(importlib.metadata.requires(PACKAGE) or [], extra="")
    state = Check("packages", "ok", ", ".join(found))
    if missing:
        state = Check("packages", "fail", "; ".join(missing), "in imgeval's folder: pip install -c constraints.txt .")
    yield state
    missing, found = compare_requirements(importlib.metadata.requires(PACKAGE) or [], extra=EMBEDDED)
    name = f"packages of the extra {EMBEDDED}"
    if missing:
        seen = f"{'; '.join(missing)} (needed for a server on this machine, not for --url)"
        yield Check(name, "warn", seen, install_hint(EMBEDDED))
    else:
        yield Check(name, "ok", f"all {len(found)} are there")


def compare_requirements(requirements: Collection[str], extra: str) -> tuple[list[str], list[str]]:
    """What is missing or of a wrong version, and what is as needed, of the requirements of one extra ("": of none)."""
    missing, found = [], []
    for requirement in map(Requirement, requirements):
        names_an_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if not applies or names_an_extra != bool(extra) or requirement.name == PACKAGE:
            continue
        needed = f"{requirement.name}{requirement.specifier}"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"{needed} is not installed")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}")
        else:
            missing.append(f"{needed} is needed, {version} is installed")
    return missing, found


def embedded_server() -> Iterator[Check]:
    """The binary and the backend folder of the embedded server."""
    from imgeval.embedded import runtime

    try:
        binary = runtime.prepare().binary
    except (EmbeddedServerError, OSError) as error:
        yield Check("embedded server", "warn", str(error), "or use a server elsewhere: --url HOST:PORT")
        return
    there = binary.is_file() and os.access(binary, os.X_OK)
    advice = "" if there else install_hint(EMBEDDED)
    yield Check("embedded server", "ok" if there else "warn", f"{binary}{'' if there else ' is no program'}", advice)


def home() -> Iterator[Check]:
    """The folder of models and weights: can it be written, and is there space."""
    from imgeval.embedded import paths

    folder = paths.home()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())  # the rest is made when needed
    free = shutil.disk_usage(there).free
    seen = f"{folder}, {free / 1e9:.1f} GB free"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield Check("home", "warn", f"{folder} cannot be written", "give another folder as IMGEVAL_HOME")
    elif free < MIN_FREE_BYTES:
        advice = f"free {MIN_FREE_BYTES / 1e9:.1f} GB, or give another folder as IMGEVAL_HOME"
        yield Check("home", "warn", seen, advice)
    else:
        yield Check("home", "ok", seen)


def shared_memory() -> Iterator[Check]:
    """What the steps of a server on this machine hand their tensors over in."""
    from imgeval.embedded.server import MIN_SHARED_MEMORY_BYTES
    from imgeval.embedded.supervisor import SHARED_MEMORY

    name, needed = "shared memory of this machine", f"{MIN_SHARED_MEMORY_BYTES / 1e6:.0f} MB"
    try:
        with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, prefix="imgeval-doctor-") as file:
            file.write(b"\0")
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError as error:
        advice = "mount a writable one; only a server on this machine needs it"
        yield Check(name, "warn", f"{SHARED_MEMORY} cannot be written: {error.strerror}", advice)
        return
    seen = f"{SHARED_MEMORY}, {free / 1e6:.0f} MB free"
    if free < MIN_SHARED_MEMORY_BYTES:
        yield Check(name, "warn", f"{seen}; needed: {needed}", "in a container: --shm-size=1g")
    else:
        yield Check(name, "ok", seen)


def deadline() -> Iterator[Check]:
    """Whether a call ends when its time is up, by a call to an address of this machine that never answers.

    No server is asked: Triton 24.10 may hang or crash of a request that is cancelled as it comes in, and a check is to
    do no harm.
    """
    from imgeval.contract import ENSEMBLE
    from imgeval.transport import GrpcTransport

    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = GrpcTransport(f"127.0.0.1:{silent.getsockname()[1]}")
        start = time.perf_counter()
        with contextlib.closing(transport), contextlib.suppress(ImgevalError):
            transport.check_ready(ENSEMBLE, DEADLINE_S)
        late_s = time.perf_counter() - start - DEADLINE_S
    seen = f"a call with {DEADLINE_S * 1e3:.0f} ms that nobody answers ended {late_s * 1e3:+.0f} ms after that"
    in_time = abs(late_s) <= MAX_LATE_S
    advice = "the machine is overloaded or its clock is not steady: deadlines (--timeout) are not what they say"
    yield Check("deadline", "ok" if in_time else "warn", seen, "" if in_time else advice)


def configuration(commands: Mapping[str, click.Command]) -> Iterator[Check]:
    """The configuration file, every command's part of it, and the environment variables that are set."""
    file = config.path()
    try:
        content = config.read(file)
        for name, command in commands.items():
            config.defaults(content, file, name, commands, config.options_of(command))
    except InvalidInputError as error:
        yield Check("configuration file", "fail", str(error), f"correct {file}, or name another in {config.VARIABLE}")
    else:
        keys = ", ".join(content) or "sets nothing"
        yield Check("configuration file", "ok", f"{file}: {keys}" if file.exists() else f"none ({file})")
    names = sorted(name for name in os.environ if name.startswith("IMGEVAL_"))
    shown = ", ".join(f"{name}={'...' if SECRETS.search(name) else os.environ[name]}" for name in names)
    yield Check("environment", "ok", shown or "no IMGEVAL_ variable is set")


def proxies(url: str) -> Iterator[Check]:
    """Proxies in the environment: gRPC takes them for every address but this machine's."""
    from imgeval.connection import LOOPBACK_HOSTS

    hosts = [each.rpartition(":")[0] for each in url.split(",")]
    host = ",".join(dict.fromkeys(hosts))
    found = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
    shown = ", ".join(f"{name}={re.sub('//[^/@]*@', '//...@', value)}" for name, value in found.items())
    if not found:
        yield Check("proxies", "ok", "none in the environment")
    elif all(each in LOOPBACK_HOSTS for each in hosts) or all(map(urllib.request.proxy_bypass, hosts)):
        yield Check("proxies", "ok", f"{shown}; not used for {host}")
    else:
        yield Check("proxies", "warn", f"{shown}; used for {host}", f"if it is not meant to be: no_proxy={host}")


CHECKS = (python, packages, embedded_server, home, shared_memory, deadline)  # that need to be told nothing

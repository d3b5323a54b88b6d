"""How a repository uses the machine that serves it: instances of each model, and threads of each network.

Every instance is a process. A network on one image gains little from more than `THREADS_PER_INSTANCE` threads, so a
larger machine serves several images at a time, as far as its memory allows; the threads of all instances of a network
together are as many as there are cores. Networks take turns in most requests, so each may use all cores.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from imgeval.embedded.engine import THREADS_PARAMETER
from imgeval.errors import InvalidInputError
from imgeval_export.profile import Profile

THREADS_PER_INSTANCE = 8
# What an instance of everything takes in the profile cpu, with SAM at work (docs/benchmarks.md), rounded up.
INSTANCE_BYTES = 6 * 2**30
# Models that compute for a while on each image, and so have an instance for each image that is under way.
SCALED_MODELS = ("preprocess", "clip_image", "sam_encoder", "sam_points", "sam_decoder", "sam_clip", "iqa")

CGROUP = Path("/sys/fs/cgroup")  # version 2; a container's limits


@dataclass(frozen=True)
class Machine:
    """What a server may use."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Plan:
    """Instances of each of SCALED_MODELS, and threads of each instance of a network; 0: as many as there are cores."""

    instances: int = 1
    threads: int = 0


def this_machine(cgroup: Path = CGROUP) -> Machine:
    """The machine that this process runs on, within the limits of its container and its CPU affinity."""
    cores = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(cgroup / "memory.max")
    return Machine(cores, min(memory_bytes, int(limit)) if limit.isdigit() else memory_bytes)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:  # no limit is set there
        return ""


def plan(machine: Machine, instances: int | None, threads: int | None) -> Plan:
    """Instances and threads for a machine; those that are given stay.

    Raises:
        InvalidInputError: fewer than one instance, or a negative number of threads.
    """
    for name, value, least in (("--instances", instances, 1), ("--threads", threads, 0)):
        if value is not None and value < least:
            raise InvalidInputError(name, f"got {value}; allowed: {least} or more")
    if instances is None:
        instances = max(1, min(machine.cores // THREADS_PER_INSTANCE, machine.memory_bytes // INSTANCE_BYTES))
    return Plan(instances, max(1, machine.cores // instances) if threads is None else threads)


def with_plan(profile: Profile, chosen: Plan) -> Profile:
    """The profile with its models in so many instances and threads; what uses one thread keeps it."""
    models = []
    for model in profile.models:
        changed = {THREADS_PARAMETER: str(chosen.threads)} if model.parameters.get(THREADS_PARAMETER) == "0" else {}
        instances = chosen.instances if model.name in SCALED_MODELS else model.instances
        models.append(replace(model, instances=instances, parameters={**model.parameters, **changed}))
    return replace(profile, models=tuple(models))

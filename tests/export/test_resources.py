"""Instances and threads: what a machine gets, and what a build may say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgeval.embedded.engine import THREADS_PARAMETER
from imgeval.errors import InvalidInputError
from imgeval_export import profiles
from imgeval_export.repository import BuildOptions, chosen_profile
from imgeval_export.resources import INSTANCE_BYTES, Machine, Plan, plan, this_machine, with_plan

PLENTY = 1000 * INSTANCE_BYTES


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (Machine(1, PLENTY), Plan(1, 1)),
        (Machine(2, PLENTY), Plan(1, 2)),
        (Machine(15, PLENTY), Plan(1, 15)),
        (Machine(16, PLENTY), Plan(2, 8)),
        (Machine(64, PLENTY), Plan(8, 8)),
        (Machine(64, 3 * INSTANCE_BYTES), Plan(3, 21)),
        (Machine(64, 1), Plan(1, 64)),
    ],
)
def test_threads_of_all_instances_are_the_cores(machine: Machine, expected: Plan) -> None:
    assert plan(machine, None, None) == expected
    assert expected.instances * expected.threads <= machine.cores


def test_what_is_given_stays() -> None:
    machine = Machine(64, PLENTY)
    assert plan(machine, 2, None) == Plan(2, 32)
    assert plan(machine, None, 3) == Plan(8, 3)
    assert plan(machine, 2, 0) == Plan(2, 0)


@pytest.mark.parametrize(("instances", "threads"), [(0, None), (-1, None), (None, -1)])
def test_numbers_that_cannot_be_are_refused(instances: int | None, threads: int | None) -> None:
    with pytest.raises(InvalidInputError, match="or more"):
        plan(Machine(2, PLENTY), instances, threads)


def test_limits_of_a_container_count(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    assert this_machine(tmp_path) == Machine(1, 2**30)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    unlimited = this_machine(tmp_path)
    assert unlimited == this_machine(tmp_path / "nowhere")
    assert unlimited.cores == len(os.sched_getaffinity(0)) and unlimited.memory_bytes > 2**30


def test_networks_get_threads_and_small_models_keep_one() -> None:
    models = {model.name: model for model in with_plan(profiles.get("cpu"), Plan(3, 5)).models}
    assert models["clip_image"].parameters[THREADS_PARAMETER] == "5" and models["clip_image"].instances == 3
    assert models["clip_text"].parameters[THREADS_PARAMETER] == "5" and models["clip_text"].instances == 1
    assert models["iqa"].parameters[THREADS_PARAMETER] == "5", "torch's"
    assert models["preprocess"].parameters[THREADS_PARAMETER] == "5", "its own"
    assert models["sam_clip"].parameters[THREADS_PARAMETER] == "1", "SAM computes elsewhere"
    assert models["combine"].parameters[THREADS_PARAMETER] == "1" and models["combine"].instances == 1
    assert models["sam_clip"].instances == models["preprocess"].instances == 3


def test_another_machine_is_not_this_one() -> None:
    there = {model.name: model for model in chosen_profile("cpu", BuildOptions(target="container")).models}
    assert there["clip_image"].parameters[THREADS_PARAMETER] == "0"
    here = {model.name: model for model in chosen_profile("cpu", BuildOptions()).models}
    assert here["clip_image"].parameters[THREADS_PARAMETER] != "0"

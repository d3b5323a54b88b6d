"""imgeval.serving: Triton's batches to items and back, with an ordinary class in the place of Triton's module."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from imgeval.errors import BuildError, InvalidInputError
from tests.fake_python_backend import InferenceResponse, MetricFamily, Request, Tensor, TritonError, installed, pb_utils

COPIES = ("DOUBLED",)


class Remote:
    """A model of the server that doubles its input, and fails on -1. Remembers the batches that it got."""

    batches: list[int]
    wishes: list[Any]  # where the answers should lie
    given: list[np.ndarray]

    def __init__(
        self, model_name: str, requested_output_names: list[str], inputs: list[Tensor], preferred_memory: Any = None
    ) -> None:
        self._input, self._output = inputs[0].as_numpy(), requested_output_names[0]
        Remote.wishes.append(preferred_memory)
        Remote.given.append(self._input)

    def exec(self) -> InferenceResponse:
        Remote.batches.append(len(self._input))
        if (self._input == -1).any():
            return InferenceResponse(error=TritonError("no negative\nnumbers"))
        return InferenceResponse([Tensor(self._output, 2 * self._input)])


@pytest.fixture
def serving() -> Iterator[ModuleType]:
    Remote.batches, Remote.wishes, Remote.given = [], [], []
    with installed(pb_utils(Remote)) as module:
        yield module


def request(*numbers: float, wanted: Sequence[str] = COPIES) -> Request:
    return Request({"X": np.array([[number] for number in numbers], np.float32)}, set(wanted))


def double(items: Sequence[dict[str, Any]]) -> list[Any]:
    """Doubles X; refuses 13 and is broken for 66."""
    answers: list[Any] = []
    for item in items:
        value = item["X"].item()
        if value == 66:
            raise ZeroDivisionError("broken")
        refused = {13: InvalidInputError("IMAGE", "got 13"), 14: BuildError("no weights")}
        answers.append(refused.get(value) or {"DOUBLED": 2 * item["X"], "OTHER": item["X"]})
    return answers


# --- requests -> items -> responses ----------------------------------------------------------------------------------
def test_items_of_all_requests_are_answered_together_and_in_order(serving: ModuleType) -> None:
    calls = []

    def answer(items: Sequence[dict[str, Any]]) -> list[Any]:
        calls.append(len(items))
        return double(items)

    responses = serving.serve("step", [request(1, 2), request(3), request(4, 5, 6)], ["X"], answer)
    assert calls == [6]
    assert [response.arrays() for response in responses] == [
        {"DOUBLED": [[2], [4]]}, {"DOUBLED": [[6]]}, {"DOUBLED": [[8], [10], [12]]},
    ]  # fmt: skip


def test_only_the_outputs_that_are_wanted_are_packed(serving: ModuleType) -> None:
    responses = serving.serve(
        "step", [request(1, wanted=("OTHER",)), request(1, wanted=("OTHER", "DOUBLED"))], ["X"], double
    )
    assert [set(response.arrays()) for response in responses] == [{"OTHER"}, {"OTHER", "DOUBLED"}]


def test_an_optional_input_may_be_absent(serving: ModuleType) -> None:
    seen: list[set[str]] = []

    def answer(items: Sequence[dict[str, Any]]) -> list[Any]:
        seen.extend(set(item) for item in items)
        return [{"DOUBLED": item["X"]} for item in items]

    both = Request({"X": np.ones((1, 1), np.float32), "Y": np.ones((1, 1), np.float32)})
    serving.serve("step", [request(1), both], ["X", "Y"], answer)
    assert seen == [{"X"}, {"X", "Y"}]


def test_a_refused_item_fails_its_own_request_alone(serving: ModuleType) -> None:
    good, one, several, last = serving.serve(
        "step", [request(1), request(13), request(2, 13, 3), request(4)], ["X"], double
    )
    assert [good.arrays(), last.arrays()] == [{"DOUBLED": [[2]]}, {"DOUBLED": [[8]]}]
    assert (one.error().code, one.error().message()) == ("INVALID_ARG", "step: IMAGE: got 13")
    assert (several.error().code, several.error().message()) == ("INVALID_ARG", "step: item 1: IMAGE: got 13")


def test_another_typed_error_is_internal(serving: ModuleType) -> None:
    (response,) = serving.serve("step", [request(14)], ["X"], double)
    assert (response.error().code, response.error().message()) == ("INTERNAL", "step: BuildError: no weights")


def test_a_step_that_breaks_on_one_request_answers_the_others(serving: ModuleType) -> None:
    good, broken, last = serving.serve("step", [request(1), request(66), request(4)], ["X"], double)
    assert [good.arrays(), last.arrays()] == [{"DOUBLED": [[2]]}, {"DOUBLED": [[8]]}]
    assert (broken.error().code, broken.error().message()) == ("INTERNAL", "step: ZeroDivisionError: broken")


# --- packing ---------------------------------------------------------------------------------------------------------
def test_one_row_is_not_copied(serving: ModuleType) -> None:
    row = np.arange(6, dtype=np.uint8)
    batch = serving.stack([row])
    assert batch.shape == (1, 6)
    assert np.shares_memory(batch, row)
    assert serving.stack([row[::2]]).flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int64])
def test_flat_rows_are_padded_with_zeros_to_the_longest(serving: ModuleType, dtype: type) -> None:
    batch = serving.stack([np.array(row, dtype) for row in ([1, 2, 3], [4], [5, 6])])
    assert batch.dtype == dtype
    assert batch.tolist() == [[1, 2, 3], [4, 0, 0], [5, 6, 0]]


def test_equal_rows_are_stacked(serving: ModuleType) -> None:
    rows = [np.full((3, 2, 2), number, np.float32) for number in range(4)]
    assert np.array_equal(serving.stack(rows), np.stack(rows))
    with pytest.raises(ValueError, match="shape"):
        serving.stack([np.zeros((3, 2, 2)), np.zeros((3, 4, 4))])


def test_one_element_tensors(serving: ModuleType) -> None:
    assert serving.scalar(0.5).tolist() == [0.5]
    assert math.isnan(serving.scalar(None)[0])
    assert serving.scalar(1).dtype == np.float32
    assert serving.text("Hündchen").tolist() == ["Hündchen".encode()]
    assert json.loads(serving.to_json({"word": "猫", "none": None})[0]) == {"word": "猫", "none": None}
    with pytest.raises(ValueError, match="not JSON compliant"):
        serving.to_json({"raw": math.nan})


def test_an_image_comes_back_out_of_its_padded_row(serving: ModuleType) -> None:
    images = [np.random.default_rng(side).integers(0, 256, (side, side + 1, 3), np.uint8) for side in (3, 5)]
    rows = serving.stack([image.reshape(-1) for image in images])
    for image, row in zip(images, rows, strict=True):
        back = serving.rgb({"RGB": row, "SIZE": serving.size(image)})
        assert np.array_equal(back, image)
        assert np.shares_memory(back, rows)


def test_settings_are_read_beside_the_model(serving: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "settings.json").write_text('{"max_tokens": 7}', encoding="utf-8")
    args = {"model_repository": str(tmp_path), "model_version": "1"}
    assert serving.model_dir(args) == tmp_path / "1"
    assert serving.settings(args) == {"max_tokens": 7}


# --- other models ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("items", "batches"), [(1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
def test_a_remote_model_is_called_in_batches_that_it_takes(serving: ModuleType, items: int, batches: list[int]) -> None:
    values = np.arange(items, dtype=np.float32)[:, None]
    assert np.array_equal(serving.RemoteModel("tower", "X", "Y", 4)(values), 2 * values)
    assert Remote.batches == batches


def test_a_remote_model_that_fails_says_which(serving: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="tower: no negative"):
        serving.RemoteModel("tower", "X", "Y", 4)(np.array([[-1.0]]))


def test_torch_tensors_are_shared_and_come_back_as_such(serving: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    values = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    answer = serving.call_torch("tower", {"X": values}, ["Y"])["Y"]
    assert torch.equal(answer, 2 * values)
    assert answer.device == values.device
    assert Remote.wishes == [("CPU", 0)]
    assert np.shares_memory(Remote.given[0], values.numpy())
    assert torch.equal(serving.call_torch("tower", {"X": values.T}, ["Y"])["Y"], 2 * values.T)


def test_answers_of_torch_calls_are_wished_where_the_inputs_lie(serving: ModuleType) -> None:
    """A stand-in for a tensor of the second GPU: this machine need not have one."""
    torch = pytest.importorskip("torch")

    class OnGpu:
        device = torch.device("cuda", 1)

        def contiguous(self) -> Any:
            return torch.tensor([[-1.0]])

    with pytest.raises(RuntimeError, match="tower: no negative"):
        serving.call_torch("tower", {"X": OnGpu()}, ["Y"])
    assert Remote.wishes == [("GPU", 1)]


def test_a_numpy_call_has_no_wish(serving: ModuleType) -> None:
    serving.CALLS["numpy"]("tower", {"X": np.ones((1, 1), np.float32)}, ["Y"])
    assert Remote.wishes == [None]


def test_an_instance_knows_its_device(serving: ModuleType) -> None:
    args = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
    assert serving.device(args) == "cuda:1"
    assert serving.device({**args, "model_instance_kind": "CPU"}) == "cpu"


# --- the cache -------------------------------------------------------------------------------------------------------
def arguments(**parameters: str) -> dict[str, str]:
    content = {name: {"string_value": value} for name, value in parameters.items()}
    return {"model_name": "tower", "model_config": json.dumps({"parameters": content})}


@pytest.mark.parametrize("parameters", [{}, {"cache_max_bytes": "0"}])
def test_a_model_that_is_given_no_cache_has_none(serving: ModuleType, parameters: dict[str, str]) -> None:
    assert serving.cache(arguments(**parameters)).max_bytes == 0
    assert MetricFamily.made == {}


def test_a_cache_that_cannot_say_what_computes_is_refused(serving: ModuleType) -> None:
    with pytest.raises(KeyError, match="cache_fingerprint"):
        serving.cache(arguments(cache_max_bytes="1000"))


def test_what_a_cache_does_is_in_the_metrics(serving: ModuleType) -> None:
    cache = serving.cache(arguments(cache_max_bytes="100000", cache_fingerprint="f"))
    rows = [np.array([number]) for number in (1, 2, 1, 3)]
    cache.values(rows, cache.key, lambda given: [float(row[0]) for row in given])
    cache.values(rows[:2], cache.key, lambda given: [])
    hits, misses, used = (
        MetricFamily.made[f"imgeval_cache_{name}", "tower"] for name in ("hits_total", "misses_total", "bytes")
    )
    assert (hits.value, misses.value, used.value) == (3, 3, cache.used_bytes)
    assert (hits.messages, misses.messages, used.messages) == (2, 1, 1), "each is a message to the server"


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("0", len(os.sched_getaffinity(0))), (None, 1)])
def test_a_model_has_the_threads_of_its_configuration(serving: ModuleType, given: str | None, expected: int) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    parameters = {} if given is None else {"intra_op_thread_count": {"string_value": given}}
    args = {"model_config": json.dumps({"parameters": parameters})}
    assert serving.threads(args) == expected
    try:
        torch.set_num_threads(7)
        serving.set_torch_threads(args)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_a_map_keeps_the_order_and_uses_the_threads(serving: ModuleType) -> None:
    args = {"model_config": json.dumps({"parameters": {"intra_op_thread_count": {"string_value": "3"}}})}
    meet = threading.Barrier(3)  # of three at a time, else it breaks

    def work(number: int) -> int:
        meet.wait(60)
        return number * number

    assert list(serving.thread_map(args)(work, range(6))) == [0, 1, 4, 9, 16, 25]

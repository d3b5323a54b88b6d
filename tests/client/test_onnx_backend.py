"""The backend "onnxruntime" of the embedded server, run on small graphs without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fake_python_backend import InferenceResponse, MetricFamily, Request, installed, load, pb_utils

onnx = pytest.importorskip("onnx")
pytest.importorskip("openvino")

BACKEND = Path(__file__).parents[2] / "client/imgeval/embedded/backends/onnxruntime/model.py"
WIDTH = 3
CACHE = {"cache_max_bytes": str(2**20), "cache_fingerprint": "f"}
Load = Callable[..., Any]


def save_graph(folder: Path) -> None:
    """A, B (N, 3) -> SUM = A + B, PRODUCT = A * B."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    tensor = {name: helper.make_tensor_value_info(name, float32, ["N", WIDTH]) for name in ("A", "B", "SUM", "PRODUCT")}
    nodes = [helper.make_node("Add", ["A", "B"], ["SUM"]), helper.make_node("Mul", ["A", "B"], ["PRODUCT"])]
    graph = helper.make_graph(nodes, "both", [tensor["A"], tensor["B"]], [tensor["SUM"], tensor["PRODUCT"]])
    opset = [helper.make_opsetid("", 17)]
    folder.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Load]:
    """Loads the backend's model of the graph above with these parameters; it remembers the rows of A that it ran."""
    save_graph(tmp_path / "1")
    with installed(pb_utils()):
        loaded = load(BACKEND)

        class Counting(loaded):  # type: ignore[misc, valid-type]
            def run(self, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
                self.ran.append(arrays[0][:, 0].tolist())
                outputs: dict[str, np.ndarray] = super().run(arrays)
                return outputs

        def make(max_batch_size: int = 8, **parameters: str) -> Any:
            config = {
                "max_batch_size": max_batch_size,
                "input": [{"name": "A"}, {"name": "B"}],
                "output": [{"name": "PRODUCT"}, {"name": "SUM"}],
                "parameters": {name: {"string_value": value} for name, value in parameters.items()},
            }
            model = Counting()
            model.ran = []
            model.initialize(
                {"model_repository": str(tmp_path), "model_version": "1", "model_name": "both",
                 "model_config": json.dumps(config)}
            )  # fmt: skip
            return model

        yield make


def request(*rows: int, wanted: Sequence[str] = ("SUM", "PRODUCT"), b: float = 0.1) -> Request:
    a = np.array([[row, row + 0.5, -row] for row in rows], np.float32)
    return Request({"A": a, "B": np.full_like(a, b)}, set(wanted))


def bits(responses: Sequence[InferenceResponse]) -> list[dict[str, tuple[tuple[int, ...], bytes]]]:
    assert not any(response.has_error() for response in responses)
    return [
        {tensor.name(): (tensor.as_numpy().shape, tensor.as_numpy().tobytes()) for tensor in response.tensors}
        for response in responses
    ]


BATCHES = [
    [request(1)],
    [request(1, 2), request(3)],
    [request(2), request(2, 2, 4), request(5, wanted=["SUM"])],
    [request(6), request(6)],
    [request(1, 2, 3, 4, 5, 6)],
    [request(1, b=0.2)],
]


def test_rows_are_run_once_and_answers_are_the_same(backend: Load) -> None:
    cached, plain = backend(**CACHE), backend()
    for batch in BATCHES:
        assert bits(cached.execute(batch)) == bits(plain.execute(batch))
    assert cached.ran == [[1], [2, 3], [4, 5], [6], [1]]
    assert plain.ran == [[1], [1, 2, 3], [2, 2, 2, 4, 5], [6, 6], [1, 2, 3, 4, 5, 6], [1]]
    assert MetricFamily.made["imgeval_cache_misses_total", "both"].value == 7
    assert MetricFamily.made["imgeval_cache_hits_total", "both"].value == 18 - 7


def test_a_kept_row_survives_the_engines_next_run(backend: Load) -> None:
    """The engine writes its next outputs where the last ones are."""
    cached = backend(**CACHE)
    (before,) = cached.execute([request(1)])
    expected = bits([before])
    cached.execute([request(9)])
    assert bits(cached.execute([request(1)])) == expected
    assert cached.ran == [[1], [9]]


def test_without_batches_there_are_no_rows_to_keep(backend: Load) -> None:
    model = backend(max_batch_size=0, **CACHE)
    for _ in range(2):
        assert len(bits(model.execute([request(1, 1), request(1)]))) == 2
    assert model.ran == [[1, 1], [1]] * 2


def test_a_request_that_fails_is_answered_and_nothing_of_it_is_kept(backend: Load) -> None:
    model = backend(**CACHE)
    wrong = Request({"A": np.zeros((1, WIDTH), np.float32), "B": np.zeros((1, WIDTH + 1), np.float32)}, {"SUM"})
    (response,) = model.execute([wrong])
    assert "both: " in response.error().message()
    assert len(model.cache) == 0
    assert bits(model.execute([request(1)])) == bits(backend().execute([request(1)]))


@pytest.mark.parametrize("rows", ["1", "2", "3"])
def test_rows_in_parts_are_the_same_as_at_once(backend: Load, rows: str) -> None:
    parts, whole = backend(rows_per_run=rows), backend()
    for batch in BATCHES:
        assert bits(parts.execute(batch)) == bits(whole.execute(batch))


def test_without_batches_inputs_of_different_lengths_stay_whole(backend: Load) -> None:
    """SAM's decoder takes one image and many points."""
    model = backend(max_batch_size=0)
    one, many = np.ones((1, WIDTH), np.float32), np.arange(4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
    (response,) = model.execute([Request({"A": one, "B": many}, {"SUM"})])
    (total,) = response.tensors
    np.testing.assert_array_equal(total.as_numpy(), one + many)

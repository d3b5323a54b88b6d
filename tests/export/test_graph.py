"""The ONNX writer: what it promises about every model."""

from __future__ import annotations

import subprocess
import sys

import onnx
import pytest

from imgeval_export.graph import Graph
from imgeval_export.similarity import similarity_model


def test_models_stay_within_what_triton_24_10_can_load() -> None:
    model = similarity_model()
    assert model.ir_version <= 10
    assert next(opset.version for opset in model.opset_import if opset.domain == "") <= 21
    assert model.producer_name == "imgeval"


def test_the_same_calls_give_the_same_bytes() -> None:
    assert similarity_model().SerializeToString() == similarity_model().SerializeToString()


def test_a_graph_that_is_no_valid_onnx_is_refused() -> None:
    graph = Graph("broken")
    graph.input("X", ("B", 3))
    graph.node("Add", "X", "nowhere", output="Y")
    graph.output("Y", ("B", 3))
    with pytest.raises(onnx.checker.ValidationError):
        graph.model()


def test_building_needs_neither_torch_nor_a_runtime() -> None:
    modules = "conse, efficientnet, legacy_pth, minilm, similarity"
    code = f"import sys; from imgeval_export import {modules}; print([m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'onnx'" in loaded
    for heavy in ("torch", "transformers", "onnxruntime", "openvino", "PIL"):
        assert f"'{heavy}'" not in loaded

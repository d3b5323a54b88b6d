"""A small writer for ONNX graphs: values are names, each call adds one node and returns the name of its output.

Every model that comes out is checked, and the same calls give the same bytes: names are counted, nothing is random and
no time or path is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# The oldest of the runtimes that serve these models is Triton 24.10's ONNX Runtime 1.19.2: opset <= 21, IR <= 10.
# Opset 20 is the first with `Gelu`; IR 9 is the version that was published with it.
OPSET = 20
IR_VERSION = 9
PRODUCER = "imgeval"
PRODUCER_VERSION = "1"

L2_EPSILON = 1e-12  # lower bound of a norm, as in torch.nn.functional.normalize

MAX_FILE_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; 1 MiB is left to the nodes
_LARGE_CONSTANT_BYTES = 1024  # at most as large are shapes and axes, whose values decide what a graph computes

Shape = tuple[int | str, ...]  # a string names a dynamic dimension


class Graph:
    """One ONNX graph under construction."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input of the model."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> None:
        """Declare that the value called `name` is an output of the model."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def constant(self, name: str, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """Store an array; asking again for a name that exists returns the first one."""
        if name not in self._constants:
            # astype, not ascontiguousarray: that one turns a scalar into an array of one
            self._constants[name] = numpy_helper.from_array(np.asarray(value).astype(dtype, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        """A one-dimensional INT64 constant: axes, or the shape for a Reshape."""
        return self.constant("int64_" + "_".join(map(str, values)), values, np.int64)

    def number(self, value: float) -> str:
        """A FLOAT scalar constant."""
        return self.constant(f"float_{value!r}", value)

    def node(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return that output's name."""
        return self.nodes(op, *inputs, outputs=[output or f"{op}_{len(self._nodes)}"], **attributes)[0]

    def nodes(self, op: str, *inputs: str, outputs: list[str], **attributes: Any) -> list[str]:
        """Add a node with several outputs, and return their names."""
        self._nodes.append(helper.make_node(op, inputs, outputs, name=f"{op}_{len(self._nodes)}", **attributes))
        return outputs

    def l2_normalize(self, x: str, output: str | None = None) -> str:
        """x / max(|x|, 1e-12) along the last axis."""
        norm = self.node("ReduceL2", x, self.integers(-1), keepdims=1)
        return self.node("Div", x, self.node("Max", norm, self.number(L2_EPSILON)), output=output)

    def model(self) -> onnx.ModelProto:
        """The finished model.

        Raises:
            onnx.checker.ValidationError, onnx.shape_inference.InferenceError: the graph is not valid ONNX (a mistake in
            the code that wrote it, never in the weights: those are checked before).
        """
        # The checker can read no model of more than 2 GB, so large constants are shown to it as inputs.
        large = [tensor for tensor in self._constants.values() if len(tensor.raw_data) > _LARGE_CONSTANT_BYTES]
        small = [tensor for tensor in self._constants.values() if len(tensor.raw_data) <= _LARGE_CONSTANT_BYTES]
        declared = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
        onnx.checker.check_model(self._model([*self._inputs, *declared], small), full_check=True)
        return self._model(self._inputs, self._constants.values())

    def _model(self, inputs: Sequence[onnx.ValueInfoProto], constants: Iterable[onnx.TensorProto]) -> onnx.ModelProto:
        model = helper.make_model(
            helper.make_graph(self._nodes, self._name, inputs, self._outputs),
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
            producer_name=PRODUCER,
            producer_version=PRODUCER_VERSION,
        )
        model.graph.initializer.extend(constants)  # here, because make_graph and make_model would each copy them
        return model


def save_model(model: onnx.ModelProto, path: str | Path) -> None:
    """Write `model` to `path`; one too large for a single protobuf file leaves its weights in `path` + ".data".

    Both files then belong together, in one folder. Writing the second takes the weights out of `model`.
    """
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size < MAX_FILE_BYTES:
        onnx.save_model(model, path)
        return
    weights = Path(path).with_name(Path(path).name + ".data")
    weights.unlink(missing_ok=True)  # onnx appends to a file that exists
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        location=weights.name,
        size_threshold=_LARGE_CONSTANT_BYTES,
        convert_attribute=False,
    )

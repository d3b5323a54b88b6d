"""A float32 ONNX model -> the same with its matrix products in bfloat16, for CPUs that have it, or float16, for GPUs.

bfloat16 keeps 8 bits of a number. What that costs depends on where it is rounded: the sum that a transformer's blocks
add to is rounded once per addition if it is bfloat16 as well, and these errors outweigh all others. So only matrix
products are bfloat16, with float32 accumulators as the processors have them, and what follows them alone: biases,
activations, attention weights. Residual sums and layer norms stay float32. On CLIP ViT-L/14 that is 4 times nearer to
float32 than a runtime that rounds every tensor, in the same time (docs/engine.md).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imgeval.errors import BuildError

PRODUCT = "MatMul"  # a convolution would need opset 22; these models begin with a small one
# Computed in bfloat16 where everything that they take is: they keep values, or work on one product's result alone.
FOLLOWERS = ("Reshape", "Transpose", "Slice", "Concat", "Pad", "Gather", "Mul", "Relu", "Gelu", "Sigmoid", "Softmax")


def bfloat16_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, whose inputs and outputs stay float32, with bfloat16 weights in its matrix products."""
    return _Converter(model, TensorProto.BFLOAT16).converted()


def float16_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """As `bfloat16_products`, in float16, for GPUs: 11 bits of a number, none beyond 65504.

    Raises:
        BuildError: a weight that is beyond.
    """
    return _Converter(model, TensorProto.FLOAT16).converted()


_SUFFIXES: dict[int, str] = {TensorProto.BFLOAT16: "bf16", TensorProto.FLOAT16: "fp16", TensorProto.FLOAT: "fp32"}
_NUMPY: dict[int, Any] = {TensorProto.BFLOAT16: ml_dtypes.bfloat16, TensorProto.FLOAT16: np.float16}


class _Converter:
    def __init__(self, model: onnx.ModelProto, half_type: int) -> None:
        self._model = model
        self._half_type = half_type
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._floats = _float_values(model)
        self._dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
        self._half: set[str] = set()  # values that are of the half type
        self._cast: dict[tuple[str, int], str] = {}  # (value, type) -> the same value in that type
        self._nodes: list[onnx.NodeProto] = []
        self._used: dict[str, onnx.TensorProto] = {}

    def converted(self) -> onnx.ModelProto:
        graph = self._model.graph
        public = {value.name for value in graph.output}
        for node in graph.node:
            self._add(node, public)
        fresh = helper.make_graph(self._nodes, graph.name, graph.input, graph.output)
        fresh.initializer.extend(self._used.values())
        model = onnx.ModelProto()
        model.CopyFrom(helper.make_model(fresh, opset_imports=self._model.opset_import))
        for field in ("ir_version", "producer_name", "producer_version"):
            setattr(model, field, getattr(self._model, field))
        return model

    def _add(self, node: onnx.NodeProto, public: set[str]) -> None:
        half = self._is_half(node) and not public & set(node.output)
        fresh = onnx.NodeProto()
        fresh.CopyFrom(node)
        wanted = self._half_type if half else TensorProto.FLOAT
        del fresh.input[:]
        fresh.input.extend(self._as(name, wanted) for name in node.input)
        self._nodes.append(fresh)
        if half:
            self._half.update(node.output)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        varying = [name in self._half for name in node.input if name in self._floats]
        if node.op_type == PRODUCT:
            return not self._dequantised & set(node.input)  # those are products of integers
        if node.op_type == "Add":  # a vector is a bias; a table, such as positions, begins a residual sum
            constants = [self._constants[name] for name in node.input if name in self._constants]
            return all(varying) and all(len(constant.dims) <= 1 for constant in constants)
        return node.op_type in FOLLOWERS and bool(varying) and all(varying)

    def _as(self, name: str, wanted: int) -> str:
        """The name of this value in the wanted type; what is no float stays."""
        if name in self._constants:
            return self._constant(name, wanted)
        if name not in self._floats or (name in self._half) == (wanted == self._half_type):
            return name
        if (name, wanted) not in self._cast:
            self._cast[name, wanted] = f"{name}_{_SUFFIXES[wanted]}"
            self._nodes.append(helper.make_node("Cast", [name], [self._cast[name, wanted]], to=wanted))
        return self._cast[name, wanted]

    def _constant(self, name: str, wanted: int) -> str:
        tensor = self._constants[name]
        if tensor.data_type != TensorProto.FLOAT or wanted == TensorProto.FLOAT:
            self._used[name] = tensor
            return name
        half = f"{name}_{_SUFFIXES[wanted]}"
        if half not in self._used:
            array = _rounded(name, numpy_helper.to_array(tensor), _NUMPY[wanted])
            self._used[half] = TensorProto(name=half, data_type=wanted, dims=array.shape, raw_data=array.tobytes())
        return half


def _rounded(name: str, array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    largest = float(np.abs(array).max(initial=0))
    if dtype == np.float16 and largest > np.finfo(np.float16).max:
        raise BuildError(f"{name} has a value of {largest:.3g}, which float16 cannot hold; use bf16 or fp32")
    return np.asarray(array.astype(dtype))


def _float_values(model: onnx.ModelProto) -> set[str]:
    """Names of all values of type float32 that are no constants."""
    constants = model.graph.initializer
    declared = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in constants]
    graph = helper.make_graph(
        model.graph.node, model.graph.name, [*model.graph.input, *declared], model.graph.output
    )  # without the constants' content: a message ends at 2 GiB
    inferred = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=model.opset_import)).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return floats - {tensor.name for tensor in constants}

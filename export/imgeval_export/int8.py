"""A float32 ONNX model -> the same model with the weights of its large layers as 8-bit integers.

Each output channel has a scale of its own, weight = scale * integer with integers -127..127, written as
`DequantizeLinear` in front of the product. A runtime without anything better multiplies in float32. The embedded
server's engine rounds the other factor to 8 bits as well, `ACTIVATION_GROUP` neighbouring values with one scale found
at run time, and multiplies integers: no calibration, and the largest value of a row spoils its own group only.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

MIN_WEIGHTS = 2**16  # of a layer; smaller ones cost little and stay float32
LARGEST = 127
ACTIVATION_GROUP = 64  # values; of 32, 64 and 128 the fastest within 2 % and nearer to float32 than 128


def int8_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, whose inputs and outputs stay float32, with integer weights in its large layers."""
    large = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if len(tensor.dims) == 2 and np.prod(tensor.dims) >= MIN_WEIGHTS
    }
    nodes: list[onnx.NodeProto] = []
    quantised: dict[str, list[onnx.TensorProto]] = {}  # name of the weights -> integers, scales
    for node in model.graph.node:
        fresh = onnx.NodeProto()
        fresh.CopyFrom(node)
        if node.op_type == "MatMul" and node.input[1] in large:
            name = node.input[1]
            if name not in quantised:
                quantised[name] = _quantise(name, large[name])
                names = [tensor.name for tensor in quantised[name]]
                nodes.append(helper.make_node("DequantizeLinear", names, [f"{name}_fp32"], axis=1))
            fresh.input[1] = f"{name}_fp32"
        nodes.append(fresh)
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(nodes, model.graph.name, model.graph.input, model.graph.output)
    graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    graph.initializer.extend(tensor for tensors in quantised.values() for tensor in tensors)
    return helper.make_model(
        graph,
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
    )


def _quantise(name: str, weights: NDArray[np.float32]) -> list[onnx.TensorProto]:
    """weights (in, out) -> integers (in, out), scales (out,), zero points (out,)."""
    scales = np.maximum(np.abs(weights).max(axis=0), np.finfo(np.float32).tiny) / np.float32(LARGEST)
    integers = np.rint(weights / scales).astype(np.int8)
    return [
        numpy_helper.from_array(integers, f"{name}_int8"),
        numpy_helper.from_array(scales.astype(np.float32), f"{name}_scale"),
        numpy_helper.from_array(np.zeros_like(integers[0]), f"{name}_zero"),
    ]

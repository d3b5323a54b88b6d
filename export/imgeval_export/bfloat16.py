"""A float32 ONNX model -> the same model with its matrix products in bfloat16, for CPUs with AVX-512 BF16 or AMX.

bfloat16 keeps 8 bits of a number. What that costs depends on where it is rounded: the sum that a transformer's blocks
add to is rounded once per addition if it is bfloat16 as well, and these errors outweigh all others. So only matrix
products are bfloat16, with float32 accumulators as the processors have them, and what follows them alone: biases,
activations, attention weights. Residual sums and layer norms stay float32. On CLIP ViT-L/14 that is 4 times nearer to
float32 than a runtime that rounds every tensor, in the same time (docs/engine.md).
"""

from __future__ import annotations

import ml_dtypes
import onnx
from onnx import TensorProto, helper, numpy_helper

PRODUCT = "MatMul"  # a convolution would need opset 22; these models begin with a small one
# Computed in bfloat16 where everything that they take is: they keep values, or work on one product's result alone.
FOLLOWERS = ("Reshape", "Transpose", "Slice", "Concat", "Pad", "Mul", "Relu", "Gelu", "Sigmoid", "Softmax", "Add")


def bfloat16_products(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model`, whose inputs and outputs stay float32, with bfloat16 weights in its matrix products."""
    return _Converter(model).converted()


class _Converter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._half: set[str] = set()  # values that are bfloat16
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
        wanted = TensorProto.BFLOAT16 if half else TensorProto.FLOAT
        del fresh.input[:]
        fresh.input.extend(self._as(name, wanted) for name in node.input)
        self._nodes.append(fresh)
        if half:
            self._half.update(node.output)

    def _is_half(self, node: onnx.NodeProto) -> bool:
        if node.op_type == PRODUCT:
            return True
        if node.op_type not in FOLLOWERS:
            return False
        varying = [name for name in node.input if name and name not in self._constants]
        if not varying or not all(name in self._half for name in varying):
            return False
        # A vector is a bias. A table, such as positions, begins a residual sum.
        return node.op_type != "Add" or all(self._rank(name) <= 1 for name in node.input if name in self._constants)

    def _rank(self, name: str) -> int:
        return len(self._constants[name].dims)

    def _as(self, name: str, wanted: int) -> str:
        """The name of this value in the wanted type; what is no float stays."""
        if name in self._constants:
            return self._constant(name, wanted)
        if not name or (name in self._half) == (wanted == TensorProto.BFLOAT16):
            return name
        if (name, wanted) not in self._cast:
            self._cast[name, wanted] = f"{name}_{'bf16' if wanted == TensorProto.BFLOAT16 else 'fp32'}"
            self._nodes.append(helper.make_node("Cast", [name], [self._cast[name, wanted]], to=wanted))
        return self._cast[name, wanted]

    def _constant(self, name: str, wanted: int) -> str:
        tensor = self._constants[name]
        if tensor.data_type != TensorProto.FLOAT or wanted == TensorProto.FLOAT:
            self._used[name] = tensor
            return name
        half = f"{name}_bf16"
        if half not in self._used:
            array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            self._used[half] = TensorProto(
                name=half, data_type=TensorProto.BFLOAT16, dims=array.shape, raw_data=array.tobytes()
            )
        return half

"""Floating-point operations of an ONNX model: 2 per multiplication and addition in matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path


def flops(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """FLOPs of the model at `path` for inputs of these shapes.

    Where a size depends on values (SAM's decoder enlarges only the masks that are wanted) it counts as its maximum.
    """
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    total = 0.0
    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "MatMul":
            left, _ = (_largest(operation.input(index)) for index in (0, 1))
            inner = left[-2] if operation.get_attributes()["transpose_a"] else left[-1]
            total += 2 * math.prod(_largest(operation.output(0))) * inner
        elif kind in ("Convolution", "GroupConvolution"):
            kernel = _largest(operation.input(1))
            # (out, in, h, w), or (groups, out, in, h, w): an output sums over all but what counts outputs.
            summed = kernel[1:] if kind == "Convolution" else kernel[2:]
            total += 2 * math.prod(_largest(operation.output(0))) * math.prod(summed)
    return total


def _largest(port: object) -> list[int]:
    return [dimension.get_max_length() for dimension in port.get_partial_shape()]  # type: ignore[attr-defined]

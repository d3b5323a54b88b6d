"""Floating-point operations of an ONNX model: 2 per multiplication and addition in matrix products and convolutions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def flops(path: Path, shapes: Mapping[str, tuple[int, ...]], share: float = 1.0) -> float:
    """FLOPs of the model at `path` for inputs of these shapes.

    Where a size depends on values (SAM's decoder enlarges only the masks that are wanted) it counts as `share`, 0..1,
    of its maximum.
    """
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({name: list(shape) for name, shape in shapes.items()})
    return sum(
        _of(operation) * (share if _depends_on_values(operation) else 1) for operation in model.get_ordered_ops()
    )


def _of(operation: Any) -> float:
    """FLOPs of one operation at its largest."""
    kind = operation.get_type_name()
    if kind == "MatMul":
        left = _largest(operation.input(0))
        inner = left[-2] if operation.get_attributes()["transpose_a"] else left[-1]
        return 2.0 * math.prod(_largest(operation.output(0))) * inner
    if kind in ("Convolution", "GroupConvolution"):
        kernel = _largest(operation.input(1))
        # (out, in, h, w), or (groups, out, in, h, w): an output sums over all but what counts outputs.
        summed = kernel[1:] if kind == "Convolution" else kernel[2:]
        return 2.0 * math.prod(_largest(operation.output(0))) * math.prod(summed)
    return 0.0


def _depends_on_values(operation: Any) -> bool:
    return any(output.get_partial_shape().is_dynamic for output in operation.outputs())


def _largest(port: Any) -> list[int]:
    return [dimension.get_max_length() for dimension in port.get_partial_shape()]

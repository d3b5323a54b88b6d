"""The machine: what it is, and how many products a second its matrix units make."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Rows of the activations and side of the square weights. Which is fastest differs by precision and machine; larger ones
# are no faster.
PEAK_SHAPES = ((512, 512), (4096, 512), (4096, 1024), (2048, 2048))
PEAK_PRODUCTS = 4  # in a row, so that what stands around them does not count
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PACKAGES = ("imgeval", "openvino", "torch", "numpy", "pillow", "tritonclient", "nvidia-pytriton")


def describe() -> str:
    """Processor, cores, memory, and versions of what was measured, in three lines."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    lines = dict(line.split("\t", 1) for line in cpu.splitlines() if "\t" in line)
    fields = {name.strip(): value.strip(": \t") for name, value in lines.items()}
    sets = [name for name in INSTRUCTION_SETS if name in fields.get("flags", "").split()]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"{name} {_version(name)}" for name in PACKAGES if _version(name)]
    name = fields.get("model name", platform.machine())
    return (
        f"{name}, family {fields.get('cpu family')} model {fields.get('model')}, "
        f"{len(os.sched_getaffinity(0))} cores, {memory_gib:.0f} GiB\n"
        f"{' '.join(sets)}\nPython {platform.python_version()}, {', '.join(versions)}"
    )


def others_at_work() -> str:
    """How busy the machine was in the last minute, to be asked before a measurement: other work makes it worthless."""
    return f"load before the measurement: {os.getloadavg()[0]:.2f} processes"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Product:
    """A chain of large matrix products on the embedded server's engine."""

    flops: float
    run: Callable[[], object]


def matrix_products(precision: str) -> dict[str, Product]:
    """Products of several shapes, by name: the fastest of them is the machine's peak at this precision.

    `precision`: "fp32", "bf16", or "int8", where 8-bit weights meet activations that are rounded on the way.
    """
    return {f"{rows} x {side}": _product(rows, side, precision) for rows, side in PEAK_SHAPES}


def _product(rows: int, side: int, precision: str) -> Product:
    import openvino
    from openvino import opset13 as ops

    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, side), np.float32)
    weights = rng.standard_normal((side, side), np.float32)
    parameter = ops.parameter([rows, side], np.float32)
    x = ops.convert(parameter, openvino.Type.bf16) if precision == "bf16" else parameter
    for _ in range(PEAK_PRODUCTS):
        x = ops.matmul(x, _weights(weights, precision), False, False)
    total = ops.reduce_sum(ops.convert(x, openvino.Type.f32), ops.constant(np.array([0, 1])), False)
    options = {
        "INFERENCE_PRECISION_HINT": "dynamic",
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 64 if precision == "int8" else 0,
    }
    compiled = openvino.Core().compile_model(openvino.Model([total], [parameter]), "CPU", options)
    return Product(PEAK_PRODUCTS * 2.0 * rows * side * side, lambda: compiled(values))


def _weights(values: np.ndarray, precision: str) -> object:  # type: ignore[type-arg]
    import openvino
    from openvino import opset13 as ops

    if precision == "int8":
        integers = np.rint(values * 30).clip(-127, 127).astype(np.int8)
        return ops.multiply(
            ops.convert(ops.constant(integers), openvino.Type.f32),
            ops.constant(np.full((1, values.shape[1]), 1 / 30, np.float32)),
        )
    constant = ops.constant(values / np.float32(len(values) ** 0.5))
    return ops.convert(constant, openvino.Type.bf16) if precision == "bf16" else constant

"""The engine of the embedded server: a `model.onnx` and its configuration's parameters -> a model that runs on the CPU.

OpenVINO, which reads ONNX files and was measured to be the faster one on CPUs (docs/engine.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

THREADS_PARAMETER = "intra_op_thread_count"  # as the native onnxruntime backend has it; also of steps that use torch


def compile_model(path: Path, parameters: Mapping[str, str]) -> Any:
    """An `openvino.CompiledModel`.

    Args:
        path: of the ONNX file.
        parameters: those of the model's config.pbtxt: threads, 0 for as many as there are cores; `inference_precision`,
            and `activation_group` for 8-bit weights, of which `imgeval_export.precision` says more.
    """
    import openvino  # 0.2 s

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": int(parameters.get(THREADS_PARAMETER, "0")),
        # "dynamic": as the file says. OpenVINO's own default is bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": parameters.get("inference_precision", "dynamic"),
        # How many neighbouring values are rounded to 8 bits together; 0: none are rounded.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": int(parameters.get("activation_group", "0")),
        "PERFORMANCE_HINT": "LATENCY",
        # The steps of an ensemble are separate processes: pinned threads would fight for the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(core.read_model(path), "CPU", options)

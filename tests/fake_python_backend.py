"""Ordinary classes in the place of Triton's module for Python models, `triton_python_backend_utils`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import imgeval


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array

    @classmethod
    def from_dlpack(cls, name: str, tensor: Any) -> Tensor:
        """As Triton's: shares the tensor's memory and takes nothing but C order."""
        if not tensor.is_contiguous():
            raise ValueError("only C order")
        return cls(name, np.from_dlpack(tensor))

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class TritonError(Exception):
    INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        super().__init__(message)
        self.code = code

    def message(self) -> str:
        return str(self)


@dataclass
class InferenceResponse:
    tensors: Sequence[Tensor] = ()
    failure: TritonError | None = None

    def __init__(self, output_tensors: Sequence[Tensor] = (), error: TritonError | None = None) -> None:
        self.tensors, self.failure = output_tensors, error

    def has_error(self) -> bool:
        return self.failure is not None

    def error(self) -> TritonError | None:
        return self.failure

    def arrays(self) -> dict[str, Any]:
        return {tensor.name(): tensor.as_numpy().tolist() for tensor in self.tensors}


@dataclass
class Request:
    """One request of a batch: tensors by name, and the outputs that it wants."""

    tensors: dict[str, np.ndarray]
    wanted: set[str] = field(default_factory=set)

    def requested_output_names(self) -> set[str]:
        return self.wanted


def tensor_of(holder: Request | InferenceResponse, name: str) -> Tensor | None:
    if isinstance(holder, Request):
        return Tensor(name, holder.tensors[name]) if name in holder.tensors else None
    return next((tensor for tensor in holder.tensors if tensor.name() == name), None)


class Metric:
    """A value among the server's metrics, and how many messages it took."""

    def __init__(self, labels: dict[str, str]) -> None:
        self.labels, self.value, self.messages = labels, 0.0, 0

    def increment(self, value: float) -> None:
        self.value, self.messages = self.value + value, self.messages + 1

    def set(self, value: float) -> None:
        self.value, self.messages = value, self.messages + 1


class MetricFamily:
    """Remembers the metrics that were made, by family, label and in this order."""

    COUNTER, GAUGE = "COUNTER", "GAUGE"
    made: dict[tuple[str, str], Metric]

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        self.name, self.kind = name, kind

    def Metric(self, labels: dict[str, str]) -> Metric:  # noqa: N802 - Triton's name
        metric = Metric(labels)
        MetricFamily.made[self.name, labels["model"]] = metric
        return metric


def pb_utils(remote: type | None = None) -> ModuleType:
    """A module in the place of Triton's; `remote` answers requests to other models."""
    MetricFamily.made = {}
    triton = ModuleType("triton_python_backend_utils")
    for name, value in {
        "Tensor": Tensor,
        "TritonError": TritonError,
        "TritonModelException": RuntimeError,
        "InferenceResponse": InferenceResponse,
        "InferenceRequest": remote,
        "MetricFamily": MetricFamily,
        "get_input_tensor_by_name": tensor_of,
        "get_output_tensor_by_name": tensor_of,
        "PreferredMemory": lambda *where: where,
        "TRITONSERVER_MEMORY_CPU": "CPU",
        "TRITONSERVER_MEMORY_GPU": "GPU",
    }.items():
        setattr(triton, name, value)
    return triton


@contextmanager
def installed(triton: ModuleType) -> Iterator[ModuleType]:
    """`imgeval.serving` as it is with this module; afterwards it is as if it had not been imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, triton.__name__, triton)
        patch.delitem(sys.modules, "imgeval.serving", raising=False)
        try:
            yield importlib.import_module("imgeval.serving")
        finally:
            sys.modules.pop("imgeval.serving", None)
            vars(imgeval).pop("serving", None)  # where `from imgeval import serving` looks first


def load(path: Path) -> type:
    """The class in a `model.py`, as a stub loads it; to be called while the module above is installed."""
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loaded: type = module.TritonPythonModel
    return loaded

"""The pickle inside a torch checkpoint, read without torch and without trusting it.

In a state dict a tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`, and a
storage, a flat array that lies elsewhere in the file, is the persistent id `("storage", class, key, device, count)`;
the format from before torch 1.6 adds a None (torch/serialization.py, torch/_utils.py).

A pickle is a program: `find_class` decides what it may name. Here it gets three kinds of things, none of which can do
or remember anything: the class OrderedDict, a stand-in for `_rebuild_tensor_v2` that keeps its arguments, and strings
in the place of storage classes. All else is refused by name before it is looked up.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgeval.errors import BuildError

# torch's storage classes and the little-endian numpy dtype of their numbers.
STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class Storage(NamedTuple):
    """A flat array that lies elsewhere in the file."""

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * np.dtype(self.dtype).itemsize


class View(NamedTuple):
    """A tensor as the pickle describes it; offset and stride count elements, not bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class RebuildTensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`. No slots: a BUILD opcode finds nothing to set on it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_gradient_and_hooks: Any) -> View:
        if not isinstance(storage, Storage):
            raise BuildError(f"a tensor is built from {type(storage).__name__}, not from a storage")
        if not (_is_count(offset) and _are_counts(size) and _are_counts(stride) and len(size) == len(stride)):
            raise BuildError(f"a tensor has offset {offset!r}, size {size!r} and stride {stride!r}")
        return View(storage, offset, size, stride)


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickles a state dict of tensors, and nothing else."""

    def __init__(self, file: BinaryIO, dtypes: Mapping[str, str]) -> None:
        super().__init__(file)
        self._dtypes = dtypes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return RebuildTensor()
        if module == "torch" and name in self._dtypes:
            return self._dtypes[name]
        raise BuildError(f"the pickle asks for {module}.{name}, which no state dict needs; nothing was executed")

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", str(dtype), str(key), str(), int(count), *rest) if (
                dtype in self._dtypes.values() and _is_count(count) and rest in ([], [None])
            ):
                return Storage(key, dtype, count)
        raise BuildError(f"persistent id {pid!r} is not a plain storage")


def unpickle(file: BinaryIO, dtypes: Mapping[str, str] = STORAGE_DTYPES) -> Any:
    """The next pickle in `file`; a tensor in it becomes a `View`.

    Raises:
        BuildError: it is damaged, or asks for anything but tensors of the storage classes in `dtypes`.
    """
    try:
        return _StateDictUnpickler(file, dtypes).load()
    except BuildError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything, says the documentation of pickle
        raise BuildError(f"the pickle is damaged ({type(error).__name__}: {error})") from error


def storages_of(views: Any) -> dict[str, Storage]:
    """The storages behind an unpickled state dict, by key.

    Raises:
        BuildError: `views` is not a flat dictionary of names and tensors, or describes a storage in two ways.
    """
    if not (isinstance(views, dict) and all(isinstance(k, str) and isinstance(v, View) for k, v in views.items())):
        raise BuildError("the file holds no flat dictionary of named tensors")
    storages: dict[str, Storage] = {}
    for view in views.values():
        if storages.setdefault(view.storage.key, view.storage) != view.storage:
            raise BuildError(f"storage {view.storage.key} is described in two ways")
    return storages


def select(name: str, view: View, data: NDArray[Any]) -> NDArray[Any]:
    """The tensor `name` as a view into the numbers of its storage, without a copy.

    Raises:
        BuildError: the tensor reaches beyond its storage.
    """
    numel = math.prod(view.size)
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.size, view.stride, strict=True))
    # A view may not be larger than its storage either: with a stride of 0 a small file could ask for any memory.
    if numel and (last >= len(data) or numel > len(data)):
        reach = f"size {view.size}, stride {view.stride}, offset {view.offset}"
        raise BuildError(f"{name}: {reach} leave the {len(data)} numbers of storage {view.storage.key}")
    if not numel:
        return np.empty(view.size, data.dtype)
    strides = [stride * data.itemsize for stride in view.stride]
    writeable = data.flags.writeable
    return np.lib.stride_tricks.as_strided(data[view.offset :], view.size, strides, writeable=writeable)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_counts(values: Any) -> bool:
    return type(values) is tuple and all(map(_is_count, values))

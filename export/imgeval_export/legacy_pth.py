"""Reads a state dict in the torch.save format from before torch 1.6, without torch and without trusting the file.

Layout (torch/serialization.py, `_legacy_save`): five pickles in a row - magic number, protocol version, facts about the
machine, the object, the list of storage keys - then for each key an int64 count and that many little-endian numbers.
In the object a tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`, and a storage
is the persistent id `("storage", class, key, device, count, None)`.

A pickle is a program: `find_class` decides what it may name. Here it gets three kinds of things, none of which can do
or remember anything: the class OrderedDict, a stand-in for `_rebuild_tensor_v2` that keeps its arguments, and strings
in the place of storage classes. All else is refused by name before it is looked up.
"""

from __future__ import annotations

import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imgeval.errors import BuildError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
ZIP_MAGIC = b"PK\x03\x04"

# torch's storage classes and the little-endian numpy dtype of each. BFloat16Storage has none and is refused.
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


class _Storage(NamedTuple):
    """A flat array that follows the pickles in the file."""

    key: str
    dtype: str
    numel: int


class _View(NamedTuple):
    """A tensor as the pickle describes it; offset and stride count elements, not bytes."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _RebuildTensor:
    """Stands in for `torch._utils._rebuild_tensor_v2`. No slots: a BUILD opcode finds nothing to set on it."""

    __slots__ = ()

    def __call__(self, storage: Any, offset: Any, size: Any, stride: Any, *_gradient_and_hooks: Any) -> _View:
        if not isinstance(storage, _Storage):
            raise BuildError(f"a tensor is built from {type(storage).__name__}, not from a storage")
        if not (_is_count(offset) and _are_counts(size) and _are_counts(stride) and len(size) == len(stride)):
            raise BuildError(f"a tensor has offset {offset!r}, size {size!r} and stride {stride!r}")
        return _View(storage, offset, size, stride)


class _StateDictUnpickler(pickle.Unpickler):
    """Unpickles a state dict of tensors, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        raise BuildError(f"the pickle asks for {module}.{name}, which no state dict needs; nothing was executed")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(dtype), str(key), str(), int(count), None) if (
                dtype in STORAGE_DTYPES.values() and _is_count(count)
            ):
                return _Storage(key, dtype, count)
        raise BuildError(f"persistent id {pid!r} is not a plain storage")


def read_legacy_pth(path: str | Path) -> dict[str, NDArray[Any]]:
    """Read every tensor of the state dict in `path` into an array of its own, in C order and in the file's order.

    Raises:
        BuildError: the file is missing, is in another format, is cut short or inconsistent, or its pickle asks for
            anything but tensors. The message starts with the path.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, Path(path).stat().st_size)
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
    except BuildError as error:
        raise BuildError(f"{path}: {error}") from error


def _read(file: BinaryIO, file_size: int) -> dict[str, NDArray[Any]]:
    if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
        raise BuildError("this is torch's newer zip format; only the format from before torch 1.6 is read here")
    file.seek(0)
    if (magic := _unpickle(file)) != MAGIC_NUMBER:
        raise BuildError(f"the magic number is {magic!r:.40}, not {MAGIC_NUMBER:#x}; this is no torch.save file")
    if (version := _unpickle(file)) != PROTOCOL_VERSION:
        raise BuildError(f"protocol version {version!r:.40}, not {PROTOCOL_VERSION}")
    machine = _unpickle(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise BuildError("the file was not written on a little-endian machine")

    views = _unpickle(file)
    if not (isinstance(views, dict) and all(isinstance(k, str) and isinstance(v, _View) for k, v in views.items())):
        raise BuildError("the file holds no flat dictionary of named tensors")
    keys = _unpickle(file)
    storages: dict[str, _Storage] = {}
    for view in views.values():
        if storages.setdefault(view.storage.key, view.storage) != view.storage:
            raise BuildError(f"storage {view.storage.key} is described in two ways")
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise BuildError("the list of storages does not match the tensors")

    data = {key: _read_storage(file, storages[key], file_size) for key in keys}
    if file.tell() != file_size:
        raise BuildError(f"{file_size - file.tell()} bytes follow the last tensor")
    return {name: _materialize(name, view, data[view.storage.key]) for name, view in views.items()}


def _unpickle(file: BinaryIO) -> Any:
    try:
        return _StateDictUnpickler(file).load()
    except BuildError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything, says the documentation of pickle
        raise BuildError(f"the pickle is damaged ({type(error).__name__}: {error})") from error


def _read_storage(file: BinaryIO, storage: _Storage, file_size: int) -> NDArray[Any]:
    """The flat array of one storage; sizes are compared with the file's before any memory is asked for."""
    count = int.from_bytes(file.read(8), "little", signed=True)
    if count != storage.numel:
        raise BuildError(f"storage {storage.key} holds {count} numbers, its tensors expect {storage.numel}")
    size = count * np.dtype(storage.dtype).itemsize
    if size > file_size - file.tell():
        missing = size - (file_size - file.tell())
        raise BuildError(f"the file ends {missing} bytes before the end of storage {storage.key}")
    return np.frombuffer(file.read(size), storage.dtype)


def _materialize(name: str, view: _View, data: NDArray[Any]) -> NDArray[Any]:
    """The tensor as an array of its own. Every index it can reach must lie inside its storage."""
    numel = math.prod(view.size)
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.size, view.stride, strict=True))
    # A view may not be larger than its storage either: with a stride of 0 a small file could ask for any memory.
    if numel and (last >= len(data) or numel > len(data)):
        reach = f"size {view.size}, stride {view.stride}, offset {view.offset}"
        raise BuildError(f"{name}: {reach} leave the {len(data)} numbers of storage {view.storage.key}")
    if not numel:
        return np.empty(view.size, data.dtype)
    strides = [stride * data.itemsize for stride in view.stride]
    return np.lib.stride_tricks.as_strided(data[view.offset :], view.size, strides).copy()


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _are_counts(values: Any) -> bool:
    return type(values) is tuple and all(map(_is_count, values))

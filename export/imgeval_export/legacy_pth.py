"""Reads a state dict in the torch.save format from before torch 1.6, without torch and without trusting the file.

Layout (torch/serialization.py, `_legacy_save`): five pickles in a row - magic number, protocol version, facts about the
machine, the object, the list of storage keys - then for each key an int64 count and that many little-endian numbers.
What the pickles may contain is `state_pickle`'s matter. Use `pth.read_pth` for a file of either format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgeval.errors import BuildError
from imgeval_export.state_pickle import Storage, select, storages_of, unpickle

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
ZIP_MAGIC = b"PK\x03\x04"


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
    if (magic := unpickle(file)) != MAGIC_NUMBER:
        raise BuildError(f"the magic number is {magic!r:.40}, not {MAGIC_NUMBER:#x}; this is no torch.save file")
    if (version := unpickle(file)) != PROTOCOL_VERSION:
        raise BuildError(f"protocol version {version!r:.40}, not {PROTOCOL_VERSION}")
    machine = unpickle(file)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise BuildError("the file was not written on a little-endian machine")

    views = unpickle(file)
    storages = storages_of(views)
    keys = unpickle(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise BuildError("the list of storages does not match the tensors")

    data = {key: _read_storage(file, storages[key], file_size) for key in keys}
    if file.tell() != file_size:
        raise BuildError(f"{file_size - file.tell()} bytes follow the last tensor")
    return {name: select(name, view, data[view.storage.key]).copy() for name, view in views.items()}


def _read_storage(file: BinaryIO, storage: Storage, file_size: int) -> NDArray[Any]:
    """The flat array of one storage; sizes are compared with the file's before any memory is asked for."""
    count = int.from_bytes(file.read(8), "little", signed=True)
    if count != storage.numel:
        raise BuildError(f"storage {storage.key} holds {count} numbers, its tensors expect {storage.numel}")
    if storage.nbytes > file_size - file.tell():
        missing = storage.nbytes - (file_size - file.tell())
        raise BuildError(f"the file ends {missing} bytes before the end of storage {storage.key}")
    return np.frombuffer(file.read(storage.nbytes), storage.dtype)

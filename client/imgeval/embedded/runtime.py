"""The `tritonserver` of the `nvidia-pytriton` wheel: its binary, its backend folder and its environment.

The wheel carries the binary, its libraries, the Python backend and one stub for each Python version; only its files are
used, not its code. Triton wants the stub of the running Python beside the backend's library, and follows no links out
of a backend's folder, so a backend folder is put together from copies (4 MB).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from imgeval.embedded import paths
from imgeval.errors import EmbeddedServerError, install_hint

KEPT_BLOCK_BYTES = 32 * 2**20  # larger blocks go back at once; the most that glibc allows
KEPT_FREE_BYTES = 128 * 2**20  # of each process

BACKEND_SOURCES = Path(__file__).parent / "backends"


@dataclass(frozen=True)
class Runtime:
    """What it takes to start one `tritonserver`."""

    binary: Path
    backends: Path
    environment: dict[str, str]


def prepare() -> Runtime:
    """Find the wheel and put the backend folder together.

    Raises:
        EmbeddedServerError: no wheel, no stub or no shared libpython for this Python, or not Linux on x86-64.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise EmbeddedServerError(
            f"the embedded server needs Linux on x86_64, this is {sys.platform} on {platform.machine()}; "
            "use --url with a server elsewhere"
        )
    spec = importlib.util.find_spec("pytriton")  # found, not imported
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(f"the embedded server needs the nvidia-pytriton package: {install_hint('embedded')}")
    site = Path(spec.origin).parent.parent
    triton = site / "pytriton" / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        have = ", ".join(sorted(folder.name for folder in stub.parent.parent.glob("*"))) or "none"
        raise EmbeddedServerError(f"nvidia-pytriton has no stub for Python {version}; it has: {have}")
    libraries = [site / "nvidia_pytriton.libs", *_libpython_folders(version)]
    inherited = os.environ.get("LD_LIBRARY_PATH", "")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join([*map(str, libraries), *filter(None, [inherited])]),
        # The stub takes the Python whose folder comes first here, and with it that Python's packages.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        # Every request brings images of megabytes. What one leaves free is kept for the next, up to these limits: else
        # the allocator gives it back, and each page costs a fault again, half of the time of decoding an image.
        "MALLOC_MMAP_THRESHOLD_": str(KEPT_BLOCK_BYTES),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_FREE_BYTES),
        # Steps run side by side, each in a process of its own: one thread each, but for those of whole networks.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    environment.pop("PYTHONHOME", None)
    return Runtime(triton / "bin" / "tritonserver", _backend_folder(triton, stub), environment)


def _libpython_folders(version: str) -> list[Path]:
    """The folder of the shared libpython that the stub links to, where the loader would not find it anyway."""
    name = f"libpython{version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or sys.base_prefix)
    for candidate in (folder, Path(sys.base_prefix) / "lib"):
        if (candidate / name).exists():
            return [candidate]
    try:
        ctypes.CDLL(name)
    except OSError:
        raise EmbeddedServerError(
            f"Triton's Python backend needs {name}, which this Python does not bring; "
            f"install it (Debian, Ubuntu: apt-get install libpython{version})"
        ) from None
    return []


def _backend_folder(triton: Path, stub: Path) -> Path:
    """A folder with the wheel's Python backend and this project's python-based backends, made once and then reused."""
    files = {
        "python/libtriton_python.so": triton / "backends" / "python" / "libtriton_python.so",
        "python/triton_python_backend_utils.py": triton / "backends" / "python" / "triton_python_backend_utils.py",
        "python/triton_python_backend_stub": stub,
        "onnxruntime/model.py": BACKEND_SOURCES / "onnxruntime" / "model.py",
    }
    key = hashlib.sha256()
    for name, source in files.items():
        key.update(f"{name} {hashlib.sha256(source.read_bytes()).hexdigest()}\n".encode())
    folder = paths.backends() / key.hexdigest()[:16]
    if folder.is_dir():
        return folder
    paths.backends().mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=paths.backends(), prefix="new-"))
    for name, source in files.items():
        (fresh / name).parent.mkdir(exist_ok=True)
        shutil.copy(source, fresh / name)  # with its mode: the stub is a program
    try:
        fresh.rename(folder)
    except OSError:  # Another process was quicker; its folder is the same.
        shutil.rmtree(fresh)
    return folder

"""Reads a state dict that torch.save wrote, in either of its formats, without torch and without trusting the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from imgeval.errors import BuildError
from imgeval_export.legacy_pth import ZIP_MAGIC, read_legacy_pth
from imgeval_export.zip_pth import read_zip_pth


def read_pth(path: str | Path) -> dict[str, NDArray[Any]]:
    """The tensors of the state dict in `path` by name, in the file's order.

    Arrays from the zip format (torch 1.6 and later) are read-only views of the mapped file; those from the older one
    are in memory.

    Raises:
        BuildError: the file is missing, is neither format, is cut short or inconsistent, or its pickle asks for
            anything but tensors. The message starts with the path.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    except OSError as error:
        raise BuildError(f"{path}: {error.strerror}") from error
    return read_zip_pth(path) if is_zip else read_legacy_pth(path)

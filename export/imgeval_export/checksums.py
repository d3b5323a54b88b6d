"""Checksums of files whose manifest entry has none: recorded at first use, compared ever after.

`WEIGHTS_DIR/checksums.json` maps names to sha256. It tells a file that changed on this machine, and not one that was
wrong from the start.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from imgeval.errors import BuildError

FILE = "checksums.json"
_CHUNK_BYTES = 1 << 20


def sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def recorded(weights: Path) -> dict[str, str]:
    """The checksums recorded in a weights folder, by name.

    Raises:
        BuildError: the record is damaged.
    """
    try:
        content = json.loads((weights / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BuildError(
            f"{weights / FILE}: not read ({error}); delete it to trust the files that are there"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
        raise BuildError(
            f"{weights / FILE}: not a map of names to checksums; delete it to trust the files that are there"
        )
    return content


def record(weights: Path, fresh: dict[str, str]) -> None:
    """Add checksums to the record. A name that is in it already keeps its checksum.

    Raises:
        OSError: the folder cannot be written to.
    """
    content = json.dumps({**fresh, **recorded(weights)}, indent=2, sort_keys=True) + "\n"
    aside = weights / f".{FILE}-{os.getpid()}"
    try:
        aside.write_text(content, encoding="utf-8")
        aside.replace(weights / FILE)
    finally:
        aside.unlink(missing_ok=True)

"""One weight file from the Hugging Face hub or a plain address: resumed, checked, and renamed when it is whole.

huggingface_hub does the requests, for both kinds of source: redirects, proxies, tokens, retries, the progress bar, and
the Range request of `http_get`. Its `hf_hub_download` would not do: it starts a file from its first byte
again after an interruption (version 1.31 to 2.4), and one-align has a file of 10 GB.

    WEIGHTS_DIR/.partial/KEY-NAME    what has arrived; KEY stands for the whole that it is a part of
    WEIGHTS_DIR/.partial/lock        held while one process downloads
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from imgeval.errors import BuildError
from imgeval_export import checksums
from imgeval_export.manifest import Hub, Url, WeightFile

MIRROR = "IMGEVAL_MIRROR"  # stands in for scheme and host of plain addresses
HUB_MIRROR = "HF_ENDPOINT"  # the same for the hub, as huggingface_hub has it
FOLDER = ".partial"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

Progress = Callable[[str], None]


def by_hand(file: WeightFile, weights: Path) -> str:
    return f"to get it by hand, download {file.source.address} and put it at {weights / file.name}"


def fetch(file: WeightFile, weights: Path, sha256: str | None, progress: Progress) -> None:
    """Download one file into the weights folder, which is there.

    Args:
        file: from the hub or a plain address.
        weights: where it gets its published name, once it is whole and right.
        sha256: what it must have, or None if that is not known.
        progress: told that it starts, resumes or waits.

    Raises:
        BuildError: huggingface_hub is missing, no network, no such file, no space, another size or another checksum.
    """
    url = file.source.address
    try:
        url = address(file.source)
        (weights / FOLDER).mkdir(exist_ok=True)
        with _lock(weights / FOLDER, progress), _quiet():
            if not (weights / file.name).exists():
                _fetch(file, url, weights, sha256, progress)
    except BuildError:
        raise
    except ImportError as error:
        raise BuildError(
            f"{file.name}: downloads need huggingface_hub: pip install huggingface_hub ({error})"
        ) from error
    except Exception as error:  # of the HTTP library below huggingface_hub, of that, and of the file system
        raise BuildError(
            f"{file.name}: not downloaded from {url}: {_reason(error)}; {by_hand(file, weights)}"
        ) from error


def address(source: object) -> str:
    """Where a source is asked for, mirrors heeded."""
    if isinstance(source, Hub):
        from huggingface_hub import hf_hub_url

        return hf_hub_url(source.hub, source.path, revision=source.revision, endpoint=os.environ.get(HUB_MIRROR))
    assert isinstance(source, Url)
    if not (mirror := os.environ.get(MIRROR)):
        return source.url
    scheme, host, *_ = urlsplit(source.url)
    return mirror.rstrip("/") + source.url.removeprefix(f"{scheme}://{host}")


def _fetch(file: WeightFile, url: str, weights: Path, sha256: str | None, progress: Progress) -> None:
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    on_hub = isinstance(file.source, Hub)
    token = None if on_hub else False  # the user's token for the hub is nobody else's business
    remote = get_hf_file_metadata(url, token=token)
    declared = remote.etag if on_hub and remote.etag and _SHA256.fullmatch(remote.etag) else None
    if sha256 and declared and sha256 != declared:
        raise BuildError(f"{file.name}: {url} has sha256 {declared}, not {sha256}; nothing was downloaded")
    if file.bytes and remote.size and file.bytes != remote.size:
        raise BuildError(f"{file.name}: {url} has {remote.size} bytes, not {file.bytes}; nothing was downloaded")
    expected, size = sha256 or declared, file.bytes or remote.size

    partial = _partial(file, weights, expected or (f"{url} {remote.etag}" if remote.etag else None))
    with partial.open("ab") as content:
        done = _resume_at(content, size)
        _refuse_if_full(file, partial, done, size)
        what = f"{file.name} ({size / 1e6:.0f} MB)" if size else file.name
        progress(f"resuming {what} at {done / 1e6:.0f} MB from {url}" if done else f"fetching {what} from {url}")
        headers = {**build_hf_headers(token=token), "Accept-Encoding": "identity"}
        http_get(url, content, resume_size=done, headers=headers, expected_size=size, displayed_filename=file.name)
    _accept(partial, file, weights, url, size, expected)


def _partial(file: WeightFile, weights: Path, whole: str | None) -> Path:
    """Where the file arrives. A part is only ever continued if it is known what it is a part of."""
    key = hashlib.sha256((whole or "").encode()).hexdigest()[:16]
    path = weights / FOLDER / f"{key}-{Path(file.name).name}"
    if whole is None:
        path.unlink(missing_ok=True)
    return path


def _resume_at(content: BinaryIO, size: int | None) -> int:
    done = content.seek(0, os.SEEK_END)
    if size is None or done > size:
        content.truncate(0)
        return content.seek(0)
    return done


def _refuse_if_full(file: WeightFile, partial: Path, done: int, size: int | None) -> None:
    free = shutil.disk_usage(partial.parent).free
    if size is not None and size - done > free:
        raise BuildError(
            f"{file.name}: needs {(size - done) / 1e6:.0f} MB more and {partial.parent} has {free / 1e6:.0f} MB free; "
            "make room or give another folder with --weights"
        )


def _accept(partial: Path, file: WeightFile, weights: Path, url: str, size: int | None, expected: str | None) -> None:
    """Give the file its name if it is right, else remove it."""
    arrived, digest = partial.stat().st_size, checksums.sha256(partial)
    if size not in (None, arrived):
        problem = f"got {arrived} bytes, not {size}"
    elif expected not in (None, digest):
        problem = f"got sha256 {digest}, not {expected}"
    else:
        (weights / file.name).parent.mkdir(parents=True, exist_ok=True)
        partial.replace(weights / file.name)
        return
    partial.unlink()
    raise BuildError(f"{file.name}: {problem}, from {url}; removed; run again, or {by_hand(file, weights)}")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return "no space left; make room and run again, which goes on where this stopped"
    if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
        return f"the server answered {status}"
    if type(error) is OSError and error.errno is None:  # http_get's check of the length
        return "the server sent another number of bytes than announced"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting for another process that downloads into {folder.parent}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of huggingface_hub on its retries: what matters of them is in the error."""
    from huggingface_hub.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        set_verbosity(before)

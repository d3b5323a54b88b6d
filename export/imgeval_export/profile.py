"""What a profile is: which model makes each metric, why one is missing, and how its artefacts are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgeval.contract import METRIC_NAMES
from imgeval_export.about import About
from imgeval_export.configs import Model

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Profile:
    """One profile. Every metric stands either in `made_by` or in `missing`."""

    name: str
    summary: str
    preset: str
    files: tuple[str, ...]  # names of its weight files in weights/manifest.json
    made_by: Mapping[str, str]  # metric -> the model that makes it, as results name it
    missing: Mapping[str, str]  # metric -> why it is missing and how to get it
    about: Mapping[str, About]  # metric that is served -> range, direction, licence and citation
    models: tuple[Model, ...]  # of the repository
    settings: Mapping[str, Mapping[str, Any]]  # model of the repository -> content of its settings.json
    # (version folder of each model of the repository, weight files by name) -> writes what the models serve from
    write_artefacts: Callable[[Callable[[str], Path], Mapping[str, Path], Progress], None]

    def __post_init__(self) -> None:
        if sorted([*self.made_by, *self.missing]) != sorted(METRIC_NAMES):
            raise ValueError(f"profile {self.name} must name each metric once, as served or as missing")
        if sorted(self.about) != sorted(self.made_by):
            raise ValueError(f"profile {self.name} must tell about each metric that it serves, and about no other")

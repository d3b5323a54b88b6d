"""What a server says of its metrics: models, ranges, direction, licences, citations, and how to get what is missing.

The build writes it as JSON into a parameter of the ensemble's configuration (`imgeval_export.about`), so that a client
learns it from the server that it is connected to, wherever that is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from imgeval.contract import METRIC_NAMES
from imgeval.errors import ServerFailedError

METRICS_PARAMETER = "imgeval_metrics"


@dataclass(frozen=True)
class WeightFile:
    """A file that values are made with, as `weights/manifest.json` describes it."""

    name: str
    license: str
    commercial_use: bool  # True only where the licence clearly allows it
    source: str
    note: str


@dataclass(frozen=True)
class ServedMetric:
    """One metric that the server computes."""

    name: str
    model: str
    range: str  # of the raw values, as people write it: "-1 to 1"
    lower_is_better: bool
    citations: tuple[str, ...]
    files: tuple[WeightFile, ...]
    terms: str  # of what serves it, where they are no free software's; else empty

    @property
    def licenses(self) -> tuple[str, ...]:
        """The licences of its weight files, each once."""
        return tuple(dict.fromkeys(file.license for file in self.files))

    @property
    def commercial_use(self) -> bool:
        """Whether everything behind it is clearly free for commercial use."""
        return not self.terms and all(file.commercial_use for file in self.files)


@dataclass(frozen=True)
class ServedMetrics:
    """What the server at `url` serves. `missing` gives for each other metric the reason, and how to get it."""

    url: str
    profile: str
    preset: str
    fingerprint: str
    weights: str  # "published", or "random" where the values only prove arithmetic
    metrics: Mapping[str, ServedMetric]
    missing: Mapping[str, str]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], url: str) -> ServedMetrics:
        """From the ensemble's configuration, as Triton gives it in JSON.

        Raises:
            ServerFailedError: it says nothing of its metrics, as repositories of older versions do, or not legibly.
        """
        parameters = config.get("parameters", {})
        if METRICS_PARAMETER not in parameters:
            profile = parameters.get("profile", {}).get("string_value", "PROFILE")
            raise ServerFailedError(
                f"the server at {url} does not describe its metrics: its repository was built by an older version; "
                f"on its machine: imgeval-export build --profile {profile}, then restart the server"
            )
        try:
            said = json.loads(parameters[METRICS_PARAMETER]["string_value"])
            files = {name: WeightFile(name, **_only(WeightFile, file)) for name, file in said["files"].items()}
            metrics = {}
            for name in [name for name in METRIC_NAMES if name in said["metrics"]]:
                metric = _only(ServedMetric, said["metrics"][name])
                metric["citations"] = tuple(metric["citations"])
                metric["files"] = tuple(files[file] for file in metric["files"])
                metrics[name] = ServedMetric(name, **metric)
            missing = {name: said["missing"][name] for name in METRIC_NAMES if name in said["missing"]}
            about = {key: said[key] for key in ("profile", "preset", "fingerprint", "weights")}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerFailedError(f"the server at {url} describes its metrics illegibly: {error!r}") from error
        return cls(url=url, metrics=metrics, missing=missing, **about)

    def only(self, names: Sequence[str]) -> ServedMetrics:
        """The same of these metrics alone."""
        served = {name: metric for name, metric in self.metrics.items() if name in names}
        return replace(
            self, metrics=served, missing={name: self.missing[name] for name in self.missing if name in names}
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `imgeval-client metrics --json`."""
        content = asdict(self)
        for name, metric in self.metrics.items():
            content["metrics"][name] |= {"licenses": list(metric.licenses), "commercial_use": metric.commercial_use}
        return content


def _only(kind: type[WeightFile] | type[ServedMetric], given: Mapping[str, Any]) -> dict[str, Any]:
    """What this version knows of an object that a later one may have written."""
    return {key: value for key, value in given.items() if key in kind.__dataclass_fields__ and key != "name"}

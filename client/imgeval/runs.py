"""A run: the file of results that `batch` writes and that `compare` and `report` read; a row for each image and prompt.

A row has the same columns in every format (JSONL, CSV, Parquet). A column without a value in a row is null, and empty
in CSV. A row that could not be scored has `error`, and no values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imgeval.contract import METRIC_NAMES
from imgeval.result import SCORE, weights_warning

if TYPE_CHECKING:
    from imgeval.many import Outcome


@dataclass(frozen=True)
class Row:
    """One row of a run. `metrics` are raw values and `normalized` the preset's, of the metrics that are available."""

    index: int  # of the row in the input, from 0
    image: str
    prompt: str
    score: float | None = None  # combined, 0..1
    complete: bool | None = None  # None where there is an error
    profile: str | None = None
    preset: str | None = None
    fingerprint: str | None = None
    weights: str | None = None  # "published", or "random": then the values are no scores
    metrics: dict[str, float] = field(default_factory=dict)
    normalized: dict[str, float] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)  # what made each metric's value
    missing: dict[str, str] = field(default_factory=dict)  # why a metric is not there
    error: str | None = None

    @classmethod
    def from_outcome(cls, outcome: Outcome, index: int) -> Row:
        """The row of one outcome of `Client.score_many`, as number `index` of the run."""
        result = outcome.result
        if result is None:
            from imgeval.inputs import prompt_label  # numpy, which who reads a run may do without

            said = prompt_label(" ".join(str(outcome.error).split()))  # may quote a file name that is no UTF-8
            return cls(index, outcome.image, outcome.prompt, error=said)
        metrics = result.metrics
        return cls(
            index,
            outcome.image,
            outcome.prompt,
            result.score,
            result.complete,
            result.profile,
            result.preset,
            result.fingerprint,
            result.weights,
            {name: value.raw for name, value in metrics.items()},
            {name: value.normalized for name, value in metrics.items() if value.normalized is not None},
            {name: value.model for name, value in metrics.items()},
            dict(result.missing),
        )

    @property
    def weights_warning(self) -> str:
        """What to say beside these numbers where they are no scores; empty where they are."""
        return "" if self.weights is None else weights_warning(self.weights)

    def value(self, by: str) -> float | None:
        """The combined score, where `by` is "score", or the raw value of the metric of that name; None without one."""
        return self.score if by == SCORE else self.metrics.get(by)

    def lower_is_better(self, metric: str) -> bool:
        """Whether smaller values of this metric are better ones: its model's name says so where it is the case."""
        return "lower is better" in self.models.get(metric, "")

    def to_dict(self) -> dict[str, Any]:
        """The row as flat columns, for each metric: METRIC, METRIC_normalized, METRIC_model and METRIC_missing."""
        flat: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("index", "image", "prompt", "score", "complete", "profile", "preset", "fingerprint", "weights")
        }
        for name in METRIC_NAMES:
            flat[name] = self.metrics.get(name)
            flat[f"{name}_normalized"] = self.normalized.get(name)
            flat[f"{name}_model"] = self.models.get(name)
            flat[f"{name}_missing"] = self.missing.get(name)
        return {**flat, "error": self.error}

    @classmethod
    def from_dict(cls, flat: dict[str, Any]) -> Row:
        """A row from its flat columns. Raises KeyError for one that is not there."""

        def parts(suffix: str) -> dict[str, Any]:
            return {name: value for name in METRIC_NAMES if (value := flat[f"{name}{suffix}"]) is not None}

        plain = (
            "index",
            "image",
            "prompt",
            "score",
            "complete",
            "profile",
            "preset",
            "fingerprint",
            "weights",
            "error",
        )
        return cls(
            **{name: flat[name] for name in plain},
            metrics=parts(""),
            normalized=parts("_normalized"),
            models=parts("_model"),
            missing=parts("_missing"),
        )

"""The result of scoring one image against one prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SCORE = "score"  # what a result can be ranked by beside the metrics
REPR_PROMPT_CHARACTERS = 60  # of a prompt that `repr` shows


def weights_warning(weights: str) -> str:
    """What to say beside numbers of these weights where they are no scores; empty where they are."""
    return "" if weights == "published" else f"WEIGHTS ARE {weights.upper()}: these numbers are no scores"


@dataclass(frozen=True)
class MetricValue:
    """One metric's value. `normalized` is on the preset's scale, None where the preset has none for this metric."""

    raw: float
    normalized: float | None
    weight: float
    model: str  # what made it

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values are better ones: the model's name says so where it is the case."""
        return "lower is better" in self.model


@dataclass(frozen=True, repr=False)
class Result:
    """Everything about one (image, prompt) pair.

    `score` is the combined score in [0, 1], None where no weighted metric is available. `complete` says whether every
    metric that the preset weighs is in it; `missing` gives the reason for each metric that is not available.
    """

    image: str
    prompt: str
    score: float | None
    complete: bool
    profile: str
    preset: str
    fingerprint: str  # of the models, data and versions that made the values: compare only results that share it
    weights: str  # "published", or "random" where the values only prove arithmetic
    metrics: Mapping[str, MetricValue]
    missing: Mapping[str, str]
    input: Mapping[str, Any]  # what was done to image and prompt
    timing_ms: Mapping[str, float]
    sam_clip: Mapping[str, Any] = field(default_factory=dict)  # keywords, segments, relevance

    @classmethod
    def from_details(
        cls, details: Mapping[str, Any], image: str, prompt: str, timing_ms: Mapping[str, float]
    ) -> Result:
        """A result from the server's DETAILS object."""
        metrics = {name: MetricValue(**value) for name, value in details["metrics"].items()}
        same = ("score", "complete", "profile", "preset", "fingerprint", "weights", "missing", "input", "sam_clip")
        return cls(image, prompt, metrics=metrics, timing_ms=timing_ms, **{key: details[key] for key in same})

    @property
    def weights_warning(self) -> str:
        """What to say beside these numbers where they are no scores; empty where they are."""
        return weights_warning(self.weights)

    def value(self, by: str) -> float | None:
        """The combined score, where `by` is "score", or the raw value of the metric of that name; None without one."""
        if by == SCORE:
            return self.score
        return self.metrics[by].raw if by in self.metrics else None

    def __repr__(self) -> str:
        """One readable line; `to_dict` has everything."""
        score = "none" if self.score is None else f"{self.score:.4f}"
        prompt = self.prompt
        if len(prompt) > REPR_PROMPT_CHARACTERS:
            prompt = f"{prompt[: REPR_PROMPT_CHARACTERS - 1]}…"
        parts = (
            *([f"{self.weights_warning}, value={score}"] if self.weights_warning else [f"score={score}"]),
            *([] if self.complete else ["incomplete"]),
            *(f"{name}={value.raw:.4f}" for name, value in self.metrics.items()),
            f"image={self.image!r}",
            f"prompt={prompt!r}",
        )
        return f"Result({', '.join(parts)})"

    def _repr_html_(self) -> str:
        """A notebook's view: a table without anything from outside, everything escaped."""
        from imgeval.pages.render import render  # jinja2, which nobody else needs here

        return render("result.html", result=self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `imgeval-client score --json`; `schemas/result.schema.json` describes it."""
        content = asdict(self)
        del content["sam_clip"]  # masks of every segment: an explanation, not a result
        return content

"""The DETAILS object: everything about one result but the timing, assembled by the server's step `details`.

{"score", "complete", "profile", "preset", "fingerprint",
 "metrics": {NAME: {"raw", "normalized", "weight", "model"}},
 "missing": {NAME: reason},
 "input": {...},                       what was done to image and prompt
 "sam_clip": {"keywords", "segments", "relevance"}}
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgeval.contract import METRIC_NAMES
from imgeval.scores import Preset, combine, is_complete, parse_preset

NOT_REQUESTED = "not requested"


@dataclass(frozen=True)
class Card:
    """What a model repository says of itself: `card.json`, written by the build and read by the step `details`.

    `models` names the model behind each metric that is served; `missing` gives the reason for each that is not.
    `weights` is "published", or "random" for a repository that only proves arithmetic.
    """

    profile: str
    preset: Preset
    fingerprint: str
    weights: str
    models: Mapping[str, str]
    missing: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Card:
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**data, "preset": parse_preset(data["preset"])})


def assemble(
    card: Card, raw: Mapping[str, float], input_details: Mapping[str, Any], metric_details: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """The DETAILS of one item.

    Args:
        card: of the repository that made the values.
        raw: raw value by metric name; absent or NaN where unavailable.
        input_details: what `preprocess` did to image and prompt.
        metric_details: what the metrics' own steps say; the key "reason" tells why a value is NaN.
    """
    available = {name: raw[name] for name in METRIC_NAMES if not math.isnan(raw.get(name, math.nan))}
    missing = {
        name: card.missing.get(name) or metric_details.get(name, {}).get("reason") or NOT_REQUESTED
        for name in METRIC_NAMES
        if name not in available
    }
    score = combine(card.preset, available)
    return {
        "score": None if math.isnan(score) else score,
        "complete": is_complete(card.preset, available),
        "profile": card.profile,
        "preset": str(card.preset),
        "fingerprint": card.fingerprint,
        "weights": card.weights,
        "metrics": {
            name: {
                "raw": value,
                "normalized": card.preset.normalise(name, value),
                "weight": card.preset.weight(name),
                "model": card.models[name],
            }
            for name, value in available.items()
        },
        "missing": missing,
        "input": dict(input_details),
        "sam_clip": {key: value for key, value in metric_details.get("sam_clip", {}).items() if key != "reason"},
    }

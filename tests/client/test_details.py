"""imgeval.details: what the step `details` makes of values, reasons and the repository's card."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from imgeval.contract import METRIC_NAMES
from imgeval.details import NOT_REQUESTED, Card, assemble
from imgeval.errors import InvalidInputError
from imgeval.scores import PRESETS_DIR

CARD: dict[str, Any] = {
    "profile": "tiny",
    "preset": json.loads((PRESETS_DIR / "seed.json").read_text(encoding="utf-8")),
    "fingerprint": "0123456789abcdef",
    "weights": "published",
    "models": {"clip": "a dual encoder", "sam_clip": "segments", "iqa": "NIQE"},
    "missing": dict.fromkeys(("aesthetic", "qalign_quality", "qalign_aesthetic"), "needs a model: install it"),
}
INPUT = {"format": "PNG", "actions": [], "tokens": 5, "tokens_dropped": 0}
SAM = {"keywords": [{"word": "dog", "score": 0.7}], "segments": [], "relevance": []}


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return read_card(tmp_path, CARD)


def read_card(folder: Path, content: dict[str, Any]) -> Card:
    (folder / "card.json").write_text(json.dumps(content), encoding="utf-8")
    return Card.read(folder / "card.json")


def test_what_is_available_is_normalised_weighed_and_named(card: Card) -> None:
    details = assemble(card, {"clip": 0.4, "sam_clip": 0.6, "iqa": 12.0}, INPUT, {"sam_clip": SAM, "iqa": {}})
    assert details["score"] == pytest.approx(0.5)
    assert details["complete"] is False
    assert details["metrics"] == {
        "clip": {"raw": 0.4, "normalized": 0.4, "weight": 1.0, "model": "a dual encoder"},
        "sam_clip": {"raw": 0.6, "normalized": 0.6, "weight": 1.0, "model": "segments"},
        "iqa": {"raw": 12.0, "normalized": None, "weight": 0.0, "model": "NIQE"},
    }
    assert details["missing"] == CARD["missing"]
    assert details["input"] == INPUT
    assert details["sam_clip"] == SAM
    assert [details[key] for key in ("profile", "preset", "fingerprint", "weights")] == [
        "tiny", "seed-1", "0123456789abcdef", "published",
    ]  # fmt: skip


@pytest.mark.parametrize("raw", [{}, {"iqa": math.nan}])
@pytest.mark.parametrize(
    ("said", "reason"),
    [({}, NOT_REQUESTED), ({"iqa": {}}, NOT_REQUESTED), ({"iqa": {"reason": "too small"}}, "too small")],
)
def test_the_reason_comes_from_the_step_or_the_metric_was_not_requested(
    card: Card, raw: dict[str, float], said: dict[str, Any], reason: str
) -> None:
    details = assemble(card, {"clip": 0.4, **raw}, INPUT, said)
    assert details["missing"]["iqa"] == reason
    assert "iqa" not in details["metrics"]


def test_the_reason_of_the_card_comes_first(card: Card) -> None:
    details = assemble(card, {"aesthetic": math.nan}, INPUT, {"aesthetic": {"reason": "another"}})
    assert details["missing"]["aesthetic"] == "needs a model: install it"


def test_a_reason_is_no_part_of_the_explanation(card: Card) -> None:
    said = {"sam_clip": {**SAM, "reason": "the prompt has no keyword"}}
    details = assemble(card, {"clip": 0.4, "sam_clip": math.nan}, INPUT, said)
    assert details["sam_clip"] == SAM
    assert details["missing"]["sam_clip"] == "the prompt has no keyword"
    assert details["score"] == pytest.approx(0.4)


def test_without_any_weighed_value_the_score_is_null(card: Card) -> None:
    details = assemble(card, {"iqa": 3.0}, INPUT, {})
    assert details["score"] is None
    assert details["complete"] is False


def test_every_metric_stands_once_and_the_object_is_json(tmp_path: Path) -> None:
    full = read_card(tmp_path, {**CARD, "models": dict.fromkeys(METRIC_NAMES, "a model"), "missing": {}})
    for count in range(len(METRIC_NAMES) + 1):
        details = assemble(full, dict.fromkeys(METRIC_NAMES[:count], 0.5), INPUT, {})
        assert sorted([*details["metrics"], *details["missing"]]) == sorted(METRIC_NAMES)
        assert details["complete"] == (count >= 5)  # iqa, the last, is not weighed
        assert json.loads(json.dumps(details, allow_nan=False)) == details


def test_a_card_with_a_broken_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="not a preset"):
        read_card(tmp_path, {**CARD, "preset": {}})

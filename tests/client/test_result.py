"""imgeval.result: from the server's DETAILS to the object of `score --json`, and the JSON schema of that object."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import jsonschema
import pytest

from imgeval import MetricValue, Result
from imgeval.contract import IMAGE_FORMATS, MAX_ENCODED_BYTES, METRIC_NAMES, MIN_SIDE_PX
from imgeval.result import weights_warning

SCHEMA = json.loads(resources.files("imgeval").joinpath("schemas/result.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
DETAILS: dict[str, Any] = {
    "score": 0.45,
    "complete": False,
    "profile": "starter",
    "preset": "seed-1",
    "fingerprint": "b561b32fe6ee6e96",
    "weights": "published",
    "metrics": {
        "clip": {"raw": 0.4, "normalized": 0.4, "weight": 1.0, "model": "ConSE"},
        "sam_clip": {"raw": 0.5, "normalized": 0.5, "weight": 1.0, "model": "segments"},
        "iqa": {"raw": 12.5, "normalized": None, "weight": 0.0, "model": "NIQE"},
    },
    "missing": dict.fromkeys(("aesthetic", "qalign_quality", "qalign_aesthetic"), "not installed"),
    "input": {
        "format": "JPEG",
        "source_mode": "RGB",
        "width": 640,
        "height": 480,
        "encoded_bytes": 1234,
        "orientation": 6,
        "alpha_composited": False,
        "frames": 1,
        "actions": ["EXIF orientation 6 applied"],
        "tokens": 4,
        "tokens_dropped": 0,
    },
    "sam_clip": {"keywords": [], "segments": [], "relevance": []},
}
TIMING = {"connect": 1.5, "server": 30.0, "total": 31.5}


def result() -> Result:
    return Result.from_details(copy.deepcopy(DETAILS), "dog.jpg", "a dog", TIMING)


def test_details_become_a_typed_frozen_result() -> None:
    made = result()
    assert made.metrics["clip"] == MetricValue(0.4, 0.4, 1.0, "ConSE")
    assert made.metrics["iqa"].normalized is None
    assert (made.image, made.prompt, made.score, made.complete) == ("dog.jpg", "a dog", 0.45, False)
    assert made.sam_clip == DETAILS["sam_clip"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.score = 1.0  # type: ignore[misc]


def test_the_object_is_the_details_with_request_and_timing() -> None:
    content = json.loads(json.dumps(result().to_dict(), allow_nan=False))
    expected = {key: value for key, value in DETAILS.items() if key != "sam_clip"}
    assert content == {**expected, "image": "dog.jpg", "prompt": "a dog", "timing_ms": TIMING}


# --- for people ------------------------------------------------------------------------------------------------------
def test_repr_is_one_short_line() -> None:
    assert repr(result()) == (
        "Result(score=0.4500, incomplete, clip=0.4000, sam_clip=0.5000, iqa=12.5000, image='dog.jpg', prompt='a dog')"
    )
    changed = dataclasses.replace(result(), score=None, complete=True, metrics={}, prompt="dog\n" * 100)
    assert repr(changed) == f"Result(score=none, image='dog.jpg', prompt={('dog' + chr(10)) * 14 + 'dog…'!r})"


def test_values_of_random_weights_are_no_score_in_any_view() -> None:
    random = dataclasses.replace(result(), weights="random")
    assert repr(random).startswith("Result(WEIGHTS ARE RANDOM: these numbers are no scores, value=0.4500, incomplete")
    for view in (repr(random), random._repr_html_()):
        assert "WEIGHTS ARE RANDOM: these numbers are no scores" in view
        assert "score=" not in view and "score 0" not in view
    assert weights_warning("published") == result().weights_warning == ""


def test_a_notebook_shows_a_table_of_its_own() -> None:
    html = result()._repr_html_()
    assert "score 0.4500" in html and "(incomplete)" in html and "missing: not installed" in html
    assert not any(part in html for part in ("http", "src=", "url(", "<script", "<link"))


def test_a_notebook_shows_what_a_user_wrote_as_text() -> None:
    hostile = '</td><script>alert(1)</script><img src=x onerror="alert(2)">'
    metric = MetricValue(0.5, None, 0.0, hostile)
    texts = dict.fromkeys(("image", "prompt", "profile", "preset", "fingerprint"), hostile)
    html = dataclasses.replace(result(), metrics={"clip": metric}, missing={"iqa": hostile}, **texts)._repr_html_()
    assert "<script" not in html and "<img" not in html
    assert html.count("&lt;script&gt;alert(1)") == len(texts) + 2


# --- the schema ------------------------------------------------------------------------------------------------------
def test_the_schema_is_one_and_agrees_with_the_contract() -> None:
    VALIDATOR.check_schema(SCHEMA)
    definitions = SCHEMA["$defs"]
    assert tuple(definitions["metric_name"]["enum"]) == METRIC_NAMES
    assert tuple(definitions["one_of"]) == METRIC_NAMES
    assert len(SCHEMA["allOf"]) == len(METRIC_NAMES)
    assert tuple(definitions["input"]["properties"]["format"]["enum"]) == IMAGE_FORMATS
    assert definitions["input"]["properties"]["encoded_bytes"]["maximum"] == MAX_ENCODED_BYTES
    assert definitions["input"]["properties"]["width"]["minimum"] == MIN_SIDE_PX


def test_results_conform() -> None:
    whole = result().to_dict()
    VALIDATOR.validate(whole)
    VALIDATOR.validate({**whole, "score": None})
    full = dict.fromkeys(METRIC_NAMES, whole["metrics"]["clip"])
    VALIDATOR.validate({**whole, "complete": True, "metrics": full, "missing": {}})
    VALIDATOR.validate({**whole, "metrics": {}, "missing": dict.fromkeys(METRIC_NAMES, "not requested"), "score": None})


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        content[path[-1]] = value

    return change


def drop(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return change


FIELDS = tuple(field for field in SCHEMA["properties"])
INPUT_FIELDS = tuple(SCHEMA["$defs"]["input"]["properties"])
CLIP = DETAILS["metrics"]["clip"]
MUTATIONS = {
    **{f"no {field}": drop(field) for field in FIELDS},
    **{f"no input.{field}": drop("input", field) for field in INPUT_FIELDS},
    **{f"no metric.{field}": drop("metrics", "clip", field) for field in CLIP},
    **{f"no timing.{field}": drop("timing_ms", field) for field in TIMING},
    "another field": put("masks", value=[]),
    "another input field": put("input", "colour", value="red"),
    "another metric field": put("metrics", "clip", "unit", value="1"),
    "another timing": put("timing_ms", "queue", value=1.0),
    "unknown metric": put("metrics", "beauty", value=CLIP),
    "unknown missing metric": put("missing", "beauty", value="why not"),
    "metric neither there nor missing": drop("missing", "aesthetic"),
    "metric both there and missing": put("missing", "clip", value="why not"),
    "score above 1": put("score", value=1.01),
    "score below 0": put("score", value=-0.01),
    "score as text": put("score", value="0.5"),
    "complete as a number": put("complete", value=1),
    "blank prompt": put("prompt", value=" \n"),
    "preset without version": put("preset", value="seed"),
    "fingerprint that is none": put("fingerprint", value="latest"),
    "unknown kind of weights": put("weights", value="secret"),
    "raw null": put("metrics", "clip", "raw", value=None),
    "raw as text": put("metrics", "clip", "raw", value="0.4"),
    "negative weight": put("metrics", "clip", "weight", value=-1),
    "nameless model": put("metrics", "clip", "model", value=""),
    "empty reason": put("missing", "aesthetic", value=""),
    "null reason": put("missing", "aesthetic", value=None),
    "unsupported format": put("input", "format", value="SVG"),
    "orientation 9": put("input", "orientation", value=9),
    "width 7": put("input", "width", value=7),
    "negative tokens_dropped": put("input", "tokens_dropped", value=-1),
    "actions as text": put("input", "actions", value="none"),
    "negative time": put("timing_ms", "total", value=-1.0),
}  # fmt: skip


@pytest.mark.parametrize("change", MUTATIONS.values(), ids=list(MUTATIONS))
def test_what_is_no_result_does_not_conform(change: Callable[[dict[str, Any]], None]) -> None:
    content = copy.deepcopy(result().to_dict())
    VALIDATOR.validate(content)
    change(content)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(content)

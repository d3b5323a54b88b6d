"""imgeval.report: what a report has in it, and what it refuses to compare. Its looks are tests/client/pages'."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imgeval import InvalidInputError
from imgeval.pages.report import NO_FILE, NOT_CHOSEN, REMOTE, UNREADABLE
from imgeval.report import (
    Pair,
    Run,
    caveats,
    comparable,
    difference,
    lower_is_better,
    missing,
    pairs,
    places,
    valued,
    write_report,
)
from imgeval.runs import Row

MODELS = {"clip": "a CLIP", "iqa": "NIQE (lower is better)"}


def row(index: int, score: float | None = 0.5, prompt: str = "a dog", image: str = "dog.png", **other: Any) -> Row:
    metrics = {} if score is None else {"clip": score, "iqa": 10 * score}
    made = {"profile": "starter", "preset": "seed-1", "fingerprint": "aa", "weights": "published", "complete": True}
    normalized = {} if score is None else {"clip": score}
    defaults = {**made, "metrics": metrics, "normalized": normalized, "models": MODELS}
    return Row(index, image, prompt, score, **{**defaults, **other})


def failed(index: int, prompt: str = "a dog") -> Row:
    return Row(index, "gone.png", prompt, error="IMAGE: gone.png does not exist")


def run(*rows: Row, name: str = "run") -> Run:
    return Run.of(name, rows)


def data(path: Path) -> dict[str, Any]:
    """What the page's script gets."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.S)
    assert found
    content: dict[str, Any] = json.loads(found[1])
    return content


# --- places and pairs ------------------------------------------------------------------------------------------------
def test_places_are_shared_and_follow_the_direction() -> None:
    rows = [row(0, 0.2), row(1, 0.9), failed(2), row(3, 0.9), row(4, 0.1), row(5, math.nan)]
    assert places(rows, "score", lower=False) == [3, 1, None, 1, 4, None]
    assert places(rows, "iqa", lower=True) == [2, 3, None, 3, 1, None]
    assert lower_is_better("iqa", run(*rows)) and not lower_is_better("clip", run(*rows))
    assert valued(run(*rows)) == ("score", "clip", "iqa")
    assert valued(run(failed(0))) == ()


def test_the_nth_row_of_a_prompt_meets_the_nth() -> None:
    a = run(row(2, 0.3), row(0, 0.1), row(1, 0.2, "a cat"), name="a")
    b = run(row(0, 0.4), row(1, 0.9, "a fish"), failed(2, "a cat"), name="b")
    found = pairs(a, b)
    assert [(pair.prompt, pair.a and pair.a.index, pair.b and pair.b.index) for pair in found] == [
        ("a dog", 0, 0),
        ("a cat", 1, 2),
        ("a dog", 2, None),
        ("a fish", None, 1),
    ]
    assert [difference(pair, "score") for pair in found] == [pytest.approx(0.3), None, None, None]
    assert difference(Pair("", row(0, 0.5), row(0, math.inf)), "score") is None


# --- what may be compared --------------------------------------------------------------------------------------------
def test_values_of_different_models_are_not_compared(tmp_path: Path) -> None:
    mixed = run(row(0), row(1, fingerprint="bb"))
    assert not comparable(mixed)
    assert next(caveats(mixed)).startswith("not comparable, so no places: the values were made by different models")
    write_report(mixed, tmp_path / "page.html")
    assert [each[1] for each in data(tmp_path / "page.html")["rows"]] == [None, None]
    a, b = run(row(0), name="a"), run(row(0, fingerprint="bb"), name="b")
    assert next(caveats(a, b)).startswith("not comparable, so no differences: ")
    write_report(a, tmp_path / "page.html", b)
    assert data(tmp_path / "page.html")["comparable"] is False
    assert comparable(a, run(row(7), failed(8)))


def test_random_weights_are_no_scores(tmp_path: Path) -> None:
    random = run(row(0, weights="random"))
    assert random.warnings == ("WEIGHTS ARE RANDOM: these numbers are no scores",)
    assert not comparable(random) and not comparable(run(row(0)), random)
    write_report(random, tmp_path / "page.html")
    content = data(tmp_path / "page.html")
    assert [each["label"] for each in content["values"]] == ["value (no score)", "clip", "iqa"]
    assert content["rows"][0][1] is None, "no place"


def test_what_to_beware_of_is_said() -> None:
    rows = [row(0), row(1, complete=False, normalized={"clip": 0.5, "iqa": 0.1}), failed(2)]
    assert list(caveats(run(*rows))) == [
        "run: 1 of 3 rows could not be scored",
        "the combined values are means of different metrics: clip (1 row); clip, iqa (1 row)",
    ]
    assert list(caveats(run(row(0, complete=False)))) == [
        "every row is incomplete: metrics that the preset weighs are missing, see the end of the page"
    ]
    assert list(caveats(run(row(0)))) == []
    reasons = run(row(0, missing={"aesthetic": "no head"}), row(1, missing={"aesthetic": "no head", "iqa": "small"}))
    assert missing(reasons) == [("aesthetic", "no head", 2), ("iqa", "small", 1)]


# --- the page's data -------------------------------------------------------------------------------------------------
def test_rows_reach_the_page_as_they_are(tmp_path: Path) -> None:
    written = write_report(run(row(0, 0.25), failed(1), row(2, math.nan, complete=False)), tmp_path / "page.html")
    assert (written.rows, written.thumbnails) == (3, 0)
    content = data(tmp_path / "page.html")
    assert content["values"] == [
        {"label": "score", "better": 1},
        {"label": "clip", "better": 1},
        {"label": "iqa", "better": -1},
    ]
    assert content["rows"] == [
        ["a dog", 1, [0, "dog.png", [0.25, 0.25, 2.5], None, False, NO_FILE]],
        ["a dog", None, [1, "gone.png", [None, None, None], "IMAGE: gone.png does not exist", False, NO_FILE]],
        ["a dog", None, [2, "dog.png", [None, None, None], None, True, NO_FILE]],
    ]


def test_nothing_and_nonsense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="run: empty has no rows; allowed: one or more"):
        write_report(run(row(0)), tmp_path / "page.html", run(name="empty"))
    with pytest.raises(InvalidInputError, match="thumbnails: got -1; allowed: 0 or more"):
        write_report(run(row(0)), tmp_path / "page.html", max_thumbnails=-1)
    assert not (tmp_path / "page.html").exists()


def test_only_errors_make_a_page_too(tmp_path: Path) -> None:
    write_report(run(failed(0), failed(1)), tmp_path / "page.html")
    assert data(tmp_path / "page.html")["values"] == []


# --- pictures --------------------------------------------------------------------------------------------------------
def test_pictures_are_of_the_top_and_the_bottom(tmp_path: Path) -> None:
    for index in range(10):
        Image.new("RGB", (300, 200), (20 * index, 0, 0)).save(tmp_path / f"{index}.png")
    rows = [row(index, index / 10, image=f"{index}.png") for index in range(10)]
    written = write_report(Run.of("run", rows, tmp_path), tmp_path / "page.html", max_thumbnails=5)
    assert written.thumbnails == 5
    shown = [each[2][5] for each in data(tmp_path / "page.html")["rows"]]
    assert [isinstance(each, int) for each in shown] == [True] * 2 + [False] * 5 + [True] * 3
    assert set(shown[2:7]) == {NOT_CHOSEN}
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Pictures: 5 of 10 rows may have them" in page
    two = write_report(
        Run.of("a", rows, tmp_path), tmp_path / "page.html", Run.of("b", rows, tmp_path), max_thumbnails=4
    )
    assert two.thumbnails == 2, "the same two files on both sides"
    assert write_report(Run.of("run", rows, tmp_path), tmp_path / "page.html", max_thumbnails=0).thumbnails == 0


def test_a_row_without_a_picture_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    Image.new("RGB", (4, 4)).save(tmp_path / "small.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    cases = {
        "https://example.org/a.png": REMOTE,
        "s3://bucket/a.png": REMOTE,
        "<bytes>": NO_FILE,
        "nowhere/a.png": NO_FILE,
        "a\x00b.png": NO_FILE,
        "x" * 5000: NO_FILE,
        "pipe.png": NO_FILE,  # reading it would wait for ever
        "/dev/zero": NO_FILE,
        "broken.png": UNREADABLE,
        "small.png": UNREADABLE,  # below the contract's limit, as everywhere
        "good.png": 0,
    }
    rows = [row(index, image=image) for index, image in enumerate(cases)]
    write_report(run(*rows), tmp_path / "page.html")
    assert [each[2][5] for each in data(tmp_path / "page.html")["rows"]] == list(cases.values())

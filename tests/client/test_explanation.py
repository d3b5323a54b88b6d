"""imgeval.explanation and Client.explain: what the server says of segments and keywords, made typed."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgeval import Client, Explanation, InvalidInputError, Result, ServerFailedError
from imgeval.metrics.relevance import keyword_score
from tests.client.pages._explained import RELEVANCE, WORDS, details, explanation, rgb
from tests.fake_transport import FakeTransport

SHOULDER = 6  # EXIF: the right side of the scene is at the top of what is stored
Photos = dict[str, bytes]


def png(pixels: np.ndarray, orientation: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


def explaining(**other: Any) -> Client:
    return Client(transport=FakeTransport(json.dumps(details(**other)).encode()))


def test_it_is_typed_and_frozen() -> None:
    made = explaining().explain(png(rgb()), "a dog on grass", label="dog.png")
    assert (made.result.image, made.result.prompt) == ("dog.png", "a dog on grass")
    assert (made.rgb == rgb()).all()
    assert [segment.box for segment in made.segments] == [(0, 0, 30, 40), (30, 0, 30, 40), (8, 12, 10, 10)]
    assert [keyword.word for keyword in made.keywords] == WORDS
    assert [keyword.relevance for keyword in made.keywords] == [tuple(row) for row in RELEVANCE]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.segments = ()  # type: ignore[misc]
    assert len(repr(made)) < 2000 and "array" not in repr(made)


def test_a_segment_matches_above_the_neutral_probability_only() -> None:
    assert [keyword.segments for keyword in explanation().keywords] == [(1,), (3,), (3,), ()]
    assert explanation().unmatched == ("nothing",)
    two = details()["sam_clip"]
    two["relevance"] = [[0.31, 0.69, 0.0]] * 4
    assert explanation(sam_clip=two).keywords[0].segments == (2, 1), "best first"


def test_values_of_the_keywords_are_the_metric() -> None:
    made = explanation()
    values = [keyword.value for keyword in made.keywords]
    assert values == [keyword_score(np.array(row)) for row in RELEVANCE]
    assert np.mean(values) == pytest.approx(made.result.metrics["sam_clip"].raw, abs=1e-12)


def test_contributions_add_up_to_the_score() -> None:
    made = explanation()
    assert set(made.contributions) == {"clip", "sam_clip"}
    assert math.fsum(made.contributions.values()) == pytest.approx(made.result.score, abs=1e-12)
    assert made.contributions["clip"] == pytest.approx(0.4 * 3 / 4)


def test_the_object_is_json_and_has_no_pixels() -> None:
    content = json.loads(json.dumps(explanation().to_dict(), allow_nan=False))
    assert content["unmatched"] == ["nothing"]
    assert content["segments"][2] == {"number": 3, "box": [8, 12, 10, 10], "area": 100, "predicted_iou": None}
    assert content["keywords"][0]["segments"] == [1]
    assert content["result"]["score"] == explanation().result.score


def test_without_sam_clip_there_are_no_segments() -> None:
    made = explaining(sam_clip={}).explain(png(rgb()), "a dog")
    assert (made.segments, made.keywords, made.unmatched) == ((), (), ())
    no_segment = {"keywords": details()["sam_clip"]["keywords"], "segments": [], "relevance": []}
    made = explaining(sam_clip=no_segment).explain(png(rgb()), "a dog")
    assert [(keyword.word, keyword.value) for keyword in made.keywords] == [(word, None) for word in WORDS]
    assert made.unmatched == tuple(WORDS)


@pytest.mark.parametrize(
    "change",
    [
        {"segments": [{"box": [50, 0, 30, 40], "area": 1, "mask": {"size": [40, 30], "counts": [1200]}}] * 3},
        {"segments": [{"box": [0, 0, 30, 40], "area": 1, "mask": {"size": [40, 30], "counts": [7]}}] * 3},
        {"segments": [{"box": [0, 0, 30, 40], "area": 1, "mask": {"size": [10**6, 10**6], "counts": [10**12]}}] * 3},
        {"segments": [{"box": [0, 0, 30, 40], "area": 1}] * 3},
        {"relevance": [[0.5, 0.5]] * 4},
        {"relevance": RELEVANCE[:2]},
        {"keywords": ["dog"] * 4},
    ],
    ids=["outside the image", "short runs", "huge mask", "no mask", "few columns", "few rows", "bare words"],
)
def test_segments_that_cannot_be_read_are_the_servers_failure(change: dict[str, Any]) -> None:
    client = explaining(sam_clip={**details()["sam_clip"], **change})
    with pytest.raises(ServerFailedError, match="gave segments that cannot be read"):
        client.explain(png(rgb()), "a dog")


def test_only_a_page_or_a_picture_can_be_written(tmp_path: Path) -> None:
    for name in ("why.pdf", "why", "why.html.gz"):
        with pytest.raises(InvalidInputError, match=r"output: got .*; allowed: a file name that ends in \.html"):
            explanation().write(tmp_path / name)
    with pytest.raises(OSError, match="No such file"):
        explanation().write(tmp_path / "nowhere" / "why.html")
    for name in ("WHY.HTML", "why.png"):
        explanation().write(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


# --- a real server ---------------------------------------------------------------------------------------------------
def test_a_real_explanation_adds_up(client: Client, photos: Photos, tmp_path: Path) -> None:
    made = client.explain(photos["coffee.png"], "a cup of coffee on a wooden table")
    assert made.segments and made.keywords
    assert math.fsum(made.contributions.values()) == pytest.approx(made.result.score, abs=1e-6)
    values = [keyword.value for keyword in made.keywords]
    assert np.mean(values) == pytest.approx(made.result.metrics["sam_clip"].raw, abs=1e-6)
    for segment in made.segments:
        assert segment.mask.sum() == segment.area
    made.write(tmp_path / "why.html")
    assert "<code>" in (tmp_path / "why.html").read_text(encoding="utf-8")


def test_segments_are_in_the_image_as_it_was_turned(client: Client, photos: Photos) -> None:
    """A file whose EXIF turns it is explained as the upright image is: same pixels, same segments."""
    upright = np.asarray(Image.open(io.BytesIO(photos["coffee.png"])))
    stored = np.rot90(upright)  # what a camera held sideways stores
    straight = client.explain(png(upright), "a cup of coffee")
    turned = client.explain(png(stored, SHOULDER), "a cup of coffee")
    assert "EXIF orientation 6 applied" in turned.result.input["actions"]
    assert (turned.rgb == upright).all()
    assert [segment.box for segment in turned.segments] == [segment.box for segment in straight.segments]
    assert all((one.mask == other.mask).all() for one, other in zip(turned.segments, straight.segments, strict=True))


def test_an_explanation_can_be_made_of_any_result() -> None:
    result = Result.from_details(details(), "dog.jpg", "a dog", {})
    assert Explanation.of(result, rgb()).result is result

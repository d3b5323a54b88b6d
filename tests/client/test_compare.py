"""imgeval.compare: rankings of images and prompts, and the matrix; on a fake transport, then on the real server."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgeval import Client, InvalidInputError, Outcome, Ranking, Result, ServerFailedError, ServerUnavailableError
from imgeval.compare import check_by, rank_outcomes
from imgeval.contract import METRIC_NAMES
from imgeval.metrics.relevance import LOGIT_SCALE
from tests.fake_transport import DETAILS, FakeTransport


def details(score: float | None = 0.4, clip: float | None = 0.2, **other: Any) -> dict[str, Any]:
    metrics = {} if clip is None else {"clip": {"raw": clip, "normalized": clip, "weight": 1.0, "model": "CLIP"}}
    return {**DETAILS, "score": score, "metrics": metrics, **other}


def ranking(*made: dict[str, Any] | None, by: str = "score") -> Ranking:
    """Of one outcome for each, a failure for None."""
    outcomes = []
    for index, each in enumerate(made):
        result = None if each is None else Result.from_details(each, f"{index}.jpg", "a dog", {})
        outcomes.append(Outcome(index, f"{index}.jpg", "a dog", result, None if each else ServerFailedError("failed")))
    return rank_outcomes(outcomes, by)


def indices(ranked: Ranking) -> list[int]:
    return [row.outcome.index for row in ranked.rows]


# --- places ----------------------------------------------------------------------------------------------------------
@given(st.lists(st.none() | st.sampled_from([0.1, 0.2, 0.3]) | st.floats(0, 1), min_size=1, max_size=12))
def test_places_are_those_of_sorted_values(scores: list[float | None]) -> None:
    ranked = ranking(*(None if score is None else details(score) for score in scores))
    assert sorted(indices(ranked)) == list(range(len(scores)))
    given_values = [score for score in scores if score is not None]
    assert [row.value for row in ranked.rows if row.value is not None] == sorted(given_values, reverse=True)
    assert all(row.value is None for row in ranked.rows[len(given_values) :]), "what has no value comes last"
    for row in ranked.rows:
        place = None if row.value is None else 1 + sum(other > row.value for other in given_values)
        assert (row.place, row.outcome.error is None) == (place, row.value is not None)
    ties = sum(given_values.count(value) > 1 for value in set(given_values))
    assert sum(caveat.startswith("tie: ") for caveat in ranked.caveats) == ties


def test_a_tie_shares_a_place_and_is_said() -> None:
    ranked = ranking(details(0.2), details(0.5), details(0.2), details(0.1))
    assert [(row.place, row.outcome.index) for row in ranked.rows] == [(1, 1), (2, 0), (2, 2), (4, 3)]
    assert ranked.caveats == ("tie: 2 share place 2",)


def test_what_is_better_when_lower_is_ranked_so() -> None:
    def niqe(raw: float) -> dict[str, Any]:
        return {"iqa": {"raw": raw, "normalized": None, "weight": 0.0, "model": "NIQE (lower is better)"}}

    ranked = ranking(*(details(metrics=niqe(raw)) for raw in (5.0, 3.0, 9.0)), by="iqa")
    assert (indices(ranked), ranked.by) == ([1, 0, 2], "iqa")
    assert [row.probability for row in ranked.rows] == [None] * 3, "no clip"


def test_results_of_different_models_get_no_place() -> None:
    ranked = ranking(details(0.4), details(0.6, fingerprint="f" * 16))
    assert not ranked.comparable
    assert [(row.place, row.probability) for row in ranked.rows] == [(None, None)] * 2
    (caveat,) = ranked.caveats
    assert caveat.startswith("not comparable: the results were made by different models")
    assert caveat.endswith(f"(fingerprints {DETAILS['fingerprint']}, {'f' * 16})")


def test_caveats_name_random_weights_missing_metrics_and_scores_of_different_ones() -> None:
    assert ranking(details(weights="random")).caveats == ("WEIGHTS ARE RANDOM: these numbers are no scores",)
    missing = ranking(details(), details(clip=None, missing={"clip": "not built"}), by="clip")
    assert missing.caveats == ("clip is missing: not built",)
    assert [row.place for row in missing.rows] == [1, None]
    assert missing.rows[1].outcome.error is None
    assert ranking(details(0.5), details(0.4, clip=None)).caveats[0].startswith("the scores are of different metrics: ")
    assert ranking(details(0.5), details(0.4)).caveats == ()


# --- probabilities ---------------------------------------------------------------------------------------------------
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
def test_probabilities_are_the_softmax_of_the_scaled_cosines(cosines: list[float]) -> None:
    ranked = ranking(*(details(clip=cosine) for cosine in cosines), None)
    weights = [math.exp(LOGIT_SCALE * (cosine - max(cosines))) for cosine in cosines]
    by_index = {row.outcome.index: row.probability for row in ranked.rows}
    assert by_index.pop(len(cosines)) is None
    for index, probability in by_index.items():
        assert probability == pytest.approx(weights[index] / sum(weights), rel=1e-9, abs=1e-12)


# --- through a client ------------------------------------------------------------------------------------------------
def by_length(image: bytes, prompt: str) -> dict[str, Any]:
    """The longer image and prompt, the better."""
    return details(score=len(image) / 100, clip=(len(image) + len(prompt)) / 100)


def test_rank_puts_the_best_image_first_and_failures_last() -> None:
    client = Client(transport=FakeTransport(answer=by_length))
    ranked = client.rank("a dog", ["/nowhere/dog.jpg", b"x", b"xxx", b"", b"xx"])
    assert indices(ranked) == [2, 4, 1, 0, 3]
    assert [row.place for row in ranked.rows] == [1, 2, 3, None, None]
    assert [row.outcome.image for row in ranked.rows][3] == "/nowhere/dog.jpg"
    assert all(isinstance(row.outcome.error, InvalidInputError) for row in ranked.rows[3:])
    json.dumps(ranked.to_dict(), allow_nan=False)


def test_match_puts_the_best_prompt_first_and_asks_for_clip_alone() -> None:
    transport = FakeTransport(answer=by_length)
    matched = Client(transport=transport).match(b"xx", ["a dog", "", "a large dog"], label="dog.jpg")
    assert [row.outcome.prompt for row in matched.rows] == ["a large dog", "a dog", ""]
    assert matched.by == "clip"
    assert {row.outcome.image for row in matched.rows} == {"dog.jpg"}
    assert matched.rows[0].probability == pytest.approx(1 / (1 + math.exp(-6)))
    asked = [outputs for model, _, outputs, _ in transport.calls if model == "imgeval"]
    assert asked == [["INPUT_DETAILS", "CLIP"]] * 2


def test_matrix_has_a_row_for_each_image_and_a_column_for_each_prompt() -> None:
    client = Client(transport=FakeTransport(answer=by_length))
    matrix = client.matrix([b"x", "/nowhere/dog.jpg", b"xxx"], ["a", "bbb"])
    assert (matrix.images, matrix.prompts) == (("<bytes>", "/nowhere/dog.jpg", "<bytes>"), ("a", "bbb"))
    assert matrix.values("clip") == [[0.02, 0.04], [None, None], [0.04, 0.06]]
    assert matrix.values() == [[0.01, 0.01], [None, None], [0.03, 0.03]]
    assert matrix.comparable
    assert all(isinstance(cell, InvalidInputError) for cell in matrix.cells[1])


def test_each_image_is_read_once(tmp_path: Any) -> None:
    """A pipe can be read only once."""
    import os
    import threading

    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(b"content"))
    writer.start()
    cells = Client(transport=FakeTransport(answer=by_length)).matrix([tmp_path / "pipe"], ["a", "b", "c"]).cells
    writer.join()
    assert all(isinstance(cell, Result) for cell in cells[0])


def test_what_cannot_be_compared_is_refused() -> None:
    client = Client(transport=FakeTransport())
    with pytest.raises(InvalidInputError, match="images: got none; allowed: one or more"):
        client.rank("a dog", [])
    with pytest.raises(InvalidInputError, match="prompts: got one str; allowed: a list"):
        client.match(b"image", "a dog")
    with pytest.raises(InvalidInputError, match="images: got one str"):
        client.matrix("dog.jpg", ["a dog"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="PROMPT: got blank"):
        client.rank(" ", [b"image"])
    with pytest.raises(InvalidInputError, match=r"dog\.jpg does not exist"):
        client.match("/nowhere/dog.jpg", ["a dog"])
    with pytest.raises(InvalidInputError, match="by: got beauty; allowed: score, aesthetic"):
        client.rank("a dog", [b"image"], by="beauty")
    with pytest.raises(InvalidInputError, match="by: got iqa, which is not among the metrics asked for: clip"):
        client.rank("a dog", [b"image"], by="iqa", metrics=["clip"])
    assert not client._transport.calls  # type: ignore[attr-defined]


def test_the_metrics_of_a_ranking() -> None:
    assert check_by("score", None) == METRIC_NAMES
    assert check_by("iqa", None) == ("iqa",)
    assert check_by("clip", ["iqa", "clip"]) == ("clip", "iqa")
    assert check_by("score", ["clip"]) == ("clip",)


def test_without_a_server_nothing_is_ranked() -> None:
    with pytest.raises(ServerUnavailableError):
        Client(transport=FakeTransport(error=ServerUnavailableError("down"))).rank("a dog", [b"a", b"b"])


# --- the real server -------------------------------------------------------------------------------------------------
def test_the_right_photo_and_the_right_prompt_are_chosen(client: Client, photos: dict[str, bytes]) -> None:
    ranked = client.rank("a cup of coffee", [photos["chelsea.png"], photos["coffee.png"]])
    assert (indices(ranked), ranked.comparable) == ([1, 0], True)
    assert client.rank("a cat", [photos["chelsea.png"], photos["coffee.png"]], by="clip").rows[0].outcome.index == 0
    matched = client.match(photos["chelsea.png"], ["a cup of coffee", "a cat", "a rocket"])
    assert matched.rows[0].outcome.prompt == "a cat"
    print("probabilities", [(row.outcome.prompt, row.probability) for row in matched.rows])
    assert sum(row.probability or 0 for row in matched.rows) == pytest.approx(1)
    pairs = [(photo, "a cat") for photo in photos.values()]
    many = list(client.score_many(pairs, metrics=["clip"], concurrency=3))
    one_by_one = [client.score(photo, "a cat", metrics=["clip"]).metrics["clip"].raw for photo in photos.values()]
    assert [outcome.result and outcome.result.metrics["clip"].raw for outcome in many] == pytest.approx(one_by_one)

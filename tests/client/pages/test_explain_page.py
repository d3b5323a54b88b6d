"""The page and the picture of an explanation, the page in a real browser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgeval.pages.explain import WIDTH_PX
from tests.client.pages._checks import Open, assert_fits, assert_harmless, assert_readable
from tests.client.pages._explained import HOSTILE, WORDS, details, explanation, segment


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    explanation().write(tmp_path / "why.html")
    return tmp_path / "why.html"


def test_segments_relevance_and_contributions_are_there(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    made = explanation()
    assert page.locator("h1").inner_text().split()[:2] == ["Score", f"{made.result.score:.4f}"]
    assert page.locator(".relevance tbody th").all_inner_texts() == WORDS
    cells = page.locator(".relevance tbody tr").nth(0).locator("td").all_inner_texts()
    assert cells[:3] == ["0.90", "0.06", "0.04"]
    assert page.locator(".relevance tbody strong").all_inner_texts() == ["0.90", "0.40", "0.50"], "above 0.3"
    unmatched = page.locator("h3:has-text('no segment matches') + ul li").all_inner_texts()
    assert unmatched == ["nothing: relevance never above 0.3"]
    parts = page.locator(".metrics td[data-label=contribution]").all_inner_texts()
    assert parts == [*(f"{part:.4f}" for part in made.contributions.values() if part), "not weighed"]
    assert page.locator(".missing li").count() == 3
    ends = [
        float(bar.get_attribute("x")) + float(bar.get_attribute("width"))
        for bar in page.locator("rect.c2, rect.c5").all()
    ]
    assert ends[-1] == pytest.approx(100 * made.result.score, abs=0.01), "the last bar ends at the score"


def test_the_image_is_shown_with_and_without_its_segments(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    assert page.locator("img.overlay").is_visible() and not page.locator("img.original").is_visible()
    page.locator("#plain").check()
    assert page.locator("img.original").is_visible() and not page.locator("img.overlay").is_visible()
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("dark", [False, True])
def test_it_is_readable_on_a_phone_and_in_print(page_file: Path, open_page: Open, dark: bool) -> None:
    page = open_page(page_file, width=390, height=844, dark=dark)
    assert_fits(page)
    assert_readable(page)
    assert_readable(open_page(page_file, dark=dark))
    printed = open_page(page_file, dark=dark, printed=True)
    assert_readable(printed)
    assert not printed.locator("#plain").is_visible()


def test_many_segments_fit_a_sheet_of_paper_and_a_phone(tmp_path: Path, open_page: Open) -> None:
    count = 15
    said = {
        "keywords": [{"word": word, "score": 0.5} for word in WORDS],
        "segments": [segment(4 * index, 0, 4, 40) for index in range(count)],
        "relevance": [[1 / count] * count] * len(WORDS),
    }
    made = explanation(sam_clip=said)
    made.write(tmp_path / "why.html")
    assert_fits(open_page(tmp_path / "why.html", width=718, printed=True))  # A4 less the margins
    assert_fits(open_page(tmp_path / "why.html", width=390))
    assert made.unmatched == tuple(WORDS)
    made.write(tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.width == WIDTH_PX, "in two blocks of columns"


def test_what_a_user_wrote_stays_text(tmp_path: Path, open_page: Open) -> None:
    said = details()["sam_clip"]
    said["keywords"][0]["word"] = HOSTILE
    missing = {"aesthetic": HOSTILE, "qalign_quality": "x" * 500}
    made = explanation(HOSTILE, HOSTILE, sam_clip=said, missing=missing, input={"actions": [HOSTILE]}, preset=HOSTILE)
    made.write(tmp_path / "why.html")
    page = open_page(tmp_path / "why.html", width=390)
    assert_harmless(page)
    assert_fits(page)
    assert "</script><script>" in page.locator("p.prompt").inner_text()
    assert "{{7*7}}" in page.locator(".relevance tbody th").first.inner_text()


def test_the_policy_stops_what_would_get_in(page_file: Path, browser: object) -> None:
    page = browser.new_page()  # type: ignore[attr-defined]
    page.goto(page_file.as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=data: onerror=\"window.pwned=1\">')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.pwned=2'}))")
    page.wait_for_timeout(100)
    assert page.evaluate("window.pwned") is None
    page.close()


def test_random_weights_come_first_and_in_red(tmp_path: Path, open_page: Open) -> None:
    explanation(weights="random").write(tmp_path / "why.html")
    page = open_page(tmp_path / "why.html")
    first = page.locator("body > *").first
    assert first.inner_text() == "WEIGHTS ARE RANDOM: these numbers are no scores"
    assert page.evaluate("getComputedStyle(document.body.children[0]).backgroundColor") == "rgb(176, 0, 32)"
    assert "Score" not in page.locator("h1").inner_text()
    assert "no score" in page.locator("main").inner_text()


def test_without_segments_the_page_says_why(tmp_path: Path, open_page: Open) -> None:
    missing = {"sam_clip": "the prompt has no keyword"}
    metrics = {"clip": details()["metrics"]["clip"]}
    explanation(sam_clip={}, missing=missing, metrics=metrics, score=0.4).write(tmp_path / "why.html")
    page = open_page(tmp_path / "why.html")
    assert page.locator(".relevance").count() == 0
    assert page.locator("p:has-text('sam_clip is missing')").inner_text().endswith("the prompt has no keyword")
    explanation(sam_clip={}, missing=missing, metrics={}, score=None).write(tmp_path / "none.html")
    assert "No metric is available." in open_page(tmp_path / "none.html").locator("main").inner_text()


def test_a_score_that_was_clamped_is_said_to_be(tmp_path: Path, open_page: Open) -> None:
    metrics = {"clip": {"raw": -0.2, "normalized": -0.2, "weight": 1.0, "model": "a CLIP"}}
    explanation(metrics=metrics, score=0.0).write(tmp_path / "why.html")
    assert (
        "Their sum is -0.2000; the score is that, clamped"
        in open_page(tmp_path / "why.html").locator("main").inner_text()
    )


# --- the picture -----------------------------------------------------------------------------------------------------
def test_the_picture_has_the_image_and_a_legend(tmp_path: Path) -> None:
    explanation().write(tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as picture:
        assert (picture.format, picture.mode, picture.width) == ("PNG", "RGB", WIDTH_PX)
        pixels = np.asarray(picture)
    legend = pixels[100:]
    assert (legend == 255).all(axis=-1).mean() > 0.5, "paper"
    assert (legend < 60).all(axis=-1).sum() > 500, "text"


def test_the_picture_of_random_weights_says_so_in_red(tmp_path: Path) -> None:
    counts = []
    for weights in ("published", "random"):
        explanation(weights=weights).write(tmp_path / "why.png")
        with Image.open(tmp_path / "why.png") as picture:
            counts.append((np.asarray(picture) == (176, 0, 32)).all(axis=-1).sum())
    assert counts[0] == 0 and counts[1] > 200


def test_any_prompt_fits_the_picture(tmp_path: Path) -> None:
    said = details()["sam_clip"]
    said["keywords"][0]["word"] = "w" * 300
    for prompt in (HOSTILE, "x" * 2000, "犬 " * 200, " "):
        explanation(prompt=prompt, sam_clip=said).write(tmp_path / "why.png")
        with Image.open(tmp_path / "why.png") as picture:
            assert picture.width == WIDTH_PX
            edges = np.asarray(picture)[:, [0, -1]]
        assert (edges == 255).all(), "nothing runs over the margin"

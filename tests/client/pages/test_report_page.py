"""The page of a run and of two, in a real browser: sorting, filtering, comparing, and what it looks like where."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imgeval.contract import METRIC_NAMES
from imgeval.report import Run, write_report
from imgeval.runs import Row
from tests.client.pages._checks import Open, assert_fits, assert_harmless, assert_readable
from tests.client.pages._explained import HOSTILE

PROMPTS = ("a red car in the snow", "a cup of coffee", "a happy dog")
MODELS = {"clip": "a CLIP", "iqa": "NIQE (lower is better)"}
ROWS = 120
_BOXES = (
    "(nodes) => nodes.map((node) => node.getBoundingClientRect()).map((box) => [box.x, box.y, box.right, box.bottom])"
)
MANY = 5_000  # rows of the page that is timed


def made_run(name: str, count: int, folder: Path, shift: float = 0.0, **other: Any) -> Run:
    """Rows in a mixed order of values: every 40th failed, every 30th has no iqa and is incomplete."""
    rows = []
    for index in range(count):
        prompt = f"{PROMPTS[index % 3]}, number {index}"
        if index % 40 == 17:
            rows.append(Row(index, "gone.png", prompt, error=f"IMAGE: gone.png does not exist ({index})"))
            continue
        score = (index * 37 % count) / count * 0.8 + shift
        metrics = {"clip": score, "iqa": 20 * (1 - score)}
        if index % 30 == 5:
            del metrics["iqa"]
        whole = "iqa" in metrics
        fields = {"profile": "starter", "preset": "seed-1", "fingerprint": "aa", "weights": "published", **other}
        image = f"{index % 3}.png"
        rows.append(
            Row(
                index, image, prompt, score, whole, metrics=metrics, normalized={"clip": score}, models=MODELS, **fields
            )
        )
    return Run(name, tuple(rows), folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, colour in enumerate(("red", "brown", "gold")):
        Image.new("RGB", (200, 120), colour).save(tmp_path / f"{index}.png")
    return tmp_path


@pytest.fixture
def one(folder: Path) -> Path:
    write_report(made_run("run.jsonl", ROWS, folder), folder / "page.html")
    return folder / "page.html"


@pytest.fixture
def two(folder: Path) -> Path:
    """The second run is better by 0.05, but for the first row, and has ten rows less."""
    a = made_run("a.jsonl", ROWS, folder)
    moved = tuple(
        row if row.score is None else replaced(row, row.score + (0.05 if row.index else -0.05))
        for row in a.rows[: ROWS - 10]
    )
    write_report(a, folder / "page.html", Run("b.jsonl", moved, folder))
    return folder / "page.html"


def replaced(row: Row, score: float) -> Row:
    metrics = {name: score if name == "clip" else value for name, value in row.metrics.items()}
    return Row(**{**vars(row), "score": score, "metrics": metrics, "normalized": {"clip": score}})


def column(page: Any, name: str) -> list[str]:
    return [text.strip() for text in page.locator(f"#table td[data-label='{name}']").all_inner_texts()]


def numbers(page: Any, name: str) -> list[float]:
    return [float(text.split()[0]) for text in column(page, name) if text != "-"]


def heading(page: Any, name: str) -> Any:
    return page.locator("#table th", has=page.get_by_role("button", name=name))


def count(page: Any) -> str:
    text: str = page.locator("#count").inner_text()
    return text


# --- sorting and paging ----------------------------------------------------------------------------------------------
def test_the_best_come_first_with_their_pictures(one: Path, open_page: Open) -> None:
    page = open_page(one)
    assert count(page) == f"Rows 1 to 50 of {ROWS}, sorted by score, largest first"
    assert column(page, "place")[:3] == ["1", "2", "3"]
    values = numbers(page, "score")
    assert len(values) == 50 and values == sorted(values, reverse=True)
    assert page.locator("#table img.thumb").count() == 50
    assert page.evaluate("[...document.images].every((image) => image.complete && image.naturalWidth === 96)")


def test_a_heading_sorts_and_turns_around(one: Path, open_page: Open) -> None:
    page = open_page(one)
    assert heading(page, "score").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="iqa").click()
    assert heading(page, "iqa").get_attribute("aria-sort") == "ascending", "lower is better, so the lowest come first"
    assert heading(page, "score").get_attribute("aria-sort") == "none"
    values = numbers(page, "iqa")
    assert values == sorted(values)
    page.get_by_role("button", name="iqa").click()
    assert heading(page, "iqa").get_attribute("aria-sort") == "descending"
    values = numbers(page, "iqa")
    assert len(values) == 50 and values == sorted(values, reverse=True)
    page.get_by_role("button", name="prompt").click()
    prompts = page.locator("#table p.prompt").all_inner_texts()
    assert prompts[:3] == ["a cup of coffee, number 1", "a cup of coffee, number 4", "a cup of coffee, number 7"]
    assert "A first" in count(page)


def test_what_has_no_value_comes_last_both_ways(one: Path, open_page: Open) -> None:
    page = open_page(one)
    page.locator("#size").select_option("250")
    for _ in range(2):
        page.get_by_role("button", name="iqa").click()
        values = column(page, "iqa")
        assert len(values) == ROWS
        without = values.count("-")
        assert without == 3 + 4  # failed, and without iqa
        assert values[-without:] == ["-"] * without


def test_the_keyboard_sorts_and_keeps_its_place(one: Path, open_page: Open) -> None:
    page = open_page(one)
    page.get_by_role("button", name="clip").focus()
    page.keyboard.press("Enter")
    assert heading(page, "clip").get_attribute("aria-sort") == "descending"
    page.keyboard.press("Space")
    assert heading(page, "clip").get_attribute("aria-sort") == "ascending"
    assert page.evaluate("document.activeElement.textContent").startswith("clip")


def test_pages_are_turned(one: Path, open_page: Open) -> None:
    page = open_page(one)
    assert page.locator("#back").is_disabled()
    page.locator("#next").click()
    assert count(page).startswith(f"Rows 51 to 100 of {ROWS}")
    page.locator("#next").click()
    assert count(page).startswith(f"Rows 101 to {ROWS} of {ROWS}") and page.locator("#next").is_disabled()
    page.locator("#back").click()
    page.locator("#size").select_option("25")
    assert count(page).startswith("Rows 1 to 25 of")
    assert page.locator("#table tbody tr").count() == 25


# --- filters ---------------------------------------------------------------------------------------------------------
def test_text_is_searched_for(one: Path, open_page: Open) -> None:
    page = open_page(one)
    page.get_by_label("search prompts, files, errors").fill("DOG number 11")
    page.locator("#count", has_text="filtered out").wait_for()
    assert page.locator("#table p.prompt").all_inner_texts() == [
        f"a happy dog, number {index}" for index in sorted((11, 110, 113, 116, 119), key=lambda n: -(n * 37 % ROWS))
    ]
    assert count(page).endswith(f"{ROWS - 5} filtered out")
    page.locator("#search").fill("no such words")
    page.locator("#count", has_text="No rows").wait_for()
    page.locator("#clear").click()
    assert count(page).startswith(f"Rows 1 to 50 of {ROWS}") and page.locator("#search").input_value() == ""


def test_errors_and_incomplete_rows_are_found(one: Path, open_page: Open) -> None:
    page = open_page(one)
    page.get_by_label("show").select_option("errors")
    assert page.locator("#table tbody tr").count() == 3
    assert page.locator("#table p.error").first.inner_text() == "IMAGE: gone.png does not exist (17)"
    page.locator("#show").select_option("incomplete")
    assert page.locator("#table .tag").all_inner_texts() == ["incomplete"] * 4
    page.locator("#show").select_option("scored")
    assert f"of {ROWS - 3}," in count(page)


def test_values_are_limited(one: Path, open_page: Open) -> None:
    page = open_page(one)
    page.get_by_text("limits of the values").click()
    page.get_by_label("clip, at least").fill("0.5")
    page.get_by_label("clip, at most").fill("0.6")
    values = numbers(page, "clip")
    assert 5 < len(values) < 50 and all(0.5 <= each <= 0.6 for each in values)
    page.get_by_label("iqa, at most").fill("9")
    assert 0 < len(numbers(page, "iqa")) < len(values) and max(numbers(page, "iqa")) <= 9
    page.locator("#clear").click()
    assert count(page).startswith(f"Rows 1 to 50 of {ROWS}")


# --- two runs --------------------------------------------------------------------------------------------------------
def test_two_runs_stand_side_by_side(two: Path, open_page: Open) -> None:
    page = open_page(two)
    assert count(page).startswith(f"Rows 1 to 50 of {ROWS}, sorted by B - A, largest first")
    lines = page.locator("#table tbody tr")
    assert lines.first.locator("img.thumb").count() == 2
    a, b, delta = (numbers(page, name) for name in ("A: score", "B: score", "B - A"))
    assert all(abs(right - left - each) < 2e-4 for left, right, each in zip(a, b, delta, strict=True))
    assert column(page, "B - A")[0].split("\n") == ["+0.0500", "B is better"]
    page.get_by_role("button", name="B - A").click()
    assert column(page, "B - A")[0].split("\n") == ["-0.0500", "A is better"]
    summary = page.locator("h2:has-text('Pairs') ~ table tbody tr").first.locator("td").all_inner_texts()
    assert [summary[0], *summary[4:]] == ["107", "106", "1", "0"], "110 pairs, of which three failed"


def test_another_value_can_be_compared(two: Path, open_page: Open) -> None:
    page = open_page(two)
    page.get_by_label("compare by").select_option(label="iqa")
    assert "sorted by B - A, smallest first" in count(page), "lower is better"
    assert set(column(page, "B - A")) == {"0.0000"}
    assert numbers(page, "A: iqa") == numbers(page, "B: iqa")
    page.locator("#show").select_option("alone")
    assert page.locator("#table .nothing", has_text="no row").count() == 10
    assert f"{ROWS - 10} filtered out" in count(page)


def test_runs_of_different_models_are_shown_and_not_compared(folder: Path, open_page: Open) -> None:
    a, b = made_run("a", 9, folder), made_run("b", 9, folder, fingerprint="bb")
    write_report(a, folder / "page.html", b)
    page = open_page(folder / "page.html")
    assert "not comparable, so no differences" in page.locator(".caveat").first.inner_text()
    assert set(column(page, "B - A")) == {"-"}
    assert len(numbers(page, "A: score")) == len(numbers(page, "B: score")) == 9


def test_random_weights_come_first_and_in_red(folder: Path, open_page: Open) -> None:
    random_run = made_run("run", 9, folder, weights="random")
    for other in (None, random_run):
        write_report(random_run, folder / "page.html", other)
        page = open_page(folder / "page.html")
        assert page.locator("body > *").first.inner_text() == "WEIGHTS ARE RANDOM: these numbers are no scores"
        assert page.evaluate("getComputedStyle(document.body.children[0]).backgroundColor") == "rgb(176, 0, 32)"
        assert page.locator("h2", has_text="Leaderboard").count() == 0
        assert page.get_by_role("button", name="place").count() == 0
        assert "value (no score)" in page.locator("#table thead").inner_text()
        assert_readable(page)


# --- every reader ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["one", "two"])
def test_it_is_readable_on_a_phone_and_in_print(
    which: str, dark: bool, request: pytest.FixtureRequest, open_page: Open
) -> None:
    file = request.getfixturevalue(which)
    phone = open_page(file, width=390, height=844, dark=dark)
    assert_fits(phone)
    assert_readable(phone)
    boxes = phone.locator("#table tbody tr").first.locator("td").evaluate_all(_BOXES)
    assert not any(overlap(one, other) for one in boxes for other in boxes if one is not other)
    phone.locator("#sort").select_option("prompt")
    phone.locator("#turn").click()
    assert phone.locator("#table p.prompt").first.inner_text().startswith("a red car"), "Z first"
    wide = open_page(file, dark=dark)
    assert_fits(wide)
    assert_readable(wide)
    printed = open_page(file, width=794, dark=dark, printed=True)  # A4 at 96 px to the inch
    assert_fits(printed)
    assert_readable(printed)
    assert not printed.locator("#controls").is_visible() and printed.locator("#table tbody tr").count() == 50
    assert printed.pdf(format="A4").startswith(b"%PDF")


def overlap(one: list[float], other: list[float]) -> bool:
    return one[0] < other[2] - 1 and other[0] < one[2] - 1 and one[1] < other[3] - 1 and other[1] < one[3] - 1


@pytest.mark.parametrize("width", [320, 600, 737, 800, 1024])
def test_all_metrics_fit_every_width(folder: Path, open_page: Open, width: int) -> None:
    values = dict.fromkeys(METRIC_NAMES, 12.3456)
    rows = tuple(replaced(row, 0.5) for row in made_run("run", 9, folder).rows)
    full = tuple(Row(**{**vars(row), "metrics": values}) for row in rows)
    for other in (None, Run("other", full, folder)):
        write_report(Run("run", full, folder), folder / "page.html", other)
        assert_fits(open_page(folder / "page.html", width=width))
    printed = open_page(folder / "page.html", width=718, printed=True)  # A4 less the margins
    assert_fits(printed)


def test_a_run_of_errors_has_a_table(folder: Path, open_page: Open) -> None:
    rows = tuple(Row(index, "gone.png", prompt, error="gone") for index, prompt in enumerate(PROMPTS))
    for other in (None, Run("other", rows, folder)):
        write_report(Run("run", rows, folder), folder / "page.html", other)
        page = open_page(folder / "page.html")
        assert page.locator("#table tbody tr").count() == len(PROMPTS)
        page.get_by_role("button", name="prompt").click()
        assert count(page).startswith("Rows 1 to 3 of 3")


def test_every_control_has_a_name(two: Path, open_page: Open) -> None:
    page = open_page(two)
    page.get_by_text("limits of the values").click()
    unnamed = page.locator("input, select, button").evaluate_all(
        "(nodes) => nodes.filter((n) => !(n.labels?.[0]?.textContent || n.ariaLabel || n.textContent).trim()).length"
    )
    assert unnamed == 0
    assert page.locator("#count").get_attribute("aria-live") == "polite"


def hostile_run(folder: Path, name: str) -> Run:
    good = Row(
        0, HOSTILE, HOSTILE, 0.5, True, HOSTILE, HOSTILE, HOSTILE, "published",
        {"clip": 0.5}, {"clip": 0.5}, {"clip": HOSTILE}, {"iqa": HOSTILE},
    )  # fmt: skip
    long = Row(1, "i" * 400, "w" * 2000, error="e" * 900)
    half = Row(2, "javascript:window.pwned=3", "half a pair \ud83d", error=HOSTILE)
    return Run(name, (good, long, half), folder)


def test_what_a_user_wrote_stays_text(folder: Path, open_page: Open) -> None:
    run = hostile_run(folder, HOSTILE)
    for other in (None, hostile_run(folder, f"{HOSTILE}2")):
        write_report(run, folder / "page.html", other)
        page = open_page(folder / "page.html", width=390)
        assert_harmless(page)
        assert_fits(page)
        shown = page.locator("#table p.prompt").all_inner_texts()
        assert any("</script><script>window.pwned=1</script><img src=x" in text for text in shown)
        page.locator("#search").fill("{{7*7}}")
        page.locator("#count", has_text="filtered out").wait_for()
        assert_harmless(page)
        assert_fits(open_page(folder / "page.html", width=1200))


# --- time ------------------------------------------------------------------------------------------------------------
def test_five_thousand_rows_open(folder: Path, open_page: Open, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(1)
    for index in range(200):
        small = Image.frombytes("RGB", (16, 16), chance.randbytes(16 * 16 * 3)).resize((512, 512))
        small.save(folder / f"{index}.png")
    run = made_run("run.jsonl", MANY, folder)
    order = sorted((row for row in run.rows if row.score is not None), key=lambda row: row.score or 0.0)
    names = {row.index: f"{index}.png" for index, row in enumerate([*order[:100], *order[-100:]])}
    rows = tuple(Row(**{**vars(row), "image": names.get(row.index, row.image)}) for row in run.rows)
    start = time.perf_counter()
    written = write_report(Run("run.jsonl", rows, folder), folder / "page.html")
    made_s = time.perf_counter() - start
    page = open_page(folder / "page.html")
    table_ms = page.evaluate("performance.getEntriesByName('imgeval-table')[0].startTime")
    painted_ms = page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
    )
    start = time.perf_counter()
    page.get_by_role("button", name="iqa").click()
    sorted_ms = 1e3 * (time.perf_counter() - start)
    size_mb = (folder / "page.html").stat().st_size / 1e6
    with capsys.disabled():
        print(
            f"\nreport of {written.rows} rows, {written.thumbnails} pictures: "
            f"{size_mb:.1f} MB, made in {made_s:.1f} s; in Chromium the table is there "
            f"{table_ms:.0f} ms after navigation, painted by {painted_ms:.0f} ms; a click sorts in {sorted_ms:.0f} ms"
        )
    assert count(page).startswith(f"Rows 1 to 50 of {MANY:,}")
    assert page.locator("#table tbody tr").count() == 50

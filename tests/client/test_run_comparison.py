"""Two runs compared: pairs, directions, intervals, and what is refused; then the command on files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner

from imgeval import bootstrap
from imgeval.bootstrap import CONFIDENCE, mean_interval
from imgeval.cli import main
from imgeval.errors import InvalidInputError
from imgeval.gates import FAIL_BELOW, MAX_REGRESSION, check, parse_limits
from imgeval.run_comparison import RunComparison, compare_runs
from imgeval.runs import Row

NIQE = "NIQE (lower is better)"


def row(prompt: str, clip: float | None = None, iqa: float | None = None, **other: object) -> Row:
    metrics = {name: value for name, value in (("clip", clip), ("iqa", iqa)) if value is not None}
    content = {
        "score": clip, "complete": False, "profile": "starter", "preset": "seed-1", "fingerprint": "f" * 16,
        "weights": "published", "metrics": metrics, "normalized": {} if clip is None else {"clip": clip},
        "models": {name: NIQE if name == "iqa" else "a CLIP" for name in metrics}, **other,
    }  # fmt: skip
    return Row(0, f"{prompt}.png", prompt, **content)  # type: ignore[arg-type]


def run(values: Sequence[float], **other: object) -> list[Row]:
    return [row(f"prompt {i}", value, **other) for i, value in enumerate(values)]


# --- the interval ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 7, 50, 1000])
@pytest.mark.parametrize("shape", ["normal", "skewed", "ties"])
def test_the_interval_is_scipys(count: int, shape: str) -> None:
    generator = np.random.default_rng(count)
    values = {
        "normal": generator.normal(0.01, 0.05, count),
        "skewed": generator.exponential(0.1, count),
        "ties": generator.integers(-1, 2, count).astype(np.float64),
    }[shape]
    ours = mean_interval(values)
    assert ours is not None
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, confidence_level=CONFIDENCE, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    differences = np.abs(np.array(ours) - np.array(theirs))
    print(f"{shape} {count}: max {differences.max():.3g}, mean {differences.mean():.3g}, of a width of {width:.3g}")
    assert differences.max() <= 0.05 * width  # two drawings of 10,000 differ by about 1 %


def test_the_interval_does_not_depend_on_how_much_is_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=64)
    whole = mean_interval(values)
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 1000)
    assert mean_interval(values) == pytest.approx(whole, abs=1e-12)


def test_an_interval_needs_two_values() -> None:
    assert mean_interval(np.array([0.3])) is None
    assert mean_interval(np.array([0.3, 0.3])) == pytest.approx((0.3, 0.3))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """300 samples of 40 from a known distribution; a percentile interval of so few is a little too narrow."""
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        interval = mean_interval(generator.normal(0.2, 1, 40))
        assert interval is not None
        held += interval[0] <= 0.2 <= interval[1]
    print(f"held {held} of 300")
    assert 0.90 <= held / 300 <= 0.98


# --- pairs -----------------------------------------------------------------------------------------------------------
def test_means_differences_wins_and_ties() -> None:
    found = compare_runs(run([0.2, 0.4, 0.3, 0.1]), run([0.3, 0.4, 0.2, 0.5])).values["clip"]
    assert (found.pairs, found.ties, found.win_rate) == (4, 1, 0.625)
    assert (found.mean_a, found.mean_b) == pytest.approx((0.25, 0.35))
    assert found.difference == pytest.approx(0.1)
    assert [(each.prompt, each.a, each.b) for each in found.wins] == [("prompt 3", 0.1, 0.5), ("prompt 0", 0.2, 0.3)]
    assert [each.prompt for each in found.losses] == ["prompt 2"]
    assert found.losses[0].difference == pytest.approx(-0.1)
    assert found.better == ""


def test_pairs_are_made_by_prompt_not_by_place_and_read_once() -> None:
    a = run([0.1, 0.2, 0.3])
    found = compare_runs(iter(a), iter(a[::-1])).values["clip"]
    assert (found.difference, found.interval, found.ties, found.win_rate) == (0, (0, 0), 3, 0.5)


def test_several_images_of_a_prompt_count_as_their_mean() -> None:
    a = [row("x", 0.1), row("x", 0.3), row("y", 0.5)]
    comparison = compare_runs(a, [row("x", 0.3), row("y", 0.5)])
    found = comparison.values["clip"]
    assert (found.pairs, found.mean_a, found.difference) == pytest.approx((2, 0.35, 0.05))
    assert "A: 1 prompts have several images; their mean stands for them" in comparison.caveats
    assert (comparison.a.rows, comparison.a.prompts, comparison.a.several_images) == (3, 2, 1)


def test_where_lower_is_better_a_fall_is_a_win() -> None:
    a = [row(f"p{i}", 0.3, iqa=5.0 + i) for i in range(12)]
    b = [row(f"p{i}", 0.3, iqa=4.0 + i) for i in range(12)]
    found = compare_runs(a, b).values["iqa"]
    assert (found.lower_is_better, found.difference, found.win_rate, found.better) == (True, -1.0, 1.0, "B")
    assert len(found.wins) == 5
    assert found.losses == ()
    assert compare_runs(b, a).values["iqa"].better == "A"
    assert compare_runs(a[:9], b[:9]).values["iqa"].better == "", "too few to be sure"


def test_what_is_left_out_is_counted() -> None:
    error = Row(3, "z.png", "z", error="IMAGE: broken")
    a = [row("x", 0.1), row("y", 0.2), row("only a", 0.9), error]
    b = [row("x", 0.2), row("y"), row("z", 0.9)]
    comparison = compare_runs(a, b)
    assert comparison.pairs == 2
    assert (comparison.values["clip"].pairs, comparison.values["clip"].unpaired) == (1, 3)
    assert (comparison.a.errors, comparison.a.unpaired, comparison.b.unpaired) == (1, 1, 1)
    assert comparison.caveats == (
        "A: 1 of 4 rows could not be scored and are left out",
        "A: 1 of 3 prompts are not in the other run and are left out",
        "B: 1 of 3 prompts are not in the other run and are left out",
        "score: 1 prompts of both runs have a value in one only and are left out",
        "clip: 1 prompts of both runs have a value in one only and are left out",
        "of fewer than 10 pairs a bootstrap interval is too narrow: nothing is sure",
    )
    assert comparison.b.means["clip"] == pytest.approx(0.55), "over all of its prompts"


def test_scores_of_different_metrics_are_not_compared() -> None:
    other = row("x", 0.3, normalized={"clip": 0.3, "sam_clip": 0.2})
    comparison = compare_runs([row("x", 0.1), row("y", 0.5)], [other, row("y", 0.6)])
    assert comparison.values["score"].pairs == 1
    assert comparison.values["score"].difference == pytest.approx(0.1)
    assert comparison.values["clip"].pairs == 2
    said = "the scores are of different metrics: clip; clip, sam_clip; only like ones are compared"
    assert said in comparison.caveats
    alone = compare_runs([row("x", 0.1)], [other])
    assert "score" not in alone.values
    assert "score is not compared: it has values of different metrics" in alone.caveats
    assert failed(alone, [], ["score=1"]) == ["--max-regression score"]


# --- what is refused -------------------------------------------------------------------------------------------------
def test_runs_of_different_models_are_refused_unless_allowed() -> None:
    a, b = run([0.1, 0.2]), run([0.2, 0.3], fingerprint="0" * 16)
    problem = f"different models (fingerprints of A: {'f' * 16}; of B: {'0' * 16}), so their values cannot be compared"
    with pytest.raises(InvalidInputError) as refused:
        compare_runs(a, b)
    assert problem in str(refused.value)
    comparison = compare_runs(a, b, allow_different_models=True)
    assert not comparison.comparable
    assert comparison.caveats[0].startswith("not comparable: the rows were made by different models")
    with pytest.raises(InvalidInputError, match="different models"):
        compare_runs([*a, *run([0.4], fingerprint="0" * 16)], a)
    with pytest.raises(InvalidInputError, match="different presets"):
        compare_runs(a, run([0.1, 0.2], preset="mine-1"))


def test_metrics_of_opposite_directions_are_not_compared() -> None:
    a, b = [row("x", 0.3, iqa=4.0)], [row("x", 0.3, iqa=60.0, fingerprint="0" * 16, models={"iqa": "MUSIQ"})]
    comparison = compare_runs(a, b, allow_different_models=True)
    assert "iqa" not in comparison.values
    assert "iqa is not compared: it has values in opposite directions" in comparison.caveats


def test_no_prompt_in_both_runs() -> None:
    with pytest.raises(InvalidInputError, match="got no prompt that both have a score for: A has 1 prompts and 0"):
        compare_runs([row("x", 0.1)], [Row(0, "x.png", "x", error="broken")])
    with pytest.raises(InvalidInputError, match="no score or metric that both have"):
        compare_runs([row("x", 0.1)], [row("x")])


# --- gates -----------------------------------------------------------------------------------------------------------
def failed(
    comparison: RunComparison, below: Sequence[str] = (), regression: Sequence[str] = (), **how: bool
) -> list[str]:
    limits = (parse_limits(FAIL_BELOW, below), parse_limits(MAX_REGRESSION, regression))
    return [f"{gate.option} {gate.name}" for gate in check(comparison, *limits, **how) if not gate.passed]


def test_gates_at_and_around_their_limits() -> None:
    comparison = compare_runs(run([0.5, 0.25]), run([0.25, 0.25]))
    assert failed(comparison, ["clip=0.25"]) == []
    assert failed(comparison, ["clip=0.2501", "score=0.1"]) == ["--fail-below clip"]
    assert failed(comparison, [], ["clip=0.125"]) == []
    assert failed(comparison, [], ["clip=0.124", "score=0"]) == ["--max-regression clip", "--max-regression score"]
    assert failed(compare_runs(run([0.25, 0.25]), run([0.5, 0.25])), [], ["clip=0"]) == [], "a gain is none"


def test_gates_know_the_direction() -> None:
    a, b = ([row(f"p{i}", iqa=value) for i in range(3)] for value in (4.0, 5.0))
    worse = compare_runs(a, b)
    assert failed(worse, ["iqa=5"]) == []
    assert failed(worse, ["iqa=4.9"], ["iqa=0.9"]) == ["--fail-below iqa", "--max-regression iqa"]
    assert failed(compare_runs(b, a), ["iqa=4.9"], ["iqa=0"]) == []


def test_the_mean_decides_or_the_interval() -> None:
    a, b = run([0.5] * 10), run([0.1, 0.9, 0.2, 0.8, 0.4, 0.3, 0.6, 0.6, 0.4, 0.6])
    comparison = compare_runs(a, b)
    interval = comparison.values["clip"].interval
    assert interval is not None
    assert interval[0] < comparison.values["clip"].difference < 0 < interval[1]
    assert failed(comparison, [], ["clip=0"]) == ["--max-regression clip"]
    assert failed(comparison, [], ["clip=0"], confident=True) == []
    clear = compare_runs(a, run([0.4, 0.41, 0.39, 0.4, 0.4, 0.41, 0.39, 0.4, 0.4, 0.4]))
    assert failed(clear, [], ["clip=0.05"], confident=True) == ["--max-regression clip"]
    assert failed(clear, [], ["clip=0.099"], confident=True) == []


def test_what_was_not_seen_has_not_passed() -> None:
    comparison = compare_runs(run([0.5]), run([0.5]))
    assert failed(comparison, ["iqa=1"], ["sam_clip=1"]) == ["--fail-below iqa", "--max-regression sam_clip"]
    assert failed(comparison, [], ["clip=1"], confident=True) == ["--max-regression clip"], "one pair has no interval"
    nine = compare_runs(run([0.5] * 9), run([0.5] * 9))
    assert failed(nine, [], ["clip=1"], confident=True) == ["--max-regression clip"], "nor have nine one to rely on"


def test_rounding_fails_no_gate() -> None:
    comparison = compare_runs(run([0.51]), run([0.50]))
    assert 0.51 - 0.50 > 0.01
    assert failed(comparison, ["clip=0.5"], ["clip=0.01"]) == []


def test_rows_that_could_not_be_scored() -> None:
    broken = Row(1, "z.png", "z", error="IMAGE: broken")
    comparison = compare_runs(run([0.5]), [*run([0.5]), broken])
    assert [gate.passed for gate in check(comparison, max_errors=0)] == [False]
    assert [gate.passed for gate in check(comparison, max_errors=1)] == [True]
    assert check(comparison, max_errors=0)[0].seen == "1 of 2 rows of run B could not be scored"


@pytest.mark.parametrize("text", ["clip", "clip=", "clip=high", "clip=nan", "beauty=1", "=1", "clip=inf"])
@pytest.mark.parametrize("option", [FAIL_BELOW, MAX_REGRESSION])
def test_bad_limits(option: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{option}: got '{text}'; allowed"):
        parse_limits(option, [text])


def test_a_regression_is_not_negative() -> None:
    with pytest.raises(InvalidInputError, match="a number from 0"):
        parse_limits(MAX_REGRESSION, ["clip=-0.1"])
    assert parse_limits(FAIL_BELOW, ["clip=-0.1"])[0].value == -0.1


# --- the command -----------------------------------------------------------------------------------------------------
def write(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(each.to_dict()) + "\n" for each in rows), encoding="utf-8")
    return path


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / "a.jsonl", run([0.2, 0.4, 0.3])), write(tmp_path / "b.jsonl", run([0.1, 0.4, 0.1]))


def ended(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_table(runs: tuple[Path, Path]) -> None:
    code, out, err = ended(*runs)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["clip"][:4] == ["clip", "0.3000", "0.2000", "-0.1000"]
    assert rows["clip"][-4:] == ["16.7%", "1", "3", "-"]
    assert "largest losses of B by score" in out
    assert out.index("prompt 2") < out.index("prompt 0")
    assert "largest wins" not in out
    assert out.splitlines()[-1] == "3 prompts in both runs"


def test_json_and_the_exit_code_of_a_failed_gate(runs: tuple[Path, Path]) -> None:
    gates = ("--max-regression", "clip=0.05", "--fail-below", "clip=0.1", "--max-regression", "score=0.5")
    code, out, err = ended(*runs, *gates, "--json")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith("error: gate failed: --max-regression clip=0.05: run B is worse: mean difference -0.1000; ")
    content = json.loads(out)
    assert [(gate["option"], gate["name"], gate["passed"]) for gate in content["gates"]] == [
        ("--fail-below", "clip", True),
        ("--max-regression", "clip", False),
        ("--max-regression", "score", True),
    ]
    assert content["values"]["clip"]["difference"] == pytest.approx(-0.1)
    assert (content["comparable"], content["confidence"], content["resamples"]) == (True, 0.95, 10_000)
    code, out, _ = ended(*runs, *gates)
    assert code == 1
    assert "gate --max-regression clip=0.05 FAILED" in out
    assert "gate --fail-below clip=0.1 passed" in out


def test_random_weights_are_said_aloud(tmp_path: Path) -> None:
    run_file = write(tmp_path / "a.jsonl", run([0.1], weights="random"))
    assert "WEIGHTS ARE RANDOM: these numbers are no scores" in ended(run_file, run_file)[1].splitlines()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["A"], "Missing argument 'RUN_B'"),
        (["A", "/nowhere/b.jsonl"], "does not exist"),
        (["A", "B", "--fail-below", "clip"], "--fail-below: got 'clip'; allowed: NAME=VALUE"),
        (["A", "B", "--by", "beauty"], "by: got beauty; allowed: score, aesthetic"),
        (["A", "B", "--by", "iqa"], "by: got iqa; compared were: score, clip"),
        (["A", "OTHER"], "different models"),
    ],
)
def test_bad_usage_is_one_line(runs: tuple[Path, Path], arguments: list[str], problem: str) -> None:
    other = write(runs[0].parent / "other.jsonl", run([0.1], fingerprint="0" * 16))
    named = {"A": runs[0], "B": runs[1], "OTHER": other}
    code, out, err = ended(*(named.get(each, each) for each in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert problem in err

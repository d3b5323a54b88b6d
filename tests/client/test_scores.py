"""imgeval.scores: the one place where raw values become a score."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgeval.contract import METRIC_NAMES
from imgeval.errors import InvalidInputError
from imgeval.scores import PRESETS_DIR, Preset, Scale, combine, contributions, is_complete, load_preset, parse_preset

SEED = load_preset("seed")
WEIGHED = ("aesthetic", "clip", "qalign_quality", "qalign_aesthetic", "sam_clip")
TOPS = {"aesthetic": 10.0, "clip": 1.0, "qalign_quality": 5.0, "qalign_aesthetic": 5.0, "sam_clip": 1.0}

numbers = st.floats(-1e6, 1e6)
raw_values = st.dictionaries(st.sampled_from(METRIC_NAMES), numbers | st.just(math.nan))


@st.composite
def presets(draw: st.DrawFn) -> Preset:
    names = draw(st.sets(st.sampled_from(METRIC_NAMES)))
    scales = {}
    for name in sorted(names):
        low = draw(st.floats(-100, 100))
        scales[name] = Scale(low, low + draw(st.floats(0.1, 100)), draw(st.just(0.0) | st.floats(0.01, 10)))
    return Preset("drawn", 1, scales)


def available(preset: Preset, raw: dict[str, float]) -> dict[str, float]:
    return {name: raw[name] for name in raw if preset.weight(name) > 0 and not math.isnan(raw[name])}


# --- the preset of the contract --------------------------------------------------------------------------------------
def test_seed_is_the_mean_of_five_metrics_each_divided_by_its_top() -> None:
    raw = {"aesthetic": 6.0, "clip": 0.3, "qalign_quality": 4.0, "qalign_aesthetic": 3.0, "sam_clip": 0.5, "iqa": 70.0}
    assert combine(SEED, raw) == pytest.approx((0.6 + 0.3 + 0.8 + 0.6 + 0.5) / 5)
    assert combine(SEED, {**raw, "iqa": 0.0}) == combine(SEED, raw), "iqa is reported and not weighed"
    assert {name: SEED.normalise(name, top) for name, top in TOPS.items()} == dict.fromkeys(TOPS, 1.0)
    assert SEED.normalise("iqa", 70.0) is None
    assert SEED.weight("iqa") == 0.0


@pytest.mark.parametrize("absent", WEIGHED)
def test_the_mean_is_over_what_is_there(absent: str) -> None:
    raw = {name: 0.5 * top for name, top in TOPS.items()} | {"iqa": 1.0}
    raw[absent] = 0.9 * TOPS[absent]
    others = {name: value for name, value in raw.items() if name != absent}
    assert combine(SEED, raw) == pytest.approx((4 * 0.5 + 0.9) / 5)
    assert combine(SEED, others) == pytest.approx(0.5)
    assert combine(SEED, {**raw, absent: math.nan}) == combine(SEED, others)
    assert is_complete(SEED, raw)
    assert not is_complete(SEED, others)
    assert not is_complete(SEED, {**raw, absent: math.nan})


@pytest.mark.parametrize("raw", [{}, {"iqa": 50.0}, dict.fromkeys(METRIC_NAMES, math.nan)])
def test_without_a_weighed_metric_there_is_no_score(raw: dict[str, float]) -> None:
    assert math.isnan(combine(SEED, raw))


def test_iqa_does_not_count_for_completeness() -> None:
    assert is_complete(SEED, dict.fromkeys(WEIGHED, 1.0))


# --- properties of every preset --------------------------------------------------------------------------------------
@given(presets(), raw_values)
def test_contributions_add_up_to_the_score_before_it_is_clamped(preset: Preset, raw: dict[str, float]) -> None:
    present = {name: value for name, value in raw.items() if name in preset.scales and not math.isnan(value)}
    parts = {name: (preset.scales[name].normalise(value), preset.weight(name)) for name, value in present.items()}
    found = contributions(parts)
    score = combine(preset, raw)
    assert bool(found) == (not math.isnan(score))
    if found:
        assert set(found) == set(present)
        assert min(1.0, max(0.0, math.fsum(found.values()))) == pytest.approx(score, rel=1e-9, abs=1e-6)
        assert all(part == 0 for name, part in found.items() if preset.weight(name) == 0)


@given(presets(), raw_values)
def test_the_score_is_in_range_or_absent(preset: Preset, raw: dict[str, float]) -> None:
    score = combine(preset, raw)
    assert math.isnan(score) == (not available(preset, raw))
    assert math.isnan(score) or 0.0 <= score <= 1.0


@given(presets(), raw_values)
def test_absent_and_nan_are_the_same(preset: Preset, raw: dict[str, float]) -> None:
    there = {name: value for name, value in raw.items() if not math.isnan(value)}
    everything = dict.fromkeys(METRIC_NAMES, math.nan) | there
    for same in (there, everything):
        assert combine(preset, same) == pytest.approx(combine(preset, raw), nan_ok=True)
        assert is_complete(preset, same) == is_complete(preset, raw)


@given(presets(), raw_values, st.floats(0.01, 100))
def test_only_the_ratio_of_weights_matters(preset: Preset, raw: dict[str, float], factor: float) -> None:
    scales = {name: Scale(scale.low, scale.high, scale.weight * factor) for name, scale in preset.scales.items()}
    assert combine(Preset("scaled", 1, scales), raw) == pytest.approx(combine(preset, raw), nan_ok=True)


@given(presets(), raw_values)
def test_a_metric_without_weight_does_not_count(preset: Preset, raw: dict[str, float]) -> None:
    weighed = {name: scale for name, scale in preset.scales.items() if scale.weight > 0}
    assert combine(Preset("weighed", 1, weighed), raw) == pytest.approx(combine(preset, raw), nan_ok=True)
    assert is_complete(preset, raw) == (set(available(preset, raw)) == set(weighed))


@given(presets(), raw_values, st.floats(0, 1000))
def test_a_better_value_is_no_worse_score(preset: Preset, raw: dict[str, float], gain: float) -> None:
    before = combine(preset, raw)
    for name in available(preset, raw):
        assert combine(preset, {**raw, name: raw[name] + gain}) >= before - 1e-12


@given(presets(), st.floats(0, 1))
def test_equal_normalised_values_are_the_score(preset: Preset, value: float) -> None:
    raw = {name: scale.low + value * (scale.high - scale.low) for name, scale in preset.scales.items()}
    expected = value if any(scale.weight > 0 for scale in preset.scales.values()) else math.nan
    assert combine(preset, raw) == pytest.approx(expected, nan_ok=True, abs=1e-9)


@given(presets())
def test_parsing_gives_back_what_was_written(preset: Preset) -> None:
    metrics = {name: {"low": s.low, "high": s.high, "weight": s.weight} for name, s in preset.scales.items()}
    assert parse_preset({"name": "drawn", "version": 1, "metrics": metrics}) == preset


# --- preset files ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", sorted(PRESETS_DIR.glob("*.json")), ids=lambda path: path.stem)
def test_every_preset_that_ships_is_named_as_its_file(path: Path) -> None:
    preset = load_preset(path.stem)
    assert preset.name == path.stem
    assert str(preset) == f"{path.stem}-{json.loads(path.read_text(encoding='utf-8'))['version']}"


@pytest.mark.parametrize("name", ["", "nonsense", "../seed", "SEED"])
def test_unknown_presets_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"allowed: .*seed"):
        load_preset(name)


SCALE = {"low": 0, "high": 1, "weight": 1}


def preset_data(**changed: Any) -> dict[str, Any]:
    return {"name": "x", "version": 1, "metrics": {"clip": SCALE | changed}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "not a preset: KeyError"),
        ({"name": "x", "version": 1}, "not a preset: KeyError"),
        ({"name": "x", "version": "one", "metrics": {}}, "not a preset: ValueError"),
        ({"name": "x", "version": 1, "metrics": {"clip": 1}}, "not a preset: TypeError"),
        ({"name": "x", "version": 1, "metrics": {"clip": {"low": 0, "high": 1}}}, "not a preset: KeyError"),
        ({"name": "x", "version": 1, "metrics": ["clip"]}, "not a preset: AttributeError"),
        ({**preset_data(), "metrics": {"beauty": SCALE}}, "unknown metric 'beauty'"),
        (preset_data(low="zero"), "not a preset: ValueError"),
        (preset_data(low=None), "not a preset: TypeError"),
        (preset_data(low=1), "low 1.0 must be below high 1.0"),
        (preset_data(low=2), "low 2.0 must be below high 1.0"),
        (preset_data(high=math.inf), "must be below"),
        (preset_data(low=math.nan), "must be below"),
        (preset_data(weight=-1), "weight -1.0 must be 0 or more"),
        (preset_data(weight=math.nan), "must be 0 or more"),
        (preset_data(weight=math.inf), "must be 0 or more"),
    ],
)  # fmt: skip
def test_what_is_no_preset_is_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message) as refused:
        parse_preset(data)
    assert refused.value.field == "preset"

"""imgeval_export.combine: the ONNX model gives the library function's numbers, for any preset and any gaps."""

from __future__ import annotations

import math

import numpy as np
import openvino
from hypothesis import given, settings
from hypothesis import strategies as st

from imgeval.contract import METRIC_NAMES, SCORE, for_combine, metric_tensor
from imgeval.scores import Preset, Scale, combine, load_preset
from imgeval_export.combine import combine_model

VALUES = st.one_of(st.just(math.nan), st.floats(-20, 120, width=32))
SCALES = st.builds(
    lambda low, size, weight: Scale(low, low + size, weight), st.floats(-5, 5), st.floats(0.5, 100), st.floats(0, 4)
)
PRESETS = st.dictionaries(st.sampled_from(METRIC_NAMES), SCALES, min_size=1).map(lambda s: Preset("any", 1, s))


def run(preset: Preset, rows: np.ndarray) -> np.ndarray:
    """rows (B, 6) float32 -> (B,)"""
    core = openvino.Core()
    model = core.read_model(combine_model(preset).SerializeToString(), b"")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    inputs = {for_combine(metric_tensor(name)).name: rows[:, [i]] for i, name in enumerate(METRIC_NAMES)}
    return compiled(inputs)[SCORE.name][:, 0]


def expected(preset: Preset, rows: np.ndarray) -> list[float]:
    return [combine(preset, dict(zip(METRIC_NAMES, map(float, row), strict=True))) for row in rows]


def test_seed_over_random_values_and_gaps() -> None:
    rng = np.random.default_rng(0)
    rows = (rng.random((200, 6)) * [10, 1, 5, 5, 1, 100]).astype(np.float32)
    rows[rng.random(rows.shape) < 0.3] = np.nan
    rows[0] = np.nan
    ours, library = run(load_preset("seed"), rows), np.array(expected(load_preset("seed"), rows))
    difference = np.abs(ours - library)[~np.isnan(library)]
    print(f"max {difference.max():.2g} mean {difference.mean():.2g} spread {np.nanstd(library):.2g}")
    assert difference.max() < 1e-6
    assert np.array_equal(np.isnan(ours), np.isnan(library))
    assert np.isnan(ours[0])


@settings(max_examples=40, deadline=None)
@given(preset=PRESETS, rows=st.lists(st.tuples(*[VALUES] * 6), min_size=1, max_size=4))
def test_any_preset(preset: Preset, rows: list[tuple[float, ...]]) -> None:
    array = np.array(rows, np.float32)
    # A weight that vanishes in float32 counts in float64 alone.
    small = [s for s in preset.scales.values() if 0 < s.weight < 1e-6]
    if not small:
        np.testing.assert_allclose(run(preset, array), expected(preset, array), atol=1e-5)

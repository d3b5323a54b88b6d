"""Normalise and combine as an ONNX model, so that the score is made where the values are: on the GPU, if there is one.

The same arithmetic as `imgeval.scores.combine`, which a test holds it to; the preset's numbers are its constants. NaN
marks a metric that is missing.
"""

from __future__ import annotations

import math

import onnx

from imgeval.contract import METRIC_NAMES, SCORE, for_combine, metric_tensor
from imgeval.scores import Preset, Scale
from imgeval_export.graph import Graph

_UNWEIGHED = Scale(low=0.0, high=1.0, weight=0.0)  # a metric that the preset has no scale for


def combine_model(preset: Preset) -> onnx.ModelProto:
    """One (B, 1) input per metric, NaN where missing -> SCORE (B, 1) in [0, 1], NaN where nothing counts."""
    scales = [preset.scales.get(name, _UNWEIGHED) for name in METRIC_NAMES]
    graph = Graph("combine")
    inputs = [graph.input(for_combine(metric_tensor(name)).name, ("B", 1)) for name in METRIC_NAMES]
    raw = graph.node("Concat", *inputs, axis=1)  # (B, 6)
    is_missing = graph.node("IsNaN", raw)
    lows = graph.constant("lows", [scale.low for scale in scales])
    ranges = graph.constant("ranges", [scale.high - scale.low for scale in scales])
    weights = graph.constant("weights", [scale.weight for scale in scales])
    normalised = graph.node("Div", graph.node("Sub", raw, lows), ranges)
    zero = graph.number(0)
    weighed = graph.node("Where", is_missing, zero, graph.node("Mul", normalised, weights))  # (B, 6)
    counted = graph.node("Where", is_missing, zero, weights)  # (B, 6)
    total = graph.node("ReduceSum", weighed, graph.integers(1), keepdims=1)  # (B, 1)
    weight = graph.node("ReduceSum", counted, graph.integers(1), keepdims=1)
    mean = graph.node("Clip", graph.node("Div", total, weight), zero, graph.number(1))
    # 0 / 0 is NaN, but a runtime's Clip may lose it.
    nothing = graph.node("Equal", weight, zero)
    graph.node("Where", nothing, graph.constant("nan", math.nan), mean, output=SCORE.name)
    graph.output(SCORE.name, ("B", 1))
    return graph.model()

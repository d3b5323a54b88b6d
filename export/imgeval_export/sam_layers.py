"""The two layers that SAM's encoder and decoder are made of, named as in the checkpoint; tokens have channels last."""

from __future__ import annotations

from imgeval_export.graph import Graph
from imgeval_export.state import State


def linear(graph: Graph, x: str, state: State, name: str, output: str | None = None) -> str:
    """x (..., in) -> (..., out); torch stores the matrix as (out, in)."""
    product = graph.node("MatMul", x, graph.constant(f"{name}.weight", state[f"{name}.weight"].T))
    return graph.node("Add", product, graph.constant(f"{name}.bias", state[f"{name}.bias"]), output=output)


def layer_norm(graph: Graph, x: str, state: State, name: str, epsilon: float) -> str:
    """Normalise x (..., channels) over its channels. It is also SAM's LayerNorm2d (modeling/common.py)."""
    gain, bias = (graph.constant(f"{name}.{part}", state[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=epsilon)

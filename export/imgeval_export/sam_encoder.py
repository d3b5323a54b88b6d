"""SAM's image encoder as an ONNX model, written straight from its state dict.

The mathematics of segment_anything/modeling/image_encoder.py: a ViT whose blocks attend within windows, some of them
over the whole image, with decomposed relative positions. For speed it is arranged differently:

- the scale of the queries is part of their projection, and its inverse of the tables of relative positions;
- windows are cut, and the heads taken apart, after the projection to queries, keys and values instead of before, and
  put together before the output projection: no layer computes padding;
- scores of global attention are computed a band of queries at a time. A band's relative positions are summed into one
  bias first; runtimes then see (q k + bias, softmax, v) and fuse it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from imgeval_export.graph import Graph
from imgeval_export.sam import ENCODER_EPSILON, PATCH, WIDTH, SamSizes, sam_sizes
from imgeval_export.sam_layers import layer_norm, linear
from imgeval_export.state import State

# Queries whose scores exist at a time, in global attention: with 4096 keys and 12 heads 201 MB in float32. Whole, they
# take 805 MB and no less time (OpenVINO 2026.4, 2 cores).
MAX_QUERIES = 1024


def sam_encoder_model(state: State) -> onnx.ModelProto:
    """PIXELS (B, 3, S, S), normalised RGB -> EMBEDDING (B, 256, S / 16, S / 16); S is 1024 in the published models.

    Raises:
        BuildError: `state` is not the state dict of a SAM.
    """
    sizes = sam_sizes(state)
    state = {name.removeprefix("image_encoder."): array for name, array in state.items()}
    graph = Graph("sam_encoder")
    pixels = graph.input("PIXELS", ("B", 3, sizes.image_size_px, sizes.image_size_px))
    weight, bias = (graph.constant(f"patch.{part}", state[f"patch_embed.proj.{part}"]) for part in ("weight", "bias"))
    x = graph.node("Conv", pixels, weight, bias, kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH])
    x = graph.node("Transpose", x, perm=[0, 2, 3, 1])  # (B, g, g, width)
    x = graph.node("Add", x, graph.constant("pos_embed", state["pos_embed"]))
    for block in range(sizes.depth):
        prefix = f"blocks.{block}"
        y = layer_norm(graph, x, state, f"{prefix}.norm1", ENCODER_EPSILON)
        x = graph.node("Add", x, _attention(graph, y, state, f"{prefix}.attn", sizes, sizes.attended(block)))
        y = layer_norm(graph, x, state, f"{prefix}.norm2", ENCODER_EPSILON)
        y = graph.node("Gelu", linear(graph, y, state, f"{prefix}.mlp.lin1"))  # the exact one, by erf
        x = graph.node("Add", x, linear(graph, y, state, f"{prefix}.mlp.lin2"))

    reduce = graph.constant("neck.0.weight", state["neck.0.weight"][:, :, 0, 0].T)  # (width, 256), a 1x1 convolution
    x = layer_norm(graph, graph.node("MatMul", x, reduce), state, "neck.1", ENCODER_EPSILON)  # (B, g, g, 256)
    x = graph.node("Transpose", x, perm=[0, 3, 1, 2])
    smooth = graph.constant("neck.2.weight", state["neck.2.weight"])
    x = graph.node("Conv", x, smooth, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = layer_norm(graph, graph.node("Transpose", x, perm=[0, 2, 3, 1]), state, "neck.3", ENCODER_EPSILON)
    graph.node("Transpose", x, perm=[0, 3, 1, 2], output="EMBEDDING")
    graph.output("EMBEDDING", ("B", WIDTH, sizes.grid, sizes.grid))
    return graph.model()


def _attention(graph: Graph, x: str, state: State, prefix: str, sizes: SamSizes, side: int) -> str:
    """Attention of x (B, g, g, width) over windows of side x side tokens (one of them, if side is g)."""
    channels = sizes.width // sizes.heads
    scale = channels**-0.5
    weights = np.split(state[f"{prefix}.qkv.weight"], 3)  # each (width, width)
    biases = np.split(state[f"{prefix}.qkv.bias"], 3)

    def project(part: int, factor: float = 1) -> str:
        product = graph.node("MatMul", x, graph.constant(f"{prefix}.{part}.weight", weights[part].T * factor))
        bias = graph.constant(f"{prefix}.{part}.bias", biases[part] * factor)
        return _cut_windows(graph, product, bias, sizes, side)

    query, key, value = project(0, scale), project(1), project(2)  # (W, heads, side, side, c)
    # Scores gain  query(y, x) . rel_pos_h[y - y'] + query(y, x) . rel_pos_w[x - x']  for a key at (y', x').
    along_y = graph.constant(f"{prefix}.rel_pos_h", _relative(state[f"{prefix}.rel_pos_h"], side) / scale)
    along_x = graph.constant(f"{prefix}.rel_pos_w", _relative(state[f"{prefix}.rel_pos_w"], side) / scale)
    shift_y = graph.node("MatMul", query, along_y)  # (W, heads, y, x, y')
    shift_x = graph.node("MatMul", graph.node("Transpose", query, perm=[0, 1, 3, 2, 4]), along_x)
    shift_x = graph.node("Transpose", shift_x, perm=[0, 1, 3, 2, 4])  # (W, heads, y, x, x')

    tokens = side * side
    shift_y = graph.node("Reshape", shift_y, graph.integers(0, 0, tokens, side, 1))
    shift_x = graph.node("Reshape", shift_x, graph.integers(0, 0, tokens, 1, side))
    query, key, value = (graph.node("Reshape", x, graph.integers(0, 0, tokens, channels)) for x in (query, key, value))
    key = graph.node("Transpose", key, perm=[0, 1, 3, 2])  # (W, heads, c, tokens)
    bands = []
    for start in range(0, tokens, MAX_QUERIES):
        band = [_band(graph, x, start, tokens) for x in (query, shift_y, shift_x)]
        bands.append(_attend(graph, band[0], graph.node("Add", band[1], band[2]), key, value))
    mixed = graph.node("Concat", *bands, axis=2) if len(bands) > 1 else bands[0]  # (W, heads, tokens, c)
    return linear(graph, _join_windows(graph, mixed, sizes, side), state, f"{prefix}.proj")


def _cut_windows(graph: Graph, x: str, bias: str, sizes: SamSizes, side: int) -> str:
    """x (B, g, g, width) + bias -> (W, heads, side, side, c); W is B times the windows per image.

    The last windows reach beyond the image where side does not divide g. Upstream fills them up with zeros before the
    projection, so here they hold the bias alone; they take part in the attention, as there.
    """
    count = -(-sizes.grid // side)  # windows per side
    if missing := count * side - sizes.grid:
        x = graph.node("Pad", x, graph.integers(0, 0, 0, 0, 0, missing, missing, 0))
    x = graph.node("Add", x, bias)
    channels = sizes.width // sizes.heads
    x = graph.node("Reshape", x, graph.integers(0, count, side, count, side, sizes.heads, channels))
    x = graph.node("Transpose", x, perm=[0, 1, 3, 5, 2, 4, 6])  # (B, count, count, heads, side, side, c)
    return graph.node("Reshape", x, graph.integers(-1, sizes.heads, side, side, channels))


def _join_windows(graph: Graph, x: str, sizes: SamSizes, side: int) -> str:
    """x (W, heads, tokens, c) -> (B, g, g, width)."""
    count = -(-sizes.grid // side)
    x = graph.node("Reshape", x, graph.integers(-1, count, count, sizes.heads, side, side, sizes.width // sizes.heads))
    x = graph.node("Transpose", x, perm=[0, 1, 4, 2, 5, 3, 6])  # (B, count, side, count, side, heads, c)
    x = graph.node("Reshape", x, graph.integers(-1, count * side, count * side, sizes.width))
    if count * side == sizes.grid:
        return x
    return graph.node("Slice", x, graph.integers(0, 0), graph.integers(sizes.grid, sizes.grid), graph.integers(1, 2))


def _band(graph: Graph, x: str, start: int, tokens: int) -> str:
    """Queries `start` to `start + MAX_QUERIES` of x (W, heads, tokens, ...)."""
    if tokens <= MAX_QUERIES:
        return x
    return graph.node("Slice", x, graph.integers(start), graph.integers(start + MAX_QUERIES), graph.integers(2))


def _attend(graph: Graph, query: str, shift: str, key: str, value: str) -> str:
    """softmax(query key + shift) value, for query (W, heads, Q, c) and shift (W, heads, Q, side, side), like query."""
    shift = graph.node("Reshape", shift, graph.integers(0, 0, 0, -1))  # (W, heads, Q, side^2)
    scores = graph.node("Add", graph.node("MatMul", query, key), shift)
    return graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)


def _relative(table: NDArray[Any], side: int) -> NDArray[Any]:
    """The rows of `table` (2 side - 1, c) for queries at y and keys at y': (side, c, side), at [y, :, y']."""
    positions = np.arange(side)
    chosen: NDArray[Any] = table[positions[:, None] - positions[None, :] + side - 1]  # (y, y', c)
    return chosen.transpose(0, 2, 1)

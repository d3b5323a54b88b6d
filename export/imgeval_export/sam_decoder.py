"""SAM's mask decoder, for prompts of one foreground point and three masks per point, as ONNX models.

The mathematics of segment_anything/modeling/{prompt_encoder,mask_decoder,transformer}.py, arranged for speed. All of it
is exact in real arithmetic:

- Seven tokens face thousands of pixels, so nothing is projected on the pixels' side. A score is
  (t Wq + bq)(p Wk + bk)^T for token t and pixel p; multiplied by Wk^T the 8 x 7 heads' queries meet the bare pixels: 56
  rows per point instead of a projection to 128 channels. bk adds the same to all scores of a row, which softmax
  ignores. Values and the output likewise; bv passes through, because weights sum to 1.
- Before the first layer is through, the image is the same for every point and stays a single one.
- Channels are last everywhere: the transposed convolutions have stride 2 and size 2, so they are products per pixel;
  only the finished masks are put in the order of pixels.
- What depends on the weights alone (positions of the pixels, the embedding of "no mask") is computed here. The mask
  token for prompts of several points takes part as a token; its mask and its IoU are left out.

Points are encoded by a model of their own: asked for bfloat16, a runtime rounds every value to 8 bits, and a point at
x = 1001 px would move by up to 4 px. That model has no matrix product, so it stays in float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from imgeval_export.graph import Graph
from imgeval_export.sam import (
    DECODER_EPSILON,
    DECODER_HEADS,
    DECODER_INNER,
    DECODER_LAYERS,
    ENCODER_EPSILON,
    MASK_SCALE,
    MASK_TOKENS,
    MASKS,
    UPSCALED,
    WIDTH,
    sam_sizes,
)
from imgeval_export.sam_layers import layer_norm, linear
from imgeval_export.state import State

TOKENS = 1 + MASK_TOKENS + 2  # predicted IoU, masks, the point, and the padding that upstream adds to points
ROWS = DECODER_HEADS * TOKENS  # (head, token) pairs
HEAD = DECODER_INNER // DECODER_HEADS  # channels of a head between tokens and image


def sam_points_model(state: State) -> onnx.ModelProto:
    """POINTS (N, 2) -> POINT_TOKENS (N, 256); a point is (x, y) in pixels of the encoder's input.

    Raises:
        BuildError: `state` is not the state dict of a SAM.
    """
    size_px = sam_sizes(state).image_size_px
    graph = Graph("sam_points")
    points = graph.input("POINTS", ("N", 2))
    x, y = graph.nodes("Split", points, outputs=["x", "y"], axis=1, num_outputs=2)  # each (N, 1)
    # 2 pi (2 (p + 0.5) / size - 1) G, by coordinate
    frequencies = _frequencies(state)
    slope = 4 * math.pi / size_px * frequencies
    offset = 2 * math.pi * (1 / size_px - 1) * frequencies.sum(axis=0)
    along_x = graph.node("Mul", x, graph.constant("slope_x", slope[0]))
    along_y = graph.node("Mul", y, graph.constant("slope_y", slope[1]))
    angle = graph.node("Add", graph.node("Add", along_x, along_y), graph.constant("offset", offset))  # (N, 128)
    waves = graph.node("Concat", graph.node("Sin", angle), graph.node("Cos", angle), axis=-1)
    foreground = graph.constant("foreground", state["prompt_encoder.point_embeddings.1.weight"])
    graph.node("Add", waves, foreground, output="POINT_TOKENS")
    graph.output("POINT_TOKENS", ("N", WIDTH))
    return graph.model()


def sam_decoder_model(state: State) -> onnx.ModelProto:
    """EMBEDDING (1, 256, h, w), POINT_TOKENS (N, 256), MIN_IOU (1,) -> IOU (N, 3), predicted; MASKS (M, 4h, 4w) logits.

    EMBEDDING comes from the encoder, POINT_TOKENS from `sam_points_model`. MASKS are those whose IOU is above MIN_IOU,
    point by point; pixels of points without any such mask are not enlarged, which is most of the work behind the
    transformer.

    Raises:
        BuildError: `state` is not the state dict of a SAM.
    """
    side = sam_sizes(state).grid
    state = {name.removeprefix("mask_decoder."): array for name, array in state.items()}
    graph = Graph("sam_decoder")
    embedding = graph.input("EMBEDDING", (1, WIDTH, side, side))
    points = graph.input("POINT_TOKENS", ("N", WIDTH))
    min_iou = graph.input("MIN_IOU", (1,))

    first = _tokens(graph, points, state)  # (N, 7, 256)
    image = graph.node("Reshape", graph.node("Transpose", embedding, perm=[0, 2, 3, 1]), graph.integers(1, -1, WIDTH))
    no_mask = graph.constant("no_mask", state["prompt_encoder.no_mask_embed.weight"])
    image = graph.node("Add", image, no_mask)  # (1, P, 256), P = h w; (N, P, 256) after the first layer
    positions = graph.constant("positions", _grid_positions(state, side))  # (P, 256)

    tokens = first
    for layer in range(DECODER_LAYERS):
        prefix = f"transformer.layers.{layer}"
        # The first layer attends without positions and replaces the tokens by the result.
        attended = _self_attention(graph, tokens, first if layer else None, state, f"{prefix}.self_attn")
        tokens = _add_and_norm(graph, tokens if layer else None, attended, state, f"{prefix}.norm1")
        placed = graph.node("Add", image, positions)
        attended = _tokens_to_image(graph, tokens, first, image, placed, state, f"{prefix}.cross_attn_token_to_image")
        tokens = _add_and_norm(graph, tokens, attended, state, f"{prefix}.norm2")
        hidden = graph.node("Relu", linear(graph, tokens, state, f"{prefix}.mlp.lin1"))
        tokens = _add_and_norm(
            graph, tokens, linear(graph, hidden, state, f"{prefix}.mlp.lin2"), state, f"{prefix}.norm3"
        )
        attended = _image_to_tokens(graph, tokens, first, placed, state, f"{prefix}.cross_attn_image_to_token")
        image = _add_and_norm(graph, image, attended, state, f"{prefix}.norm4")
    placed = graph.node("Add", image, positions)
    attended = _tokens_to_image(graph, tokens, first, image, placed, state, "transformer.final_attn_token_to_image")
    tokens = _add_and_norm(graph, tokens, attended, state, "transformer.norm_final_attn")

    is_wanted = graph.node("Greater", _predict_iou(graph, tokens, state), min_iou)  # (N, 3)
    _predict_masks(graph, tokens, image, is_wanted, state, side)
    return graph.model()


# --- prompts: prompt_encoder.py --------------------------------------------------------------------------------------
def _frequencies(state: State) -> NDArray[np.float64]:
    """Of the positional encoding, in turns per half side: (2, 128), for x and y."""
    matrix: NDArray[Any] = state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    return matrix.astype(np.float64)


def _tokens(graph: Graph, points: str, state: State) -> str:
    """points (N, 256) -> what the transformer starts from, (N, 7, 256): IoU, 4 masks, point, padding."""
    names = ("iou_token.weight", "mask_tokens.weight", "prompt_encoder.not_a_point_embed.weight")
    constant = np.concatenate([state[name] for name in names])  # (6, 256)
    points = graph.node("Unsqueeze", points, graph.integers(1))  # (N, 1, 256)
    zeros = graph.node("Mul", points, graph.number(0))  # repeats the constants for every point
    before = graph.node("Add", zeros, graph.constant("tokens_before", constant[:-1]))
    after = graph.node("Add", zeros, graph.constant("tokens_after", constant[-1:]))
    return graph.node("Concat", before, points, after, axis=1)


def _grid_positions(state: State, side: int) -> NDArray[np.float64]:
    """Positional encoding of the centres of the embedding's cells, row by row: (P, 256)."""
    centres = 2 * (np.arange(side) + 0.5) / side - 1
    frequencies = _frequencies(state)
    angle = 2 * math.pi * (centres[None, :, None] * frequencies[0] + centres[:, None, None] * frequencies[1])
    waves: NDArray[np.float64] = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)  # (h, w, 256)
    return waves.reshape(side * side, WIDTH)


# --- the transformer: transformer.py ---------------------------------------------------------------------------------
def _add_and_norm(graph: Graph, x: str | None, change: str, state: State, name: str) -> str:
    return layer_norm(graph, graph.node("Add", x, change) if x else change, state, name, DECODER_EPSILON)


def _heads(graph: Graph, x: str, channels: int) -> str:
    """x (N, 7, heads * channels) -> (N, heads, 7, channels)."""
    x = graph.node("Reshape", x, graph.integers(0, TOKENS, DECODER_HEADS, channels))
    return graph.node("Transpose", x, perm=[0, 2, 1, 3])


def _merge(graph: Graph, x: str, channels: int) -> str:
    """x (N, heads, 7, channels) -> (N, 7, heads * channels)."""
    return graph.node(
        "Reshape", graph.node("Transpose", x, perm=[0, 2, 1, 3]), graph.integers(0, TOKENS, channels * DECODER_HEADS)
    )


def _self_attention(graph: Graph, tokens: str, first: str | None, state: State, prefix: str) -> str:
    """Attention among the tokens of each point, (N, 7, 256); `first` is added to queries and keys."""
    channels = WIDTH // DECODER_HEADS
    placed = graph.node("Add", tokens, first) if first else tokens
    query, key, value = (
        _heads(graph, linear(graph, x, state, f"{prefix}.{part}"), channels)
        for x, part in ((placed, "q_proj"), (placed, "k_proj"), (tokens, "v_proj"))
    )
    scores = graph.node("MatMul", query, graph.node("Transpose", key, perm=[0, 1, 3, 2]))  # (N, heads, 7, 7)
    weights = graph.node("Softmax", graph.node("Mul", scores, graph.number(channels**-0.5)), axis=-1)
    return linear(graph, _merge(graph, graph.node("MatMul", weights, value), channels), state, f"{prefix}.out_proj")


def _tokens_to_image(graph: Graph, tokens: str, first: str, image: str, placed: str, state: State, prefix: str) -> str:
    """Attention of the tokens over the pixels, (N, 7, 256); image and placed are (1 or N, P, 256)."""
    query = _heads(graph, linear(graph, graph.node("Add", tokens, first), state, f"{prefix}.q_proj"), HEAD)
    # (N, heads, 7, 16) x (heads, 16, 256): queries in the space of pixels, with the scale of the scores
    key_weight = state[f"{prefix}.k_proj.weight"].reshape(DECODER_HEADS, HEAD, WIDTH) * HEAD**-0.5
    query = graph.node("MatMul", query, graph.constant(f"{prefix}.k_proj.weight", key_weight))
    query = graph.node("Reshape", query, graph.integers(0, ROWS, WIDTH))
    scores = graph.node("MatMul", query, graph.node("Transpose", placed, perm=[0, 2, 1]))  # (N, 56, P)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), image)  # (N, 56, 256)
    mixed = graph.node("Reshape", mixed, graph.integers(0, DECODER_HEADS, TOKENS, WIDTH))
    value_weight = state[f"{prefix}.v_proj.weight"].reshape(DECODER_HEADS, HEAD, WIDTH).transpose(0, 2, 1)
    value = graph.node("MatMul", mixed, graph.constant(f"{prefix}.v_proj.weight", value_weight))  # (N, heads, 7, 16)
    value = graph.node(
        "Add", _merge(graph, value, HEAD), graph.constant(f"{prefix}.v_proj.bias", state[f"{prefix}.v_proj.bias"])
    )
    return linear(graph, value, state, f"{prefix}.out_proj")


def _image_to_tokens(graph: Graph, tokens: str, first: str, placed: str, state: State, prefix: str) -> str:
    """Attention of the pixels over the tokens of each point, (N, P, 256); placed is (1 or N, P, 256)."""
    scale = HEAD**-0.5
    key = _heads(graph, linear(graph, graph.node("Add", tokens, first), state, f"{prefix}.k_proj"), HEAD)
    # A score is (pixel Wq + bq) . key: keys in the space of pixels, and a number per key from bq.
    query_weight = state[f"{prefix}.q_proj.weight"].reshape(DECODER_HEADS, HEAD, WIDTH) * scale
    query_bias = state[f"{prefix}.q_proj.bias"].reshape(DECODER_HEADS, HEAD, 1) * scale
    in_pixels = graph.node("MatMul", key, graph.constant(f"{prefix}.q_proj.weight", query_weight))
    in_pixels = graph.node("Reshape", in_pixels, graph.integers(0, ROWS, WIDTH))
    shift = graph.node("MatMul", key, graph.constant(f"{prefix}.q_proj.bias", query_bias))  # (N, heads, 7, 1)
    shift = graph.node("Reshape", shift, graph.integers(0, ROWS, 1))
    scores = graph.node("MatMul", in_pixels, graph.node("Transpose", placed, perm=[0, 2, 1]))  # (N, 56, P)
    scores = graph.node("Reshape", graph.node("Add", scores, shift), graph.integers(0, DECODER_HEADS, TOKENS, -1))
    weights = graph.node("Reshape", graph.node("Softmax", scores, axis=2), graph.integers(0, ROWS, -1))

    value = _heads(graph, linear(graph, tokens, state, f"{prefix}.v_proj"), HEAD)
    out_weight = state[f"{prefix}.out_proj.weight"].T.reshape(DECODER_HEADS, HEAD, WIDTH)
    value = graph.node("MatMul", value, graph.constant(f"{prefix}.out_proj.weight", out_weight))  # (N, heads, 7, 256)
    value = graph.node("Reshape", value, graph.integers(0, ROWS, WIDTH))
    attended = graph.node("MatMul", graph.node("Transpose", weights, perm=[0, 2, 1]), value)  # (N, P, 256)
    return graph.node("Add", attended, graph.constant(f"{prefix}.out_proj.bias", state[f"{prefix}.out_proj.bias"]))


# --- predictions: mask_decoder.py ------------------------------------------------------------------------------------
def _predict_masks(graph: Graph, tokens: str, image: str, is_wanted: str, state: State, side: int) -> None:
    """tokens (N, 7, 256) and image (N, P, 256) -> MASKS (M, 4h, 4w), where is_wanted (N, 3)."""
    flags = graph.node("Cast", is_wanted, to=TensorProto.INT32)
    used = graph.node("NonZero", graph.node("ReduceMax", flags, graph.integers(1), keepdims=0))  # (1, U), of the points
    used = graph.node("Squeeze", used, graph.integers(0))
    tokens, image, flags = (graph.node("Gather", each, used, axis=0) for each in (tokens, image, flags))
    wanted = graph.node("NonZero", graph.node("Reshape", flags, graph.integers(-1)))  # (1, M), of 3 U
    wanted = graph.node("Squeeze", wanted, graph.integers(0))

    # A pixel becomes 2 x 2 (row i, column j), and each of these again 2 x 2 (row k, column l).
    first, second = UPSCALED
    x = _upscale(graph, image, state, "output_upscaling.0")  # (N, P, 4 * 64)
    x = graph.node("Reshape", x, graph.integers(0, 4 * side * side, first))  # (N, P i j, 64)
    x = graph.node("Gelu", layer_norm(graph, x, state, "output_upscaling.1", ENCODER_EPSILON))
    x = graph.node("Gelu", _upscale(graph, x, state, "output_upscaling.3"))  # (N, P i j, 4 * 32)
    x = graph.node("Reshape", x, graph.integers(0, 16 * side * side, second))  # (N, P i j k l, 32)
    kernels = _mask_kernels(graph, tokens, state)  # (N, 3, 32)
    masks = graph.node("MatMul", kernels, graph.node("Transpose", x, perm=[0, 2, 1]))  # (U, 3, P i j k l)
    masks = graph.node("Reshape", masks, graph.integers(-1, 16 * side * side))
    masks = graph.node("Gather", masks, wanted, axis=0)  # (M, P i j k l)
    masks = graph.node("Reshape", masks, graph.integers(-1, side, side, 2, 2, 2, 2))
    masks = graph.node("Transpose", masks, perm=[0, 1, 3, 5, 2, 4, 6])  # (M, y, i, k, x, j, l)
    out = MASK_SCALE * side
    graph.node("Reshape", masks, graph.integers(-1, out, out), output="MASKS")
    graph.output("MASKS", ("M", out, out))


def _upscale(graph: Graph, x: str, state: State, name: str) -> str:
    """Transposed convolution of stride 2 and size 2: x (N, pixels, in) -> (N, pixels, (row, column, out))."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]  # (in, out, 2, 2), (out,)
    weight = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
    product = graph.node("MatMul", x, graph.constant(f"{name}.weight", weight))
    return graph.node("Add", product, graph.constant(f"{name}.bias", np.tile(bias, 4)))


def _mask_kernels(graph: Graph, tokens: str, state: State) -> str:
    """The mask tokens' own networks, side by side: tokens (N, 7, 256) -> (N, 3, 32)."""
    chosen = graph.node("Slice", tokens, graph.integers(2), graph.integers(2 + MASKS), graph.integers(1))
    x = graph.node("Transpose", chosen, perm=[1, 0, 2])  # (3, N, 256)
    for layer in range(3):
        names = [f"output_hypernetworks_mlps.{mask}.layers.{layer}" for mask in range(1, MASK_TOKENS)]
        weight = np.stack([state[f"{name}.weight"].T for name in names])  # (3, in, out)
        bias = np.stack([state[f"{name}.bias"][None] for name in names])  # (3, 1, out)
        x = graph.node("MatMul", x, graph.constant(f"kernels.{layer}.weight", weight))
        x = graph.node("Add", x, graph.constant(f"kernels.{layer}.bias", bias))
        x = graph.node("Relu", x) if layer < 2 else x
    return graph.node("Transpose", x, perm=[1, 0, 2])


def _predict_iou(graph: Graph, tokens: str, state: State) -> str:
    """tokens (N, 7, 256) -> IOU (N, 3)."""
    x = graph.node("Gather", tokens, graph.constant("iou_token", 0, np.int64), axis=1)  # (N, 256)
    for layer in range(2):
        x = graph.node("Relu", linear(graph, x, state, f"iou_prediction_head.layers.{layer}"))
    last = {f"last.{part}": state[f"iou_prediction_head.layers.2.{part}"][1:] for part in ("weight", "bias")}
    graph.output("IOU", ("N", MASKS))
    return linear(graph, x, last, "last", output="IOU")

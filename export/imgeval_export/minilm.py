"""all-MiniLM-L6-v2 (sentence-transformers) as an ONNX model, written straight from its weights.

A BERT encoder with 6 layers and post-layer-norm, then the mean over the tokens that are not padding, then L2
normalisation: the three modules of the model's `modules.json`. Tokenising is the caller's part: WordPiece, `[CLS]` and
`[SEP]` around the text, at most 256 tokens (`sentence_bert_config.json`), shorter rows filled up with id 0.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from imgeval_export.graph import Graph
from imgeval_export.state import State, check_state

VOCABULARY = 30522
MAX_TOKENS = 256  # what the model was tuned with; its position table would allow MAX_POSITIONS
MAX_POSITIONS = 512
PADDING_ID = 0
LAYERS = 6
WIDTH = 384
HEADS = 12
HEAD_WIDTH = WIDTH // HEADS
FEED_FORWARD = 1536
LAYER_NORM_EPSILON = 1e-12

# Added to the attention scores of padding. Scores stay far below 100, so exp() of the sum is exactly 0, and unlike the
# smallest float32 this one survives a conversion to half precision.
MASKED_SCORE = -1e4

# The pooler belongs to BERT's own pre-training head and sentence-transformers does not use it.
UNUSED = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the graph is written from."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, WIDTH),
        "embeddings.position_embeddings.weight": (MAX_POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
    }
    linear = {
        "attention.self.query": (WIDTH, WIDTH),
        "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (FEED_FORWARD, WIDTH),
        "output.dense": (WIDTH, FEED_FORWARD),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name, shape in linear.items():
            shapes[f"{prefix}{name}.weight"], shapes[f"{prefix}{name}.bias"] = shape, shape[:1]
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (WIDTH,)
    return shapes


def minilm_model(weights: State) -> onnx.ModelProto:
    """INPUT_IDS (B, L) INT64, L <= 512, filled up with 0 -> EMBEDDING (B, 384), of length 1.

    A row that is all padding gives zeros. Raises:
        BuildError: `weights` are not those of all-MiniLM-L6-v2.
    """
    check_state("all-MiniLM-L6-v2", weights, expected_shapes(), UNUSED)
    graph = Graph("minilm")
    ids = graph.input("INPUT_IDS", ("B", "L"), TensorProto.INT64)
    is_padding = graph.node("Equal", ids, graph.constant("padding_id", PADDING_ID, np.int64))  # (B, L)

    x = _embed(graph, ids, weights)
    scores_shift = graph.node("Where", is_padding, graph.number(MASKED_SCORE), graph.number(0))
    scores_shift = graph.node("Unsqueeze", scores_shift, graph.integers(1, 2))  # (B, 1, 1, L)
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        attended = _attention(graph, x, scores_shift, weights, prefix)
        x = _layer_norm(graph, graph.node("Add", attended, x), weights, f"{prefix}attention.output.LayerNorm")
        hidden = graph.node("Gelu", _linear(graph, x, weights, f"{prefix}intermediate.dense"))  # the exact one, by erf
        changed = _linear(graph, hidden, weights, f"{prefix}output.dense")
        x = _layer_norm(graph, graph.node("Add", changed, x), weights, f"{prefix}output.LayerNorm")  # (B, L, 384)

    # The mean over tokens differs from their sum by a positive factor, which the normalisation takes out again.
    is_token = graph.node("Cast", graph.node("Not", is_padding), to=TensorProto.FLOAT)
    is_token = graph.node("Unsqueeze", is_token, graph.integers(1))  # (B, 1, L)
    total = graph.node("Squeeze", graph.node("MatMul", is_token, x), graph.integers(1))  # (B, 384)
    graph.l2_normalize(total, output="EMBEDDING")
    graph.output("EMBEDDING", ("B", WIDTH))
    return graph.model()


def _embed(graph: Graph, ids: str, weights: State) -> str:
    """ids (B, L) -> sum of word, position and token-type embeddings, normalised (B, L, 384)."""
    words = graph.node(
        "Gather", graph.constant("words", weights["embeddings.word_embeddings.weight"]), ids
    )  # (B, L, 384)
    # There is one sentence per row, so every token has type 0 and its embedding can join the position table.
    table = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    length = graph.node("Shape", ids, start=1, end=2)
    positions = graph.node("Slice", graph.constant("positions", table), graph.integers(0), length, graph.integers(0))
    return _layer_norm(graph, graph.node("Add", words, positions), weights, "embeddings.LayerNorm")


def _attention(graph: Graph, x: str, scores_shift: str, weights: State, prefix: str) -> str:
    """Self-attention over x (B, L, 384): softmax(q k^T / sqrt(32) + shift) v per head, then the output projection."""

    def heads(part: str, permutation: list[int]) -> str:
        projected = _linear(graph, x, weights, f"{prefix}attention.self.{part}")
        projected = graph.node("Reshape", projected, graph.integers(0, 0, HEADS, HEAD_WIDTH))
        return graph.node("Transpose", projected, perm=permutation)

    query = heads("query", [0, 2, 1, 3])  # (B, 12, L, 32)
    key = heads("key", [0, 2, 3, 1])  # (B, 12, 32, L)
    value = heads("value", [0, 2, 1, 3])  # (B, 12, L, 32)
    scores = graph.node("Div", graph.node("MatMul", query, key), graph.number(HEAD_WIDTH**0.5))  # (B, 12, L, L)
    attention = graph.node("Softmax", graph.node("Add", scores, scores_shift), axis=-1)
    mixed = graph.node("Transpose", graph.node("MatMul", attention, value), perm=[0, 2, 1, 3])  # (B, L, 12, 32)
    mixed = graph.node("Reshape", mixed, graph.integers(0, 0, WIDTH))  # (B, L, 384)
    return _linear(graph, mixed, weights, f"{prefix}attention.output.dense")


def _linear(graph: Graph, x: str, weights: State, name: str) -> str:
    """x (B, L, in) -> (B, L, out); torch stores the matrix as (out, in)."""
    product = graph.node("MatMul", x, graph.constant(f"{name}.weight", weights[f"{name}.weight"].T))
    return graph.node("Add", product, graph.constant(f"{name}.bias", weights[f"{name}.bias"]))


def _layer_norm(graph: Graph, x: str, weights: State, name: str) -> str:
    gain, bias = (graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=LAYER_NORM_EPSILON)

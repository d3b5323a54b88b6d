"""CLIP's image and text towers as ONNX models, written straight from an open_clip checkpoint.

The networks of Radford et al. 2021 (arXiv 2103.00020) as open_clip names and computes them (`open_clip/transformer.py`,
model `ViT-L-14-quickgelu`): pre-layer-norm transformers with QuickGELU, x * sigmoid(1.702 x). Any vision transformer of
that family will do; every size is read off the tensors, and heads are 64 wide.

    image  patches + class token -> ln_pre -> blocks -> class token -> ln_post -> projection -> length 1
    text   tokens -> causal blocks -> end-of-text token -> ln_final -> projection -> length 1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from imgeval.contract import EMBEDDING, INPUT_IDS, PIXELS
from imgeval.errors import BuildError
from imgeval.image import PixelSpec
from imgeval_export.graph import Graph
from imgeval_export.state import State, check_state

HEAD_WIDTH = 64  # of every attention head
FEED_FORWARD = 4  # width of a block's hidden layer, in widths of the transformer
QUICK_GELU = 1.702
LAYER_NORM_EPSILON = 1e-5

# Added to the attention scores of later tokens. Scores stay far below 1000, so exp() of the sum is exactly 0,
# and unlike the smallest float32 this one survives a conversion to half precision.
MASKED_SCORE = -1e4

CLIP_PIXELS = PixelSpec(  # open_clip's OPENAI_DATASET_MEAN and _STD
    resize_px=224,
    crop_px=224,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)

VISION = "visual.transformer.resblocks."  # how the names of the blocks' tensors begin
TEXT = "transformer.resblocks."


@dataclass(frozen=True)
class ClipSizes:
    """The sizes that a checkpoint of this family can choose; the length of a side in pixels, the rest are counts."""

    image_px: int
    patch_px: int
    width: int
    layers: int
    vocabulary: int
    context: int  # tokens of a text at most, start and end included
    text_width: int
    text_layers: int
    embedding: int


VIT_L_14 = ClipSizes(
    image_px=224,
    patch_px=14,
    width=1024,
    layers=24,
    vocabulary=49408,
    context=77,
    text_width=768,
    text_layers=12,
    embedding=768,
)


def clip_sizes(weights: State) -> ClipSizes:
    """The sizes that the tensors of a checkpoint have.

    Raises:
        BuildError: a tensor that tells them is missing or has another number of axes.
    """
    width, _, patch_px, _ = _shape(weights, "visual.conv1.weight", 4)
    positions, _ = _shape(weights, "visual.positional_embedding", 2)
    vocabulary, text_width = _shape(weights, "token_embedding.weight", 2)
    context, _ = _shape(weights, "positional_embedding", 2)
    _, embedding = _shape(weights, "text_projection", 2)
    image_px = math.isqrt(max(positions - 1, 0)) * patch_px
    layers, text_layers = (
        len({name[len(prefix) :].partition(".")[0] for name in weights if name.startswith(prefix)})
        for prefix in (VISION, TEXT)
    )
    return ClipSizes(image_px, patch_px, width, layers, vocabulary, context, text_width, text_layers, embedding)


def _shape(weights: State, name: str, axes: int) -> tuple[int, ...]:
    if name not in weights:
        raise BuildError(f"these are not the weights of an open_clip ViT; missing: {name}")
    shape = weights[name].shape
    if len(shape) != axes:
        raise BuildError(f"these are not the weights of an open_clip ViT; {name} is {shape}, not {axes} axes")
    return shape


def expected_shapes(sizes: ClipSizes) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint of these sizes, as open_clip saves it."""
    width, text_width = sizes.width, sizes.text_width
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (sizes.context, text_width),
        "text_projection": (text_width, sizes.embedding),
        "logit_scale": (),
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((sizes.image_px // sizes.patch_px) ** 2 + 1, width),
        "visual.proj": (width, sizes.embedding),
        "visual.conv1.weight": (width, 3, sizes.patch_px, sizes.patch_px),
        "token_embedding.weight": (sizes.vocabulary, text_width),
    }
    for norm, size in {"visual.ln_pre": width, "visual.ln_post": width, "ln_final": text_width}.items():
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (size,)
    for prefix, layers, size in ((VISION, sizes.layers, width), (TEXT, sizes.text_layers, text_width)):
        for layer in range(layers):
            shapes |= {f"{prefix}{layer}.{name}": shape for name, shape in _block_shapes(size).items()}
    return shapes


def _block_shapes(width: int) -> dict[str, tuple[int, ...]]:
    hidden = FEED_FORWARD * width
    return {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),  # query, key, value
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (hidden, width),
        "mlp.c_fc.bias": (hidden,),
        "mlp.c_proj.weight": (width, hidden),
        "mlp.c_proj.bias": (width,),
    }


def _checked_sizes(weights: State) -> ClipSizes:
    sizes = clip_sizes(weights)
    for width in (sizes.width, sizes.text_width):
        if width % HEAD_WIDTH:
            raise BuildError(f"a transformer is {width} wide; allowed are multiples of {HEAD_WIDTH}")
    check_state("an open_clip ViT", weights, expected_shapes(sizes))
    return sizes


def clip_image_model(weights: State) -> onnx.ModelProto:
    """PIXELS (B, 3, S, S), normalised RGB (`CLIP_PIXELS`) -> EMBEDDING (B, D), of length 1.

    S = 224 and D = 768 for ViT-L/14. Raises:
        BuildError: `weights` are not those of an open_clip ViT.
    """
    sizes = _checked_sizes(weights)
    graph = Graph("clip_image")
    pixels = graph.input(PIXELS.name, ("B", 3, sizes.image_px, sizes.image_px))

    kernel = graph.constant("visual.conv1.weight", weights["visual.conv1.weight"])
    patch = [sizes.patch_px, sizes.patch_px]
    x = graph.node("Conv", pixels, kernel, kernel_shape=patch, strides=patch)  # (B, width, grid, grid)
    x = graph.node("Reshape", x, graph.integers(0, sizes.width, -1))
    x = graph.node("Transpose", x, perm=[0, 2, 1])  # (B, patches, width)
    # The class token is the same for every image: a row of zeros in front, and its values join the position table.
    x = graph.node("Pad", x, graph.integers(0, 1, 0, 0, 0, 0))  # (B, 1 + patches, width)
    table = weights["visual.positional_embedding"].astype(np.float32)
    table = np.concatenate([table[:1] + weights["visual.class_embedding"], table[1:]])
    x = graph.node("Add", x, graph.constant("visual.positions", table))
    x = _layer_norm(graph, x, weights, "visual.ln_pre")

    # What becomes of the patches behind the last attention is not looked at: 3.5 % less to compute, the same result.
    for layer in range(sizes.layers):
        x = _block(graph, x, weights, f"{VISION}{layer}.", sizes.width, first_only=layer == sizes.layers - 1)
    x = graph.node("Squeeze", x, graph.integers(1))  # (B, width)
    return _finish(graph, x, weights, "visual.ln_post", "visual.proj")


def clip_text_model(weights: State) -> onnx.ModelProto:
    """INPUT_IDS (B, L) INT64, L <= 77, filled up with 0 -> EMBEDDING (B, D), of length 1.

    The end-of-text token is the one with the highest id, and the first of them counts. No token sees a later one, so
    how far a row is filled up behind it changes nothing. Raises:
        BuildError: `weights` are not those of an open_clip ViT.
    """
    sizes = _checked_sizes(weights)
    graph = Graph("clip_text")
    ids = graph.input(INPUT_IDS.name, ("B", "L"), TensorProto.INT64)
    words = graph.constant("token_embedding.weight", weights["token_embedding.weight"])
    positions = graph.constant("positional_embedding", weights["positional_embedding"])
    later = graph.constant("later", np.triu(np.full((sizes.context, sizes.context), MASKED_SCORE), 1))

    zero, length = graph.integers(0), graph.node("Shape", ids, start=1, end=2)
    x = graph.node("Gather", words, ids)  # (B, L, width)
    x = graph.node("Add", x, graph.node("Slice", positions, zero, length, zero))
    size = graph.node("Concat", length, length, axis=0)
    mask = graph.node("Slice", later, graph.integers(0, 0), size, graph.integers(0, 1))  # (L, L)
    for layer in range(sizes.text_layers):
        x = _block(graph, x, weights, f"{TEXT}{layer}.", sizes.text_width, mask=mask)
    end = graph.node("ArgMax", ids, axis=1)  # (B, 1)
    x = graph.node("GatherND", x, end, batch_dims=1)  # (B, width)
    return _finish(graph, x, weights, "ln_final", "text_projection")


def _finish(graph: Graph, x: str, weights: State, norm: str, projection: str) -> onnx.ModelProto:
    """x (B, width) -> the model whose output is its normalised projection (B, D)."""
    x = graph.node("MatMul", _layer_norm(graph, x, weights, norm), graph.constant(projection, weights[projection]))
    graph.l2_normalize(x, output=EMBEDDING.name)
    graph.output(EMBEDDING.name, ("B", weights[projection].shape[1]))
    return graph.model()


def _block(
    graph: Graph, x: str, weights: State, prefix: str, width: int, *, mask: str | None = None, first_only: bool = False
) -> str:
    """One transformer block over x (B, L, width) -> (B, L, width), or (B, 1, width) where only the first is wanted."""
    normed = queries = _layer_norm(graph, x, weights, f"{prefix}ln_1")
    if first_only:
        x, queries = (graph.node("Gather", each, graph.integers(0), axis=1) for each in (x, normed))
    x = graph.node("Add", x, _attention(graph, queries, normed, weights, f"{prefix}attn.", width, mask))
    hidden = _linear(graph, _layer_norm(graph, x, weights, f"{prefix}ln_2"), weights, f"{prefix}mlp.c_fc")
    gate = graph.node("Sigmoid", graph.node("Mul", hidden, graph.number(QUICK_GELU)))
    return graph.node("Add", x, _linear(graph, graph.node("Mul", hidden, gate), weights, f"{prefix}mlp.c_proj"))


def _attention(graph: Graph, queries: str, x: str, weights: State, prefix: str, width: int, mask: str | None) -> str:
    """Attention of queries (B, Q, width) to x (B, L, width): softmax(q k^T / 8 + mask) v per head, then the projection.

    OpenVINO makes one kernel of everything between the projections. One matrix for q, k and v together, another order
    of the axes, a static batch: each took the same time within 2 %, since 90 % of it goes into the projections.
    """
    heads = width // HEAD_WIDTH
    in_weight, in_bias = weights[f"{prefix}in_proj_weight"], weights[f"{prefix}in_proj_bias"]  # (3 width, ...): q, k, v

    def project(source: str, part: int, permutation: list[int], scale: float = 1) -> str:
        rows = slice(part * width, (part + 1) * width)
        product = graph.node("MatMul", source, graph.constant(f"{prefix}{part}.weight", in_weight[rows].T * scale))
        product = graph.node("Add", product, graph.constant(f"{prefix}{part}.bias", in_bias[rows] * scale))
        split = graph.node("Reshape", product, graph.integers(0, 0, heads, HEAD_WIDTH))
        return graph.node("Transpose", split, perm=permutation)

    # 1 / sqrt(64) is a power of two: multiplying the weights by it instead of the scores changes no bit.
    query = project(queries, 0, [0, 2, 1, 3], HEAD_WIDTH**-0.5)  # (B, heads, Q, 64)
    key = project(x, 1, [0, 2, 3, 1])  # (B, heads, 64, L)
    value = project(x, 2, [0, 2, 1, 3])  # (B, heads, L, 64)
    scores = graph.node("MatMul", query, key)  # (B, heads, Q, L)
    if mask:
        scores = graph.node("Add", scores, mask)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)  # (B, heads, Q, 64)
    mixed = graph.node("Reshape", graph.node("Transpose", mixed, perm=[0, 2, 1, 3]), graph.integers(0, 0, width))
    return _linear(graph, mixed, weights, f"{prefix}out_proj")


def _linear(graph: Graph, x: str, weights: State, name: str) -> str:
    """x (B, L, in) -> (B, L, out); torch stores the matrix as (out, in)."""
    product = graph.node("MatMul", x, graph.constant(f"{name}.weight", weights[f"{name}.weight"].T))
    return graph.node("Add", product, graph.constant(f"{name}.bias", weights[f"{name}.bias"]))


def _layer_norm(graph: Graph, x: str, weights: State, name: str) -> str:
    gain, bias = (graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=LAYER_NORM_EPSILON)

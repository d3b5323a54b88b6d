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
END = 2**31 - 1  # of a slice: as far as it goes

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

    batch = graph.node("Shape", pixels, start=0, end=1)
    kernel = graph.constant("visual.conv1.weight", weights["visual.conv1.weight"])
    patch = [sizes.patch_px, sizes.patch_px]
    x = graph.node("Conv", pixels, kernel, kernel_shape=patch, strides=patch)  # (B, width, grid, grid)
    x = graph.node("Reshape", x, graph.integers(0, sizes.width, -1))
    x = graph.node("Transpose", x, perm=[0, 2, 1])  # (B, patches, width)
    # The class token is the same for every image, and so is its place: both are one row of a table.
    table = weights["visual.positional_embedding"].astype(np.float32)
    x = graph.node("Add", x, graph.constant("visual.positions", table[1:]))
    first = graph.constant("visual.class_token", (table[:1] + weights["visual.class_embedding"])[None])  # (1, 1, width)
    first = graph.node("Expand", first, graph.node("Concat", batch, graph.integers(1, sizes.width), axis=0))
    # The class token stays apart from the patches: for matrix products 257 rows are much worse than 256 and 1.
    parts = [_layer_norm(graph, part, weights, "visual.ln_pre") for part in (first, x)]

    # What becomes of the patches behind the last attention is not looked at: 3.5 % less to compute, the same result.
    for layer in range(sizes.layers):
        last = layer == sizes.layers - 1
        parts = _block(graph, parts, weights, f"{VISION}{layer}.", sizes.width, first_only=last)
    x = graph.node("Squeeze", parts[0], graph.integers(1))  # (B, width)
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
        (x,) = _block(graph, [x], weights, f"{TEXT}{layer}.", sizes.text_width, mask=mask)
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
    graph: Graph,
    parts: list[str],
    weights: State,
    prefix: str,
    width: int,
    *,
    mask: str | None = None,
    first_only: bool = False,
) -> list[str]:
    """One transformer block over tokens in one or two parts: all of them (B, L, width), or the first and the others.

    Returns the parts changed; the first alone where only that is wanted.
    """
    normed = [_layer_norm(graph, part, weights, f"{prefix}ln_1") for part in parts]
    kept = slice(1) if first_only else slice(None)
    attended = _attention(graph, normed[kept], normed, weights, f"{prefix}attn.", width, mask)
    changed = []
    for part, mixed in zip(parts[kept], attended, strict=True):
        x = graph.node("Add", part, _linear(graph, mixed, weights, f"{prefix}attn.out_proj"))
        hidden = _layer_norm(graph, x, weights, f"{prefix}ln_2")
        # x sigmoid(1.702 x) = y sigmoid(y) / 1.702 with y = 1.702 x: the factors join the weights before and behind,
        # and what is left is an activation that runtimes compute while they write the product.
        hidden = _linear(graph, hidden, weights, f"{prefix}mlp.c_fc", out_scale=QUICK_GELU)
        hidden = graph.node("Mul", hidden, graph.node("Sigmoid", hidden))
        changed.append(graph.node("Add", x, _linear(graph, hidden, weights, f"{prefix}mlp.c_proj", 1 / QUICK_GELU)))
    return changed


def _attention(
    graph: Graph, queries: list[str], parts: list[str], weights: State, prefix: str, width: int, mask: str | None
) -> list[str]:
    """Attention of the tokens in queries to those in parts: softmax(q k^T / 8 + mask) v per head, (B, L, width) each.

    OpenVINO makes one kernel of everything between the projections. One matrix for q, k and v together or another order
    of the axes took the same time within 2 %, since 90 % of it goes into the projections.
    """
    heads = width // HEAD_WIDTH
    in_weight, in_bias = weights[f"{prefix}in_proj_weight"], weights[f"{prefix}in_proj_bias"]  # (3 width, ...): q, k, v

    def project(sources: list[str], index: int, permutation: list[int], scale: float = 1) -> str:
        rows = slice(index * width, (index + 1) * width)
        matrix = graph.constant(f"{prefix}{index}.weight", in_weight[rows].T * scale)
        bias = graph.constant(f"{prefix}{index}.bias", in_bias[rows] * scale)
        products = [graph.node("Add", graph.node("MatMul", source, matrix), bias) for source in sources]
        product = graph.node("Concat", *products, axis=1) if len(products) > 1 else products[0]
        split = graph.node("Reshape", product, graph.integers(0, 0, heads, HEAD_WIDTH))
        return graph.node("Transpose", split, perm=permutation)

    # 1 / sqrt(64) is a power of two: multiplying the weights by it instead of the scores changes no bit.
    query = project(queries, 0, [0, 2, 1, 3], HEAD_WIDTH**-0.5)  # (B, heads, Q, 64)
    key = project(parts, 1, [0, 2, 3, 1])  # (B, heads, 64, L)
    value = project(parts, 2, [0, 2, 1, 3])  # (B, heads, L, 64)
    scores = graph.node("MatMul", query, key)  # (B, heads, Q, L)
    if mask:
        scores = graph.node("Add", scores, mask)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), value)  # (B, heads, Q, 64)
    mixed = graph.node("Reshape", graph.node("Transpose", mixed, perm=[0, 2, 1, 3]), graph.integers(0, 0, width))
    if len(queries) == 1:
        return [mixed]
    one, end, axis = graph.integers(1), graph.integers(END), graph.integers(1)
    first = graph.node("Slice", mixed, graph.integers(0), one, axis)
    return [first, graph.node("Slice", mixed, one, end, axis)]


def _linear(graph: Graph, x: str, weights: State, name: str, in_scale: float = 1, *, out_scale: float = 1) -> str:
    """x (B, L, in) -> ((in_scale x) W + b) out_scale, (B, L, out); torch stores the matrix as (out, in)."""
    # A checkpoint may be float16: scaled in float32.
    matrix, bias = (weights[f"{name}.{part}"].astype(np.float32) * out_scale for part in ("weight", "bias"))
    product = graph.node("MatMul", x, graph.constant(f"{name}.weight", matrix.T * in_scale))
    return graph.node("Add", product, graph.constant(f"{name}.bias", bias))


def _layer_norm(graph: Graph, x: str, weights: State, name: str) -> str:
    gain, bias = (graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", x, gain, bias, axis=-1, epsilon=LAYER_NORM_EPSILON)

"""EfficientNet-Lite2 (ImageNet, 260 px) as ONNX nodes, written straight from its state dict.

The network of google/tpu `efficientnet/lite`, as the package `efficientnet-lite-pytorch` converted it: MobileNet-v2
blocks (expand 1x1, depthwise k x k, project 1x1), ReLU6, no squeeze-and-excitation, and TensorFlow's SAME padding.
Batch norm is folded into the convolutions, in float64.

The input is RGB, (value - PIXEL_MEAN) / PIXEL_STD of 0..255, as in google/tpu; the ImageNet mean and deviation in the
converted package's sample code are a leftover of the project it was forked from. The shorter side is resized to
260 px (bicubic) and the centre cropped: against squashing, padding and a tighter crop (292 -> 260), that told ten test
photos apart best.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import onnx

from imgeval_export.graph import Graph
from imgeval_export.state import State, check_state

IMAGE_SIZE = 260  # pixels, height and width
PIXEL_MEAN = 127.0  # of 0..255, the same for every channel
PIXEL_STD = 128.0
NUM_CLASSES = 1000
BATCH_NORM_EPSILON = 1e-3
STEM_CHANNELS = 32  # the Lite variants do not scale stem and head
HEAD_CHANNELS = 1280


class Stage(NamedTuple):
    """`repeats` blocks in a row; only the first has `stride` and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


# The stages of EfficientNet-B0 with width 1.1 (rounded to multiples of 8) and depth 1.2 (rounded up); the Lite variants
# do not deepen the first and the last stage.
STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(3, 3, 2, 6, 24),
    Stage(3, 5, 2, 6, 48),
    Stage(4, 3, 2, 6, 88),
    Stage(4, 5, 1, 6, 120),
    Stage(5, 5, 2, 6, 208),
    Stage(1, 3, 1, 6, 352),
)


class Block(NamedTuple):
    """One inverted residual block; `channels_in` and `channels_out` are those around it."""

    prefix: str
    kernel: int
    stride: int
    expand: int
    channels_in: int
    channels_out: int


def blocks() -> Iterator[Block]:
    """The 21 blocks in order, with the names that the state dict gives them."""
    channels, index = STEM_CHANNELS, 0
    for stage in STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            yield Block(f"_blocks.{index}.", stage.kernel, stride, stage.expand, channels, stage.channels)
            channels, index = stage.channels, index + 1


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the graph is written from."""
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(conv: str, norm: str, shape: tuple[int, int, int, int]) -> None:
        shapes[f"{conv}.weight"] = shape
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{norm}.{part}"] = shape[:1]

    convolution("_conv_stem", "_bn0", (STEM_CHANNELS, 3, 3, 3))
    for block in blocks():
        wide = block.channels_in * block.expand
        if block.expand != 1:
            convolution(f"{block.prefix}_expand_conv", f"{block.prefix}_bn0", (wide, block.channels_in, 1, 1))
        convolution(f"{block.prefix}_depthwise_conv", f"{block.prefix}_bn1", (wide, 1, block.kernel, block.kernel))
        convolution(f"{block.prefix}_project_conv", f"{block.prefix}_bn2", (block.channels_out, wide, 1, 1))
    convolution("_conv_head", "_bn1", (HEAD_CHANNELS, STAGES[-1].channels, 1, 1))
    shapes["_fc.weight"], shapes["_fc.bias"] = (NUM_CLASSES, HEAD_CHANNELS), (NUM_CLASSES,)
    return shapes


def add_efficientnet_lite2(graph: Graph, pixels: str, state: State, output: str | None = None) -> str:
    """Add the whole network: `pixels` (B, 3, 260, 260), normalised RGB -> the name of the class logits (B, 1000).

    Raises:
        BuildError: `state` is not a state dict of EfficientNet-Lite2.
    """
    shapes = expected_shapes()
    counters = [name.replace("running_mean", "num_batches_tracked") for name in shapes if name.endswith("running_mean")]
    check_state("EfficientNet-Lite2", state, shapes, unused=counters)

    size = IMAGE_SIZE
    x = _convolution(graph, pixels, state, "_conv_stem", "_bn0", size, stride=2, relu6=True)  # (B, 32, 130, 130)
    size = math.ceil(size / 2)
    for block in blocks():
        x = _block(graph, x, state, block, size)
        size = math.ceil(size / block.stride)
    x = _convolution(graph, x, state, "_conv_head", "_bn1", size, relu6=True)  # (B, 1280, 9, 9)
    x = graph.node("Flatten", graph.node("GlobalAveragePool", x))  # (B, 1280)
    weight, bias = (graph.constant(name, state[name]) for name in ("_fc.weight", "_fc.bias"))
    return graph.node("Gemm", x, weight, bias, transB=1, output=output)  # (B, 1000)


def efficientnet_lite2_model(state: State) -> onnx.ModelProto:
    """The classifier alone: PIXELS (B, 3, 260, 260) -> LOGITS (B, 1000).

    Raises:
        BuildError: `state` is not a state dict of EfficientNet-Lite2.
    """
    graph = Graph("efficientnet_lite2")
    pixels = graph.input("PIXELS", ("B", 3, IMAGE_SIZE, IMAGE_SIZE))
    graph.output(add_efficientnet_lite2(graph, pixels, state, output="LOGITS"), ("B", NUM_CLASSES))
    return graph.model()


def _block(graph: Graph, x: str, state: State, block: Block, size: int) -> str:
    """x (B, channels_in, size, size) -> (B, channels_out, size / stride, size / stride)."""
    before, prefix, wide = x, block.prefix, block.channels_in * block.expand
    if block.expand != 1:
        x = _convolution(graph, x, state, f"{prefix}_expand_conv", f"{prefix}_bn0", size, relu6=True)
    x = _convolution(
        graph, x, state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", size, stride=block.stride, groups=wide, relu6=True
    )
    x = _convolution(graph, x, state, f"{prefix}_project_conv", f"{prefix}_bn2", math.ceil(size / block.stride))
    same_shape = block.stride == 1 and block.channels_in == block.channels_out
    return graph.node("Add", x, before) if same_shape else x


def _convolution(
    graph: Graph,
    x: str,
    state: State,
    conv: str,
    norm: str,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    relu6: bool = False,
) -> str:
    """Convolution with its batch norm folded in, on an input of `size` pixels a side, and ReLU6 if asked for."""
    # y = gain (w * x - mean) / sqrt(var + eps) + bias = (scale w) * x + (bias - scale mean)
    gain, bias, mean, variance = (
        state[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + BATCH_NORM_EPSILON)  # (out,)
    weight = state[f"{conv}.weight"].astype(np.float64) * scale[:, None, None, None]  # (out, in / groups, k, k)
    kernel = weight.shape[-1]
    x = graph.node(
        "Conv",
        x,
        graph.constant(f"{conv}.weight", weight),
        graph.constant(f"{conv}.bias", bias - scale * mean),
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        group=groups,
        pads=same_padding(size, kernel, stride),
    )
    return graph.node("Clip", x, graph.number(0), graph.number(6)) if relu6 else x


def same_padding(size: int, kernel: int, stride: int) -> list[int]:
    """TensorFlow's SAME padding in pixels, as ONNX wants it: top, left, bottom, right; the odd pixel goes last."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    return [before, before, after, after]

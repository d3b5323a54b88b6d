"""The catalogue of composing models that profiles are put together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imgeval.contract import (
    DETAILS,
    DETAILS_MODEL,
    EMBEDDING,
    IMAGE,
    IMAGE_EMBEDDING,
    INPUT_DETAILS,
    INPUT_IDS,
    METRIC_DETAILS,
    METRIC_NAMES,
    PIXELS,
    PROMPT,
    RGB,
    SCORE,
    SIZE,
    TEXT_EMBEDDING,
    Tensor,
    for_combine,
    metric_tensor,
)
from imgeval.embedded.engine import THREADS_PARAMETER
from imgeval_export.configs import Model

TOWER_MAX_BATCH_SIZE = 32  # an image has up to 20 segments of 5 %, and one call embeds all its crops


def preprocess(side_px: int) -> Model:
    """IMAGE and PROMPT -> what the metric models take; the image tower takes squares of `side_px`."""
    outputs = (_pixels(side_px), RGB, SIZE, INPUT_IDS, *_both(INPUT_DETAILS))
    return Model("preprocess", "python", (IMAGE, PROMPT), outputs, parameters=_threads(0))


def image_tower(side_px: int, embedding_dim: int) -> Model:
    """Pixels -> L2-normalised embedding."""
    tower = _tower("clip_image", _pixels(side_px), embedding_dim, IMAGE_EMBEDDING)
    # For the embedded server's engine: on a CPU an image by itself takes no longer than in a batch (docs/engine.md).
    return replace(tower, parameters={**tower.parameters, "rows_per_run": "1"})


def text_tower(embedding_dim: int) -> Model:
    """Token ids -> L2-normalised embedding."""
    return _tower("clip_text", INPUT_IDS, embedding_dim, TEXT_EMBEDDING)


def similarity(embedding_dim: int) -> Model:
    """Both embeddings -> their cosine, the metric clip."""
    inputs = tuple(Tensor(tensor.name, tensor.dtype, (embedding_dim,)) for tensor in (IMAGE_EMBEDDING, TEXT_EMBEDDING))
    return Model("clip", "onnxruntime", inputs, _both(metric_tensor("clip")), parameters=_threads(1))


def aesthetic(embedding_dim: int) -> Model:
    """Image embedding -> LAION's aesthetic score."""
    inputs = (Tensor(IMAGE_EMBEDDING.name, IMAGE_EMBEDDING.dtype, (embedding_dim,)),)
    return Model("aesthetic", "onnxruntime", inputs, _both(metric_tensor("aesthetic")), parameters=_threads(1))


def keyword_tower(embedding_dim: int) -> Model:
    """Token ids -> the embedding that picks keywords, where that is not the text tower's; sam_clip calls it."""
    return replace(_tower("keywords", INPUT_IDS, embedding_dim, EMBEDDING), is_step=False)


def sam(side_px: int, grid: int, width: int) -> tuple[Model, ...]:
    """SAM's parts, which sam_clip calls: image -> EMBEDDING; points -> POINT_TOKENS; both -> IOU, MASKS above MIN_IOU.

    `grid` is the side of the image embedding; masks are 4 times as large. The decoder's first dimension counts points
    and the image is one, so it makes no batches.
    """
    pixels, embedding = (
        Tensor("PIXELS", "FP32", (3, side_px, side_px)),
        Tensor("EMBEDDING", "FP32", (width, grid, grid)),
    )
    points, tokens = Tensor("POINTS", "FP32", (-1, 2)), Tensor("POINT_TOKENS", "FP32", (-1, width))
    masks = (Tensor("MASKS", "FP32", (-1, 4 * grid, 4 * grid)), Tensor("IOU", "FP32", (-1, 3)))
    one, min_iou = Tensor("EMBEDDING", "FP32", (1, width, grid, grid)), Tensor("MIN_IOU", "FP32", (1,))
    return (
        _part("sam_encoder", (pixels,), (embedding,), max_batch_size=1),
        _part("sam_points", (points,), (tokens,), max_batch_size=0),
        # Two layers deep, it moves pixels more than it multiplies weights: 10 % faster rounded by the engine than as a
        # converted file, and no less exact.
        replace(_part("sam_decoder", (one, tokens, min_iou), masks, max_batch_size=0), rounded_by_engine=True),
    )


def qalign() -> Model:
    """Image -> both of Q-Align's scores."""
    outputs = (*_both(metric_tensor("qalign_quality")), *_both(metric_tensor("qalign_aesthetic")))
    return Model("qalign", "python", (RGB, SIZE), outputs, parameters=_threads(0))


def sam_clip(threads: int) -> Model:
    """Image and PROMPT -> relevance of segments to keywords; calls the towers, and SAM's parts, by itself.

    With SAM it has one thread, since that computes elsewhere, and the masks of an image at a time are enough to hold.
    """
    return Model("sam_clip", "python", (RGB, SIZE, PROMPT), _explained("sam_clip"), parameters=_threads(threads))


def niqe() -> Model:
    """Image -> no-reference quality by NIQE, which is numpy and has one thread."""
    return Model("iqa", "python", (RGB, SIZE), _explained("iqa"), source="iqa_niqe")


def pyiqa() -> Model:
    """Image -> no-reference quality by a metric of IQA-PyTorch."""
    return Model("iqa", "python", (RGB, SIZE), _explained("iqa"), parameters=_threads(0), source="iqa_pyiqa")


def unavailable(metrics: Sequence[str]) -> Model:
    """NaN for the metrics that a profile has no model for, and nothing said of them: the ensemble promises both."""
    outputs = tuple(
        each
        for name in metrics
        for each in (_explained(name) if name in METRIC_DETAILS else _both(metric_tensor(name)))
    )
    return Model("unavailable", "python", (SIZE,), outputs)


def combine() -> Model:
    """Raw values, NaN where missing -> SCORE."""
    values = tuple(for_combine(metric_tensor(name)) for name in METRIC_NAMES)
    return Model("combine", "onnxruntime", values, (SCORE,), parameters=_threads(1))


def details() -> Model:
    """Raw values and what their steps say -> DETAILS; takes any part of the metrics."""
    values = tuple(for_combine(tensor) for tensor in (*map(metric_tensor, METRIC_NAMES), *METRIC_DETAILS.values()))
    return Model(
        DETAILS_MODEL,
        "python",
        (for_combine(INPUT_DETAILS), *values),
        (DETAILS,),
        optional=frozenset(tensor.name for tensor in values),
    )


def remote(model: str, given: Tensor) -> dict[str, Any]:
    """How another model calls a tower: the settings of `imgeval.serving.RemoteModel`."""
    return {
        "model": model,
        "input_name": given.name,
        "output_name": EMBEDDING.name,
        "max_batch_size": TOWER_MAX_BATCH_SIZE,
    }


def _tower(name: str, given: Tensor, embedding_dim: int, meaning: Tensor) -> Model:
    return Model(
        name,
        "onnxruntime",
        (given,),
        (Tensor(EMBEDDING.name, EMBEDDING.dtype, (embedding_dim,)),),
        max_batch_size=TOWER_MAX_BATCH_SIZE,
        parameters=_threads(0),
        ensemble_names={EMBEDDING.name: meaning.name.lower()},
    )


def _part(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], max_batch_size: int) -> Model:
    return Model(
        name, "onnxruntime", inputs, outputs, max_batch_size=max_batch_size, parameters=_threads(0), is_step=False
    )


def _pixels(side_px: int) -> Tensor:
    return Tensor(PIXELS.name, PIXELS.dtype, (3, side_px, side_px))


def _threads(count: int) -> dict[str, str]:
    """Threads of the engine, as ours and the native backend take them, of torch, or of a step that computes by itself.

    0: as many as there are cores.
    """
    return {THREADS_PARAMETER: str(count)}


def _explained(metric: str) -> tuple[Tensor, ...]:
    return (*_both(metric_tensor(metric)), *_both(METRIC_DETAILS[metric]))


def _both(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor, for_combine(tensor)

"""Comparisons of the profiles `cpu` and `full` with open_clip, segment-anything, KeyBERT, pyiqa and LAION's head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imgeval.contract import EMBEDDING, INPUT_IDS, PIXELS
from imgeval.image import pixels
from imgeval.metrics.sam import MaskOptions, SamMask, encoder_input, generate_masks, point_grid
from imgeval.result import Result
from imgeval.text import TextTokenizer, pad_rows
from imgeval_export import clip, published
from imgeval_export.reference.clip import ReferenceAesthetic, ReferenceClip
from imgeval_export.reference.iqa import ReferenceIqa
from imgeval_export.reference.minilm import minilm_folder
from imgeval_export.reference.sam_clip import ReferenceSamClip, score
from imgeval_export.verify import Comparison, Sample, Served, compare, compare_keywords, compare_scores, samples

SAM_KINDS = {"cpu": "vit_b", "full": "vit_h"}
CLIP_SAMPLES = 10
DECODED_POINTS_PER_SIDE = 4  # of the grid whose raw masks are compared, per image


@dataclass(frozen=True)
class Tolerances:
    """Largest differences allowed, in raw units of each value."""

    embedding: float
    clip: float
    aesthetic: float
    sam_logits: float
    sam_iou: float
    sam_stability: float
    sam_area: float  # relative
    relevance: float
    sam_clip: float
    iqa: float = 1e-4
    score: float = 1e-6


TOLERANCES = {
    # sam_clip moves little from image to image, so a tolerance that says something is far below the contract's 1e-3.
    "fp32": Tolerances(1e-4, 1e-4, 1e-3, 1e-2, 1e-3, sam_stability=1e-4, sam_area=1e-3, relevance=1e-3, sam_clip=1e-5),
    # In less than float32 other masks pass the thresholds: what follows from them is drift, without a verdict.
    "bf16": Tolerances(np.inf, 5e-3, 5e-2, np.inf, np.inf, np.inf, np.inf, np.inf, sam_clip=np.inf),
    # Nothing is promised of 8 bits: all is drift, but for what is not computed in them.
    "int8": Tolerances(np.inf, np.inf, np.inf, np.inf, np.inf, np.inf, np.inf, np.inf, sam_clip=np.inf),
}


class PublishedComparisons:
    """Everything compared for one repository, or for several that differ in precision: upstream computes once.

    Args:
        profile: "cpu" or "full".
        files: the weight files by name.
        settings: of the profile, with overrides; upstream gets the same.
    """

    def __init__(self, profile: str, files: Mapping[str, Path], settings: Mapping[str, Mapping[str, Any]]) -> None:
        self._clip = ReferenceClip(files[published.CLIP_FILE])
        self._aesthetic = ReferenceAesthetic(files[published.AESTHETIC_FILE])
        segments = settings["sam_clip"]["segments"]
        self._size_px = segments["image_size_px"]
        sam_file, kind = files[published.SAM_FILES[profile]], SAM_KINDS[profile]
        self._sam = ReferenceSamClip(self._clip, sam_file, kind, minilm_folder(), segments)
        self._iqa = ReferenceIqa(settings["iqa"]["metric"], files[published.MUSIQ_FILE]) if "iqa" in settings else None
        self._masks: dict[str, list[dict[str, Any]]] = {}  # by name of the photo; minutes each
        self._relevance: dict[str, list[list[float]]] = {}

    def __call__(self, served: Served, photos: Sequence[Sample]) -> Iterator[Comparison]:
        """Parts first, then the metrics as the ensemble gives them."""
        allowed, is_exact = TOLERANCES[served.precision], served.precision == "fp32"
        results = [served.client.score(photo.image, photo.prompt) for photo in photos]
        yield from _compare_clip(served, self._clip, self._aesthetic, allowed)
        yield compare_keywords(results, [self._sam.keywords(photo.prompt) for photo in photos])
        if is_exact:  # in less than float32 other masks pass the thresholds, and there is nothing to pair
            yield from _compare_decoder(served, photos, self._sam, self._size_px, allowed)
            yield from _compare_masks(served, photos, [self._upstream_masks(photo) for photo in photos], allowed)
        relevance = [self._upstream_relevance(photo) for photo in photos]
        if is_exact:
            ours = [value for result in results for row in result.sam_clip["relevance"] for value in row]
            theirs = [value for rows in relevance for row in rows for value in row]
            yield compare("sam_clip: relevance", ours, theirs, allowed.relevance)
        else:
            ours = [len(result.sam_clip["segments"]) for result in results]
            yield compare("sam_clip: segments", ours, [len(rows[0]) if rows else 0 for rows in relevance], np.inf)
        yield compare("sam_clip", raw(results, "sam_clip"), [score(rows) for rows in relevance], allowed.sam_clip)
        if "qalign" in served.settings:  # 16 GB twice; tests/client/qalign compares it at a small size
            yield Comparison("qalign: NOT COMPARED at this size", np.nan, np.nan, np.nan, 1e-3)
        if self._iqa:
            upstream = [self._iqa.score(photo.image) for photo in photos]
            yield compare("iqa", raw(results, "iqa"), upstream, allowed.iqa)
        yield compare_scores(results, allowed.score)

    def _upstream_masks(self, photo: Sample) -> list[dict[str, Any]]:
        if photo.name not in self._masks:
            self._masks[photo.name] = self._sam.masks(photo.rgb)
        return self._masks[photo.name]

    def _upstream_relevance(self, photo: Sample) -> list[list[float]]:
        if photo.name not in self._relevance:
            masks = self._upstream_masks(photo)
            self._relevance[photo.name] = self._sam.relevance(photo.rgb, photo.prompt, masks)
        return self._relevance[photo.name]


def raw(results: Sequence[Result], metric: str) -> list[float]:
    """Raw values, NaN where a result has none."""
    return [result.metrics[metric].raw if metric in result.metrics else np.nan for result in results]


def _compare_clip(
    served: Served, reference: ReferenceClip, head: ReferenceAesthetic, allowed: Tolerances
) -> Iterator[Comparison]:
    """On more pictures than the rest, each with every prompt: cosines of one picture and its prompt vary too little."""
    photos = samples(CLIP_SAMPLES)
    expected = np.stack([reference.transform(photo.image).numpy() for photo in photos])
    taken = np.stack([pixels(photo.rgb, clip.CLIP_PIXELS) for photo in photos])
    yield compare("clip: pixels", taken, expected, 1 / 255)
    images = reference.embed_images([photo.image for photo in photos])
    ours = served.run("clip_image", {PIXELS.name: taken}, EMBEDDING.name)
    yield compare("clip: image embedding", ours, images, allowed.embedding)
    texts = reference.embed_texts([photo.prompt for photo in photos])
    tokenizer = TextTokenizer.load(served.repository / "preprocess" / "1", published.TEXT_TOKENIZER)
    ids = pad_rows([tokenizer(photo.prompt).ids for photo in photos], tokenizer.max_tokens)
    ours = served.run("clip_text", {INPUT_IDS.name: ids}, EMBEDDING.name)
    yield compare("clip: text embedding", ours, texts, allowed.embedding)
    wanted = ("aesthetic", "clip")
    results = [served.client.score(one.image, other.prompt, metrics=wanted) for one in photos for other in photos]
    yield compare("clip", raw(results, "clip"), (images @ texts.T).ravel(), allowed.clip)
    yield compare("aesthetic", raw(results, "aesthetic")[:: len(photos)], head.score(images), allowed.aesthetic)


def _compare_decoder(
    served: Served, photos: Sequence[Sample], upstream: ReferenceSamClip, size_px: int, allowed: Tolerances
) -> Iterator[Comparison]:
    """SAM's raw outputs, before any filter."""
    predictor = upstream.generator.predictor
    pairs: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {
        "image embedding": [],
        "mask logits": [],
        "predicted IoU": [],
    }
    for photo in photos:
        predictor.set_image(photo.rgb)
        height, width = photo.rgb.shape[:2]
        grid = point_grid(DECODED_POINTS_PER_SIDE) * (width, height)
        points = predictor.transform.apply_coords(grid, (height, width)).astype(np.float32)
        labels = torch.ones(len(points), 1, dtype=torch.int)
        with torch.inference_mode():
            _, iou, logits = predictor.predict_torch(torch.from_numpy(points)[:, None], labels, return_logits=True)
        embedding = served.run("sam_encoder", {"PIXELS": encoder_input(photo.rgb, size_px)}, "EMBEDDING")
        masks, ious = decode(served, embedding, points, -np.inf)
        pairs["image embedding"].append((embedding, predictor.features.numpy()))
        pairs["mask logits"].append((masks, logits.flatten(0, 1).numpy()))
        pairs["predicted IoU"].append((ious, iou.numpy()))
    tolerances = (allowed.sam_iou, allowed.sam_logits, allowed.sam_iou)
    for (name, values), tolerance in zip(pairs.items(), tolerances, strict=True):
        ours, theirs = (np.stack(side) for side in zip(*values, strict=True))
        yield compare(f"sam: {name}", ours, theirs, tolerance)


def decode(
    served: Served, embedding: NDArray[Any], points: NDArray[Any], min_iou: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Masks above a predicted IoU, and the predicted IoU of all, by the served models."""
    tokens = served.run("sam_points", {"POINTS": points}, "POINT_TOKENS")
    inputs = {"EMBEDDING": embedding, "POINT_TOKENS": tokens, "MIN_IOU": np.array([min_iou], np.float32)}
    answer = served.transport.infer("sam_decoder", inputs, ["MASKS", "IOU"], served.timeout_s)
    return answer["MASKS"], answer["IOU"]


def _compare_masks(
    served: Served, photos: Sequence[Sample], upstream: Sequence[Sequence[dict[str, Any]]], allowed: Tolerances
) -> Iterator[Comparison]:
    """Every mask that passes the filters, by the served models and this project's generator."""
    options = MaskOptions(**served.settings["sam_clip"]["segments"])
    ours = [
        generate_masks(
            photo.rgb,
            lambda image: served.run("sam_encoder", {"PIXELS": image}, "EMBEDDING"),
            lambda embedding, points, min_iou: decode(served, embedding, points, min_iou),
            options,
        )
        for photo in photos
    ]
    yield compare("sam: masks kept", [len(each) for each in ours], [len(each) for each in upstream], 0)
    mine: list[SamMask] = [mask for each in ours for mask in each]
    theirs = [mask for each in upstream for mask in each]
    yield compare("sam: boxes, px", [mask.bbox for mask in mine], [mask["bbox"] for mask in theirs], 1)
    areas = np.array([mask["area"] for mask in theirs], np.float64)
    relative = np.array([mask.segment.area for mask in mine]) / (areas if len(areas) == len(mine) else np.nan)
    yield Comparison(
        "sam: areas, relative",
        float(np.abs(relative - 1).max()),
        float(np.abs(relative - 1).mean()),
        float(areas.std() / areas.mean()),
        allowed.sam_area,
    )
    ious, expected = [mask.predicted_iou for mask in mine], [mask["predicted_iou"] for mask in theirs]
    yield compare("sam: predicted IoU of masks kept", ious, expected, allowed.sam_iou)
    stabilities, expected = [mask.stability for mask in mine], [mask["stability_score"] for mask in theirs]
    yield compare("sam: stability of masks kept", stabilities, expected, allowed.sam_stability)

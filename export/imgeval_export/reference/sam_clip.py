"""sam_clip the upstream way: SamAutomaticMaskGenerator, KeyBERT and CLIP, and the score in plain loops."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keybert import KeyBERT
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from sentence_transformers import SentenceTransformer

from imgeval_export.reference.clip import ReferenceClip

# Settings of a profile's segments that are upstream's as well. The others say how masks are computed, not which.
GENERATOR_OPTIONS = (
    "points_per_side",
    "pred_iou_thresh",
    "stability_score_thresh",
    "stability_score_offset",
    "box_nms_thresh",
)


class ReferenceSamClip:
    """Parts as published, with the settings that a profile has for its segments."""

    def __init__(
        self, clip: ReferenceClip, sam: Path, kind: str, minilm_folder: Path, segments: Mapping[str, Any]
    ) -> None:
        self.clip, self.min_area_fraction = clip, segments["min_area_fraction"]
        options = {name: segments[name] for name in GENERATOR_OPTIONS}
        self.generator = SamAutomaticMaskGenerator(sam_model_registry[kind](checkpoint=str(sam)).eval(), **options)
        self.keybert = KeyBERT(SentenceTransformer(str(minilm_folder), device="cpu"))

    def masks(self, rgb: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Every mask that the generator keeps, in its order."""
        return list(self.generator.generate(rgb))

    def keywords(self, prompt: str) -> list[tuple[str, float]]:
        """(word, score), best first."""
        found = self.keybert.extract_keywords(prompt, keyphrase_ngram_range=(1, 1), stop_words="english", top_n=5)
        return [(word, score) for word, score in found if score >= 0.1]

    def relevance(self, rgb: NDArray[np.uint8], prompt: str, masks: list[dict[str, Any]]) -> list[list[float]]:
        """For each keyword the probability of each mask that is large enough; empty where there is none."""
        masks = [mask for mask in masks if mask["area"] >= self.min_area_fraction * rgb.shape[0] * rgb.shape[1]]
        keywords = [word for word, _ in self.keywords(prompt)]
        if not masks or not keywords:
            return []
        crops = []
        for mask in masks:
            x, y, width, height = map(int, mask["bbox"])
            masked = np.where(mask["segmentation"][:, :, None], rgb, 0).astype(np.uint8)
            crops.append(Image.fromarray(masked[y : y + height, x : x + width]))
        images, texts = self.clip.embed_images(crops), self.clip.embed_texts(keywords)
        rows = []
        for text in texts:
            logits = [100.0 * float(image @ text) for image in images]
            exponentials = [math.exp(logit - max(logits)) for logit in logits]
            rows.append([value / sum(exponentials) for value in exponentials])
        return rows


def score(relevance: list[list[float]]) -> float:
    """0..1, or NaN where there is no segment or no keyword."""
    scores = []
    for row in relevance:
        value = 0.5
        for p in row:
            value += (p - 0.3) ** 2 / len(row) if p > 0.3 else -((0.3 - p) ** 2) / len(row)
        scores.append(min(1.0, max(0.0, value)))
    return sum(scores) / len(scores) if scores else math.nan

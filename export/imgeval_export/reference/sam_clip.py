"""sam_clip the upstream way: SamAutomaticMaskGenerator, KeyBERT and CLIP, and the score in plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from keybert import KeyBERT
from numpy.typing import NDArray
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, sam_model_registry
from sentence_transformers import SentenceTransformer

from imgeval_export.reference.clip import ReferenceClip


class ReferenceSamClip:
    """Parts as published; `options` are SamAutomaticMaskGenerator's."""

    def __init__(self, clip: ReferenceClip, sam: Path, kind: str, minilm_folder: Path, **options: Any) -> None:
        self.clip = clip
        self.generator = SamAutomaticMaskGenerator(sam_model_registry[kind](checkpoint=str(sam)).eval(), **options)
        self.keybert = KeyBERT(SentenceTransformer(str(minilm_folder), device="cpu"))

    def masks(self, rgb: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Masks of at least 5 % of the image, as the generator orders them."""
        least = 0.05 * rgb.shape[0] * rgb.shape[1]
        return [mask for mask in self.generator.generate(rgb) if mask["area"] >= least]

    def keywords(self, prompt: str) -> list[str]:
        found = self.keybert.extract_keywords(prompt, keyphrase_ngram_range=(1, 1), stop_words="english", top_n=5)
        return [word for word, score in found if score >= 0.1]

    def score(self, rgb: NDArray[np.uint8], prompt: str) -> float:
        """0..1, or NaN where there is no segment or no keyword."""
        masks, keywords = self.masks(rgb), self.keywords(prompt)
        if not masks or not keywords:
            return math.nan
        crops = []
        for mask in masks:
            x, y, width, height = map(int, mask["bbox"])
            masked = np.where(mask["segmentation"][:, :, None], rgb, 0).astype(np.uint8)
            crops.append(Image.fromarray(masked[y : y + height, x : x + width]))
        images, texts = self.clip.embed_images(crops), self.clip.embed_texts(keywords)
        scores = []
        for text in texts:
            logits = [100.0 * float(image @ text) for image in images]
            exponentials = [math.exp(logit - max(logits)) for logit in logits]
            score = 0.5
            for value in exponentials:
                p = value / sum(exponentials)
                score += (p - 0.3) ** 2 / len(logits) if p > 0.3 else -((0.3 - p) ** 2) / len(logits)
            scores.append(min(1.0, max(0.0, score)))
        return sum(scores) / len(scores)

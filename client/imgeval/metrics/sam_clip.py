"""The metric sam_clip: how relevant the image's segments are to the prompt's keywords.

    prompt -> keywords -----------> text tower --+
    image  -> segments -> crops --> image tower -+-> relevance -> value

Where segments come from (SAM, or a classical method in the starter profile) and which towers embed is the caller's
choice; the arithmetic is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgeval.image import PixelSpec, pixels
from imgeval.metrics.keywords import Keyword, candidate_words, select_keywords
from imgeval.metrics.relevance import relevance, sam_clip
from imgeval.metrics.rle import encode_mask
from imgeval.metrics.segments import Segment, crop
from imgeval.text import TextTokenizer, pad_rows, padded_length

Embed = Callable[[NDArray[Any]], NDArray[np.float32]]  # (N, ...) -> (N, D)


@dataclass(frozen=True)
class SamClipResult:
    """Value in [0, 1], or NaN with a reason in `details`; `details` is JSON-ready."""

    value: float
    details: dict[str, Any]


@dataclass(frozen=True)
class SamClip:
    """The metric with its parts: how to cut segments, find keywords and embed both."""

    segment: Callable[[NDArray[np.uint8]], Sequence[Segment]]
    stop_words: frozenset[str]
    keyword_tokenizer: TextTokenizer
    embed_keywords: Embed  # ids (N, L) -> (N, D): the model that picks the prompt's keywords
    text_tokenizer: TextTokenizer
    embed_texts: Embed  # ids (N, L) -> (N, D): the text tower
    pixel_spec: PixelSpec
    embed_images: Embed  # pixels (N, 3, S, S) -> (N, D): the image tower

    def __call__(self, items: Sequence[tuple[NDArray[np.uint8], str]]) -> list[SamClipResult]:
        """Score (rgb (H, W, 3), prompt) pairs; the crops of all of them share the image tower's batches."""
        keywords = self._keywords([prompt for _, prompt in items])
        # An item that is without keywords needs no segments: it has no value.
        segments = [list(self.segment(rgb)) if words else [] for (rgb, _), words in zip(items, keywords, strict=True)]
        crops = [crop(rgb, each) for (rgb, _), found in zip(items, segments, strict=True) for each in found]
        words = [keyword.word for found, cuts in zip(keywords, segments, strict=True) if cuts for keyword in found]
        if not crops:
            return [_result(found, [], None) for found in keywords]
        crop_vectors = self.embed_images(np.stack([pixels(each, self.pixel_spec) for each in crops]))
        word_vectors = _embed(self.embed_texts, self.text_tokenizer, words)
        results, crop_at, word_at = [], 0, 0
        for found, cuts in zip(keywords, segments, strict=True):
            if not cuts:
                results.append(_result(found, cuts, None))
                continue
            probabilities = relevance(
                crop_vectors[crop_at : crop_at + len(cuts)], word_vectors[word_at : word_at + len(found)]
            )
            crop_at, word_at = crop_at + len(cuts), word_at + len(found)
            results.append(_result(found, cuts, probabilities))
        return results

    def _keywords(self, prompts: Sequence[str]) -> list[tuple[Keyword, ...]]:
        words = [candidate_words(prompt, self.stop_words) for prompt in prompts]
        texts = [text for prompt, found in zip(prompts, words, strict=True) if found for text in (prompt, *found)]
        if not texts:
            return [() for _ in prompts]
        vectors = _embed(self.embed_keywords, self.keyword_tokenizer, texts)
        keywords: list[tuple[Keyword, ...]] = []
        start = 0
        for found in words:
            if not found:
                keywords.append(())
                continue
            end = start + 1 + len(found)
            keywords.append(select_keywords(found, vectors[start], vectors[start + 1 : end]))
            start = end
        return keywords


def _embed(embed: Embed, tokenizer: TextTokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    """(N, D), one row per text. Texts of like length go together: one long one must not lengthen a thousand words."""
    rows = [tokenizer(text).ids for text in texts]
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(padded_length(len(row), tokenizer.max_tokens), []).append(index)
    vectors: dict[int, NDArray[np.float32]] = {}
    for members in groups.values():
        embedded = embed(pad_rows([rows[index] for index in members], tokenizer.max_tokens))
        vectors.update(zip(members, embedded, strict=True))
    return np.stack([vectors[index] for index in range(len(rows))])


def _describe(segment: Segment) -> dict[str, Any]:
    """Box as x, y, width, height; area in pixels; the mask inside its box as run lengths."""
    quality = {} if segment.predicted_iou is None else {"predicted_iou": segment.predicted_iou}
    return {"box": list(segment.box), "area": segment.area, **quality, "mask": encode_mask(segment.mask)}


def _result(
    keywords: Sequence[Keyword], segments: Sequence[Segment], probabilities: NDArray[np.float32] | None
) -> SamClipResult:
    details: dict[str, Any] = {
        "keywords": [{"word": keyword.word, "score": keyword.score} for keyword in keywords],
        "segments": [_describe(segment) for segment in segments],
        "relevance": [] if probabilities is None else probabilities.tolist(),  # (keywords, segments)
    }
    if not keywords:
        return SamClipResult(math.nan, {**details, "reason": "the prompt has no keyword"})
    if probabilities is None:
        return SamClipResult(math.nan, {**details, "reason": "the image has no segment that is large enough"})
    return SamClipResult(sam_clip(probabilities), details)

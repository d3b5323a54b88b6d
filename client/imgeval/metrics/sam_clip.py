"""The metric sam_clip: how relevant the image's segments are to the prompt's keywords.

    prompt -> keywords -----------> text tower --+
    image  -> segments -> crops --> image tower -+-> relevance -> value

Where segments come from (SAM, or a classical method in the starter profile) and which towers embed is the caller's
choice; the arithmetic is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgeval.cache import OFF, ByteCache
from imgeval.image import PixelSpec, pixels
from imgeval.metrics.keywords import Keyword, candidate_words, select_keywords
from imgeval.metrics.relevance import relevance, sam_clip
from imgeval.metrics.rle import Rle, encode_mask
from imgeval.metrics.segments import Segment, crop
from imgeval.text import TextTokenizer, pad_rows, padded_length

Embed = Callable[[NDArray[Any]], NDArray[np.float32]]  # (N, ...) -> (N, D)


@dataclass(frozen=True)
class SamClipResult:
    """Value in [0, 1], or NaN with a reason in `details`; `details` is JSON-ready."""

    value: float
    details: dict[str, Any]


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays has no single truth value
class DescribedSegment:
    """A segment as DETAILS has it: box as x, y, width, height; area in pixels; the mask in its box as run lengths."""

    box: tuple[int, int, int, int]
    area: int
    predicted_iou: float | None
    runs: NDArray[np.int32]  # of the mask; an image has far less than 2**31 pixels

    @classmethod
    def of(cls, segment: Segment) -> DescribedSegment:
        runs = np.array(encode_mask(segment.mask)["counts"], np.int32)
        return cls(segment.box, segment.area, segment.predicted_iou, runs)

    def to_dict(self) -> dict[str, Any]:
        quality = {} if self.predicted_iou is None else {"predicted_iou": self.predicted_iou}
        mask = Rle(size=[self.box[3], self.box[2]], counts=self.runs.tolist())
        return {"box": list(self.box), "area": self.area, **quality, "mask": mask}


@dataclass(frozen=True, eq=False)
class EmbeddedSegments:
    """All that the metric needs of an image: what DETAILS says of each segment, and the vectors of their crops."""

    described: tuple[DescribedSegment, ...]
    vectors: NDArray[np.float32]  # (S, D)


NO_SEGMENTS = EmbeddedSegments((), np.zeros((0, 0), np.float32))


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
    cache: ByteCache = OFF  # of images: their segments do not depend on the prompt
    map: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map  # may use threads

    def __call__(self, items: Sequence[tuple[NDArray[np.uint8], str]]) -> list[SamClipResult]:
        """Score (rgb (H, W, 3), prompt) pairs; the crops of all of them share the image tower's batches."""
        keywords = self.keywords([prompt for _, prompt in items])
        # An item that is without keywords needs no segments: it has no value.
        images = [rgb for (rgb, _), words in zip(items, keywords, strict=True) if words]
        embedded = iter(self.cache.values(images, self.cache.key, self._segments))
        segments = [next(embedded) if words else NO_SEGMENTS for words in keywords]
        words = [each.word for found, cuts in zip(keywords, segments, strict=True) if cuts.described for each in found]
        word_vectors = iter(self.texts(words) if words else ())
        results = []
        for found, cuts in zip(keywords, segments, strict=True):
            if not cuts.described:
                results.append(_result(found, cuts, None))
                continue
            vectors = np.stack([next(word_vectors) for _ in found])  # (K, D)
            results.append(_result(found, cuts, relevance(cuts.vectors, vectors)))
        return results

    def _segments(self, images: Sequence[NDArray[np.uint8]]) -> list[EmbeddedSegments]:
        """The segments of each image, embedded."""
        segments = list(self.map(self.segment, images))
        cuts = [(rgb, each) for rgb, found in zip(images, segments, strict=True) for each in found]
        if not cuts:
            return [NO_SEGMENTS for _ in images]
        crops = self.map(lambda cut: pixels(crop(*cut), self.pixel_spec), cuts)
        vectors = self.embed_images(np.stack(list(crops)))
        ends = np.cumsum([len(found) for found in segments])
        return [
            EmbeddedSegments(tuple(map(DescribedSegment.of, found)), rows)
            for found, rows in zip(segments, np.split(vectors, ends[:-1]), strict=True)
        ]

    def texts(self, words: Sequence[str]) -> NDArray[np.float32]:
        """(N, D), the text tower's vector of each word; N >= 1."""
        return _embed(self.embed_texts, self.text_tokenizer, words)

    def keywords(self, prompts: Sequence[str]) -> list[tuple[Keyword, ...]]:
        """The keywords of each prompt, best first."""
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


def _result(
    keywords: Sequence[Keyword], segments: EmbeddedSegments, probabilities: NDArray[np.float32] | None
) -> SamClipResult:
    details: dict[str, Any] = {
        "keywords": [{"word": keyword.word, "score": keyword.score} for keyword in keywords],
        "segments": [segment.to_dict() for segment in segments.described],
        "relevance": [] if probabilities is None else probabilities.tolist(),  # (keywords, segments)
    }
    if not keywords:
        return SamClipResult(math.nan, {**details, "reason": "the prompt has no keyword"})
    if probabilities is None:
        return SamClipResult(math.nan, {**details, "reason": "the image has no segment that is large enough"})
    return SamClipResult(sam_clip(probabilities), details)

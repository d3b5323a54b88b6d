"""Why a pair has its score: the segments, their relevance to the keywords, and what each metric contributes.

Result.sam_clip (the server's words) + the decoded image -> Explanation -> a page or a picture (pages/explain.py)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgeval.errors import InvalidInputError
from imgeval.metrics.relevance import NEUTRAL_PROBABILITY, keyword_score
from imgeval.metrics.rle import decode_mask
from imgeval.metrics.segments import Segment, check_inside
from imgeval.result import Result
from imgeval.scores import contributions

PAGE_SUFFIXES = (".html", ".htm")
PICTURE_SUFFIXES = (".png",)


@dataclass(frozen=True)
class KeywordMatch:
    """One keyword of the prompt, and how the segments match it.

    `similarity` is the keyword's cosine to the whole prompt, by which it was picked; `relevance` has a probability for
    each segment, 0..1, and they sum to 1; `value`, 0..1, is the keyword's part of sam_clip, which is their mean.
    """

    word: str
    similarity: float
    relevance: tuple[float, ...]  # (S,)
    value: float | None  # None where there is no segment

    @property
    def segments(self) -> tuple[int, ...]:
        """Numbers, from 1, of the segments that match: those whose relevance speaks for the keyword, best first."""
        speaking = [index for index, p in enumerate(self.relevance) if p > NEUTRAL_PROBABILITY]
        return tuple(index + 1 for index in sorted(speaking, key=lambda index: -self.relevance[index]))


@dataclass(frozen=True, eq=False)  # eq=False: comparing arrays has no single truth value
class Explanation:
    """A result with what it was made of.

    `rgb` is the image (H, W, 3) as it was scored: upright and without transparency; the boxes of `segments` are in its
    pixels. `contributions` are what the metrics add to the score: their sum is the score before it is clamped.
    """

    result: Result
    rgb: NDArray[np.uint8] = field(repr=False)
    segments: tuple[Segment, ...] = field(repr=False)
    keywords: tuple[KeywordMatch, ...]
    contributions: Mapping[str, float]

    @classmethod
    def of(cls, result: Result, rgb: NDArray[np.uint8]) -> Explanation:
        """The explanation of a result, and of the image that it is of as `image.decode` gives it.

        Raises KeyError, TypeError or ValueError where `result.sam_clip` is not what a server says, or of another image.
        """
        said = result.sam_clip
        segments = tuple(_segment(each, rgb.shape[1], rgb.shape[0]) for each in said.get("segments", ()))
        rows = said.get("relevance") or [()] * len(said.get("keywords", ()))
        keywords = tuple(
            KeywordMatch(each["word"], each["score"], tuple(row), keyword_score(np.array(row)) if len(row) else None)
            for each, row in zip(said.get("keywords", ()), rows, strict=True)
        )
        if any(len(keyword.relevance) not in (0, len(segments)) for keyword in keywords):
            raise ValueError(f"the relevance of {len(segments)} segments has another number of columns")
        parts = {
            name: (metric.normalized, metric.weight)
            for name, metric in result.metrics.items()
            if metric.normalized is not None
        }
        return cls(result, rgb, segments, keywords, contributions(parts))

    @property
    def unmatched(self) -> tuple[str, ...]:
        """The keywords that no segment matches: relevance never above NEUTRAL_PROBABILITY."""
        return tuple(keyword.word for keyword in self.keywords if not keyword.segments)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `imgeval-client explain --json`, without the pixels and masks."""
        return {
            "result": self.result.to_dict(),
            "keywords": [
                {
                    "word": keyword.word,
                    "similarity": keyword.similarity,
                    "relevance": list(keyword.relevance),
                    "value": keyword.value,
                    "segments": list(keyword.segments),
                }
                for keyword in self.keywords
            ],
            "unmatched": list(self.unmatched),
            "segments": [
                {
                    "number": number,
                    "box": list(segment.box),
                    "area": segment.area,
                    "predicted_iou": segment.predicted_iou,
                }
                for number, segment in enumerate(self.segments, 1)
            ],
            "contributions": dict(self.contributions),
        }

    def write(self, path: str | Path) -> None:
        """Write a page (.html) or a picture (.png).

        Raises:
            InvalidInputError: another kind of file.
            OSError: it cannot be written.
        """
        target = check_output(path)
        from imgeval.pages import explain

        if target.suffix.lower() in PAGE_SUFFIXES:
            explain.write_page(self, target)
        else:
            explain.write_picture(self, target)


def _segment(said: Mapping[str, Any], width: int, height: int) -> Segment:
    """A segment as DETAILS has it. Its box is checked first: a mask costs as much memory as its box is large."""
    x, y, box_width, box_height = map(int, said["box"])
    check_inside((x, y, box_width, box_height), width, height)
    if list(said["mask"]["size"]) != [box_height, box_width]:
        raise ValueError(f"a mask of {said['mask']['size']} has the box {said['box']}")
    return Segment(
        decode_mask(said["mask"]), (x, y, box_width, box_height), int(said["area"]), said.get("predicted_iou")
    )


def check_output(path: str | Path) -> Path:
    """Where an explanation can be written. Raises InvalidInputError for a kind of file that it cannot be."""
    target = Path(path)
    allowed = (*PAGE_SUFFIXES, *PICTURE_SUFFIXES)
    if target.suffix.lower() not in allowed:
        raise InvalidInputError("output", f"got {target.name}; allowed: a file name that ends in {', '.join(allowed)}")
    return target

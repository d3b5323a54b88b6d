"""A small image with segments and keywords, as a server would describe them, and what a hostile user would write."""

from __future__ import annotations

from typing import Any

import numpy as np

from imgeval import Explanation, Result
from imgeval.metrics.relevance import sam_clip
from imgeval.metrics.rle import encode_mask
from tests.fake_transport import DETAILS

WIDTH, HEIGHT = 60, 40
HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror='window.pwned=2'>\"'&{{7*7}}\u202etxt\u2028\x00"
RELEVANCE = [[0.9, 0.06, 0.04], [0.3, 0.3, 0.4], [0.2, 0.3, 0.5], [0.3, 0.3, 0.3]]  # the last has no match
WORDS = ["dog", "grass", "sky", "nothing"]


def rgb() -> np.ndarray:
    """(40, 60, 3), a gradient."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([rows * 6, columns * 4, np.full_like(rows, 90)], axis=-1).astype(np.uint8)


def segment(x: int, y: int, width: int, height: int, hole: bool = False) -> dict[str, Any]:
    mask = np.ones((height, width), np.bool_)
    if hole:
        mask[height // 4 : -(height // 4), width // 4 : -(width // 4)] = False
    return {"box": [x, y, width, height], "area": int(mask.sum()), "mask": encode_mask(mask)}


def details(**other: Any) -> dict[str, Any]:
    """The DETAILS of the image: three segments, of which the last lies inside the first, and four keywords."""
    said = {
        "keywords": [{"word": word, "score": 0.5} for word in WORDS],
        "segments": [segment(0, 0, 30, 40, hole=True), segment(30, 0, 30, 40), segment(8, 12, 10, 10)],
        "relevance": RELEVANCE,
    }
    value = sam_clip(np.array(RELEVANCE))
    clip = {"raw": 0.4, "normalized": 0.4, "weight": 3.0, "model": "ConSE"}
    segments = {"raw": value, "normalized": value, "weight": 1.0, "model": "segments"}
    iqa = {"raw": 9.0, "normalized": None, "weight": 0.0, "model": "NIQE (lower is better)"}
    metrics = {"clip": clip, "sam_clip": segments, "iqa": iqa}
    missing = dict.fromkeys(("aesthetic", "qalign_quality", "qalign_aesthetic"), "not installed")
    score = (3 * 0.4 + value) / 4
    return {**DETAILS, "score": score, "metrics": metrics, "missing": missing, "sam_clip": said, **other}


def explanation(image: str = "dog.jpg", prompt: str = "a dog on grass", **other: Any) -> Explanation:
    return Explanation.of(Result.from_details(details(**other), image, prompt, {}), rgb())

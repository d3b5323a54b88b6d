"""The keywords of a prompt: KeyBERT's single-word extraction, without torch or scikit-learn.

KeyBERT (Grootendorst 2020, https://github.com/MaartenGr/KeyBERT, `KeyBERT.extract_keywords`) embeds the document and
every distinct word of it, and keeps the words whose embedding has the largest cosine with the document's. Here the
caller brings the embeddings, so any runtime can make them: `candidate_words` says what to embed, `select_keywords`
picks. The tests compare both with scikit-learn and KeyBERT.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidInputError
from .relevance import cosines

WORD = re.compile(r"\b\w\w+\b")  # scikit-learn's CountVectorizer.token_pattern: two word characters or more
SCORE_DIGITS = 4  # KeyBERT rounds its scores to this many decimals


@dataclass(frozen=True)
class KeywordOptions:
    """What `select_keywords` keeps: of the `top_n` (1 or more) best words, those that score at least `min_score`.

    Raises InvalidInputError for a `top_n` below 1 or a `min_score` outside -1..1.
    """

    top_n: int = 5
    min_score: float = 0.1

    def __post_init__(self) -> None:
        if self.top_n < 1:
            raise InvalidInputError("top_n", f"got {self.top_n}, allowed is 1 or more")
        if not -1.0 <= self.min_score <= 1.0:
            raise InvalidInputError("min_score", f"got {self.min_score}, allowed is -1 to 1")


@dataclass(frozen=True)
class Keyword:
    """A word of the prompt, lowercase, and its cosine (-1..1, four decimals) with the whole prompt."""

    word: str
    score: float


def candidate_words(prompt: str, stop_words: frozenset[str]) -> tuple[str, ...]:
    """The distinct words of `prompt`, lowercase, in code point order, without one-character words and `stop_words`.

    Equal to the vocabulary that `CountVectorizer(stop_words=...)` of scikit-learn makes of this one document, which is
    what KeyBERT embeds; empty where scikit-learn raises "empty vocabulary".
    """
    return tuple(sorted(set(WORD.findall(prompt.lower())) - stop_words))


def select_keywords(
    words: Sequence[str],
    prompt_embedding: NDArray[np.floating[Any]],
    word_embeddings: NDArray[np.floating[Any]],
    *,
    top_n: int = KeywordOptions.top_n,
    min_score: float = KeywordOptions.min_score,
) -> tuple[Keyword, ...]:
    """The `top_n` words nearest to the prompt, best first, without those that score below `min_score`.

    Equal to `KeyBERT(model).extract_keywords(prompt, top_n=top_n)` followed by the threshold, given the embeddings of
    the same model in the same precision.

    Args:
        words: (N,) from `candidate_words`, in its order, on which ties depend.
        prompt_embedding: (D,), of any length but zero.
        word_embeddings: (N, D), one row per word.

    Raises:
        InvalidInputError: `top_n` or `min_score` is out of range.
        ValueError: the shapes do not fit each other.
    """
    options = KeywordOptions(top_n, min_score)
    if prompt_embedding.ndim != 1 or word_embeddings.shape != (len(words), len(prompt_embedding)):
        raise ValueError(
            f"{len(words)} words, prompt_embedding {prompt_embedding.shape}, word_embeddings {word_embeddings.shape}: "
            "expected N words, (D,) and (N, D)"
        )
    scores = cosines(prompt_embedding[np.newaxis], word_embeddings)[0]  # (N,)
    # KeyBERT's own expression, argsort without `kind` included: only so does it break ties the way KeyBERT does.
    best = scores.argsort()[-options.top_n :][::-1]
    keywords = (Keyword(words[i], round(float(scores[i]), SCORE_DIGITS)) for i in best)
    return tuple(keyword for keyword in keywords if keyword.score >= options.min_score)

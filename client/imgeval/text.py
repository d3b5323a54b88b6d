"""Prompt bytes -> checked text -> token ids."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgeval.contract import MAX_PROMPT_BYTES
from imgeval.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LENGTH_STEP = 16  # rows are padded to a multiple of this, so that prompts of like length share a batch


def decode_prompt(data: bytes) -> str:
    """The prompt as text.

    Raises:
        InvalidInputError: not UTF-8, blank, or longer than `MAX_PROMPT_BYTES`.
    """
    if len(data) > MAX_PROMPT_BYTES:
        raise InvalidInputError("PROMPT", f"got {len(data)} bytes; allowed: at most {MAX_PROMPT_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInputError("PROMPT", f"got bytes that are not UTF-8 at offset {error.start}") from error
    if not text.strip():
        raise InvalidInputError("PROMPT", "got blank text; allowed: at least one visible character")
    return text


@dataclass(frozen=True)
class Tokens:
    """The token ids of one text, start and end tokens included, and how many of its tokens did not fit."""

    ids: NDArray[np.int64]  # (L,)
    dropped: int


def clip_cleaner() -> Callable[[str], str]:
    """What CLIP was trained on text after: broken Unicode mended, HTML unescaped, single spaces, lower case.

    open_clip's `_clean_lower`. Raises:
        ImportError: ftfy is not installed.
    """
    from ftfy import fix_text  # here: only a server of CLIP needs it

    def clean(text: str) -> str:
        return " ".join(html.unescape(html.unescape(fix_text(text))).split()).lower()

    return clean


CLEANERS: dict[str, Callable[[], Callable[[str], str]]] = {"none": lambda: str, "clip": clip_cleaner}


class TextTokenizer:
    """Token ids for a text tower that takes at most `max_tokens`, start and end tokens included.

    `clean`, a name in `CLEANERS`, is what the tower's tokenizer does to a text that `tokenizer.json` cannot say.
    """

    def __init__(self, path: Path, max_tokens: int, clean: str = "none") -> None:
        # Imported here: the client needs `decode_prompt` and not the tokenizer library.
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._clean = CLEANERS[clean]()
        self.max_tokens = max_tokens

    @classmethod
    def load(cls, folder: Path, settings: Mapping[str, Any]) -> TextTokenizer:
        """The tokenizer that a model's settings describe: its file in `folder`, and the arguments of the class."""
        return cls(folder / settings["file"], settings["max_tokens"], settings["clean"])

    def __call__(self, text: str) -> Tokens:
        """Tokenise one text; one that is too long keeps its beginning and its end token."""
        ids = self._tokenizer.encode(self._clean(text)).ids
        dropped = max(0, len(ids) - self.max_tokens)
        if dropped:
            ids = [*ids[: self.max_tokens - 1], ids[-1]]
        return Tokens(np.array(ids, dtype=np.int64), dropped)


def padded_length(length: int, max_tokens: int) -> int:
    """The length of a row of `length` ids after padding."""
    return min(max_tokens, -(-length // LENGTH_STEP) * LENGTH_STEP)


def pad_rows(rows: Sequence[NDArray[np.int64]], max_tokens: int) -> NDArray[np.int64]:
    """Rows of ids, zero-padded to one length: a multiple of `LENGTH_STEP`, or `max_tokens` if that is less.

    Returns:
        (len(rows), L) int64.
    """
    padded = np.zeros((len(rows), padded_length(max(map(len, rows)), max_tokens)), dtype=np.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded

"""CLIP's byte-pair encoding as a `tokenizer.json`, the file format of Hugging Face's `tokenizers`.

The vocabulary is open_clip's `bpe_simple_vocab_16e6.txt.gz`: a header line, then one merge per line, most frequent
first, of which CLIP uses the first 48,894. A token's id is its place in this list (SimpleTokenizer in
`open_clip/tokenizer.py`):

    256 bytes | the same bytes at the end of a word, marked "</w>" | what each merge gives | start | end of text

The tokenizer takes cleaned text: `TextTokenizer(path, 77, clean="clip")` cleans as open_clip does, since this format
has no words for ftfy. The ids are open_clip's, with two exceptions: where a text spells out `<start_of_text>` or
`<end_of_text>` directly behind punctuation, open_clip reads the "<" as punctuation and this one reads the token; and
the Unicode tables of `tokenizers` may lack the newest letters that those of `regex` have (none of Unicode 14 or
before).
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

from imgeval.errors import BuildError

BPE_FILE = "bpe_simple_vocab_16e6.txt.gz"  # inside the package open_clip
MERGES = 49152 - 256 - 2
END_OF_WORD = "</w>"
START, END = "<start_of_text>", "<end_of_text>"

# Contractions, runs of letters, single digits, runs of anything else that is not a space. U+0345, a Greek iota below a
# letter, falls through: no letter, but open_clip's pattern ignores case and its upper case is one.
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+"


def bundled_bpe_file() -> Path:
    """The vocabulary inside the installed package open_clip, which is not imported.

    Raises:
        BuildError: there is none.
    """
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / BPE_FILE).is_file():
            return Path(folder) / BPE_FILE
    raise BuildError(f"{BPE_FILE}: the package that carries it is not installed; pip install --no-deps open_clip_torch")


def clip_tokenizer_json(bpe_file: Path) -> str:
    """The content of `tokenizer.json`; the same vocabulary gives the same text.

    Raises:
        BuildError: `bpe_file` is not CLIP's vocabulary.
    """
    merges = _merges(bpe_file)
    characters = byte_characters()
    tokens = [*characters, *(character + END_OF_WORD for character in characters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [START, END]
    ids = {token: index for index, token in enumerate(tokens)}
    start, end = ({"id": token, "type_id": 0} for token in (START, END))
    template = [{"SpecialToken": start}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": end}]
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(token, ids[token]) for token in (START, END)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": template,
            "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (START, END)},
        },
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": END_OF_WORD,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": ids,
            "merges": merges,  # as "a b": older versions of tokenizers do not read pairs
        },
    }
    return json.dumps(content, ensure_ascii=False)


def _merges(bpe_file: Path) -> list[str]:
    """The merges that CLIP uses, as "left right"."""
    try:
        lines = gzip.decompress(bpe_file.read_bytes()).decode("utf-8").split("\n")
    except OSError as error:  # gzip.BadGzipFile is one
        raise BuildError(f"{bpe_file}: {error.strerror or error}") from error
    except (EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BuildError(f"{bpe_file}: not the gzip file of CLIP's vocabulary ({error})") from error
    merges = lines[1 : 1 + MERGES]
    if len(merges) < MERGES or any(len(merge.split(" ")) != 2 for merge in merges):
        raise BuildError(f"{bpe_file}: got {len(merges)} merges or lines that are none; CLIP has {MERGES} and more")
    return merges


def byte_characters() -> list[str]:
    """The printable character that stands for each byte, in the order of CLIP's ids.

    GPT-2's table: printable bytes stand for themselves and come first, the others get the characters from 256 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(256 - len(printable))]


def _added_token(token: str, index: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": token, **flags}

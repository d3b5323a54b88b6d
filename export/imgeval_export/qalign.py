"""Token ids of Q-Align's prompts, from the tokenizer in a `one-align` folder; serving then needs no tokenizer.

Upstream's `tokenizer_image_token` splits the prompt at the image placeholder, tokenises both parts on their own, each
with BOS, and drops the second BOS. So the part after the image starts like a text of its own (with LLaMA's vocabulary
the id of a lone space and then that of the newline), and there is one BOS. Recent versions of transformers put no BOS
before a LLaMA text, and pyiqa's port then scores without it; one-align was trained with it, so here it is always there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgeval.errors import BuildError
from imgeval.metrics.qalign.prompts import BOS_ID, IMAGE_PLACEHOLDER, LEVELS, TASKS, TEMPLATE, PromptIds, TaskPrompt

BOS = "<s>"
Encode = Callable[[str], list[int]]  # a text to ids, without BOS


def prompt_ids(tokenizer_folder: Path) -> dict[str, Any]:
    """What the prompts' JSON file holds: `PromptIds.to_dict()` for this tokenizer.

    Args:
        tokenizer_folder: holds `tokenizer.model` (sentencepiece, as published) or `tokenizer.json`.

    Raises:
        BuildError: there is no tokenizer, or it is not LLaMA's: BOS is not id 1, a prompt has unknown tokens, or a
            level word is not one token.
    """
    encode = _encoder(tokenizer_folder)
    quality, aesthetics = (_task_prompt(encode, task) for task in TASKS)
    words = {word: encode(word) for word in LEVELS}
    if split := {word: ids for word, ids in words.items() if len(ids) != 1}:
        raise BuildError(f"{tokenizer_folder}: level words that are not one token each: {split}")
    return PromptIds(quality, aesthetics, tuple(ids[0] for ids in words.values())).to_dict()


def _task_prompt(encode: Encode, task: str) -> TaskPrompt:
    before, after = TEMPLATE.format(task=task).split(IMAGE_PLACEHOLDER)
    return TaskPrompt((BOS_ID, *encode(before)), tuple(encode(after)))


def _encoder(folder: Path) -> Encode:
    for name, open_tokenizer in (("tokenizer.model", _sentencepiece), ("tokenizer.json", _tokenizers)):
        file = folder / name
        if not file.is_file():
            continue
        try:
            encode, bos_id, unknown_id = open_tokenizer(file)
        except Exception as error:  # both libraries raise their own kinds, one of them a bare Exception
            raise BuildError(f"{file}: not read, {type(error).__name__}: {error}") from error
        if bos_id != BOS_ID:
            raise BuildError(f"{file}: BOS has id {bos_id}, not LLaMA's {BOS_ID}")
        return lambda text: _known(file, text, encode(text), unknown_id)
    raise BuildError(f"{folder}: neither tokenizer.model nor tokenizer.json")


def _known(file: Path, text: str, ids: list[int], unknown_id: int | None) -> list[int]:
    if unknown_id in ids:
        raise BuildError(f"{file}: {text!r} has tokens that this tokenizer does not know")
    return ids


def _sentencepiece(file: Path) -> tuple[Encode, int | None, int | None]:
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(file))
    return lambda text: list(model.encode(text)), model.bos_id(), model.unk_id()


def _tokenizers(file: Path) -> tuple[Encode, int | None, int | None]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return (
        lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids),
        tokenizer.token_to_id(BOS),
        tokenizer.token_to_id("<unk>"),
    )

"""Token ids of the prompts: split at the image as upstream does it, one BOS, and a JSON file that is checked.

No package in the test environment carries LLaMA's vocabulary, so the ids of the published tokenizer are not tested; the
split, BOS and both tokenizer formats are, on a small sentencepiece model trained here with LLaMA's options.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _qalign_upstream import IMAGE_TOKEN, hugging_face_tokenizer, tokenizer_image_token

from imgeval.errors import BuildError
from imgeval.metrics.qalign.prompts import BOS_ID, IMAGE_PLACEHOLDER, LEVELS, TASKS, TEMPLATE, PromptIds, TaskPrompt
from imgeval_export.qalign import prompt_ids

spm = pytest.importorskip("sentencepiece")

PROMPTS = [TEMPLATE.format(task=task) for task in TASKS]
CORPUS = [
    *LEVELS * 20,
    *PROMPTS * 20,
    "a photo of a cat",
    "0123456789",
    "the image is excellent, good, fair, poor, bad",
]


def sentences() -> Iterator[str]:
    for text in CORPUS:
        yield from text.split("\n")


def train(file: Path, **options: Any) -> None:
    """A BPE model with LLaMA's options: byte fallback, no normalisation, a space put before a text."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        **{
            "sentence_iterator": sentences(),
            "model_writer": model,
            "model_type": "bpe",
            "vocab_size": 420,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "hard_vocab_limit": False,
            "minloglevel": 2,
            **options,
        }
    )
    file.write_bytes(model.getvalue())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train(path / "tokenizer.model")
    return path


def test_the_template() -> None:
    """Word for word as in `score` of upstream's modeling_mplug_owl2.py."""
    assert PROMPTS[1] == (
        "USER: How would you rate the aesthetics of this image?\n<|image|>\nASSISTANT: The aesthetics of the image is"
    )


def test_ids_are_those_of_upstreams_split(folder: Path) -> None:
    model = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    prompts = PromptIds.from_dict(prompt_ids(folder))
    for text, task in zip(PROMPTS, prompts.tasks, strict=True):
        expected = tokenizer_image_token(text, hugging_face_tokenizer(model.encode, BOS_ID))
        assert [*task.before, IMAGE_TOKEN, *task.after] == expected
    assert prompts.levels == tuple(model.piece_to_id(f"\u2581{word}") for word in LEVELS)


def test_bos_is_there_once_and_the_rest_reads_as_the_prompt(folder: Path) -> None:
    model = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    prompts = PromptIds.from_dict(prompt_ids(folder))
    for text, task in zip(PROMPTS, prompts.tasks, strict=True):
        before, after = text.split(IMAGE_PLACEHOLDER)
        assert task.before[0] == BOS_ID
        assert [*task.before, *task.after].count(BOS_ID) == 1
        assert model.decode(list(task.before[1:])) == before
        assert model.decode(list(task.after)) == after
        # a text of its own: a lone space, then the newline as a byte
        assert [model.id_to_piece(token) for token in task.after[:2]] == ["\u2581", "<0x0A>"]


def test_a_tokenizer_json_gives_the_same(folder: Path, tmp_path: Path) -> None:
    """The form into which transformers turns a LLaMA tokenizer.model."""
    tokenizers = pytest.importorskip("tokenizers")
    model = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = {model.id_to_piece(token): token for token in range(model.get_piece_size())}
    # a pair may merge where its union is a piece; the earliest piece first
    merges = sorted(
        (
            (token, (piece[:cut], piece[cut:]))
            for piece, token in pieces.items()
            if not (model.is_byte(token) or model.is_control(token) or model.is_unknown(token))
            for cut in range(1, len(piece))
            if piece[:cut] in pieces and piece[cut:] in pieces
        ),
        key=lambda merge: merge[0],
    )
    bpe = tokenizers.models.BPE(
        vocab=pieces, merges=[pair for _, pair in merges], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS_ID)]
    )
    tokenizer.enable_truncation(4)  # neither this nor the BOS of the template may reach the ids
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert prompt_ids(tmp_path) == prompt_ids(folder)


def test_the_tokenizer_of_random_weights(tmp_path: Path) -> None:
    random_weights = pytest.importorskip("imgeval_export.random_weights_qalign")
    random_weights.stand_in_tokenizer().save(str(tmp_path / "tokenizer.json"))
    prompts = PromptIds.from_dict(prompt_ids(tmp_path))
    assert len(prompts.quality.before) + 1 == len(prompts.aesthetics.before)
    assert len(prompts.quality.after) + 1 == len(prompts.aesthetics.after)


def test_wrong_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"neither tokenizer\.model nor tokenizer\.json"):
        prompt_ids(tmp_path)
    file = tmp_path / "tokenizer.model"
    for content in (b"", b"not a model"):
        file.write_bytes(content)
        with pytest.raises(BuildError, match=r"tokenizer\.model"):
            prompt_ids(tmp_path)
    train(file, bos_id=2, eos_id=1)
    with pytest.raises(BuildError, match="BOS has id 2"):
        prompt_ids(tmp_path)
    train(file, sentence_iterator=iter(["a photo of a cat"]), vocab_size=280)
    with pytest.raises(BuildError, match="not one token"):
        prompt_ids(tmp_path)
    train(file, byte_fallback=False, vocab_size=150)
    with pytest.raises(BuildError, match="does not know"):
        prompt_ids(tmp_path)
    file.unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(BuildError, match=r"tokenizer\.json: not read"):
        prompt_ids(tmp_path)


def test_the_json_file(tmp_path: Path, folder: Path) -> None:
    content = prompt_ids(folder)
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(content))
    assert PromptIds.read(file).to_dict() == content
    for damage in (
        "{",
        "[]",
        "3",
        json.dumps({**content, "levels": [3, 4, 5, 6]}),
        json.dumps({**content, "levels": [3, 4, 5, 6, 6]}),
        json.dumps({**content, "quality": {"before": [2, 5], "after": [4]}}),
        json.dumps({**content, "quality": {"before": [1, 5], "after": []}}),
        json.dumps({**content, "quality": {"before": [1, -5], "after": [4]}}),
        json.dumps({**content, "quality": {"before": [1, 5.5], "after": [4]}}),
        json.dumps({key: value for key, value in content.items() if key != "aesthetics"}),
    ):
        file.write_text(damage)
        with pytest.raises(BuildError, match=r"prompts\.json"):
            PromptIds.read(file)


def test_prompts_for_another_model_are_refused() -> None:
    pytest.importorskip("torch")
    import _qalign_tiny as tiny

    for prompts in (
        PromptIds(tiny.PROMPTS.quality, tiny.PROMPTS.aesthetics, (1, 2, 3, 4, 120)),
        PromptIds(TaskPrompt((1, *[2] * 5000), (3,)), tiny.PROMPTS.aesthetics, (1, 2, 3, 4, 5)),
    ):
        with pytest.raises(BuildError, match="the model has"):
            tiny.model().encode(prompts)


def test_tokenising_needs_no_torch() -> None:
    code = "import sys, imgeval_export.qalign, imgeval.metrics.qalign.image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

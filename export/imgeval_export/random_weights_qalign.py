"""A `one-align` folder with random weights: published file format and tensor names, at any size.

For proving equality where the published weights cannot be had; its scores mean nothing. Plain random initialisation
(0.02 everywhere) would prove nothing either: attention averages the image away and every level gets the same
probability. So matrices keep the scale of their input (standard deviation gain / sqrt(inputs)) and the head spreads the
levels. MLPs add little to the residual stream, because with a gain of 1 a deep random network amplifies rounding until
bfloat16 gives other scores altogether. At 24 + 6 + 32 layers of width 128, scores of different images have a standard
deviation of 0.5 to 0.8, and bfloat16 changes them by 0.02 on average.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor

from imgeval.errors import BuildError
from imgeval.metrics.qalign.checkpoint import BIN, INDEX_SUFFIX, SAFETENSORS
from imgeval.metrics.qalign.config import CONFIG_FILE, QAlignConfig
from imgeval.metrics.qalign.model import QAlignModel
from imgeval.metrics.qalign.prompts import IMAGE_PLACEHOLDER, LEVELS, TASKS, TEMPLATE

GAINS = {  # ends of tensor names -> gain; 1 for the others
    "mlp.fc2.weight": 0.3,
    "mlp.down_proj.weight": 0.3,
    "lm_head.weight": 4.0,
}


def write_random_one_align(
    folder: Path,
    config: QAlignConfig | None = None,
    *,
    seed: int = 0,
    file_format: Literal["safetensors", "bin"] = "safetensors",
    dtype: torch.dtype = torch.float16,
    shard_bytes: int = 2**31,
) -> None:
    """Write config, weights and a stand-in tokenizer into `folder`; the full size, which is the default, takes 16.4 GB.

    A tensor depends on `seed` and its name alone, not on the format or on the cut into shards. One shard is in memory
    at a time.

    Raises:
        BuildError: the folder cannot be written.
    """
    config = config or QAlignConfig()
    shapes = state_shapes(config)
    shards = _cut(shapes, dtype.itemsize, shard_bytes)
    stem, suffix = (SAFETENSORS if file_format == "safetensors" else BIN).rsplit(".", 1)
    weight_map: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, names in enumerate(shards, start=1):
            file = f"{stem}-{number:05}-of-{len(shards):05}.{suffix}"
            tensors = {name: random_tensor(name, shapes[name], seed).to(dtype) for name in names}
            if file_format == "safetensors":
                save_file(tensors, folder / file, metadata={"format": "pt"})
            else:
                torch.save(tensors, folder / file)
            weight_map |= dict.fromkeys(names, file)
        total = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _write_json(folder / f"{stem}.{suffix}{INDEX_SUFFIX}", index)
        _write_json(folder / CONFIG_FILE, {**config.to_dict(), "torch_dtype": str(dtype).removeprefix("torch.")})
        stand_in_tokenizer().save(str(folder / "tokenizer.json"))
    except OSError as error:
        raise BuildError(f"{folder}: {error}") from error


def state_shapes(config: QAlignConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a model."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in QAlignModel(config).state_dict().items()}


def random_state(config: QAlignConfig, seed: int = 0) -> dict[str, Tensor]:
    """The tensors that `write_random_one_align` writes, in float32."""
    return {name: random_tensor(name, shape, seed) for name, shape in state_shapes(config).items()}


def random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """A random tensor in float32 of the size of values that its name calls for."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    values = torch.empty(shape).normal_(generator=generator)
    if name.endswith(".bias"):
        return values.mul_(0.1)
    if len(shape) == 1:  # the weight of a norm
        return values.mul_(0.1).add_(1)
    if name.endswith(".weight") and "embed_tokens" not in name:
        gain = next((gain for end, gain in GAINS.items() if name.endswith(end)), 1.0)
        return values.mul_(gain / math.sqrt(math.prod(shape[1:])))
    return values.mul_(0.5)  # embeddings and position tables


def stand_in_tokenizer() -> Tokenizer:
    """Knows the words of the prompts, BOS as id 1, and takes two tokens for the word that LLaMA would split."""
    text = " ".join(TEMPLATE.format(task=task) for task in TASKS).replace(IMAGE_PLACEHOLDER, " ")
    words = [*LEVELS, *(word for word, _ in Whitespace().pre_tokenize_str(text))]
    pieces = [piece for word in words for piece in (("aest", "##hetics") if word == "aesthetics" else (word,))]
    vocabulary = {piece: token for token, piece in enumerate(dict.fromkeys(["<unk>", "<s>", "</s>", *pieces]))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def _cut(shapes: dict[str, tuple[int, ...]], item_bytes: int, shard_bytes: int) -> list[list[str]]:
    """Names in order, in groups of at most `shard_bytes`; a larger tensor has a group of its own."""
    return list(_groups({name: math.prod(shape) * item_bytes for name, shape in shapes.items()}, shard_bytes))


def _groups(sizes: dict[str, int], limit: int) -> Iterator[list[str]]:
    group: list[str] = []
    used = 0
    for name, size in sizes.items():
        if group and used + size > limit:
            yield group
            group, used = [], 0
        group.append(name)
        used += size
    yield group


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

"""Loads a published `one-align` folder: `config.json` and a state dict in one or more files.

    model.safetensors[.index.json]     preferred
    pytorch_model.bin[.index.json]     torch.save in the zip format, read with weights_only=True

An index names the file of each tensor. Nothing in a folder is executed, and its Python files are not looked at. Names
and shapes of all tensors are compared with the model's before the first one is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from imgeval.errors import BuildError
from imgeval.metrics.qalign.config import QAlignConfig
from imgeval.metrics.qalign.model import QAlignModel
from imgeval.metrics.qalign.quantise import Quantisation, QuantisedLinear, quantise_layers

SAFETENSORS, BIN = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"

# Published by some versions of transformers, and computed here: the frequencies of the rotary embedding.
UNUSED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")

_FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}  # torch's and safetensors' names
_SHOWN = 4  # names listed in a message before "and N more"


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    quantisation: Quantisation | None = None,
) -> QAlignModel:
    """The model of a folder, with its weights in `dtype` on `device`, ready for inference.

    Tensors are read one at a time from a memory map, so the peak is one model and one tensor. On the CPU and in the
    file's own precision they stay in the map of a .bin file.

    Raises:
        BuildError: the folder is incomplete or damaged, or holds another model; the message names the tensors.
    """
    with torch.device("meta"):
        model = QAlignModel(QAlignConfig.from_folder(folder))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files = shards(folder)
    _check(folder, expected, files)
    if quantisation:
        quantise_layers(model, quantisation)
    for file in files:
        tensors = _open(file)
        for name in tensors.names:
            if name in expected:
                _assign(model, name, tensors.read(name), dtype, torch.device(device))
    return model.eval()


def shards(folder: Path) -> list[Path]:
    """The files that hold the state dict. Raises BuildError where there are none or the index is damaged."""
    for name in (SAFETENSORS, BIN):
        index = folder / f"{name}{INDEX_SUFFIX}"
        if index.exists():
            files = _indexed_files(index)
        elif (folder / name).exists():
            files = [name]
        else:
            continue
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise BuildError(f"{folder}: missing files: {_shorten(missing)}")
        return [folder / file for file in files]
    raise BuildError(f"{folder}: neither {SAFETENSORS} nor {BIN}, nor an index of one of them")


def _indexed_files(index: Path) -> list[str]:
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [file for file in files if Path(file).name != file]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(f"{index}: not an index of tensors: {type(error).__name__}: {error}") from error
    if outside or not files:
        raise BuildError(f"{index}: names no file, or files outside its folder: {_shorten(outside)}")
    return files


def _check(folder: Path, expected: Mapping[str, tuple[int, ...]], files: list[Path]) -> None:
    found: dict[str, tuple[int, ...]] = {}
    twice: list[str] = []
    wrong_type: list[str] = []
    for file in files:
        tensors = _open(file)
        for name in tensors.names:
            twice += [name] if name in found else []
            found[name], is_float = tensors.describe(name)
            wrong_type += [] if is_float or name not in expected else [name]
    problems = {
        "missing": [name for name in expected if name not in found],
        "unexpected": [name for name in found if name not in expected and not UNUSED.fullmatch(name)],
        "wrong shape": [
            f"{name} is {found[name]}, not {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ],
        "not float32, float16 or bfloat16": wrong_type,
        "in two files": twice,
    }
    told = [f"{problem}: {_shorten(names)}" for problem, names in problems.items() if names]
    if told:
        raise BuildError(f"{folder}: these are not the weights of its config.json; " + "; ".join(told))


def _assign(model: QAlignModel, name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    """Put one tensor of the state dict into the model, in place of what is on the meta device."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if isinstance(module, QuantisedLinear):
        module.store(tensor.to(device), dtype)
    else:
        setattr(module, leaf, nn.Parameter(tensor.to(device, dtype), requires_grad=False))


class _SafetensorsFile:
    def __init__(self, file: Path) -> None:
        self._file = cast(Any, safe_open(file, framework="pt"))
        self.names: list[str] = list(self._file.keys())

    def describe(self, name: str) -> tuple[tuple[int, ...], bool]:
        """Shape, and whether it holds floats that a model can have."""
        view = self._file.get_slice(name)
        return tuple(view.get_shape()), view.get_dtype() in _FLOATS.values()

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


class _BinFile:
    def __init__(self, file: Path) -> None:
        # Before 2.6 a crafted file could execute code in spite of weights_only=True (CVE-2025-32434).
        if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
            raise BuildError(f"torch {torch.__version__} cannot read this safely; use torch 2.6 or a .safetensors file")
        content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        if not (
            isinstance(content, dict)
            and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
        ):
            raise BuildError("not a flat dictionary of named tensors")
        self._content: dict[str, Tensor] = content
        self.names = list(content)

    def describe(self, name: str) -> tuple[tuple[int, ...], bool]:
        tensor = self._content[name]
        return tuple(tensor.shape), tensor.dtype in _FLOATS and tensor.layout == torch.strided

    def read(self, name: str) -> Tensor:
        return self._content[name]


def _open(file: Path) -> _SafetensorsFile | _BinFile:
    """One file of a state dict; whatever is wrong with it is a BuildError that starts with its path."""
    try:
        return _SafetensorsFile(file) if file.suffix == ".safetensors" else _BinFile(file)
    except BuildError as error:
        raise BuildError(f"{file}: {error}") from error
    except (SafetensorError, OSError) as error:
        raise BuildError(f"{file}: {error}") from error
    except Exception as error:  # torch.load raises almost anything for a damaged or hostile file
        first_line = str(error).partition("\n")[0]
        raise BuildError(f"{file}: not read, {type(error).__name__}: {first_line}") from error


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

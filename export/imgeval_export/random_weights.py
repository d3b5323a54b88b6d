"""Stand-ins for the checkpoints of a profile: published formats and names, random content, for proving equality.

What is really there (all-MiniLM-L6-v2 out of its package, the LAION head in the weights folder) is used as it is. What
is made from the rest is no score, and a repository built from it says so in every result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from imgeval.errors import BuildError
from imgeval_export import published, weights
from imgeval_export.manifest import WeightFile
from imgeval_export.profile import Progress

TOKENIZER = f"{published.ONE_ALIGN}/tokenizer.model"
ONE_ALIGN_SHARD_BYTES = 10**10  # two shards, as published
FOLDER = "random"  # in the weights folder; files there are made once and kept


def prepare(needed: Sequence[WeightFile], weights_dir: Path, progress: Progress) -> dict[str, Path]:
    """These weight files by name: real ones that are here, random ones for the others.

    Raises:
        BuildError: a file that has no stand-in.
    """
    files, random = {}, weights_dir / FOLDER
    for file in needed:
        real = None if _must_be_random(file) else weights.find(file, weights_dir)
        if real is not None:
            weights.check(file, real)
            files[file.name] = real
            continue
        path = random / file.name
        if file.name == TOKENIZER:  # of LLaMA's vocabulary there is only a stand-in, in another format
            path = path.with_suffix(".json")
        if not path.exists():
            progress(f"writing random weights for {file.name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            _make(file.name, path)
        files[file.name] = path
    return files


def _must_be_random(file: WeightFile) -> bool:
    """Everything that is compared at full size comes from one seed, also where the real file happens to be here."""
    return file.name in (published.CLIP_FILE, published.MUSIQ_FILE, *published.SAM_FILES.values()) or _is_qalign(file)


def _is_qalign(file: WeightFile) -> bool:
    return file.name.startswith(f"{published.ONE_ALIGN}/")


def _make(name: str, path: Path) -> None:
    makers: dict[str, Callable[[Path], None]] = {
        published.CLIP_FILE: _clip,
        published.AESTHETIC_FILE: _aesthetic,
        published.MUSIQ_FILE: _musiq,
        published.SAM_FILES["cpu"]: _sam_vit_b,
        published.SAM_FILES["full"]: _sam_vit_h,
    }
    if name in makers:
        makers[name](path)
    elif name.startswith(f"{published.ONE_ALIGN}/"):
        _one_align(path.parent)
    else:
        raise BuildError(f"{name}: not here, and there is no stand-in for it; get it with: imgeval-export fetch")


def _clip(path: Path) -> None:
    from safetensors.numpy import save_file

    from imgeval_export.random_weights_clip import random_clip_state

    save_file(random_clip_state(), path)


def _aesthetic(path: Path) -> None:
    import numpy as np

    from imgeval_export.aesthetic import expected_shapes
    from imgeval_export.zip_pth import write_zip_pth

    rng = np.random.default_rng(0)
    shapes = expected_shapes().items()
    write_zip_pth({name: rng.standard_normal(shape, np.float32) / shape[-1] ** 0.5 for name, shape in shapes}, path)


def _sam_vit_b(path: Path) -> None:
    from imgeval_export.random_weights_sam import random_sam_checkpoint
    from imgeval_export.sam import VIT_B

    random_sam_checkpoint(path, VIT_B)


def _sam_vit_h(path: Path) -> None:
    from imgeval_export.random_weights_sam import random_sam_checkpoint
    from imgeval_export.sam import VIT_H

    random_sam_checkpoint(path, VIT_H)


def _musiq(path: Path) -> None:
    """MUSIQ as IQA-PyTorch builds it, with a head that spreads the scores."""
    import torch
    from pyiqa.archs.musiq_arch import MUSIQ

    torch.manual_seed(0)
    state = MUSIQ(pretrained=False).state_dict()
    state["head.weight"] *= 100
    torch.save(state, path)


def _one_align(folder: Path) -> None:
    from imgeval_export.random_weights_qalign import write_random_one_align

    write_random_one_align(folder, file_format="bin", shard_bytes=ONE_ALIGN_SHARD_BYTES)

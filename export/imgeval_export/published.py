"""The profiles `cpu` and `full`: CLIP ViT-L/14, the LAION head, SAM, MUSIQ and Q-Align from published checkpoints.

    image tower, text tower   CLIP ViT-L/14 (OpenAI), one image pass for clip and aesthetic
    aesthetic                 LAION's predictor
    segments                  SAM ViT-B (cpu) or ViT-H (full); keywords picked by all-MiniLM-L6-v2
    iqa                       MUSIQ by IQA-PyTorch
    qalign                    one-align (full)

Every graph is written from its weight file without torch; IQA-PyTorch and Q-Align are served by torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from imgeval.contract import INPUT_IDS, PIXELS
from imgeval.metrics.sam import MaskOptions
from imgeval_export import about, clip, minilm, models
from imgeval_export.about import About
from imgeval_export.graph import save_model
from imgeval_export.manifest import WeightFile, manifest
from imgeval_export.profile import Profile, Progress

BPE_FILE = "clip-vit-large-patch14/bpe_simple_vocab_16e6.txt.gz"
CLIP_FILE = "clip-vit-large-patch14/open_clip_model.safetensors"
AESTHETIC_FILE = "sac+logos+ava1-l14-linearMSE.pth"
MINILM_FILE = "all-MiniLM-L6-v2/model.safetensors"
MINILM_TOKENIZER = "all-MiniLM-L6-v2/tokenizer.json"
MUSIQ_FILE = "musiq_koniq_ckpt-e95806b9.pth"
ONE_ALIGN = "one-align"
DEFAULT_IQA = "musiq"  # whose weights are in the manifest; other metrics of IQA-PyTorch bring their own
# Optional parts, and the metrics that each makes.
PARTS = {"iqa": ("iqa",), "qalign": ("qalign_quality", "qalign_aesthetic")}
PART_PACKAGES = {"iqa": "pyiqa", "qalign": "torch"}  # module that serves it
PART_EXTRAS = {"iqa": "iqa", "qalign": "gpu"}  # extra that brings it
DEFAULT_PARTS = {"cpu": ("iqa",), "full": ("iqa", "qalign")}

SAM_FILES = {"cpu": "sam_vit_b_01ec64.pth", "full": "sam_vit_h_4b8939.pth"}
SAM_NAMES = {"cpu": "SAM ViT-B", "full": "SAM ViT-H"}

SAM_GRID = 64  # of the image embedding: 1024 px in patches of 16
SAM_WIDTH = 256  # channels of the image embedding
# Prompts that the decoder gets at a time. On a CPU as fast as upstream's 64, with a quarter of the memory.
POINTS_PER_BATCH = 16
TEXT_TOKENIZER_FILE, KEYWORD_TOKENIZER_FILE = "tokenizer.json", "keywords.json"
TEXT_TOKENIZER = {"file": TEXT_TOKENIZER_FILE, "max_tokens": clip.VIT_L_14.context, "clean": "clip"}
KEYWORD_TOKENIZER = {"file": KEYWORD_TOKENIZER_FILE, "max_tokens": minilm.MAX_TOKENS, "clean": "none"}


def write_artefacts(version_folder: Callable[[str], Path], weights: Mapping[str, Path], progress: Progress) -> None:
    """Write the ONNX files and data files of every model of the repository.

    Raises:
        BuildError: a checkpoint that does not hold what it should.
    """
    from safetensors.numpy import load_file

    from imgeval_export.aesthetic import aesthetic_model
    from imgeval_export.clip_tokenizer import clip_tokenizer_json
    from imgeval_export.pth import read_pth
    from imgeval_export.similarity import similarity_model
    from imgeval_export.stop_words import english_stop_words

    progress("writing CLIP's towers")
    state = load_file(weights[CLIP_FILE])
    save_model(clip.clip_image_model(state), version_folder("clip_image") / "model.onnx")
    save_model(clip.clip_text_model(state), version_folder("clip_text") / "model.onnx")
    del state  # 1.7 GB, and SAM comes next
    save_model(similarity_model(), version_folder("clip") / "model.onnx")
    progress("writing the aesthetic head and the keyword model")
    save_model(aesthetic_model(read_pth(weights[AESTHETIC_FILE])), version_folder("aesthetic") / "model.onnx")
    save_model(minilm.minilm_model(load_file(weights[MINILM_FILE])), version_folder("keywords") / "model.onnx")
    _write_sam(version_folder, next(path for name, path in weights.items() if name in SAM_FILES.values()), progress)

    tokenizer = clip_tokenizer_json(weights[BPE_FILE])
    for model in ("preprocess", "sam_clip"):
        (version_folder(model) / TEXT_TOKENIZER_FILE).write_text(tokenizer, encoding="utf-8")
    shutil.copyfile(weights[MINILM_TOKENIZER], version_folder("sam_clip") / KEYWORD_TOKENIZER_FILE)
    (version_folder("sam_clip") / "stop_words.txt").write_text("\n".join(english_stop_words()), encoding="utf-8")
    if MUSIQ_FILE in weights:
        shutil.copyfile(weights[MUSIQ_FILE], version_folder("iqa") / MUSIQ_FILE)
    if f"{ONE_ALIGN}/config.json" in weights:
        _write_qalign(version_folder("qalign"), weights[f"{ONE_ALIGN}/config.json"].parent)


def _write_sam(version_folder: Callable[[str], Path], checkpoint: Path, progress: Progress) -> None:
    from imgeval_export.pth import read_pth
    from imgeval_export.sam_decoder import sam_decoder_model, sam_points_model
    from imgeval_export.sam_encoder import sam_encoder_model

    progress("writing SAM's encoder and decoder")
    state = read_pth(checkpoint)
    save_model(sam_encoder_model(state), version_folder("sam_encoder") / "model.onnx")
    save_model(sam_points_model(state), version_folder("sam_points") / "model.onnx")
    save_model(sam_decoder_model(state), version_folder("sam_decoder") / "model.onnx")


def _write_qalign(folder: Path, one_align: Path) -> None:
    from imgeval_export.qalign import prompt_ids

    (folder / "prompts.json").write_text(json.dumps(prompt_ids(one_align), indent=2), encoding="utf-8")
    (folder / ONE_ALIGN).symlink_to(one_align.resolve())  # 16 GB are not copied


def profile(name: str, parts: frozenset[str]) -> Profile:
    """The profile `cpu` or `full` with these optional parts."""
    side_px, embedding_dim = clip.CLIP_PIXELS.crop_px, clip.VIT_L_14.embedding
    missing = {
        metric: f"built without it; to install it: imgeval-export build --profile {name} --with {part}"
        for part, metrics in PARTS.items()
        for metric in metrics
        if part not in parts
    }
    made_by = {
        "aesthetic": "LAION aesthetic predictor on CLIP ViT-L/14",
        "clip": "CLIP ViT-L/14 (OpenAI)",
        "sam_clip": f"{SAM_NAMES[name]} + CLIP ViT-L/14 (OpenAI)",
        "iqa": "MUSIQ (IQA-PyTorch)",
        "qalign_quality": ONE_ALIGN,
        "qalign_aesthetic": ONE_ALIGN,
    }
    told = _about(name)
    optional_models = {"iqa": models.pyiqa(), "qalign": models.qalign()}
    return Profile(
        name=name,
        summary=f"CLIP ViT-L/14, LAION head, {SAM_NAMES[name]}; with {', '.join(sorted(parts)) or 'nothing more'}",
        preset="seed",
        files=tuple(file.name for file in manifest() if _is_needed(file, name, parts)),
        made_by={metric: model for metric, model in made_by.items() if metric not in missing},
        missing=missing,
        about={metric: told[metric] for metric in made_by if metric not in missing},
        models=(
            models.preprocess(side_px),
            models.image_tower(side_px, embedding_dim),
            models.text_tower(embedding_dim),
            models.similarity(embedding_dim),
            models.aesthetic(embedding_dim),
            models.keyword_tower(minilm.WIDTH),
            *models.sam(MaskOptions().image_size_px, SAM_GRID, SAM_WIDTH),
            models.sam_clip(threads=1),
            *(model for part, model in optional_models.items() if part in parts),
            *([models.unavailable(tuple(missing))] if missing else []),
            models.combine(),
            models.details(),
        ),
        settings=_settings(parts, tuple(missing)),
        write_artefacts=write_artefacts,
    )


def _about(name: str) -> dict[str, About]:
    towers = (CLIP_FILE, BPE_FILE)
    one_align = tuple(file.name for file in manifest() if file.name.startswith(f"{ONE_ALIGN}/"))
    qalign = About("1 to 5", one_align, (about.Q_ALIGN,))
    return {
        "aesthetic": About("about 1 to 10", (AESTHETIC_FILE, CLIP_FILE), (about.LAION, about.CLIP)),
        "clip": About("-1 to 1", towers, (about.CLIP,)),
        "sam_clip": About(
            "0 to 1",
            (SAM_FILES[name], *towers, MINILM_FILE, MINILM_TOKENIZER),
            (about.SAM, about.CLIP, about.KEYBERT, about.SBERT, about.MINILM),
        ),
        # As pyiqa states it, which a test compares: reading it from there takes seconds, and pyiqa on this machine.
        "iqa": About("~0, ~100", (MUSIQ_FILE,), (about.MUSIQ, about.IQA_PYTORCH), terms=about.IQA_PYTORCH_TERMS),
        "qalign_quality": qalign,
        "qalign_aesthetic": qalign,
    }


def _is_needed(file: WeightFile, name: str, parts: frozenset[str]) -> bool:
    if file.name.startswith(f"{ONE_ALIGN}/"):
        return "qalign" in parts
    return name in file.profiles and (file.name != MUSIQ_FILE or "iqa" in parts)


def _settings(parts: frozenset[str], unavailable: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """The content of each model's settings.json."""
    pixels = asdict(clip.CLIP_PIXELS)
    settings: dict[str, dict[str, Any]] = {
        "preprocess": {"pixels": pixels, "tokenizer": TEXT_TOKENIZER},
        "sam_clip": {
            "pixels": pixels,
            "segmenter": "sam",
            "segments": asdict(MaskOptions(points_per_batch=POINTS_PER_BATCH)),
            "keyword_tokenizer": KEYWORD_TOKENIZER,
            "keyword_model": models.remote("keywords", INPUT_IDS),
            "text_tokenizer": TEXT_TOKENIZER,
            "text_model": models.remote("clip_text", INPUT_IDS),
            "image_model": models.remote("clip_image", PIXELS),
        },
    }
    if "iqa" in parts:
        settings["iqa"] = {"metric": DEFAULT_IQA, "checkpoint": MUSIQ_FILE}
    if "qalign" in parts:
        settings["qalign"] = {"weights": ONE_ALIGN, "precision": "fp16", "compile": "off"}
    if unavailable:
        settings["unavailable"] = {"metrics": list(unavailable)}
    return settings


def named(profile: Profile) -> Profile:
    """The profile with the name, range and direction of its iqa metric, which a setting may have changed.

    Raises:
        InvalidInputError: IQA-PyTorch has no such metric.
    """
    metric = profile.settings.get("iqa", {}).get("metric", DEFAULT_IQA)
    if metric == DEFAULT_IQA:
        return profile
    from imgeval.metrics.pyiqa_metric import info

    said = info(metric)
    direction = "lower is better" if said.lower_is_better else "higher is better"
    name = f"{metric} (IQA-PyTorch; range {said.score_range or 'not stated'}, {direction})"
    told = About(
        said.score_range or "not stated",
        (),
        (about.IQA_PYTORCH,),
        said.lower_is_better,
        f"{about.IQA_PYTORCH_TERMS}; it fetches the weights by itself, which have licences of their own",
    )
    return replace(profile, made_by={**profile.made_by, "iqa": name}, about={**profile.about, "iqa": told})

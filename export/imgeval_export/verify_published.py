"""Comparisons of the profiles `cpu` and `full` with open_clip, segment-anything, KeyBERT, pyiqa and LAION's head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from imgeval.contract import EMBEDDING, INPUT_IDS, PIXELS
from imgeval.image import pixels
from imgeval.metrics.sam import encoder_input, point_grid
from imgeval.text import TextTokenizer, pad_rows
from imgeval_export import clip, published
from imgeval_export.reference.clip import ReferenceAesthetic, ReferenceClip
from imgeval_export.reference.iqa import ReferenceIqa
from imgeval_export.reference.sam_clip import ReferenceSamClip
from imgeval_export.verify import Comparison, Sample, Served, compare

SAM_KINDS = {"cpu": "vit_b", "full": "vit_h"}
DECODED_POINTS = 16  # of the decoder's raw output that are compared, per image


def compare_published(served: Served, photos: Sequence[Sample]) -> Iterator[Comparison]:
    """Parts first, then the metrics as the ensemble gives them."""
    files, settings, kind = served.files, served.settings, SAM_KINDS[served.profile]
    sam_file = files[published.SAM_FILES[served.profile]]
    results = [served.client.score(photo.image, photo.prompt) for photo in photos]
    ours = {
        name: [result.metrics[name].raw if name in result.metrics else np.nan for result in results]
        for name in results[0].metrics
    }

    reference = ReferenceClip(files[published.CLIP_FILE])
    expected = np.stack([reference.transform(photo.image).numpy() for photo in photos])
    taken = np.stack([pixels(photo.rgb, clip.CLIP_PIXELS) for photo in photos])
    yield compare("clip: pixels", taken, expected, 1 / 255)
    images = reference.embed_images([photo.image for photo in photos])
    yield compare("clip: image embedding", served.run("clip_image", {PIXELS.name: taken}, EMBEDDING.name), images, 1e-3)
    texts = reference.embed_texts([photo.prompt for photo in photos])
    tokenizer = TextTokenizer.load(served.repository / "preprocess" / "1", settings["preprocess"]["tokenizer"])
    ids = pad_rows([tokenizer(photo.prompt).ids for photo in photos], tokenizer.max_tokens)
    yield compare("clip: text embedding", served.run("clip_text", {INPUT_IDS.name: ids}, EMBEDDING.name), texts, 1e-3)
    yield compare("clip", ours["clip"], (images * texts).sum(axis=1), 1e-3)
    aesthetic = ReferenceAesthetic(files[published.AESTHETIC_FILE]).score(images)
    yield compare("aesthetic", ours["aesthetic"], aesthetic, 1e-2)

    yield from _compare_sam(served, sam_file, kind, photos)
    options = {
        key: settings["sam_clip"]["segments"][key] for key in settings["sam_clip"]["segments"] if key != "image_size_px"
    }
    sam_clip = ReferenceSamClip(reference, sam_file, kind, files[published.MINILM_FILE].parent, **options)
    masks = [sam_clip.masks(photo.rgb) for photo in photos]
    found = [result.sam_clip["segments"] for result in results]
    yield compare("sam_clip: segments kept", [len(each) for each in found], [len(each) for each in masks], 0)
    yield compare(
        "sam_clip: predicted IoU of the segments kept",
        [segment["predicted_iou"] for each in found for segment in each],
        [mask["predicted_iou"] for each in masks for mask in each],
        1e-3,
    )
    yield compare(
        "sam_clip: boxes, px",
        [segment["box"] for each in found for segment in each],
        [mask["bbox"] for each in masks for mask in each],
        1,
    )
    keywords = [[keyword["word"] for keyword in result.sam_clip["keywords"]] for result in results]
    same = [mine == sam_clip.keywords(photo.prompt) for mine, photo in zip(keywords, photos, strict=True)]
    if not all(same):
        raise AssertionError(f"keywords differ: {keywords}")
    upstream = [sam_clip.score(photo.rgb, photo.prompt) for photo in photos]
    yield compare("sam_clip", [result.metrics["sam_clip"].raw for result in results], upstream, 2e-3)

    iqa = ReferenceIqa(settings["iqa"]["metric"], files[published.MUSIQ_FILE])
    yield compare("iqa", ours["iqa"], [iqa.score(photo.image) for photo in photos], 1e-2)


def _compare_sam(served: Served, checkpoint: Path, kind: str, photos: Sequence[Sample]) -> Iterator[Comparison]:
    """SAM's raw outputs, before any filter."""
    import torch
    from segment_anything import SamPredictor, sam_model_registry

    predictor = SamPredictor(sam_model_registry[kind](checkpoint=str(checkpoint)).eval())
    embeddings, masks, ious = [], [], []
    for photo in photos:
        predictor.set_image(photo.rgb)
        height, width = photo.rgb.shape[:2]
        grid = point_grid(4)[:DECODED_POINTS] * (width, height)
        points = predictor.transform.apply_coords(grid, (height, width)).astype(np.float32)
        with torch.inference_mode():
            _, expected_iou, expected_masks = predictor.predict_torch(
                torch.from_numpy(points)[:, None], torch.ones(len(points), 1, dtype=torch.int), return_logits=True
            )
        size = encoder_input(photo.rgb, predictor.model.image_encoder.img_size)
        embedding = served.run("sam_encoder", {"PIXELS": size}, "EMBEDDING")
        tokens = served.run("sam_points", {"POINTS": points}, "POINT_TOKENS")
        inputs = {"EMBEDDING": embedding, "POINT_TOKENS": tokens}
        embeddings.append((embedding, predictor.features.numpy()))
        masks.append((served.run("sam_decoder", inputs, "MASKS"), expected_masks.numpy()))
        ious.append((served.run("sam_decoder", inputs, "IOU"), expected_iou.numpy()))
    for name, pairs, tolerance in (
        ("image embedding", embeddings, 1e-3),
        ("mask logits", masks, 1e-2),
        ("predicted IoU", ious, 1e-3),
    ):
        yield compare(f"sam: {name}", np.stack([a for a, _ in pairs]), np.stack([b for _, b in pairs]), tolerance)

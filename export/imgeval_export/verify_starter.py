"""Comparisons of the profile `starter` with efficientnet_lite_pytorch, sentence-transformers and KeyBERT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from efficientnet_lite_pytorch import EfficientNet
from keybert import KeyBERT
from sentence_transformers import SentenceTransformer
from torchvision import transforms

from imgeval.contract import EMBEDDING, INPUT_IDS, PIXELS
from imgeval.image import pixels
from imgeval.text import TextTokenizer, pad_rows
from imgeval_export import starter
from imgeval_export.classes import imagenet_classes
from imgeval_export.conse import CLASS_PROMPT, TOP_K
from imgeval_export.precision import EXACT
from imgeval_export.reference.minilm import minilm_folder
from imgeval_export.verify import Comparison, Sample, Served, compare, compare_keywords, compare_scores


def compare_starter(served: Served, photos: Sequence[Sample]) -> Iterator[Comparison]:
    """Parts first, then the metrics as the ensemble gives them. NIQE has its own test against scikit-video."""
    results = [served.client.score(photo.image, photo.prompt) for photo in photos]
    spec = starter.PIXEL_SPEC
    transform = transforms.Compose(
        [
            transforms.Resize(spec.resize_px, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(spec.crop_px),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
    expected = torch.stack([transform(photo.image) for photo in photos])
    taken = np.stack([pixels(photo.rgb, spec) for photo in photos])
    yield compare("clip: pixels", taken, expected.numpy(), 1 / 255)

    minilm = SentenceTransformer(str(minilm_folder()), device="cpu")
    texts = minilm.encode([photo.prompt for photo in photos])
    tokenizer = TextTokenizer.load(served.repository / "preprocess" / "1", starter.TOKENIZER)
    ids = pad_rows([tokenizer(photo.prompt).ids for photo in photos], tokenizer.max_tokens)
    yield compare("clip: text embedding", served.run("clip_text", {INPUT_IDS.name: ids}, EMBEDDING.name), texts, 1e-4)

    network = EfficientNet.from_name("efficientnet-lite2").eval()
    network.load_state_dict(torch.load(served.files["efficientnet-lite2-9656183e.pth"], weights_only=True))
    with torch.inference_mode():
        probabilities = network(expected).softmax(dim=1).numpy()  # (N, 1000)
    classes = minilm.encode([CLASS_PROMPT.format(name) for name in imagenet_classes()])  # (1000, 384)
    images = []
    for row in probabilities:
        top = np.argsort(-row)[:TOP_K]
        mean = (row[top, None] * classes[top]).sum(axis=0)
        images.append(mean / np.linalg.norm(mean))
    served_images = served.run("clip_image", {PIXELS.name: taken}, EMBEDDING.name)
    # Rounded, the classifier's probabilities move the embedding more than CLIP's moves: a drift, and nothing promised.
    allowed = 1e-4 if served.precision == EXACT else np.inf
    yield compare("clip: image embedding", served_images, images, allowed)
    cosines = (np.stack(images) * texts).sum(axis=1)
    yield compare("clip", [result.metrics["clip"].raw for result in results], cosines, allowed)

    keybert = KeyBERT(minilm)
    found = [
        keybert.extract_keywords(photo.prompt, keyphrase_ngram_range=(1, 1), stop_words="english", top_n=5)
        for photo in photos
    ]
    yield compare_keywords(results, [[(word, score) for word, score in each if score >= 0.1] for each in found])
    yield compare_scores(results, 1e-6)

"""CLIP and the LAION aesthetic predictor as their authors run them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from PIL import Image

CLIP_MODEL = "ViT-L-14-quickgelu"


class ReferenceClip:
    """open_clip on a checkpoint file, float32 on the CPU."""

    def __init__(self, checkpoint: Path, model: str = CLIP_MODEL) -> None:
        self.model, _, self.transform = open_clip.create_model_and_transforms(model, pretrained=str(checkpoint))
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(model)

    @torch.inference_mode()
    def embed_images(self, images: list[Image.Image]) -> NDArray[np.float32]:
        """(N, D), L2-normalised."""
        pixels = torch.stack([self.transform(image) for image in images])  # (N, 3, 224, 224)
        return np.asarray(self.model.encode_image(pixels, normalize=True).numpy())

    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> NDArray[np.float32]:
        """(N, D), L2-normalised."""
        return np.asarray(self.model.encode_text(self.tokenizer(texts), normalize=True).numpy())


class ReferenceAesthetic:
    """The LAION predictor, as simple_inference.py of christophschuhmann/improved-aesthetic-predictor runs it."""

    def __init__(self, checkpoint: Path) -> None:
        widths = (768, 1024, 128, 64, 16, 1)
        layers: list[torch.nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            layers.append(torch.nn.Linear(before, after))
            if index < 3:  # a dropout after each of the first three, off when evaluating, numbers the layers
                layers.append(torch.nn.Dropout())
        self.model = torch.nn.Sequential(*layers)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.model.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
        self.model.eval()

    @torch.inference_mode()
    def score(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """L2-normalised image embeddings (N, 768) -> (N,)."""
        return np.asarray(self.model(torch.from_numpy(embeddings)).numpy()[:, 0])

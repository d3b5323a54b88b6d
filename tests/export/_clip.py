"""What the tests of CLIP share: a small random checkpoint, open_clip's own model of it, and photos."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from _starter import PHOTOS, import_quietly, package_file, third_party_warnings_ignored

from imgeval.image import decode, pixels
from imgeval_export.clip import CLIP_PIXELS, ClipSizes
from imgeval_export.random_weights_clip import random_clip_state

# Both towers have two blocks and different widths; the joint space is the real one, so that the real head fits on it.
TINY = ClipSizes(
    image_px=224,
    patch_px=32,
    width=128,
    layers=2,
    vocabulary=49408,
    context=77,
    text_width=64,
    text_layers=2,
    embedding=768,
)

MODEL = "ViT-L-14-quickgelu"

PROMPTS = (
    "a",
    "A photo of an astronaut in an orange suit, in front of a flag.",
    "a cup of coffee on a wooden table",
    "A tabby cat, looking into the camera!",
    "A rocket on its launch pad at night, waiting for lift-off, " * 3,
    "red, green and blue lights over a city at night, " * 12,  # longer than 77 tokens
)


@cache
def tiny_state() -> dict[str, np.ndarray]:
    return random_clip_state(TINY)


@cache
def original() -> Any:
    """open_clip's own model, with the tiny checkpoint."""
    torch, open_clip = import_quietly("torch"), import_quietly("open_clip")
    config = open_clip.get_model_config(MODEL)
    assert config["quick_gelu"] is True
    config["vision_cfg"] |= {"patch_size": TINY.patch_px, "width": TINY.width, "layers": TINY.layers}
    config["text_cfg"] |= {"width": TINY.text_width, "heads": TINY.text_width // 64, "layers": TINY.text_layers}
    with third_party_warnings_ignored():
        model = open_clip.model.CLIP(**config).eval()
        model.load_state_dict({name: torch.tensor(values) for name, values in tiny_state().items()}, strict=True)
    return model


def original_tokenizer() -> Any:
    with third_party_warnings_ignored():
        return import_quietly("open_clip").get_tokenizer(MODEL)


def photo_files() -> list[Path]:
    return [package_file("skimage", f"data/{name}") for name in PHOTOS]


def photos() -> np.ndarray:
    """scikit-image's photos as CLIP takes them, (4, 3, 224, 224)."""
    return np.stack([pixels(decode(file.read_bytes()).rgb, CLIP_PIXELS) for file in photo_files()])


def assert_close(what: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    """Print the differences, and require them to be small: absolutely, and next to how the values vary over inputs.

    Axis 0 counts the inputs.
    """
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float64) - theirs)
    spread = float(np.sqrt(np.var(theirs.astype(np.float64), axis=0).mean()))
    print(f"\n{what}: max {difference.max():.1e}, mean {difference.mean():.1e}; spread over inputs {spread:.2e}")
    assert tolerance < spread / 10, "the values vary too little for the tolerance to mean anything"
    assert difference.max() < tolerance

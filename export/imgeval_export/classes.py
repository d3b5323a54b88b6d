"""The names of ImageNet's 1000 classes, in the order of a classifier's outputs.

`imagenet1k_classes.txt` holds one name per line, line 1 for index 0. The names are the single-synset ones that
torchvision publishes with its weights (`torchvision.models._meta._IMAGENET_CATEGORIES`, BSD 3-Clause), copied so that
the starter profile needs no torchvision; a test compares the two.
"""

from __future__ import annotations

from pathlib import Path

CLASSES_FILE = Path(__file__).with_name("imagenet1k_classes.txt")


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 class names, e.g. "tench" at index 0; all differ ("crane" the bird and "crane" the machine too)."""
    return tuple(CLASSES_FILE.read_text(encoding="utf-8").splitlines())

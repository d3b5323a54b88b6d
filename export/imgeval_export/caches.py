"""Which models of a repository keep what they have computed (`imgeval.cache`), and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from imgeval.errors import InvalidInputError

if TYPE_CHECKING:
    from imgeval_export.configs import Model

# The costly models whose values depend on one image or one text alone. SAM's parts are not among them: only sam_clip
# calls them, and it keeps an image's segments, which take a fraction of the 4 MiB of SAM's embedding of the image.
CACHED_MODELS = ("clip_image", "clip_text", "keywords", "sam_clip", "iqa", "qalign")

DEFAULT_MIB = 32  # of each of them: sam_clip's segments of 300 to 800 images, 9,000 to 16,000 embeddings of a tower


def check_size(mib: int) -> None:
    """Raise InvalidInputError for a size that cannot be."""
    if mib < 0:
        raise InvalidInputError("--cache-mib", f"got {mib}; allowed: 0 (off) or more")


def with_caches(models: Sequence[Model], mib: int, fingerprint: str) -> list[Model]:
    """Those of the models that keep values, with their part of the configuration; none where `mib` is 0.

    In NVIDIA's container the native onnxruntime backend ignores it; the Python models keep values there as well.
    """
    from imgeval.cache import (  # here: it needs numpy, which commands wait for
        FINGERPRINT_PARAMETER,
        MAX_BYTES_PARAMETER,
    )

    given = {MAX_BYTES_PARAMETER: str(mib * 2**20), FINGERPRINT_PARAMETER: fingerprint}
    cached = [model for model in models if mib and model.name in CACHED_MODELS]
    return [replace(model, parameters={**model.parameters, **given}) for model in cached]

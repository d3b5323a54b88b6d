"""Image bytes and prompt bytes -> what the metric models take. The server's first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgeval.image import PixelSpec, decode, pixels
from imgeval.text import TextTokenizer, decode_prompt, pad_rows


@dataclass(frozen=True)
class Preprocessed:
    """One request, ready for the metric models."""

    rgb: NDArray[np.uint8]  # (H, W, 3)
    pixels: NDArray[np.float32]  # (3, S, S), as the image tower takes it
    input_ids: NDArray[np.int64]  # (L,), zero-padded
    details: dict[str, Any]  # what was done to the input, JSON-ready


def preprocess(image: bytes, prompt: bytes, pixel_spec: PixelSpec, tokenizer: TextTokenizer) -> Preprocessed:
    """Decode, resize and tokenise one request.

    Raises:
        InvalidInputError: an image or a prompt that the input rules refuse.
    """
    prompt_text = decode_prompt(prompt)
    tokens = tokenizer(prompt_text)
    decoded = decode(image)
    return Preprocessed(
        rgb=decoded.rgb,
        pixels=pixels(decoded.rgb, pixel_spec),
        input_ids=pad_rows([tokens.ids], tokenizer.max_tokens)[0],
        details={**decoded.info.to_dict(), "tokens": len(tokens.ids), "tokens_dropped": tokens.dropped},
    )

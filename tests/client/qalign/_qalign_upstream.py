"""pyiqa's port of mPLUG-Owl2 at a small size, which its own constructor cannot make: that one downloads.

The port's modules are used as they are. Replaced are the two things that its constructor downloads, a tokenizer and an
image processor, neither of which the forward pass uses. Added is a method that transformers 5 removed.
"""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from imgeval.metrics.qalign.config import QAlignConfig
from imgeval.metrics.qalign.prompts import TaskPrompt

IMAGE_TOKEN = -200


class _Nothing:
    """Stands in for what upstream downloads."""

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> _Nothing:
        return cls()

    def __call__(self, words: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] for _ in words]}


def _invert_attention_mask(mask: Tensor) -> Tensor:
    """PreTrainedModel's of transformers 4: (N, L) of ones and zeros -> (N, 1, 1, L) to add to attention scores."""
    return (1 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min


def modelling() -> Any:
    """pyiqa's module; skips the test where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pyiqa and of all that it imports
        pytest.importorskip("icecream")
        pytest.importorskip("pyiqa")
        from pyiqa.archs.q_align import modeling_mplug_owl2
    return modeling_mplug_owl2


class Upstream:
    """The reference with a state dict of its own format."""

    def __init__(self, config: QAlignConfig, state: dict[str, Tensor], attention: str = "eager") -> None:
        module = modelling()
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")  # transformers 5 deprecates keys of upstream's configuration
            patch.setattr(module, "LlamaTokenizer", _Nothing)
            patch.setattr(module, "CLIPImageProcessor", _Nothing)
            sizes = module.MPLUGOwl2Config(**config.to_dict())
            sizes.rope_parameters = {"rope_type": "default", "rope_theta": config.text.rope_theta}
            sizes._attn_implementation = attention
            sizes.use_cache = False
            self.model = module.MPLUGOwl2LlamaForCausalLM(sizes).eval()
        self.model.model.visual_abstractor.invert_attention_mask = _invert_attention_mask
        self.keys = {name: tuple(tensor.shape) for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(state, strict=True)

    @torch.inference_mode()
    def vision(self, pixels: Tensor) -> Tensor:
        return self.model.model.vision_model(pixels).last_hidden_state

    @torch.inference_mode()
    def abstractor(self, tokens: Tensor) -> Tensor:
        return self.model.model.visual_abstractor(encoder_hidden_states=tokens).last_hidden_state

    @torch.inference_mode()
    def logits(self, pixels: Tensor, prompt: TaskPrompt, levels: tuple[int, ...]) -> Tensor:
        """pixels (N, 3, S, S) -> (N, 5), as `score` of upstream computes them."""
        ids = torch.tensor([[*prompt.before, IMAGE_TOKEN, *prompt.after]]).repeat(len(pixels), 1)
        return self.model(ids, images=pixels)["logits"][:, -1, list(levels)]


def tokenizer_image_token(prompt: str, tokenizer: Any) -> list[int]:
    """Upstream's split of a prompt at the image, with IMAGE_TOKEN in its place; `tokenizer` puts BOS before a text."""
    return modelling().tokenizer_image_token(prompt, tokenizer)


def hugging_face_tokenizer(encode: Any, bos_id: int) -> Any:
    """What `tokenizer_image_token` needs of a tokenizer that puts BOS before every text."""

    class Tokenizer:
        bos_token_id = bos_id

        def __call__(self, text: str) -> SimpleNamespace:
            return SimpleNamespace(input_ids=[bos_id, *encode(text)])

    return Tokenizer()

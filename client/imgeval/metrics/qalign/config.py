"""The sizes of a Q-Align model, read from the `config.json` of a published `one-align` folder.

The defaults here are the published model's sizes. A key that the file leaves out has the default of upstream's
`configuration_mplug_owl2.py`, and a file that asks for an architecture other than the one written here is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from imgeval.errors import BuildError

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class VisionConfig:
    """The vision transformer; `image_px` and `patch_px` are the sides of squares."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp: int = 4096
    image_px: int = 448
    patch_px: int = 14
    norm_eps: float = 1e-6

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.image_px // self.patch_px

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return self.grid**2 + 1


@dataclass(frozen=True)
class AbstractorConfig:
    """The visual abstractor: `queries` learned tokens that read the image through cross-attention."""

    queries: int = 64
    width: int = 1024
    layers: int = 6
    heads: int = 16
    mlp: int = 2816
    norm_eps: float = 1e-6  # of the norm inside the MLP; the others have torch's 1e-5


@dataclass(frozen=True)
class TextConfig:
    """The language model."""

    vocabulary: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    mlp: int = 11008
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_positions: int = 4096

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class QAlignConfig:
    """All sizes. Raises BuildError where they do not fit together."""

    vision: VisionConfig = VisionConfig()
    abstractor: AbstractorConfig = AbstractorConfig()
    text: TextConfig = TextConfig()

    def __post_init__(self) -> None:
        for name, part in (("vision", self.vision), ("abstractor", self.abstractor), ("text", self.text)):
            for field in fields(part):
                if not (value := getattr(part, field.name)) > 0:
                    raise BuildError(f"Q-Align config: {name}.{field.name} is {value}, not above 0")
            if part.width % part.heads:
                raise BuildError(f"Q-Align config: {name}.width {part.width} does not divide into {part.heads} heads")
        if self.vision.image_px % self.vision.patch_px:
            raise BuildError(
                f"Q-Align config: {self.vision.image_px} px do not divide into patches of {self.vision.patch_px} px"
            )
        if self.abstractor.width != self.vision.width or self.abstractor.width % 4:
            # Both are added to the same position table, whose quarters are the sines and cosines of two axes.
            raise BuildError(
                f"Q-Align config: the abstractor's width {self.abstractor.width} is not the vision width "
                f"{self.vision.width}, or no multiple of 4"
            )
        if self.text.head_width % 2:
            raise BuildError(f"Q-Align config: rotary positions need an even head width, not {self.text.head_width}")

    @property
    def visual_tokens(self) -> int:
        """Tokens that stand for an image in the language model: the queries and the end token."""
        return self.abstractor.queries + 1

    @classmethod
    def from_folder(cls, folder: Path) -> QAlignConfig:
        """Read `config.json`. Raises BuildError, starting with the path, where it is missing or not understood."""
        file = folder / CONFIG_FILE
        try:
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, BuildError) as error:
            raise BuildError(f"{file}: {error}") from error

    @classmethod
    def from_dict(cls, content: Any) -> QAlignConfig:
        """From the content of `config.json`: LLaMA's keys at the top, the others in `visual_config`."""
        text = _mapping(content, "the file")
        visual = _mapping(text.get("visual_config", {}), "visual_config")
        vision = _mapping(visual.get("visual_model", {}), "visual_config.visual_model")
        abstractor = _mapping(visual.get("visual_abstractor", {}), "visual_config.visual_abstractor")
        config = cls(
            _part(VisionConfig, vision, _VISION_KEYS, {}),
            _part(AbstractorConfig, abstractor, _ABSTRACTOR_KEYS, {}),
            # upstream's defaults for LLaMA are LLaMA-1's
            _part(TextConfig, text, _TEXT_KEYS, {"norm_eps": 1e-6, "max_positions": 2048}),
        )
        _require(text, {**_TEXT_FIXED, "num_key_value_heads": (None, config.text.heads)})
        _require(vision, _VISION_FIXED)
        # 32 is what upstream takes for no grid_size
        grid = (config.vision.grid, None) if config.vision.grid == 32 else (config.vision.grid,)
        if "grid_size" not in abstractor:
            abstractor = {**abstractor, "grid_size": None}
        _require(abstractor, {**_ABSTRACTOR_FIXED, "encoder_hidden_size": (config.vision.width,), "grid_size": grid})
        return config

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json` from which `from_dict` reads the same."""
        vision = {published: getattr(self.vision, name) for name, published in _VISION_KEYS.items()}
        abstractor = {published: getattr(self.abstractor, name) for name, published in _ABSTRACTOR_KEYS.items()}
        return {
            "architectures": ["MPLUGOwl2LlamaForCausalLM"],
            "model_type": "mplug_owl2",
            **{published: getattr(self.text, name) for name, published in _TEXT_KEYS.items()},
            "num_key_value_heads": self.text.heads,
            "hidden_act": "silu",
            "attention_bias": False,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "visual_config": {
                "visual_model": {**vision, "hidden_act": "quick_gelu"},
                "visual_abstractor": {
                    **abstractor,
                    "encoder_hidden_size": self.vision.width,
                    "grid_size": self.vision.grid,
                },
            },
        }


# this module's names -> the published ones
_TRANSFORMER_KEYS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp": "intermediate_size",
}
_VISION_KEYS = {
    **_TRANSFORMER_KEYS,
    "image_px": "image_size",
    "patch_px": "patch_size",
    "norm_eps": "layer_norm_eps",
}
_ABSTRACTOR_KEYS = {**_TRANSFORMER_KEYS, "queries": "num_learnable_queries", "norm_eps": "layer_norm_eps"}
_TEXT_KEYS = {
    **_TRANSFORMER_KEYS,
    "vocabulary": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "max_positions": "max_position_embeddings",
}

# What the code is written for, where the file says anything about it.
_TEXT_FIXED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_scaling": (None,),
    "rope_parameters": (None,),
    "tie_word_embeddings": (False,),
}
_VISION_FIXED: dict[str, tuple[Any, ...]] = {"hidden_act": ("quick_gelu",), "num_channels": (3,)}
_ABSTRACTOR_FIXED: dict[str, tuple[Any, ...]] = {"use_cls_token": (True,), "add_v2t_pos_emb": (False,)}

Part = TypeVar("Part", VisionConfig, AbstractorConfig, TextConfig)


def _part(kind: type[Part], content: Mapping[str, Any], keys: Mapping[str, str], defaults: Mapping[str, Any]) -> Part:
    values: dict[str, Any] = dict(defaults)
    for field in fields(kind):
        key = keys[field.name]
        if key not in content:
            continue
        value = content[key]
        number = (int,) if isinstance(field.default, int) else (int, float)
        if type(value) not in number:
            raise BuildError(f"{key} is {value!r:.60}, not {'a whole number' if number == (int,) else 'a number'}")
        values[field.name] = value
    return kind(**values)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BuildError(f"{what} is {value!r:.60}, not an object")
    return value


def _require(content: Mapping[str, Any], fixed: Mapping[str, tuple[Any, ...]]) -> None:
    for key, allowed in fixed.items():
        if key in content and content[key] not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise BuildError(f"{key} is {content[key]!r:.60}; only {expected} is implemented")

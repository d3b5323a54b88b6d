"""A LLaMA-2 decoder layer with mPLUG-Owl2's modality-adaptive module.

The norms and the key and value projections exist twice, for text and for visual tokens; everything else is shared.
Upstream (`MultiwayNetwork` in modeling_llama2.py) looks up the modality of every token in every layer; here the visual
tokens are always the first `visual` ones of the sequence, so that a slice does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from imgeval.metrics.qalign.attention import attend
from imgeval.metrics.qalign.config import TextConfig

KeyValue = tuple[Tensor, Tensor]  # (N, L, heads, D) each
Rotation = tuple[Tensor, Tensor]  # cosines and sines, (N or 1, L, 1, D) each


def rotation(positions: Tensor, head_width: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Rotary embedding of `positions` (N, L): angle = position * theta^(-2 i / D), both halves alike."""
    exponents = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32) / head_width
    angles = positions[..., None].float() * (1 / theta**exponents)  # (N, L, D / 2)
    angles = torch.cat([angles, angles], dim=-1)[:, :, None]  # (N, L, 1, D)
    return angles.cos().to(dtype), angles.sin().to(dtype)


class DecoderLayer(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.mlp = _Mlp(config)
        self.input_layernorm = _Multiway(lambda: RmsNorm(config.width, config.norm_eps))
        self.post_attention_layernorm = _Multiway(lambda: RmsNorm(config.width, config.norm_eps))

    def forward(
        self, x: Tensor, visual: int, turn: Rotation, mask: Tensor, past: KeyValue | None = None
    ) -> tuple[Tensor, KeyValue]:
        """One layer over x (N, L, width), of which the first `visual` tokens are visual.

        Args:
            turn: the rotation of the L positions.
            mask: (N or 1, 1, L, P + L) boolean, true where a token sees another.
            past: keys and values (N, P, heads, D) of tokens before x.

        Returns:
            (N, L, width), and the keys and values of x alone.
        """
        mixed, own = self.self_attn(self.input_layernorm(x, visual), visual, turn, mask, past)
        x = x + mixed
        x = x + self.mlp(self.post_attention_layernorm(x, visual))
        return x, own


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 whatever x is."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * unit.to(x.dtype)


class _Multiway(nn.Module):
    """Two modules of one kind: the first for text, the second for visual tokens."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([make(), make()])

    def forward(self, x: Tensor, visual: int) -> Tensor:
        for_text, for_visual = self.multiway
        text: Tensor = for_text(x[:, visual:])
        return torch.cat([for_visual(x[:, :visual]), text], dim=1) if visual else text


class _Attention(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = _Multiway(lambda: nn.Linear(config.width, config.width, bias=False))
        self.v_proj = _Multiway(lambda: nn.Linear(config.width, config.width, bias=False))
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self, x: Tensor, visual: int, turn: Rotation, mask: Tensor, past: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        projected = (self.q_proj(x), self.k_proj(x, visual), self.v_proj(x, visual))
        query, key, value = (part.unflatten(-1, (self.heads, -1)) for part in projected)  # (N, L, heads, D)
        query, own = _rotate(query, turn), (_rotate(key, turn), value)
        key, value = own if past is None else (torch.cat(pair, dim=1) for pair in zip(past, own, strict=True))
        return self.o_proj(attend(query, key, value, mask)), own


def _rotate(x: Tensor, turn: Rotation) -> Tensor:
    cosines, sines = turn
    first, second = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-second, first], dim=-1) * sines


class _Mlp(nn.Module):
    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp, bias=False)
        self.down_proj = nn.Linear(config.mlp, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return changed

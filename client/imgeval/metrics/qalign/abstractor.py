"""The visual abstractor of mPLUG-Owl2: a few learned queries read the image and become the language model's tokens.

Upstream: `MplugOwlVisualAbstractorModel` in visual_encoder.py. Three things are easily got wrong: the residual starts
at the normalised queries, not at the queries; position tables are added to queries and keys but not to values; keys and
values are the normalised queries followed by the normalised image tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from imgeval.metrics.qalign.attention import attend
from imgeval.metrics.qalign.config import AbstractorConfig, QAlignConfig


class VisualAbstractor(nn.Module):
    """image tokens (N, L, width) -> visual tokens (N, queries + 1, text width), the last of which is constant."""

    def __init__(self, config: QAlignConfig) -> None:
        super().__init__()
        sizes = config.abstractor
        self.query_embeds = nn.Parameter(torch.empty(1, sizes.queries, sizes.width))
        self.encoder = _Encoder(sizes, config.vision.tokens)
        self.visual_fc = nn.Linear(sizes.width, config.text.width)
        self.vit_eos = nn.Parameter(torch.empty(1, 1, config.text.width))

    def forward(self, image: Tensor) -> Tensor:
        queries = self.encoder(self.query_embeds.expand(len(image), -1, -1), image)
        return torch.cat([self.visual_fc(queries), self.vit_eos.expand(len(image), -1, -1)], dim=1)


class _Encoder(nn.Module):
    def __init__(self, config: AbstractorConfig, image_tokens: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config, image_tokens) for _ in range(config.layers))

    def forward(self, queries: Tensor, image: Tensor) -> Tensor:
        for layer in self.layers:
            queries = layer(queries, image)
        return queries


class _Layer(nn.Module):
    def __init__(self, config: AbstractorConfig, image_tokens: int) -> None:
        super().__init__()
        self.crossattention = _CrossAttention(config, image_tokens)

    def forward(self, queries: Tensor, image: Tensor) -> Tensor:
        changed: Tensor = self.crossattention(queries, image)
        return changed


class _CrossAttention(nn.Module):
    """q = norm(queries); q + attention(q), then + mlp(norm(...))."""

    def __init__(self, config: AbstractorConfig, image_tokens: int) -> None:
        super().__init__()
        self.attention = _Attention(config, image_tokens)
        self.output = _Output(config)
        self.norm1 = nn.LayerNorm(config.width)
        self.normk = nn.LayerNorm(config.width)

    def forward(self, queries: Tensor, image: Tensor) -> Tensor:
        queries = self.norm1(queries)
        seen = torch.cat([queries, self.normk(image)], dim=1)  # (N, queries + L, width)
        changed: Tensor = self.output(self.attention(queries, seen), queries)
        return changed


class _Attention(nn.Module):
    def __init__(self, config: AbstractorConfig, image_tokens: int) -> None:
        super().__init__()
        self.heads = config.heads
        # Sines and cosines, which upstream computes and the checkpoint also holds: 1-D for queries, 2-D for patches.
        self.q_pos_embed = nn.Parameter(torch.empty(config.queries, config.width))
        self.k_pos_embed = nn.Parameter(torch.empty(image_tokens, config.width))
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, queries: Tensor, seen: Tensor) -> Tensor:
        positions = torch.cat([self.q_pos_embed, self.k_pos_embed])  # (queries + L, width)
        query = self.query(queries + self.q_pos_embed)
        key, value = self.key(seen + positions), self.value(seen)
        return attend(*(part.unflatten(-1, (self.heads, -1)) for part in (query, key, value)))


class _Output(nn.Module):
    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.out_proj = nn.Linear(config.width, config.width)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = _Mlp(config)

    def forward(self, mixed: Tensor, queries: Tensor) -> Tensor:
        x = queries + self.out_proj(mixed)
        changed: Tensor = x + self.mlp(self.norm2(x))
        return changed


class _Mlp(nn.Module):
    """SwiGLU with a norm before the last matrix."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.mlp)
        self.w2 = nn.Linear(config.mlp, config.width)
        self.w3 = nn.Linear(config.width, config.mlp)
        self.ffn_ln = nn.LayerNorm(config.mlp, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.w2(self.ffn_ln(F.silu(self.w1(x)) * self.w3(x)))
        return changed

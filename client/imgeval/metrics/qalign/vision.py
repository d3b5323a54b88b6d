"""The vision transformer of mPLUG-Owl2: CLIP's ViT-L/14 at 448 px, with one interleaved query-key-value matrix.

Upstream: `MplugOwlVisionModel` in visual_encoder.py. Module names are those of the published state dict.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgeval.metrics.qalign.attention import attend
from imgeval.metrics.qalign.config import VisionConfig


class VisionModel(nn.Module):
    """pixels (N, 3, S, S) -> tokens (N, grid^2 + 1, width): the class token, then the patches row by row."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.post_layernorm(self.encoder(self.embeddings(pixels)))
        return tokens


class _Embeddings(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.patch_embed = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px, bias=False)
        self.position_embedding = nn.Parameter(torch.empty(1, config.tokens, config.width))
        self.pre_layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)  # (N, grid^2, width)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        embedded: Tensor = self.pre_layernorm(tokens + self.position_embedding)
        return embedded


class _Encoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens


class _Layer(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.self_attn = _Attention(config)
        self.input_layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = _Mlp(config)
        self.post_attention_layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        changed: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return changed


class _Attention(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        # The rows of the matrix are ordered head by head, and within a head query, key, value.
        parts = self.query_key_value(x).unflatten(-1, (self.heads, 3, -1))  # (N, L, heads, 3, D)
        query, key, value = parts.unbind(3)
        mixed: Tensor = self.dense(attend(query, key, value))
        return mixed


class _Mlp(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp)
        self.fc2 = nn.Linear(config.mlp, config.width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        changed: Tensor = self.fc2(hidden * torch.sigmoid(1.702 * hidden))  # QuickGELU
        return changed

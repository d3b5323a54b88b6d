"""Scaled dot-product attention, and the one place that chooses who computes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D)) v per head.

    flash-attn where it is installed, the tensors are half precision on a GPU and there is no mask; else torch, and
    always in a compiled graph, which its lookup would cut in two.

    Args:
        query: (N, Q, heads, D).
        key, value: (N, K, heads, D).
        mask: boolean, broadcastable to (N, heads, Q, K); true where a query sees a key, which is at least one each.

    Returns:
        (N, Q, heads * D).
    """
    half = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if mask is None and half and not torch.compiler.is_compiling() and (flash := _flash()):
        return flash(query, key, value).flatten(2)
    mixed = F.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
    )  # (N, heads, Q, D)
    return mixed.transpose(1, 2).flatten(2)


@cache
def _flash() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    try:
        flash: Callable[[Tensor, Tensor, Tensor], Tensor] = import_module("flash_attn").flash_attn_func
    except ImportError:
        return None
    return flash

"""The pieces of a transformer block, taken apart: what decoding with a cache and explaining need of open_clip's modules."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`(rows, length, width)` to `(rows, heads, length, width / heads)`."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def self_projections(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a self-attention block, `(rows, heads, length, head width)` each."""
    query, key, value = F.linear(layer.ln_1(x), layer.attn.in_proj_weight, layer.attn.in_proj_bias).chunk(3, -1)
    heads = layer.attn.num_heads
    return split_heads(query, heads), split_heads(key, heads), split_heads(value, heads)


def cross_query(layer: Any, x: Tensor) -> Tensor:
    """The queries of a cross-attention block, `(rows, length, width)`, heads not split yet."""
    width = layer.attn.embed_dim
    return F.linear(layer.ln_1(x), layer.attn.in_proj_weight[:width], layer.attn.in_proj_bias[:width])


def image_keys_values(layer: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """A cross-attention block's view of an image's tokens `(n, t, w)`: `(n, heads, t, head width)` twice."""
    attention, width = layer.attn, layer.attn.embed_dim
    both = F.linear(layer.ln_1_kv(tokens), attention.in_proj_weight[width:], attention.in_proj_bias[width:])
    key, value = both.chunk(2, -1)
    return split_heads(key, attention.num_heads), split_heads(value, attention.num_heads)


def finish_block(layer: Any, x: Tensor, mixed: Tensor) -> Tensor:
    """What follows attention in a residual block: output projection, shortcut, and the two-layer network."""
    x = x + layer.ls_1(layer.attn.out_proj(mixed))
    out: Tensor = x + layer.ls_2(layer.mlp(layer.ln_2(x)))
    return out

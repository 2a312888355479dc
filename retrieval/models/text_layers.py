"""The layers that `mini` writes captions with: a causal transformer, and a decoder that attends to an image's tokens.

Names of parameters, and every operation, are those of open_clip's `Transformer` and `MultimodalTransformer`, so that weights
go both ways (a test holds the outputs side by side). They are written here because importing open_clip takes three seconds,
most of it for what other models need.

Source: Yu et al., *CoCa: Contrastive Captioners are Image-Text Foundation Models*, 2022.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

# The id of the token that stands for words which the decoder does not know.
UNKNOWN = 1


class Block(nn.Module):
    """Attention and a perceptron, each behind a layer norm and beside a shortcut; with `crossed`, keys and values come from
    elsewhere, behind a norm of their own."""

    def __init__(self, width: int, heads: int, *, crossed: bool = False) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        if crossed:
            self.ln_1_kv = nn.LayerNorm(width)
        self.ln_2 = nn.LayerNorm(width)
        layers = (("c_fc", nn.Linear(width, 4 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(4 * width, width)))
        self.mlp = nn.Sequential(OrderedDict(layers))
        # As open_clip has them for models that scale what a layer adds.
        self.ls_1, self.ls_2 = nn.Identity(), nn.Identity()

    def forward(
        self, q_x: Tensor, k_x: Tensor | None = None, v_x: Tensor | None = None, attn_mask: Tensor | None = None
    ) -> Tensor:
        """`q_x (n, length, width)`, attending to itself under an additive mask, or to `k_x` and `v_x (n, t, width)`."""
        query = self.ln_1(q_x)
        keys = query if k_x is None else self.ln_1_kv(k_x)
        values = query if v_x is None else self.ln_1_kv(v_x)
        attn_mask = attn_mask.to(query.dtype) if attn_mask is not None else None
        x = q_x + self.attn(query, keys, values, need_weights=False, attn_mask=attn_mask)[0]
        whole: Tensor = x + self.mlp(self.ln_2(x))
        return whole


class Blocks(nn.Module):
    """A stack of blocks that look back only."""

    def __init__(self, width: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.register_buffer("attn_mask", _causal(length), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, length, width)` to the same shape."""
        length = x.shape[1]
        for block in self.resblocks:
            x = block(x, attn_mask=self.get_buffer("attn_mask")[:length, :length])
        return x


class KnownTokens(nn.Embedding):
    """An embedding of the first tokens of a vocabulary; an id that is behind them is that of the unknown token."""

    def reset_parameters(self) -> None:
        """The first values, small beside those of a position."""
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, input: Tensor) -> Tensor:
        """Ids of any shape to that shape with the width behind it."""
        return super().forward(input.where(input < self.num_embeddings, UNKNOWN))


class TextDecoder(nn.Module):
    """Logits of the next token from the states of a text and the tokens of an image."""

    def __init__(self, *, context_length: int, width: int, heads: int, layers: int, output_dim: int) -> None:
        super().__init__()
        self.width, self.layers, self.context_length = width, layers, context_length
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.cross_attn = nn.ModuleList(Block(width, heads, crossed=True) for _ in range(layers))
        self.register_buffer("attn_mask", _causal(context_length), persistent=False)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, output_dim))
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, image_tokens: Tensor, states: Tensor) -> Tensor:
        """`(n, t, width)` and `(n, length, width)` to `(n, length, output_dim)`."""
        length = states.shape[1]
        mask = self.get_buffer("attn_mask")[:length, :length]
        for block, cross in zip(self.resblocks, self.cross_attn, strict=True):
            states = cross(block(states, attn_mask=mask), image_tokens, image_tokens)
        logits: Tensor = self.ln_final(states) @ self.text_projection
        return logits


def _causal(size: int) -> Tensor:
    """What a token may look at: 0 for itself and before, −inf for after."""
    return torch.full((size, size), float("-inf")).triu_(1)

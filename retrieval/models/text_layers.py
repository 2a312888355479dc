"""The text layers of `mini`: a causal transformer with a class token, and a decoder that attends to an image's tokens.

Names of parameters, and every operation, are those of open_clip's `TextTransformer` and `MultimodalTransformer`, so that
weights go both ways (a test holds the outputs side by side). They are written here because importing open_clip takes three
seconds, most of it for what other models need.

Source: Yu et al., *CoCa: Contrastive Captioners are Image-Text Foundation Models*, 2022.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


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
    """A stack of blocks."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.width, self.layers = width, layers
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`(n, length, width)` to the same shape."""
        for block in self.resblocks:
            x = block(x, attn_mask=mask)
        return x


class TextTower(nn.Module):
    """Token ids to an embedding, taken from a class token behind them, and to the states of the tokens."""

    def __init__(
        self, *, context_length: int, vocab_size: int, width: int, heads: int, layers: int, output_dim: int, pad_id: int
    ) -> None:
        super().__init__()
        self.context_length, self.vocab_size, self.heads, self.pad_id = context_length, vocab_size, heads, pad_id
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.cls_emb = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(context_length + 1, width))
        self.transformer = Blocks(width, heads, layers)
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, output_dim))
        self.register_buffer("attn_mask", _causal(context_length + 1), persistent=False)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for parameter in (self.positional_embedding, self.cls_emb):
            nn.init.normal_(parameter, std=0.01)
        for block in self.transformer.resblocks:
            _initialise(block, width, layers)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """`(n, length)` int64 to embeddings `(n, output_dim)`, not normalised, and states `(n, length, width)`."""
        count, length = text.size(0), text.size(1)
        dtype = self.text_projection.dtype
        x = self.token_embedding(text).to(dtype)
        x = torch.cat([x, self.cls_emb.expand(count, 1, -1).to(dtype)], 1)
        x = x + self.positional_embedding[: length + 1].to(dtype)
        x = self.transformer(x, self._mask(text, x.dtype))
        pooled: Tensor = self.ln_final(x[:, -1]) @ self.text_projection
        return pooled, x[:, :-1]

    def _mask(self, text: Tensor, dtype: torch.dtype) -> Tensor:
        """Looking back only, and at no padding: additive, `(n · heads, length + 1, length + 1)`."""
        # Sizes by `size()`: who exports the tower follows that, and not `len`.
        read = text != self.pad_id
        read = torch.cat([read, read.new_ones(read.size(0), 1)], 1)
        size = read.size(1)
        keys = read[:, None].expand(-1, size, -1)
        padding = torch.zeros_like(keys, dtype=dtype).masked_fill_(~keys, float("-inf"))
        causal: Tensor = self.get_buffer("attn_mask")[:size, :size]
        return causal[None] + padding.repeat_interleave(self.heads, 0)


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


def _initialise(block: nn.Module, width: int, layers: int) -> None:
    """The first values of a block's weights (Radford et al., 2021)."""
    added = width**-0.5 * (2 * layers) ** -0.5
    for name, deviation in (
        ("attn.in_proj_weight", width**-0.5),
        ("attn.out_proj.weight", added),
        ("mlp.c_fc.weight", (2 * width) ** -0.5),
        ("mlp.c_proj.weight", added),
    ):
        nn.init.normal_(block.get_parameter(name), std=deviation)

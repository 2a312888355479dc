"""The sentence encoder of `mini`: MiniLM, a small BERT that reads in both directions, with the mean of its states as embedding.

Source: Devlin et al., *BERT*, 2019; Wang et al., *MiniLM: Deep Self-Attention Distillation*, 2020. The names of parameters are
this project's; `from_bert` takes them from a published checkpoint, and a test holds the states beside those of `transformers`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True)
class MiniLMConfig:
    """Sizes; the numbers are MiniLM-L6's, with a vocabulary and a context of the model's own."""

    vocab_size: int = 30522
    context_length: int = 32
    width: int = 384
    heads: int = 12
    layers: int = 6
    inner: int = 1536


class Layer(nn.Module):
    """Attention and a perceptron, each beside a shortcut and before a layer norm."""

    def __init__(self, config: MiniLMConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attend = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.attend_norm = nn.LayerNorm(width, _EPSILON)
        self.widen, self.narrow = nn.Linear(width, config.inner), nn.Linear(config.inner, width)
        self.norm = nn.LayerNorm(width, _EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`x (n, length, width)`; `mask (n, 1, 1, length)` is added to the attention's logits."""
        count, length, width = x.shape
        parts = self.attend(x).view(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=mask.to(parts.dtype))
        x = self.attend_norm(x + self.join(mixed.transpose(1, 2).reshape(count, length, width)))
        out: Tensor = self.norm(x + self.narrow(F.gelu(self.widen(x))))
        return out


class MiniLM(nn.Module):
    """Token ids, 0 being padding, to the mean of the last states, `(n, length)` to `(n, width)`."""

    def __init__(self, config: MiniLMConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.context_length, config.width))
        self.norm = nn.LayerNorm(config.width, _EPSILON)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        real = ids != 0
        x = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        mask = torch.zeros_like(real, dtype=x.dtype).masked_fill_(~real, float("-inf"))[:, None, None]
        for layer in self.layers:
            x = layer(x, mask)
        weight = real[..., None].to(x.dtype)
        mean: Tensor = (x * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean


def from_bert(state: dict[str, Tensor], vocabulary: Tensor, context_length: int) -> dict[str, Tensor]:
    """A `MiniLM`'s state from a BERT's: the words `vocabulary (v,)` of its own, in that order, and its first positions. The
    embedding of the first kind of segment, which is added to every word, goes into the positions."""
    segment = state["embeddings.token_type_embeddings.weight"][0]
    taken = {
        "words.weight": state["embeddings.word_embeddings.weight"][vocabulary].clone(),
        "positions": state["embeddings.position_embeddings.weight"][:context_length] + segment,
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    number = 0
    while (base := f"encoder.layer.{number}.") + "output.dense.weight" in state:
        for kind in ("weight", "bias"):
            own = [state[f"{base}attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            taken[f"layers.{number}.attend.{kind}"] = torch.cat(own)
            for name, theirs in (
                ("join", "attention.output.dense"),
                ("attend_norm", "attention.output.LayerNorm"),
                ("widen", "intermediate.dense"),
                ("narrow", "output.dense"),
                ("norm", "output.LayerNorm"),
            ):
                taken[f"layers.{number}.{name}.{kind}"] = state[f"{base}{theirs}.{kind}"]
        number += 1
    return taken

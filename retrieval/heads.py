"""Small trained heads that judge whether a text and a picture belong together, from what a CoCa's towers give.

`attention` lets each word look at the picture once more, softmax(QKᵀ/√d)V with the words as queries and the image's
tokens as keys and values, and judges from the mean over the words. `concat` judges from the pooled words and the pooled
picture side by side, with their product. `training.heads` trains both against hard negatives (Li et al., *ALBEF*, 2021).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from retrieval.errors import ModelError

HEADS = ("attention", "concat")


class AttentionHead(nn.Module):
    """Words `(n, l, w)` and image tokens `(n, t, w)` to a match logit `(n,)`; higher is a better match."""

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.words = nn.LayerNorm(width)
        self.image = nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.judge = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, states: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        """`real (n, l)` says which words are not padding."""
        tokens = self.image(tokens)
        queries = self.words(states)
        seen = self.attend(queries, tokens, tokens, need_weights=False)[0]
        # Word by word, what was seen against what was asked: the product is where they agree.
        met = self.norm(seen * queries + seen)
        weight = real.to(met.dtype)[..., None]
        logits: Tensor = self.judge((met * weight).sum(1) / weight.sum(1))
        return logits[:, 0]


class ConcatHead(nn.Module):
    """The same signature: pooled words, pooled picture and their product, concatenated, to a match logit `(n,)`."""

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.words = nn.LayerNorm(width)
        self.image = nn.LayerNorm(width)
        self.judge = nn.Sequential(nn.Linear(3 * width, width), nn.GELU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, states: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        """`real (n, l)` says which words are not padding."""
        weight = real.to(states.dtype)[..., None]
        words = self.words((states * weight).sum(1) / weight.sum(1))
        image = self.image(tokens.mean(1))
        logits: Tensor = self.judge(torch.cat([words, image, words * image], -1))
        return logits[:, 0]


def new_heads(width: int) -> nn.ModuleDict:
    """Both heads, untrained."""
    return nn.ModuleDict({"attention": AttentionHead(width), "concat": ConcatHead(width)})


class HeadScorer:
    """One trained head over a model's own text states. Raises `ModelError` where the model's folder has no heads."""

    def __init__(self, model: Any, head: nn.Module, pad: int) -> None:
        self._model, self._head, self._pad = model, head.eval(), pad

    @staticmethod
    def load(model: Any, folder: Path | None, name: str, pad: int) -> HeadScorer:
        """The head called `name` from `heads.safetensors` in the model's folder."""
        file = folder / "heads.safetensors" if folder is not None else None
        if file is None or not file.is_file():
            raise ModelError(f"this reader has no trained {name} head; use --fusion weighted")
        weight = next(model.parameters())
        state = {key: value.to(weight.dtype) for key, value in load_file(file).items()}
        heads = new_heads(state["attention.norm.weight"].shape[0])
        heads.load_state_dict({key: value.float() for key, value in state.items()})
        return HeadScorer(model, heads[name].to(weight.device, weight.dtype), pad)

    def scores(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """`(n,) float32` match logits of image tokens `(n, t, w)` and token ids `(n, length)`, pair by pair; either may be
        one, against all of the other. Higher is a better match."""
        count = max(len(tokens), len(ids))
        with torch.inference_mode():
            ids = ids.to(tokens.device)
            states = self._model._encode_text(ids)[1]
            logits = self._head(
                states.expand(count, -1, -1), tokens.expand(count, -1, -1), (ids != self._pad).expand(count, -1)
            )
        return torch.as_tensor(logits).float()

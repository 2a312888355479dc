"""Small trained heads that correct the weighted sum of re-ranking: `attention` and `concat`.

Both judge one text and one image from the text tower's words, the image's tokens, the cosine c and the reranker's score r
(`retrieval.crossmodal.rerank`), and give a correction h in units of cosine: the fused score is then s = c + v·r + h.

    attention   m = mean over words w of softmax(QKᵀ/√d)V ⊙ (O w),  Q from words, K and V from image tokens
    concat      m = [T t; P p; (T t) ⊙ (P p)],  t the mean word and p the mean image token
    both        h = MLP([m; c; r])

The last layer starts at zero, so an untrained head is the weighted sum itself. `training.heads` trains them listwise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from retrieval.errors import ModelChoiceError

HEADS = ("attention", "concat")
FILE = "heads.safetensors"
# Brings a cosine, whose differences are small, to the size of the other inputs.
_COSINE_SCALE = 5.0


class AttentionHead(nn.Module):
    """Words `(n, l, w)`, which of them are real `(n, l)`, image tokens `(n, t, w)`, and both scores `(n,)` to `(n,)`."""

    def __init__(self, width: int, inner: int = 16, dropout: float = 0.5) -> None:
        super().__init__()
        # The names of the layers are those in the stored file of heads.
        self.query, self.own = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.key, self.value = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.judge = _judge(inner + 2, dropout)

    def forward(self, words: Tensor, real: Tensor, tokens: Tensor, cosine: Tensor, second: Tensor) -> Tensor:
        """The correction of each pair; words may be one text against all tokens."""
        words, tokens = _normal(words), _normal(tokens)
        attended = F.scaled_dot_product_attention(
            self.query(words).expand(len(tokens), -1, -1), self.key(tokens), self.value(tokens)
        )
        weight = real.to(words.dtype)[..., None]
        met = (self.dropout(attended * self.own(words)) * weight).sum(1) / weight.sum(1)
        return _correction(self.judge, met, cosine, second)


class ConcatHead(nn.Module):
    """The same inputs and output as `AttentionHead`."""

    def __init__(self, width: int, inner: int = 16, dropout: float = 0.5) -> None:
        super().__init__()
        self.text, self.picture = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.judge = _judge(3 * inner + 2, dropout)

    def forward(self, words: Tensor, real: Tensor, tokens: Tensor, cosine: Tensor, second: Tensor) -> Tensor:
        """The correction of each pair; words may be one text against all tokens."""
        weight = real.to(words.dtype)[..., None]
        text = self.dropout(self.text(_normal((words * weight).sum(1) / weight.sum(1)))).expand(len(tokens), -1)
        image = self.dropout(self.picture(_normal(tokens.mean(1))))
        return _correction(self.judge, torch.cat([text, image, text * image], -1), cosine, second)


def new_heads(width: int) -> nn.ModuleDict:
    """Both heads, untrained."""
    return nn.ModuleDict({"attention": AttentionHead(width), "concat": ConcatHead(width)})


def check_head(folder: Path | None, name: str) -> Path:
    """The file that holds the head called `name` of the model in `folder`; `ModelError` where there is none."""
    if name not in HEADS:
        raise ModelChoiceError(f"unknown fusion {name!r}; use weighted, {' or '.join(HEADS)}")
    file = folder / FILE if folder is not None else None
    if file is None or not file.is_file():
        raise ModelChoiceError(f"this reader has no trained {name} head; use the fusion weighted")
    return file


def load_head(folder: Path | None, name: str, like: Tensor) -> nn.Module:
    """The trained head called `name` of the model in `folder`, on the device of `like`, in float32.

    Raises `ModelError` where the model has none.
    """
    state = load_file(check_head(folder, name))
    heads = new_heads(state["concat.text.weight"].shape[1])
    heads.load_state_dict({key: value.float() for key, value in state.items()})
    return heads[name].to(like.device).eval()


def _judge(width: int, dropout: float) -> nn.Sequential:
    last = nn.Linear(64, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Dropout(dropout), last)


def _normal(rows: Tensor) -> Tensor:
    return F.layer_norm(rows.float(), rows.shape[-1:])


def _correction(judge: nn.Module, met: Tensor, cosine: Tensor, second: Tensor) -> Tensor:
    scores = torch.stack([_COSINE_SCALE * cosine, second], -1)
    out: Tensor = judge(torch.cat([met, scores], -1))[..., 0]
    return out

"""Why an image matched: for each word of a text, which parts of the image its likelihood rests on.

For every cross-attention layer of the decoder, A are its weights, softmax(QKᵀ/√d), and G the gradient of the word's
log-probability with respect to them; the relevance of an image token is the sum over layers and positions, averaged over
heads, of the positive part of G ⊙ A (Chefer, Gur and Wolf, *Generic Attention-model Explainability*, ICCV 2021). Where
the decoder attends to pooled queries instead of places, the pooler's own attention carries the relevance on to them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.crossmodal.attention import cross_query, finish_block, image_keys_values, join_heads, split_heads
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.errors import QueryError
from retrieval.models.text_layers import UNKNOWN

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """`relevance (words, h, w) float32` over the part of the image that the model sees, rows from the top, each map
    with sum 1, or 0 where a word rests on nothing; `whole (h, w)` is their mean. `attention` are the plain weights, averaged
    over layers and heads, each map with sum 1. `log_probabilities (words,)` are nats, summed over a word's tokens.
    """

    words: tuple[str, ...]
    relevance: NDArray[np.float32]
    attention: NDArray[np.float32]
    whole: NDArray[np.float32]
    log_probabilities: NDArray[np.float32]


def explain(loaded: LoadedModel, image: Image, text: str) -> Explanation:
    """Explain a text over an RGB image. Raises `ModelError` for a model without a decoder, `QueryError` without words."""
    decoder = CaptionDecoder(loaded)
    words = loaded.tokenizer.words(text)
    if not words:
        raise QueryError("there are no words to explain; give some")
    model = loaded.model
    ids = torch.from_numpy(loaded.tokenizer.encode([text])).to(loaded.device)
    pixels = loaded.preprocess(image)[None]
    tokens = decoder.image_tokens(pixels).clone()
    with torch.inference_mode():
        states = model._encode_text(ids)[1].clone()
    last = max(place for _, places in words for place in places)
    scores, weights = _forward(model.text_decoder, tokens, states[:, :last].clone(), ids[:, 1 : last + 1])
    to_places = _places(model, pixels, tokens.shape[1])
    maps, plain, likely = [], [], []
    for number, (_, places) in enumerate(words):
        # The token at a place is predicted from the position before it.
        rows = [place - 1 for place in places]
        target = scores[rows].sum()
        gradients = torch.autograd.grad(target, weights, retain_graph=number + 1 < len(words))
        parts = [(g * w.detach()).clamp(min=0).mean(1).sum(1) for g, w in zip(gradients, weights, strict=True)]
        maps.append(_normal(to_places(torch.stack(parts).sum(0)[0])))
        plain.append(_normal(to_places(torch.stack([w.detach()[0, :, rows].mean((0, 1)) for w in weights]).mean(0))))
        likely.append(float(target.detach()))
    relevance = np.stack(maps)
    return Explanation(
        words=tuple(word for word, _ in words),
        relevance=relevance,
        attention=np.stack(plain),
        whole=_normal(torch.from_numpy(relevance.mean(0))),
        log_probabilities=np.array(likely, np.float32),
    )


def _forward(decoder: Any, tokens: Tensor, states: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities `(length,)` of the labels, and each layer's cross-attention `(1, heads, length, t)`, with gradients."""
    weights: list[Tensor] = []
    with torch.enable_grad():
        x = states
        length = x.shape[1]
        for block, cross in zip(decoder.resblocks, decoder.cross_attn, strict=True):
            x = block(x, attn_mask=decoder.attn_mask[:length, :length])
            keys, values = image_keys_values(cross, tokens)
            query = split_heads(cross_query(cross, x), cross.attn.num_heads)
            weight = (query @ keys.transpose(-1, -2) / math.sqrt(keys.shape[-1])).softmax(-1)
            weight.requires_grad_()
            weights.append(weight)
            x = finish_block(cross, x, join_heads(weight @ values))
        logits = decoder.ln_final(x) @ decoder.text_projection
        labels = labels.where(labels < logits.shape[-1], UNKNOWN)
        scores = logits.float().log_softmax(-1)[0].gather(-1, labels[0, :, None])[:, 0]
    return scores, weights


class _places:
    """From one number for each image token to a grid over the image."""

    def __init__(self, model: Any, pixels: Tensor, count: int) -> None:
        self._pool: Tensor | None = None
        pooler = getattr(model.visual, "attn_pool", None)
        if pooler is None:
            self._side = math.isqrt(count)
            return
        inputs: list[Tensor] = []

        def keep(_: object, given: tuple[Tensor, ...]) -> None:
            inputs.append(given[0])

        # What the pooler is given is not an output of the tower, so it is taken where it goes in.
        handle = pooler.register_forward_pre_hook(keep)
        try:
            weight = next(model.parameters())
            with torch.inference_mode():
                model._encode_image(pixels.to(weight.device, weight.dtype))
                x = pooler.ln_k(inputs[0])
                query = pooler.ln_q(pooler.query)[None]
                self._pool = pooler.attn(query, x, x, need_weights=True)[1][0].float().clone()
        finally:
            handle.remove()
        self._side = math.isqrt(self._pool.shape[1])
        # Queries before the tokens feed the embedding; columns before the patches are the class token.
        self._pool = self._pool[self._pool.shape[0] - count :, self._pool.shape[1] - self._side**2 :]

    def __call__(self, values: Tensor) -> Tensor:
        values = values.float()
        if self._pool is not None:
            values = values @ self._pool
        return values.reshape(self._side, self._side)


def _normal(grid: Tensor) -> NDArray[np.float32]:
    grid = grid.detach()
    total = float(grid.sum())
    return np.asarray((grid / total if total > 0 else grid).cpu().numpy(), np.float32)


def draw(image: Image, explanation: Explanation, resize_mode: str, width: int = 320) -> Image:
    """The image as the model saw it: once with the relevance of the whole text, then once for each word."""
    from PIL import Image as pillow
    from PIL import ImageDraw, ImageFont

    view = image.crop(view_of(image, resize_mode))
    height = max(1, round(view.height * width / view.width))
    view = view.resize((width, height), pillow.Resampling.BICUBIC)
    panels = [("all words", explanation.whole), *zip(explanation.words, explanation.relevance, strict=True)]
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    label, gap = 28, 8
    sheet = pillow.new("RGB", (columns * (width + gap) + gap, rows * (height + label + gap) + gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for number, (word, grid) in enumerate(panels):
        left = gap + number % columns * (width + gap)
        top = gap + number // columns * (height + label + gap)
        pen.text((left, top + 4), word[:36], fill="black", font=font)
        sheet.paste(_heat(view, grid), (left, top + label))
    return sheet


def view_of(image: Image, resize_mode: str) -> tuple[int, int, int, int]:
    """The part of an image that a model sees, in pixels: left, top, right, bottom."""
    if resize_mode != "shortest":
        return 0, 0, image.width, image.height
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return left, top, left + edge, top + edge


def _heat(view: Image, grid: NDArray[np.float32]) -> Image:
    """An image greyed where a word rests on nothing, and red to yellow where it rests on most."""
    from PIL import Image as pillow

    level = grid / grid.max() if grid.max() > 0 else grid
    smooth = pillow.fromarray((level * 255).astype(np.uint8)).resize(view.size, pillow.Resampling.BICUBIC)
    share = np.asarray(smooth, np.float32)[..., None] / 255
    grey = np.asarray(view.convert("L").convert("RGB"), np.float32)
    colour = np.concatenate([np.full_like(share, 255), 230 * share, np.zeros_like(share)], axis=-1)
    mixed = grey * (1 - 0.65 * share) + colour * 0.65 * share
    return pillow.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))

"""Captions from image tokens: batched greedy, beam and nucleus decoding of a CoCa, with a key-value cache.

The model is read, not called: each step computes one new position through the text tower's causal layers and through
the decoder's self- and cross-attention, softmax(QKᵀ/√d)V, while keys and values of earlier positions are kept. The
image's keys and values are computed once, and shared by all hypotheses of an image. In float32 the tokens equal those
of a decode that recomputes the whole prefix at every step; a test holds the two side by side.

Model: Yu et al., *CoCa: Contrastive Captioners are Image-Text Foundation Models*, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.crossmodal.attention import (
    cross_query,
    finish_block,
    image_keys_values,
    join_heads,
    self_projections,
    split_heads,
)
from retrieval.crossmodal.likelihood import log_likelihoods
from retrieval.errors import ModelChoiceError, QueryError
from retrieval.models.catalog import READER
from retrieval.results import Caption

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.models.loading import LoadedModel


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How to decode. Lengths count tokens without the marks of start and end.

    `beam` keeps `beams` hypotheses and ranks finished ones by log P / length^`length_power` (Wu et al., 2016, without
    its offset); `nucleus` samples from the smallest set of tokens that holds `top_p` of the probability (Holtzman et
    al., 2020), the same for the same `seed`. No run of `no_repeat` tokens occurs twice; 0 allows any.
    """

    method: Literal["greedy", "beam", "nucleus"] = "beam"
    beams: int = 4
    length_power: float = 0.7
    min_length: int = 3
    max_length: int = 40
    no_repeat: int = 3
    top_p: float = 0.9
    temperature: float = 1.0
    seed: int = 0
    prefix: str = ""


class CaptionDecoder:
    """Decodes the captions of one CoCa. Raises `ModelError` for a model that has no decoder."""

    def __init__(self, loaded: LoadedModel) -> None:
        model = loaded.model
        if getattr(model, "text_decoder", None) is None:
            raise ModelChoiceError(
                f"{loaded.spec.name} has no caption decoder; name one that has: mini, or after "
                f"`mmsearch models pull {READER}` {READER}"
            )
        if not hasattr(model.text, "token_embedding"):
            raise ModelChoiceError(
                f"{loaded.spec.name} has a text tower that mmsearch cannot decode with; use {READER}"
            )
        self._loaded = loaded
        self._model = model
        self._text, self._decoder = model.text, model.text_decoder
        rules = loaded.tokenizer.rules
        self._start, self._end, self._pad = rules.prefix[-1], rules.suffix[0], rules.pad
        # A row of ids is `context` long with both marks, so the last position that can be computed is one before.
        self._context = min(rules.length, int(self._decoder.context_length))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self._model.parameters()).device
        return device

    def describe(self, images: Sequence[Image], config: DecodeConfig = DecodeConfig()) -> list[Caption]:
        """One caption for each RGB image, decoded together: the caller bounds how many."""
        if not images:
            return []
        return self.decode(self.image_tokens(torch.stack([self._loaded.preprocess(image) for image in images])), config)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """Preprocessed images `(n, 3, s, s)` to the tokens that the decoder attends to, `(n, t, w)`."""
        weight = next(self._model.parameters())
        with torch.inference_mode():
            batch = pixels.to(weight.device, weight.dtype).contiguous(memory_format=torch.channels_last)
            tokens: Tensor = self._model._encode_image(batch)[1]
        return tokens

    def decode(self, tokens: Tensor, config: DecodeConfig = DecodeConfig()) -> list[Caption]:
        """One caption for each image, from `image_tokens` `(n, t, w)`.

        Raises `QueryError` for settings out of range or a prefix that leaves no room.
        """
        prefix = self._check(config)
        if not len(tokens):
            return []
        with torch.inference_mode():
            search = self._beam if config.method == "beam" else self._single
            decoded = search(tokens, prefix, config)
        return [
            Caption(text=self._loaded.tokenizer.decode(ids), ids=tuple(ids), log_probability=score)
            for ids, score in decoded
        ]

    def log_probabilities(self, tokens: Tensor, ids: Tensor) -> Tensor:
        """`(n,) float32`: log P(text | image) in nats, divided by the text's length with its end mark.

        `tokens (n, t, w)` of images and `ids (n, length)` of texts, pair by pair; either may be one, against all of the
        other. Higher is a better match. Padding, and tokens that the decoder does not know, count for nothing.
        """
        count = torch.arange(max(len(tokens), len(ids)), device=tokens.device)
        return self.pair_log_probabilities(
            tokens, ids, count if len(tokens) > 1 else count * 0, count if len(ids) > 1 else count * 0
        )

    def pair_log_probabilities(self, tokens: Tensor, ids: Tensor, images: Tensor, texts: Tensor) -> Tensor:
        """The same `(p,)` of many pairs: `images (p,)` are numbers of `tokens`, `texts (p,)` of `ids`."""
        with torch.inference_mode():
            device = tokens.device
            half = self._loaded.half_scores
            with torch.autocast(device.type, torch.bfloat16, enabled=half and tokens.dtype == torch.float32):
                return log_likelihoods(
                    self._model, tokens, ids.to(device), images.to(device), texts.to(device), self._pad
                )

    def words(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The text tower's states `(n, length, w)` of token ids `(n, length)`, and a mask `(n, length)` of those that are not
        padding."""
        weight = next(self._model.parameters())
        with torch.inference_mode():
            ids = ids.to(weight.device)
            states: Tensor = self._model._encode_text(ids)[1]
            # An id may be the padding's and yet stand inside a text.
            real = (ids != self._pad).flip(1).cumsum(1).flip(1) > 0
        return states, real

    def _check(self, config: DecodeConfig) -> list[int]:
        if config.method not in ("greedy", "beam", "nucleus"):
            raise QueryError(f"unknown decoding method {config.method!r}; use greedy, beam or nucleus")
        if config.beams < 1 or config.max_length < 1 or not 0 <= config.min_length <= config.max_length:
            raise QueryError("beams and maximum length must be at least 1, and the minimum length no more than that")
        if not 0 < config.top_p <= 1 or config.temperature <= 0 or config.no_repeat < 0:
            raise QueryError("top-p must be in 0..1, the temperature above 0, and the n-gram length not negative")
        if not config.prefix.strip():
            return []
        row = self._loaded.tokenizer.encode([config.prefix])[0].tolist()
        ids = [token for token in row if token not in (self._start, self._end, self._pad)]
        if len(ids) > self._context - 3:
            raise QueryError(f"the prefix has {len(ids)} tokens; this model reads up to {self._context - 3}")
        return ids

    def _room(self, prefix: Sequence[int], config: DecodeConfig) -> int:
        return min(config.max_length, self._context - 2 - len(prefix))

    def _begin(self, tokens: Tensor, rows: int, prefix: Sequence[int], config: DecodeConfig) -> tuple[_Cache, Tensor]:
        """A cache that has read start mark and prefix, and the log-probabilities `(n·rows, vocabulary)` of what follows."""
        cache = _Cache(self._text, self._decoder, tokens, rows, len(prefix) + 1 + self._room(prefix, config))
        for token in (self._start, *prefix):
            logits = cache.step(torch.full((len(tokens) * rows,), token, device=tokens.device))
        return cache, self._scores(logits)

    def _scores(self, logits: Tensor) -> Tensor:
        return logits.float().log_softmax(-1)

    def bar(self, scores: Tensor, written: Tensor, prefix: Sequence[int], config: DecodeConfig) -> Tensor:
        """What may not come next, as −inf: marks, an early end, a repeated run. `written (rows, length)`."""
        scores = scores.clone()
        scores[:, [self._pad, self._start]] = -torch.inf
        length = written.shape[1]
        if length < config.min_length:
            scores[:, self._end] = -torch.inf
        size = config.no_repeat
        if size and length + len(prefix) >= size:
            for row, ids in enumerate(written.tolist()):
                whole = [*prefix, *ids]
                tail = whole[len(whole) - size + 1 :]
                banned = [
                    whole[at + size - 1] for at in range(len(whole) - size + 1) if whole[at : at + size - 1] == tail
                ]
                if banned:
                    scores[row, banned] = -torch.inf
        return scores

    def _single(self, tokens: Tensor, prefix: list[int], config: DecodeConfig) -> list[tuple[list[int], float]]:
        count = len(tokens)
        cache, scores = self._begin(tokens, 1, prefix, config)
        written = torch.empty((count, 0), dtype=torch.long, device=tokens.device)
        total = torch.zeros(count, device=tokens.device)
        open_ = torch.ones(count, dtype=torch.bool, device=tokens.device)
        rng = torch.Generator().manual_seed(config.seed)
        for _ in range(self._room(prefix, config)):
            allowed = self.bar(scores, written, prefix, config)
            chosen = allowed.argmax(-1) if config.method == "greedy" else _sample(allowed, config, rng)
            chosen = torch.where(open_, chosen, self._pad)
            total += torch.where(open_, scores.gather(1, chosen[:, None])[:, 0], 0.0)
            written = torch.cat([written, chosen[:, None]], 1)
            open_ = open_ & (chosen != self._end)
            if not open_.any():
                break
            scores = self._scores(cache.step(chosen))
        else:
            total += torch.where(open_, scores[:, self._end], 0.0)
        marks = (self._end, self._pad)
        return [
            ([*prefix, *(token for token in ids if token not in marks)], score)
            for ids, score in zip(written.tolist(), total.tolist(), strict=True)
        ]

    def _beam(self, tokens: Tensor, prefix: list[int], config: DecodeConfig) -> list[tuple[list[int], float]]:
        count, beams, room = len(tokens), config.beams, self._room(prefix, config)
        cache, scores = self._begin(tokens, beams, prefix, config)
        device = tokens.device
        written = torch.empty((count * beams, 0), dtype=torch.long, device=device)
        # All hypotheses of an image are the same at first, so only one may be continued.
        total = torch.full((count, beams), -torch.inf, device=device)
        total[:, 0] = 0
        finished: list[list[tuple[float, float, list[int]]]] = [[] for _ in range(count)]
        done = [False] * count
        first = torch.arange(count, device=device)[:, None] * beams

        def end(reached: Tensor, length: int) -> None:
            """Take each open hypothesis as finished with `length` tokens, `reached (n, beams)` being its log-probability."""
            rows = written.view(count, beams, -1).tolist()
            for image, scores_of in enumerate(reached.tolist()):
                if not done[image]:
                    finished[image] += [
                        (score / (length + 1) ** config.length_power, score, ids)
                        for score, ids in zip(scores_of, rows[image], strict=True)
                        if score > -torch.inf
                    ]

        for length in range(room):
            allowed = self.bar(scores, written, prefix, config)
            reached = total[:, :, None] + allowed.view(count, beams, -1)
            end(reached[:, :, self._end], length)
            reached[:, :, self._end] = -torch.inf
            total, flat = reached.view(count, -1).topk(beams)
            vocabulary = allowed.shape[1]
            parents = (first + flat // vocabulary).view(-1)
            chosen = (flat % vocabulary).view(-1)
            written = torch.cat([written[parents], chosen[:, None]], 1)
            # Every later score is at most the best open one, divided by the greatest length that it can reach.
            bounds = (total[:, 0] / (room + 1) ** config.length_power).tolist()
            done = [
                already or (len(finished[image]) >= beams and max(finished[image])[0] >= bounds[image])
                for image, already in enumerate(done)
            ]
            if all(done):
                break
            cache.reorder(parents)
            scores = self._scores(cache.step(chosen))
        else:
            end(total + scores.view(count, beams, -1)[:, :, self._end], room)
        best = [max(many) for many in finished]
        return [([*prefix, *ids], score) for _, score, ids in best]


class _Cache:
    """Keys and values of the tokens read so far, `(rows, heads, length, head width)` a layer, and a step that adds one."""

    def __init__(self, text: Any, decoder: Any, tokens: Tensor, rows: int, length: int) -> None:
        self._text, self._decoder, self._rows = text, decoder, rows
        self._position = 0
        self._self_layers = [*text.transformer.resblocks, *decoder.resblocks]
        self._past: list[tuple[Tensor, Tensor]] = []
        for layer in self._self_layers:
            heads, width = layer.attn.num_heads, layer.attn.embed_dim
            shape = (len(tokens) * rows, heads, length, width // heads)
            self._past.append((tokens.new_empty(shape), tokens.new_empty(shape)))
        self._image_keys_values = [image_keys_values(layer, tokens) for layer in decoder.cross_attn]

    def step(self, ids: Tensor) -> Tensor:
        """Read one token a row, `(rows,)`; logits of the next, `(rows, vocabulary)`."""
        text, decoder, at = self._text, self._decoder, self._position
        x = text.token_embedding(ids)[:, None] + text.positional_embedding[at]
        x = x.to(self._image_keys_values[0][0].dtype)
        depth = len(text.transformer.resblocks)
        for number, layer in enumerate(self._self_layers):
            x = self._attend_self(number, layer, x)
            if number >= depth:
                x = self._attend_image(number - depth, decoder.cross_attn[number - depth], x)
        self._position += 1
        logits: Tensor = decoder.ln_final(x[:, 0]) @ decoder.text_projection
        return logits

    def reorder(self, parents: Tensor) -> None:
        """Let row i go on from row `parents[i]`."""
        upto = self._position
        for keys, values in self._past:
            keys[:, :, :upto] = keys[parents, :, :upto]
            values[:, :, :upto] = values[parents, :, :upto]

    def _attend_self(self, number: int, layer: Any, x: Tensor) -> Tensor:
        keys, values = self._past[number]
        at = self._position
        query, key, value = self_projections(layer, x)
        keys[:, :, at], values[:, :, at] = key[:, :, 0], value[:, :, 0]
        mixed = F.scaled_dot_product_attention(query, keys[:, :, : at + 1], values[:, :, : at + 1])
        return finish_block(layer, x, join_heads(mixed))

    def _attend_image(self, number: int, layer: Any, x: Tensor) -> Tensor:
        keys, values = self._image_keys_values[number]
        # The hypotheses of an image stand as its queries, so its keys and values are not copied for each.
        query = cross_query(layer, x).view(len(keys), self._rows, layer.attn.embed_dim)
        mixed = F.scaled_dot_product_attention(split_heads(query, layer.attn.num_heads), keys, values)
        return finish_block(layer, x, join_heads(mixed).reshape(len(x), 1, layer.attn.embed_dim))


def _sample(scores: Tensor, config: DecodeConfig, rng: torch.Generator) -> Tensor:
    """One token a row from the smallest set that holds `top_p`, drawn on the CPU so that a seed means the same anywhere."""
    ordered, order = (scores / config.temperature).softmax(-1).cpu().sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered[before >= config.top_p] = 0
    picked = torch.multinomial(ordered, 1, generator=rng)
    return order.gather(1, picked)[:, 0].to(scores.device)

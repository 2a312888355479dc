"""How likely a decoder finds texts, given images: the score of re-ranking, for one query or for all pairs of a benchmark.

What belongs to a text alone, its states up to the first look at an image, is computed once a text; keys and values of an image
once an image. Pairs are taken in the order of their texts' lengths, so that nothing is computed for padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retrieval.crossmodal.attention import cross_query, finish_block, image_keys_values, join_heads, split_heads

# Pairs that are computed together, texts that are read together, and what keys and values of images may take at a time.
_PAIRS, _TEXTS, _KEY_BYTES = 64, 256, 512 * 1024**2


def log_likelihoods(model: Any, tokens: Tensor, ids: Tensor, images: Tensor, texts: Tensor, pad: int) -> Tensor:
    """`(p,) float32`: log P(text | image) in nats, divided by the text's length with its end mark, for each of `p` pairs.

    `tokens (n, t, w)` of images and `ids (m, length)` of texts; `images (p,)` and `texts (p,)` are their numbers, int64.
    Padding, and tokens that the decoder does not know, count for nothing. Higher is a better match.
    """
    decoder = model.text_decoder
    mask = decoder.attn_mask
    # Padding is at the end and attention looks back, so what is behind a text need not be computed.
    length = int((ids != pad).nonzero()[:, 1].max()) + 1
    begun = torch.cat(
        [
            decoder.resblocks[0](
                model._encode_text(part)[1][:, : length - 1], attn_mask=mask[: length - 1, : length - 1]
            )
            for part in torch.split(ids, _TEXTS)
        ]
    )
    labels = ids[:, 1:length]
    places = torch.arange(1, length, device=ids.device)
    lengths = ((labels != pad) * places).amax(1)
    result = torch.empty(len(images), dtype=torch.float32, device=tokens.device)
    layers = list(zip(decoder.resblocks, decoder.cross_attn, strict=True))
    step = max(1, _KEY_BYTES // (2 * len(layers) * tokens[0].numel() * tokens.element_size()))
    for first in range(0, len(tokens), step):
        block = tokens[first : first + step]
        keys_values = [image_keys_values(cross, block) for _, cross in layers]
        here = ((images >= first) & (images < first + step)).nonzero()[:, 0]
        here = here[lengths[texts[here]].argsort(stable=True)]
        for pairs in torch.split(here, _PAIRS):
            mine = texts[pairs]
            size = int(lengths[mine].max())
            x = begun[mine, :size]
            of_image = images[pairs] - first
            for number, (layer, cross) in enumerate(layers):
                if number:
                    x = layer(x, attn_mask=mask[:size, :size])
                keys, values = (part[of_image] if len(block) > 1 else part for part in keys_values[number])
                query = split_heads(cross_query(cross, x), cross.attn.num_heads)
                if len(keys) == 1:
                    keys, values = keys.expand(len(x), -1, -1, -1), values.expand(len(x), -1, -1, -1)
                x = finish_block(cross, x, join_heads(F.scaled_dot_product_attention(query, keys, values)))
            result[pairs] = _means(decoder, x, labels[mine, :size], pad)
    return result


def _means(decoder: Any, states: Tensor, labels: Tensor, pad: int) -> Tensor:
    """The mean log-probability of each row's labels `(n, length)`; only for them are the vocabulary's logits made, which are
    most of the cost."""
    real = (labels != pad) & (labels < decoder.text_projection.shape[1])
    logits = (decoder.ln_final(states[real]) @ decoder.text_projection).float()
    chosen = logits.gather(-1, labels[real][:, None])[:, 0] - logits.logsumexp(-1)
    sums = torch.zeros(labels.shape, dtype=torch.float32, device=states.device)
    sums[real] = chosen
    mean: Tensor = sums.sum(1) / real.sum(1)
    return mean

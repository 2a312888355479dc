"""Recall of a model on captioned pictures, as `mmsearch bench recall` tells it."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.datasets import CaptionSet
from benchmarks.metrics import Floats, Ranks, ranks_both_ways
from retrieval.decoder import CaptionDecoder
from retrieval.encoder import Encoder
from retrieval.rerank import Fusion
from retrieval.weights import Resolved

CANDIDATES = 50
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """What one model is worth on one set."""

    model: str
    images: int
    texts: int
    rerank: bool
    text_to_image: Ranks
    image_to_text: Ranks
    seconds: float

    def to_json(self) -> dict[str, object]:
        """The contract's keys, and 95 % intervals."""
        ways = {"text_to_image": self.text_to_image, "image_to_text": self.image_to_text}
        out: dict[str, object] = {
            "model": self.model,
            "images": self.images,
            "texts": self.texts,
            "rerank": self.rerank,
        }
        for name, ranks in ways.items():
            recall = ranks.recall()
            out[name] = {
                "R@1": recall.r1,
                "R@5": recall.r5,
                "R@10": recall.r10,
                "median_rank": recall.median_rank,
                "mAP@10": recall.map_at_10,
            }
        out["seconds"] = round(self.seconds, 2)
        out["confidence_95"] = {name: ranks.confidence() for name, ranks in ways.items()}
        return out


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """A set as a model sees it: unit rows, each text's picture, and for a reader image tokens and token ids."""

    images: Floats
    texts: Floats
    owner: NDArray[np.int64]
    tokens: torch.Tensor
    ids: torch.Tensor


def measure_recall(data: CaptionSet, found: Resolved, encoder: Encoder, rerank: Sequence[bool]) -> list[RecallReport]:
    """Encode a set once with `encoder`, and rank every text against every picture and back: as they are for False, and for
    True with the first 50 answers of each query ordered again by the same model.

    Raises `ModelError` where it has no decoder, before anything is encoded.
    """
    decoder = CaptionDecoder(encoder.loaded) if any(rerank) else None
    began = time.monotonic()
    encoded = _encode(data, encoder, decoder)
    spent, reports = time.monotonic() - began, []
    for again in rerank:
        began = time.monotonic()
        second = None
        if again and decoder is not None:
            second = _second_scores(encoded, encoder, decoder, Fusion.of(found.folder))
        to_image, to_text = ranks_both_ways(encoded.images, encoded.texts, encoded.owner, second)
        reports.append(
            RecallReport(
                model=encoder.spec.name,
                images=len(encoded.images),
                texts=len(encoded.texts),
                rerank=again,
                text_to_image=to_image,
                image_to_text=to_text,
                seconds=spent + time.monotonic() - began,
            )
        )
    return reports


def _encode(data: CaptionSet, encoder: Encoder, decoder: CaptionDecoder | None) -> _Encoded:
    loaded = encoder.loaded
    rows: list[Floats] = []
    tokens: list[torch.Tensor] = []
    pictures = data.pictures(encoder.spec.image_size)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while part := list(itertools.islice(pictures, _BATCH)):
            pixels = list(pool.map(encoder.preprocess, part))
            rows.append(encoder.encode_pixels(pixels))
            if decoder is not None:
                tokens.append(decoder.image_tokens(torch.from_numpy(np.stack(pixels))))
    flat = [text for many in data.captions for text in many]
    return _Encoded(
        images=np.concatenate(rows),
        texts=encoder.encode_texts(flat),
        owner=np.repeat(np.arange(len(data.captions)), [len(many) for many in data.captions]),
        tokens=torch.cat(tokens) if tokens else torch.empty(0),
        ids=torch.from_numpy(loaded.tokenizer.encode(flat)),
    )


def _second_scores(data: _Encoded, encoder: Encoder, decoder: CaptionDecoder, how: Fusion) -> tuple[Floats, Floats]:
    """Fused scores of each query's first answers, text to image and image to text, as `Reranker` gives them."""
    size = encoder.spec.image_size
    score = decoder.log_probabilities
    null = decoder.image_tokens(torch.zeros(1, 3, size, size))
    priors = np.concatenate([score(null, data.ids[at : at + 100]).cpu().numpy() for at in range(0, len(data.ids), 100)])
    fused: list[Floats] = []
    for queries, answers, by_image in ((data.texts, data.images, False), (data.images, data.texts, True)):
        second = np.empty((len(queries), min(CANDIDATES, len(answers))), np.float32)
        for row, query in enumerate(queries):
            cosines = answers @ query
            first = np.argsort(-cosines, kind="stable")[: second.shape[1]]
            one = slice(row, row + 1)
            pair = (data.tokens[one], data.ids[first]) if by_image else (data.tokens[first], data.ids[one])
            likely = score(*pair).cpu().numpy()
            if by_image:
                second[row] = cosines[first] + how.text_weight * (likely - how.null_share * priors[first])
            else:
                second[row] = cosines[first] + how.weight * (likely - priors[row])
        fused.append(second)
    return fused[0], fused[1]

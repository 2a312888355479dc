"""Recall of a model on captioned images, as `mmsearch bench recall` reports it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.datasets import CaptionSet
from benchmarks.encoded import EncodedSet, SecondStage, encode_set, second_stage
from benchmarks.metrics import Floats, Ranks, ranks_both_ways
from benchmarks.through import ranks_through_index
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.crossmodal.heads import load_head
from retrieval.crossmodal.rerank import RerankFusion
from retrieval.models.encoder import Encoder
from retrieval.models.weights import ModelFiles
from retrieval.types import WEIGHTED

WORST = 10


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A text whose own image came late: its `rank` from 1, the number of that image (`right`) and of the first
    hit (`top`)."""

    text: str
    rank: int
    right: int
    top: int


@dataclass(frozen=True, kw_only=True)
class RecallReport:
    """What one model is worth on one set. `fusion` is None without re-ranking, `index` where scores were exact."""

    model: str
    images: int
    texts: int
    fusion: str | None
    text_to_image: Ranks
    image_to_text: Ranks
    seconds: float
    misses: tuple[Miss, ...] = ()
    index: str | None = None

    def through(self) -> list[str]:
        """What was between query and answer, for people: nothing, or the index's type."""
        return [f"through {self.index}"] if self.index else []

    def to_json(self) -> dict[str, object]:
        """The contract's keys, the fusion, and 95 % intervals."""
        ways = {"text_to_image": self.text_to_image, "image_to_text": self.image_to_text}
        out: dict[str, object] = {
            "model": self.model,
            "images": self.images,
            "texts": self.texts,
            "rerank": self.fusion is not None,
        }
        for name, ranks in ways.items():
            out[name] = ranks.recall().to_json()
        out["seconds"] = round(self.seconds, 2)
        out["fusion"] = self.fusion
        out["index"] = self.index
        out["confidence_95"] = {name: ranks.confidence() for name, ranks in ways.items()}
        return out


def measure_recall(
    data: CaptionSet,
    files: ModelFiles,
    encoder: Encoder,
    fusions: Sequence[str | None],
    cache: Path | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
    *,
    through_index: bool = False,
) -> list[RecallReport]:
    """Encode a set once with `encoder`, and rank every text against every image and back: as they are for None, and for
    the name of a fusion with the first 50 answers of each query ordered again by the same model. With `through_index`, one
    more report measures a real index.

    Raises `ModelError` where it has no decoder or no such head, before anything is encoded.
    """
    decoder = CaptionDecoder(encoder.loaded) if any(fusions) else None
    ways = {name: RerankFusion.of(files.folder, name) for name in fusions if name is not None}
    began = time.monotonic()
    encoded = encode_set(data, encoder, decoder, cache, on_progress)
    stages = second_stage(encoded, encoder, decoder) if decoder is not None else None
    spent = time.monotonic() - began
    reports: list[RecallReport] = []

    def add_report(
        fusion: str | None, index: str | None, ranks: tuple[Ranks, Ranks], misses: tuple[Miss, ...] = ()
    ) -> None:
        reports.append(
            RecallReport(
                model=encoder.spec.name,
                images=len(encoded.images),
                texts=len(encoded.texts),
                fusion=fusion,
                index=index,
                text_to_image=ranks[0],
                image_to_text=ranks[1],
                seconds=spent + time.monotonic() - began,
                misses=misses,
            )
        )

    for name in fusions:
        began = time.monotonic()
        again = None
        if name is not None and stages is not None and decoder is not None:
            again = fused(encoded, stages, ways[name], decoder)
        ranks = ranks_both_ways(encoded.images, encoded.texts, encoded.owner, again)
        second = None if stages is None or again is None else (stages[0], again[0])
        add_report(name, None, ranks, _misses(data, encoded, ranks[0], second))
    if through_index:
        began = time.monotonic()
        to_image, to_text, kind = ranks_through_index(data, encoded, encoder)
        add_report(None, kind, (to_image, to_text))
    return reports


def _misses(
    data: CaptionSet, encoded: EncodedSet, ranks: Ranks, again: tuple[SecondStage, Floats] | None
) -> tuple[Miss, ...]:
    """The worst text queries, worst first, and their first hits."""
    texts = [text for many in data.captions for text in many]
    out = []
    for row in np.argsort(-ranks.first, kind="stable")[:WORST].tolist():
        if again is not None:
            stage, scores = again
            top = int(stage.answers[row][int(np.argmax(scores[row]))])
        else:
            top = int(np.argmax(encoded.images @ encoded.texts[row]))
        rank = int(ranks.first[row])
        out.append(Miss(text=texts[row], rank=rank, right=int(encoded.owner[row]), top=top))
    return tuple(miss for miss in out if miss.rank > 1)


def fused(
    data: EncodedSet, stages: tuple[SecondStage, SecondStage], how: RerankFusion, decoder: CaptionDecoder
) -> tuple[Floats, Floats]:
    """Fused scores of each query's first answers, text to image and image to text, as `Reranker` gives them."""
    to_image, to_text = stages
    by_words = to_image.cosine + how.fitted.weight * (to_image.likely - to_image.prior)
    if how.name != WEIGHTED:
        by_words = by_words + corrections(data, to_image, how, decoder)
    by_image = to_text.cosine + how.fitted.text_weight * (to_text.likely - how.fitted.null_share * to_text.prior)
    return by_words.astype(np.float32), by_image.astype(np.float32)


def corrections(data: EncodedSet, stage: SecondStage, how: RerankFusion, decoder: CaptionDecoder) -> Floats:
    """What a head adds to the weighted sum of each text with its first images, `(m, c)`."""
    out = np.empty(stage.cosine.shape, np.float32)
    tokens = data.tokens.float()
    head = load_head(how.folder, how.name, tokens)
    second = torch.from_numpy(stage.likely - stage.prior)
    cosine = torch.from_numpy(stage.cosine)
    with torch.inference_mode():
        for row, mine in enumerate(stage.answers):
            words, real = decoder.words(data.ids[row : row + 1])
            out[row] = head(words.float().cpu(), real.cpu(), tokens[mine], cosine[row], second[row])
    return out

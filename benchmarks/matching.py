"""What words add to meaning, on captioned images: one caption of each is asked for, the others are texts about it.

A caption that is asked for is in no index, so its words find its image by what others said of it. The same queries go to an
index that has no captions, where words can only meet the names of files: there, joining both must not cost what meaning
alone finds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.datasets import CaptionSet
from benchmarks.encoded import EncodedSet, encode_set
from benchmarks.metrics import Ranks
from benchmarks.through import DEPTH, joined_ranks, ranks_of_hits
from retrieval.engine import Engine
from retrieval.errors import MmsearchError
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported
from retrieval.store.journal import UnitResult
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, Match, Query

_PART = 4096


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """Text-to-image ranks by one way to match, with the other captions indexed or not; beyond the first 100 as 101."""

    model: str
    images: int
    texts: int
    match: Match
    captions: bool
    text_to_image: Ranks

    def to_json(self) -> dict[str, object]:
        """As `bench recall` reports."""
        return {
            "model": self.model,
            "images": self.images,
            "texts": self.texts,
            "match": self.match,
            "captions_indexed": self.captions,
            "text_to_image": self.text_to_image.recall().to_json(),
            "confidence_95": {"text_to_image": self.text_to_image.confidence()},
        }


def measure_matching(
    data: CaptionSet,
    encoder: Encoder,
    matches: Sequence[Match],
    cache: Path | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[MatchReport]:
    """One report for each way to match, without the captions and with them; images with a single caption are only searched
    among. The first caption of an image is the query. Raises `MmsearchError` where no image has several."""
    asked = [number for number, many in enumerate(data.captions) if len(many) > 1]
    if not asked:
        raise MmsearchError(
            f"{data.name} has no picture with several captions: one is asked for, the others are indexed"
        )
    ensure_exported(encoder.spec.name)
    encoded = encode_set(data, encoder, None, cache, on_progress)
    reports = []
    for captions in (False, True):
        with tempfile.TemporaryDirectory(prefix="mmsearch-bench-") as scratch:
            folder = Path(scratch) / "index"
            _write(folder, data, encoded, encoder, captions=captions)
            with Engine.open(folder) as engine:
                for match in matches:
                    ranks = []
                    for number in asked:
                        query = Query(text=data.captions[number][0], kind="image", k=DEPTH, match=match)
                        ranks.append(ranks_of_hits([hit.item.size for hit in engine.search(query)], [number]))
                    reports.append(
                        MatchReport(
                            model=encoder.spec.name,
                            images=len(data.paths),
                            texts=len(asked),
                            match=match,
                            captions=captions,
                            text_to_image=joined_ranks(ranks),
                        )
                    )
    return reports


def _write(folder: Path, data: CaptionSet, encoded: EncodedSet, encoder: Encoder, *, captions: bool) -> None:
    """An index of the images by their names, and with `captions` of all of their captions but the first."""
    places = [f"/{name.lstrip('/')}" for name in data.paths]
    images = [
        Item(id=f"image{number}", path=place, source=place, kind="image", size=number)
        for number, place in enumerate(places)
    ]
    texts, rows = [], []
    first = np.concatenate([[0], np.cumsum([len(many) for many in data.captions])])
    for number, many in enumerate(data.captions):
        for which in range(1, len(many)):
            source = f"{places[number]}.{which}.txt"
            texts.append(
                Item(id=f"{number}-{which}", path=places[number], source=source, kind="text", text=many[which])
            )
            rows.append(int(first[number]) + which)
    parts = [(images, encoded.images), *([(texts, encoded.texts[rows])] if captions and texts else [])]
    with IndexWriter(folder, encoder.spec) as writer:
        writer.add_root("/")
        for items, embeddings in parts:
            for at in range(0, len(items), _PART):
                chunk = slice(at, at + _PART)
                writer.journal(UnitResult.of_rows(items[chunk], embeddings[chunk], writer.manifest.roots))
        writer.publish()

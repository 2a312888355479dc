"""Recall through a real index: the same queries by the way that a user's go, and what that costs against exact scores.

The set's embeddings become an index on disk (half-precision rows, Faiss files, an inverted file where there are enough), and
every query is a search: texts through the exported text tower, images by their embeddings in the index.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.datasets import CaptionSet
from benchmarks.encoded import EncodedSet
from benchmarks.metrics import Ranks
from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported
from retrieval.store.journal import UnitResult
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, Kind, Query

DEPTH = 100
_PART = 4096


def ranks_through_index(data: CaptionSet, encoded: EncodedSet, encoder: Encoder) -> tuple[Ranks, Ranks, str]:
    """Ranks text to image and image to text, those beyond the first `DEPTH` as `DEPTH + 1`, and the index's type."""
    ensure_exported(encoder.spec.name)
    texts = [text for many in data.captions for text in many]
    texts_of = [np.flatnonzero(encoded.owner == n) for n in range(len(encoded.images))]
    with tempfile.TemporaryDirectory(prefix="mmsearch-bench-") as scratch:
        folder = Path(scratch) / "index"
        with IndexWriter(folder, encoder.spec) as writer:
            writer.add_root("/")
            for start in range(0, len(encoded.images), _PART):
                rows = encoded.images[start : start + _PART]
                items = [_item("image", start + n, None) for n in range(len(rows))]
                writer.journal(UnitResult.of_rows(items, rows, writer.manifest.roots))
            for start in range(0, len(texts), _PART):
                rows = encoded.texts[start : start + _PART]
                items = [_item("text", start + n, texts[start + n]) for n in range(len(rows))]
                writer.journal(UnitResult.of_rows(items, rows, writer.manifest.roots))
            writer.publish()
        to_image, to_text = [], []
        with Engine.open(folder) as engine:
            kind = str(engine.status()["vector_index"])
            for number, text in enumerate(texts):
                hits = engine.search(Query(text=text, kind="image", k=DEPTH))
                to_image.append(ranks_of_hits([hit.item.size for hit in hits], [int(encoded.owner[number])]))
            for number, mine in enumerate(texts_of):
                if len(mine):
                    hits = engine.search(Query(like=(f"image{number}",), kind="text", k=DEPTH))
                    to_text.append(ranks_of_hits([hit.item.size for hit in hits], mine.tolist()))
    return joined_ranks(to_image), joined_ranks(to_text), kind


def _item(kind: Kind, number: int, text: str | None) -> Item:
    """A row whose `size` is its number, which identifies a hit."""
    return Item(
        id=f"{kind}{number}", path=f"/{kind}/{number}", source=f"/{kind}/{number}", kind=kind, text=text, size=number
    )


def ranks_of_hits(answers: list[int], right: list[int]) -> tuple[int, float]:
    """The first right rank, `DEPTH + 1` for none, and the average precision over the first ten, of a list of answers."""
    places = np.flatnonzero(np.isin(answers, right)) + 1
    early = places[places <= 10]
    precision = float(np.sum(np.arange(1, len(early) + 1) / early)) / min(10, len(right))
    return (int(places[0]) if len(places) else DEPTH + 1), precision


def joined_ranks(ranks: list[tuple[int, float]]) -> Ranks:
    """Those of many queries together."""
    return Ranks(
        first=np.array([value for value, _ in ranks], np.int64),
        precision=np.array([value for _, value in ranks], np.float64),
    )

"""Engine: one open index and the searches over it. The one class that a program embeds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ModelError, QueryError
from retrieval.manifest import FORMAT_VERSION, METRIC, check_model, find_index, read_manifest
from retrieval.shards import Failure, ShardReader, read_failures
from retrieval.text_tower import TextTower
from retrieval.types import Hit, Kind, ModelSpec, Query
from retrieval.vectors import VectorIndex
from retrieval.writer import hold_open

if TYPE_CHECKING:
    from types import TracebackType

    from retrieval.encoder import Encoder

# How much of a `--not` direction is taken away from the query, both being unit vectors.
NEGATIVE_WEIGHT = 0.5


class Engine:
    """An index opened for searching. It keeps the state it opened with until `close`; not shared between threads.

    The text tower is the exported one where it exists, so words alone load neither torch nor open_clip; pictures load
    the whole model on first use.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self._holding = contextlib.ExitStack()
        self._holding.enter_context(hold_open(folder))
        try:
            self.folder = folder
            self.manifest = read_manifest(folder)
            self._device = device
            self._rows = ShardReader(folder, self.manifest)
            self._vectors: VectorIndex | None = None
            self._tower: TextTower | None = None
            self._encoder: Encoder | None = None
        except BaseException:
            self._holding.close()
            raise

    @staticmethod
    def open(index: str | os.PathLike[str] | None = None, *, device: str = "auto") -> Engine:
        """Open the index at `index`, in it, or (for `None`) the nearest one upwards from the working folder.

        Raises `IndexNotFoundError` or `FormatError`.
        """
        return Engine(find_index(index, os.environ, Path.cwd()), device)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let writers delete the files of this state."""
        self._holding.close()

    @property
    def model(self) -> ModelSpec:
        """The model that made this index, and that every query uses."""
        return self.manifest.model

    def embed(self, query: Query) -> NDArray[np.float32]:
        """The direction that a query means, `(d,) float32`, unit length.

        It is the sum of the unit vectors of its words and pictures, less half of each negative's.
        """
        texts = [query.text] if query.text is not None else []
        if any(not text.strip() for text in [*texts, *query.negatives]):
            raise QueryError("the query is empty; give some words or --image FILE")
        if not texts and not query.images:
            raise QueryError("the query is empty; give some words or --image FILE")
        total = np.zeros(self.model.dim, np.float32)
        words = self._encode_texts([*texts, *query.negatives]) if texts or query.negatives else None
        if words is not None:
            total += words[: len(texts)].sum(0)
            total -= NEGATIVE_WEIGHT * words[len(texts) :].sum(0)
        if query.images:
            total += self._load_encoder().encode_images(query.images).sum(0)
        length = float(np.linalg.norm(total))
        if length < 1e-6:
            raise QueryError("the query cancels itself out: what is wanted and what is not are the same")
        return np.asarray(total / length, np.float32)

    def search(self, query: Query) -> list[Hit]:
        """The `query.k` best items, best first; ties keep index order, so equal searches give equal answers.

        Scores are cosine similarities to `embed(query)`, exact to the half precision of the stored rows. Without
        `query.kind`, photos and videos are searched, or texts where the index holds no media.
        """
        if query.k < 1:
            raise QueryError(f"-k must be at least 1, not {query.k}")
        kinds: Sequence[Kind] = (query.kind,) if query.kind else self._default_kinds()
        direction = self.embed(query)
        scores, shards, rows = self._nearest(direction, query.k, kinds)
        items = self._rows.items(shards, rows)
        return [
            Hit(rank=rank, score=float(score), first_stage_score=float(score), rerank_score=None, item=item)
            for rank, (score, item) in enumerate(zip(scores, items, strict=True), 1)
        ]

    def status(self) -> dict[str, object]:
        """The contract's status object."""
        state = self.manifest
        files = [self.folder / entry.file for entry in state.files()]
        types = sorted({entry.type for entry in state.vectors})
        return {
            "items": sum(shard.alive for shard in state.shards),
            "images": state.alive("image"),
            "videos": self._rows.distinct_paths("video"),
            "moments": state.alive("video"),
            "texts": state.alive("text"),
            "failures": len(self.failures()),
            "model": self.model.name,
            "dim": self.model.dim,
            "metric": METRIC,
            "shards": len(state.shards),
            "bytes": sum(file.stat().st_size for file in files if file.exists()),
            "vector_index": "+".join(types) if types else "none",
            "format_version": FORMAT_VERSION,
        }

    def failures(self) -> list[Failure]:
        """The ledger: files that could not be indexed, and why."""
        return read_failures(self.folder)

    def _default_kinds(self) -> tuple[Kind, ...]:
        media = self.manifest.alive("image") + self.manifest.alive("video")
        return ("image", "video") if media else ("text",)

    def _nearest(
        self, direction: NDArray[np.float32], k: int, kinds: Sequence[Kind]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        if self._vectors is None:
            self._vectors = VectorIndex(self.folder, self.manifest, self._cuda())
        scores, shards, rows = self._vectors.search(direction, k, kinds)
        if not self._vectors.exact and len(rows):
            scores = self._rows.embeddings(shards, rows).astype(np.float32) @ direction
            order = np.lexsort((rows, shards, -scores))[:k]
            scores, shards, rows = scores[order], shards[order], rows[order]
        return scores, shards, rows

    def _cuda(self) -> str:
        # Finding out whether there is a GPU must not import torch: Faiss knows. An explicit device is the caller's word.
        return "cuda" if self._device == "auto" else self._device

    def _encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._encoder is None and self._tower is None:
            self._tower = TextTower.find(self.model.weights_sha256)
        if self._encoder is None and self._tower is not None:
            return self._tower.encode_texts(texts)
        return self._load_encoder().encode_texts(texts)

    def _load_encoder(self) -> Encoder:
        if self._encoder is None:
            from retrieval.encoder import Encoder

            try:
                encoder = Encoder.load(self.model.name, self._device)
            except ModelError as error:
                raise ModelError(f"this index needs its model {self.model.name}: {error}") from error
            check_model(self.model, encoder.spec)
            self._encoder = encoder
        return self._encoder

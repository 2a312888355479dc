"""Engine: one open index and the searches over it. The one class that a program embeds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import ItemNotFoundError, MediaError, ModelError, QueryError
from retrieval.models.catalog import READER
from retrieval.models.text_tower import TextTower
from retrieval.models.weights import MINI
from retrieval.ranking.collapse import group_moments
from retrieval.ranking.relevance import Calibration, from_sample
from retrieval.store.manifest import FORMAT_VERSION, METRIC, check_model, find_index, read_manifest
from retrieval.store.shards import Failure, ShardReader, read_failures
from retrieval.store.vectors import VectorIndex
from retrieval.store.writer import hold_open
from retrieval.types import WEIGHTED, Hit, Item, Kind, ModelSpec, Query, Rerank

if TYPE_CHECKING:
    from types import TracebackType

    from PIL.Image import Image

    from media.reader import ImageSource
    from retrieval.crossmodal.decoder import Caption
    from retrieval.crossmodal.rerank import Reranked, Reranker
    from retrieval.models.encoder import Encoder
    from retrieval.models.loading import LoadedModel
    from retrieval.models.weights import ModelFiles

# How much of a `--not` direction is taken away from the query, both being unit vectors.
NEGATIVE_WEIGHT = 0.5
# Texts whose embeddings are kept: a few hundred kilobytes.
REMEMBERED = 256


class Engine:
    """An index opened for searching. It keeps the state it opened with until `close`; not shared between threads.

    The text tower is the exported one where it exists, so words alone load neither torch nor open_clip; pictures load
    the whole model on first use.
    """

    def __init__(self, folder: Path, device: str = "auto", pictures: ImageSource | None = None) -> None:
        self._holding = contextlib.ExitStack()
        self._holding.enter_context(hold_open(folder))
        try:
            self.folder = folder
            self.manifest = read_manifest(folder)
            self._device = device
            self._pictures = pictures
            self._reranker: tuple[tuple[str, str], Reranker] | None = None
            self._rows = ShardReader(folder, self.manifest)
            self._vectors: VectorIndex | None = None
            self._tower: TextTower | None = None
            self._encoder: Encoder | None = None
            self._words: dict[str, NDArray[np.float32]] = {}
        except BaseException:
            self._holding.close()
            raise

    @staticmethod
    def open(
        index: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        pictures: ImageSource | None = None,
    ) -> Engine:
        """Open the index at `index`, in it, or (for `None`) the nearest one upwards from the working folder.

        `pictures` reads the images of items, for re-ranking and describing; by default from the files themselves.
        Raises `IndexNotFoundError` or `FormatError`.
        """
        return Engine(find_index(index, os.environ, Path.cwd()), device, pictures)

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let writers delete the files of this state."""
        self._holding.close()

    def reopened(self) -> Engine:
        """The index as it is now, with the models that this engine has loaded; this one stays as it is until it is closed.

        Raises what `open` raises, and `ModelError` where another model has taken the index's place.
        """
        fresh = Engine(self.folder, self._device, self._pictures)
        try:
            check_model(self.model, fresh.model)
        except BaseException:
            fresh.close()
            raise
        fresh._tower, fresh._encoder, fresh._reranker = self._tower, self._encoder, self._reranker
        fresh._words = self._words
        return fresh

    @property
    def model(self) -> ModelSpec:
        """The model that made this index, and that every query uses."""
        return self.manifest.model

    @property
    def pictures(self) -> ImageSource:
        """Where the images of items are read."""
        if self._pictures is None:
            from media.reader import ImageReader

            self._pictures = ImageReader()
        return self._pictures

    def embed(self, query: Query) -> NDArray[np.float32]:
        """The direction that a query means, `(d,) float32`, unit length.

        It is the sum of the unit vectors of its words, pictures and items alike, less half of each negative's. Raises
        `ItemNotFoundError` for an id that is not in the index.
        """
        texts = [query.text] if query.text is not None else []
        if any(not text.strip() for text in [*texts, *query.negatives]):
            raise QueryError("the query is empty; give some words or --image FILE")
        if not texts and not query.images and not query.like:
            raise QueryError("the query is empty; give some words or --image FILE")
        total = np.zeros(self.model.dim, np.float32)
        words = self.embed_texts([*texts, *query.negatives]) if texts or query.negatives else None
        if words is not None:
            total += words[: len(texts)].sum(0)
            total -= NEGATIVE_WEIGHT * words[len(texts) :].sum(0)
        if query.images:
            total += np.sum([self._encode_images(one) for one in query.images], 0)
        total += self._stored(query.like).sum(0)
        total -= NEGATIVE_WEIGHT * self._stored(query.unlike).sum(0)
        length = float(np.linalg.norm(total))
        if length < 1e-6:
            raise QueryError("the query cancels itself out: what is wanted and what is not are the same")
        return np.asarray(total / length, np.float32)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`(n, d) float32`, unit rows, encoded in one batch. The last few hundred are remembered: a page of hits more, or many
        queries encoded together beforehand, cost no second pass."""
        fresh = [text for text in dict.fromkeys(texts) if text not in self._words]
        known = {text: self._words[text] for text in texts if text in self._words}
        if fresh:
            known.update(zip(fresh, self._encode_texts(fresh), strict=True))
            self._words.update((text, known[text]) for text in fresh)
            for text in list(self._words)[: max(0, len(self._words) - REMEMBERED)]:
                del self._words[text]
        return np.stack([known[text] for text in texts])

    def search(self, query: Query) -> list[Hit]:
        """The `query.k` best items, best first; ties keep index order, so equal searches give equal answers.

        Scores are cosine similarities to `embed(query)`, exact to the half precision of the stored rows. Without
        `query.kind`, photos and videos are searched, or texts where the index holds no media. With `query.rerank`, the
        order and `score` are those of `rerank`.
        """
        _check_bounds(query)
        if query.rerank is not None:
            return self.rerank(query).hits
        kinds: Sequence[Kind] = (query.kind,) if query.kind else self._default_kinds()
        if query.group and "video" in kinds and self.manifest.alive("video"):
            return self._grouped(query, kinds)
        return self._flat(query, kinds, self.embed(query))

    def _flat(self, query: Query, kinds: Sequence[Kind], direction: NDArray[np.float32]) -> list[Hit]:
        scores, shards, rows = self._nearest(direction, query.k, kinds)
        items = self._rows.items(shards, rows)
        hits = [
            Hit(rank=rank, score=float(score), first_stage_score=float(score), rerank_score=None, item=item)
            for rank, (score, item) in enumerate(zip(scores, items, strict=True), 1)
        ]
        return self._judged(hits, self._calibration(query, kinds, direction), query.min_relevance)

    def _grouped(self, query: Query, kinds: Sequence[Kind]) -> list[Hit]:
        """`query.k` hits with the moments of a video as one, from as many moments as that takes."""
        wanted, direction = max(4 * query.k, 50), self.embed(query)
        while True:
            hits = self._flat(replace(query, k=wanted), kinds, direction)
            found = group_moments(hits, query.k)
            if len(found) == query.k or len(hits) < wanted:
                return found
            wanted *= 4

    def rerank(self, query: Query) -> Reranked:
        """What `search` finds, its first candidates ordered again by a model that looks at words and pixels together.

        ImageSource are ordered by the query's words, or texts by its pictures. Raises `QueryError` for any other mixture
        and `ModelError` for a reader that has no decoder, before anything is searched.
        """
        _check_bounds(query)
        how = query.rerank or Rerank()
        if how.candidates < 1:
            raise QueryError(f"--candidates must be at least 1, not {how.candidates}")
        kinds = (query.kind,) if query.kind else self._default_kinds()
        by_words = query.text is not None and "text" not in kinds
        if not by_words and not (query.images and query.text is None and "text" in kinds):
            raise QueryError("re-ranking orders pictures by words, or texts by a picture; this query is neither")
        found = self._reader(how.reader)
        reranker = self._load_reranker(found, how.fusion)
        grouped = query.group and "video" in kinds and self.manifest.alive("video") > 0
        wanted = max(4 * query.k if grouped else query.k, how.candidates)
        hits = self.search(replace(query, k=wanted, rerank=None, min_relevance=None, group=False))
        if by_words:
            done = reranker.rerank(query.text or "", hits[: how.candidates], self.pictures, how.milliseconds)
        else:
            flat = [one for entry in query.images for one in (entry if isinstance(entry, tuple) else (entry,))]
            done = reranker.rerank_texts(flat, hits[: how.candidates], how.milliseconds)
        hits = [*done.hits, *hits[how.candidates :]]
        # What was fitted holds for one pair of models; with another reader, the first stage says what is relevant.
        fitted = found.name == self.model.name and not query.negatives and how.fusion == WEIGHTED
        fused = self._fitted("fused") if fitted else None
        hits = self._judged(hits, fused, query.min_relevance)
        return replace(done, hits=group_moments(hits, query.k) if grouped else hits[: query.k])

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

    def rows(self, kinds: Sequence[Kind]) -> NDArray[np.float16]:
        """Every living embedding of some kinds, `(n, d) float16`, unit rows, in index order: for measurements."""
        parts = [np.empty((0, self.model.dim), np.float16)]
        for number, entry in enumerate(self.manifest.shards):
            if entry.kind in kinds and entry.alive:
                parts.append(np.delete(self._rows.all_embeddings(number), entry.tombstone_rows(), 0))
        return np.concatenate(parts)

    def item(self, identity: str) -> Item:
        """The item of this id. Raises `ItemNotFoundError` where the index has none."""
        shard, row = self._place(identity)
        return self._rows.items(np.array([shard]), np.array([row]))[0]

    def _place(self, identity: str) -> tuple[int, int]:
        place = self._rows.find(identity)
        if place is None:
            raise ItemNotFoundError(f"the index has no item {identity!r}")
        return place

    def _stored(self, identities: Sequence[str]) -> NDArray[np.float32]:
        """The embeddings `(n, d)` of items, as the index holds them."""
        places = np.array([self._place(one) for one in identities], np.int64).reshape(-1, 2)
        return self._rows.embeddings(places[:, 0], places[:, 1]).astype(np.float32)

    def _encode_images(self, entry: Image | tuple[Image, ...]) -> NDArray[np.float32]:
        """The unit vector `(d,)` of a picture, or of a clip's frames together."""
        total = self._load_encoder().encode_images(entry if isinstance(entry, tuple) else (entry,)).sum(0)
        return np.asarray(total / max(1e-9, float(np.linalg.norm(total))), np.float32)

    def _encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self._tower is None and self._encoder is None:
            self._tower = TextTower.find(self.model.weights_sha256)
        # The exported tower even where the model is loaded: it is faster, and equal words must give equal answers.
        if self._tower is not None:
            return self._tower.encode_texts(texts)
        return self._load_encoder().encode_texts(texts)

    def reads_whole(self, text: str) -> bool:
        """Whether the model reads all of a text, and does not cut its end."""
        if self._tower is None and self._encoder is None:
            self._tower = TextTower.find(self.model.weights_sha256)
        tokenizer = self._tower.tokenizer if self._tower is not None else self._load_encoder().loaded.tokenizer
        return tokenizer.fits(text)

    def reader(self, name: str = "auto") -> LoadedModel:
        """The model that re-ranks, for captions of what was found; loaded once. Raises `ModelError`."""
        found = self._reader(name)
        fusion = self._reranker[0][1] if self._reranker is not None and self._reranker[0][0] == found.name else WEIGHTED
        return self._load_reranker(found, fusion).loaded

    def reader_name(self, *, offline: bool = False) -> tuple[str, str | None]:
        """The model that reads and describes by default: the index's own where it has a decoder, else the best at hand, with
        a line that says which. With `offline`, none is fetched for it."""
        from retrieval.models.catalog import CAPTIONER
        from retrieval.models.weights import has_decoder, is_cached, resolve

        if has_decoder(resolve(self.model.name)):
            return "auto", None
        if offline:
            return (CAPTIONER if is_cached(CAPTIONER) else "mini"), None
        found = resolve("auto", CAPTIONER)
        return found.name, found.notice

    def evidence(
        self, question: str, k: int = 3, *, min_relevance: float = 0.5, candidates: int = 50, reader: str = "auto"
    ) -> list[tuple[Hit, Caption]]:
        """What speaks to a question: pictures and moments found by its words, read again, with a caption each; nothing where
        nothing is relevant. Raises what `rerank` raises."""
        from retrieval.crossmodal.answer import search_words

        if "text" in self._default_kinds():
            return []
        how = Rerank(candidates=candidates, reader=reader)
        words = search_words(question)
        hits = self.search(Query(text=words, k=k, group=False, min_relevance=min_relevance, rerank=how))
        found = []
        for hit in hits:
            caption = self.describe(hit.item, reader)
            # What vanished since it was found cannot be shown, and is no evidence.
            if caption is not None:
                found.append((hit, caption))
        return found

    def describe(self, item: Item, reader: str = "auto") -> Caption | None:
        """A caption of a picture or of the middle of a moment; None where it cannot be read. Raises `ModelError`."""
        from retrieval.crossmodal.decoder import CaptionDecoder

        try:
            picture = self.pictures.picture(item.place)
        except MediaError:
            return None
        return CaptionDecoder(self.reader(reader)).describe([picture])[0]

    def _fitted(self, kind: str) -> Calibration | None:
        name = self.model.name
        folder = (
            MINI if name == "mini" else Path(name.removeprefix("local-dir:")) if name.startswith("local-dir:") else None
        )
        return Calibration.of(folder, kind)

    def _calibration(self, query: Query, kinds: Sequence[Kind], direction: NDArray[np.float32]) -> Calibration | None:
        """What cosines mean for this query: as fitted for words against pictures, or by a sample of the collection."""
        words, pixels = query.text is not None, bool(query.images or query.like)
        if words != pixels and words == ("text" not in kinds) and not query.negatives and not query.unlike:
            fitted = self._fitted("cosine")
            if fitted is not None:
                return fitted
        return from_sample(self._rows.sample(kinds).astype(np.float32) @ direction)

    def _judged(self, hits: Sequence[Hit], calibration: Calibration | None, least: float | None) -> list[Hit]:
        """Hits with their relevance, those below `least` left out. Without a calibration they keep what they have."""
        if calibration is not None:
            hits = [replace(hit, relevance=calibration.relevance(hit.score)) for hit in hits]
        if least is None:
            return list(hits)
        if any(hit.relevance is None for hit in hits):
            raise QueryError(
                f"--min-relevance: nothing was fitted for {self.model.name}, and this index is too small to judge by itself"
            )
        return [hit for hit in hits if hit.relevance is not None and hit.relevance >= least]

    def _reader(self, name: str) -> ModelFiles:
        from retrieval.models.weights import has_decoder, resolve

        found = resolve(self.model.name if name == "auto" else name)
        if not has_decoder(found):
            raise ModelError(
                f"{found.name} has no decoder to re-rank with; name a reader that has one: --reader mini, or after "
                f"`mmsearch models pull` --reader {READER}"
            )
        return found

    def _load_reranker(self, found: ModelFiles, fusion: str) -> Reranker:
        if self._reranker is None or self._reranker[0] != (found.name, fusion):
            from retrieval.crossmodal.rerank import Fusion, Reranker
            from retrieval.models.loading import load_model
            from retrieval.models.weights import cache_dir

            how = Fusion.of(found.folder, fusion)
            own = found.name == self.model.name
            loaded = self._load_encoder().loaded if own else load_model(found, self._device)
            self._reranker = ((found.name, fusion), Reranker(loaded, how, cache_dir() / "image-tokens"))
        return self._reranker[1]

    def _load_encoder(self) -> Encoder:
        if self._encoder is None:
            from retrieval.models.encoder import Encoder

            try:
                encoder = Encoder.load(self.model.name, self._device)
            except ModelError as error:
                raise ModelError(f"this index needs its model {self.model.name}: {error}") from error
            check_model(self.model, encoder.spec)
            self._encoder = encoder
        return self._encoder


def _check_bounds(query: Query) -> None:
    if query.k < 1:
        raise QueryError(f"-k must be at least 1, not {query.k}")
    if query.min_relevance is not None and not 0 <= query.min_relevance <= 1:
        raise QueryError(f"--min-relevance must be in 0..1, not {query.min_relevance:g}")

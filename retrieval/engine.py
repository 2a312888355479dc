"""Engine: one open index and the searches over it. The one class that a program embeds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.crossmodal.decoder_models import DecoderModels
from retrieval.errors import ItemNotFoundError, MediaError, ModelError, QueryError
from retrieval.models.query_encoder import QueryEncoder
from retrieval.query import hint
from retrieval.ranking.fitted import Fitted
from retrieval.ranking.relevance import NEVER, from_sample, is_pair
from retrieval.search import Calibrations, Reading, asked_filter, listed, reads_by_text, search
from retrieval.state import IndexState, check_device
from retrieval.store.leases import open_state
from retrieval.store.manifest import FORMAT_VERSION, METRIC, Manifest, check_model, find_index
from retrieval.types import WEIGHTED, Answer, CopyGroup, Filter, Hit, Item, Kind, ModelSpec, Query, Rerank

if TYPE_CHECKING:
    from types import TracebackType

    from PIL.Image import Image

    from media.reader import ImageSource
    from retrieval.models.loading import LoadedModel
    from retrieval.results import Caption, Facets, Failure
    from retrieval.store.points import Point


class Engine:
    """An index opened for searching. It keeps the state it opened with until `close`; not shared between threads.

    The text tower is the exported one where it exists, so words alone load neither torch nor open_clip; images load the whole
    model on first use.
    """

    def __init__(self, folder: Path, device: str = "auto", images: ImageSource | None = None) -> None:
        check_device(device)
        self._holding = contextlib.ExitStack()
        lease = open_state(folder)
        self._holding.callback(lease.close)
        try:
            self._device, self._images = device, images
            self._state = IndexState(folder, lease.manifest, device)
            self._queries = QueryEncoder(self._state.manifest.model, device)
            self._decoder_models = DecoderModels(self._queries, device)
        except BaseException:
            self._holding.close()
            raise

    @staticmethod
    def open(
        index: str | os.PathLike[str] | None = None, *, device: str = "auto", images: ImageSource | None = None
    ) -> Engine:
        """Open the index at `index`, in it, or (for `None`) the nearest one upwards from the working folder.

        `device` is `auto`, `cpu`, `cuda` or `cuda:N`. `images` reads the images of items, by default from their files.
        Raises `IndexNotFoundError`, `FormatError`, or `QueryError` for a device that is not here.
        """
        return Engine(find_index(index, os.environ, Path.cwd()), device, images)

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

        Where the index has changed to another model, that one is loaded here, as far as words need it. Raises what `open`
        raises, and `ModelError`.
        """
        fresh = Engine(self.folder, self._device, self._images)
        try:
            check_model(self.model, fresh.model)
        except ModelError:
            try:
                fresh.embed_texts(["a photo"])
            except BaseException:
                fresh.close()
                raise
        else:
            fresh._queries, fresh._decoder_models = self._queries, self._decoder_models
        return fresh

    @property
    def folder(self) -> Path:
        """The index folder."""
        return self._state.folder

    @property
    def manifest(self) -> Manifest:
        """The committed state that is open."""
        return self._state.manifest

    @property
    def model(self) -> ModelSpec:
        """The model that made this index, and that every query uses."""
        return self._state.manifest.model

    @property
    def images(self) -> ImageSource:
        """Where the images of items are read."""
        if self._images is None:
            from media.reader import ImageReader

            self._images = ImageReader()
        return self._images

    def embed(self, query: Query) -> NDArray[np.float32]:
        """The direction that a query means, `(d,) float32`, unit length.

        It is the sum of the unit vectors of its words, images and items alike, less half of each negative's. Raises
        `QueryError` where there is none, and `ItemNotFoundError` for an id that is not in the index.
        """
        query = self._cropped(query)
        return self._queries.embed(query, self._stored(query.like), self._stored(query.unlike))

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """`(n, d) float32`, unit rows; the last few hundred are remembered."""
        return self._queries.embed_texts(texts)

    def reads_whole(self, text: str) -> bool:
        """Whether the model reads all of a text, and does not cut its end."""
        return self._queries.reads_whole(text)

    def search(self, query: Query) -> list[Hit]:
        """The `query.k` best items that pass its filter, best first; ties keep index order, so equal searches give equal
        answers, and a search for fewer gives the first of them.

        Scores are cosine similarities to `embed(query)`, exact to the half precision of the stored rows; with `query.rerank`
        the fused scores of `retrieval.crossmodal.rerank`, and 0 where a query looks for nothing and only lists.
        Raises `QueryError` and `ModelError`.
        """
        return list(self.answer(query).hits)

    def answer(self, query: Query) -> Answer:
        """The hits of `search`, what re-ranking could not do, and notes on the query.

        Images are ordered again by the query's words, or texts by its images. Raises `QueryError` for any other mixture and
        `ModelError` for a reranker that has no decoder, before anything is searched.
        """
        if not isinstance(query, Query):
            raise QueryError(f"search takes a Query, not {query!r:.60}: Query(text=...), or Query.parse(...) of a line")
        wanted = asked_filter(query)
        spoken = hint(query)
        notes = (*([spoken] if spoken is not None else []), *self._state.selections.notes(wanted))
        if query.lists:
            return replace(listed(self._state, query), notes=notes)
        query = self._cropped(query)
        kinds = self._state.selections.kinds(wanted)
        reading, of_fused = None, None
        if query.rerank is not None:
            by_text = reads_by_text(query, kinds)
            reading = Reading(
                reranker=self._decoder_models.reranker(query.rerank), images=self.images, how=query.rerank
            )
            # What was fitted holds for words against images, read by the model that made the index.
            fits = by_text and is_pair(query, kinds) and query.rerank.fusion == WEIGHTED
            of_fused = (
                self._fitted.fused if fits and self._decoder_models.is_index_model(query.rerank.reranker) else None
            )
        direction = self.embed(query)
        of_cosine = self._fitted.cosine if is_pair(query, kinds) else None
        if of_cosine is None:
            of_cosine = from_sample(self._state.sample(kinds) @ direction, self._state.selections.select(wanted).count)
        if is_pair(query, kinds) and query.words is not None and not self._queries.knows(query.words):
            notes = (
                *notes,
                f"the model {self.model.name} knows none of these words: nothing is judged relevant by meaning",
            )
            of_cosine, of_fused = NEVER, None
        calibrations = Calibrations(cosine=of_cosine, fused=of_fused)
        answer = search(self._state, query, direction, calibrations, reading, self._stored(query.unlike))
        return replace(answer, notes=notes)

    def facets(self, wanted: Filter) -> Facets:
        """How many items there are of each year, month, folder, camera, place and kind among those that pass `wanted`. Without
        kinds, the texts that pass are counted as a kind, too, and only so. Raises `QueryError`."""
        from retrieval.store.facets import count_facets

        state = self._state
        selection = state.selections.select(wanted)
        facets = count_facets(self.manifest, state.facts, selection, state.videos.numbers)
        texts = 0
        if wanted.kinds is None and "text" not in state.selections.kinds(wanted):
            texts = state.selections.select(replace(wanted, kinds=("text",))).count
        return replace(facets, kinds={**facets.kinds, "text": texts}) if texts else facets

    def points(self, wanted: Filter) -> list[Point]:
        """Where the items that pass `wanted` were taken, as clusters, the largest first. Raises `QueryError`."""
        from retrieval.store.points import count_points

        selection = self._state.selections.select(wanted)
        return count_points(self.manifest, self._state.facts, selection, self._state.videos.numbers)

    def status(self) -> dict[str, object]:
        """The contract's status object."""
        manifest = self.manifest
        files = [self.folder / entry.file for entry in manifest.files()]
        types = sorted({entry.type for entry in manifest.vectors})
        return {
            "items": sum(shard.alive for shard in manifest.shards),
            "images": manifest.alive("image"),
            "videos": manifest.counts.videos,
            "moments": manifest.alive("video"),
            "texts": manifest.alive("text"),
            "failures": manifest.counts.failures,
            "model": self.model.name,
            "dim": self.model.dim,
            "metric": METRIC,
            "shards": len(manifest.shards),
            "bytes": sum(file.stat().st_size for file in files if file.exists()),
            "vector_index": "+".join(types) if types else "none",
            "format_version": FORMAT_VERSION,
        }

    def failures(self) -> list[Failure]:
        """The ledger: files that could not be indexed, and why."""
        from retrieval.store.ledger import read_failures

        return read_failures(self.folder, self.manifest)

    def duplicates(self, start: int = 0) -> Iterator[CopyGroup]:
        """The groups of copies of two items and more, in index order, from the one of number `start` on."""
        groups = self._state.copies
        for number in range(0 if groups is None else len(groups)):
            places = groups.members_of(number) if groups is not None else np.empty(0, np.int64)
            places = places[self._state.places.living(places)]
            if groups is None or len(places) < 2:
                continue
            if start > 0:
                start -= 1
            else:
                items = self._state.reader.items(*self._state.places.rows(places))
                yield CopyGroup(kind=groups.kind_of(number), items=tuple(items))

    def copies(self, identity: str) -> list[Item]:
        """An item and all its living copies, the best first; itself alone where it has none. Raises `ItemNotFoundError`."""
        shard, row = self._place(identity)
        places = self._state.places.places(np.array([shard]), np.array([row]))
        groups = self._state.copies
        group = int(groups.groups_of(places)[0]) if groups is not None else -1
        if groups is not None and group >= 0:
            places = groups.members_of(group)
            places = places[self._state.places.living(places)]
        return self._state.reader.items(*self._state.places.rows(places))

    def embeddings(self, kinds: Sequence[Kind]) -> NDArray[np.float16]:
        """Every living embedding of some kinds, `(n, d) float16`, unit rows, in index order: for measurements."""
        parts = [np.empty((0, self.model.dim), np.float16)]
        for number, entry in enumerate(self.manifest.shards):
            if entry.kind in kinds and entry.alive:
                parts.append(np.delete(self._state.reader.all_embeddings(number), entry.tombstone_rows(), 0))
        return np.concatenate(parts)

    def item(self, identity: str) -> Item:
        """The item of this id. Raises `ItemNotFoundError` where the index has none."""
        shard, row = self._place(identity)
        return self._state.reader.items(np.array([shard]), np.array([row]))[0]

    def same_file(self, identity: str) -> list[Item]:
        """What the index holds of the media file of an item: the image or the moments, and the texts about it, in the order of
        time; the item itself is among them. Raises `ItemNotFoundError`."""
        shard, row = self._place(identity)
        itself = self._state.reader.items(np.array([shard]), np.array([row]))[0]
        words = self._state.lexicon.shards.get(shard)
        key = 0 if words is None else int(words.about[row])
        if not key:
            return [itself]
        shards, rows = self._state.lexicon.about(key)
        alive = self._state.places.living(self._state.places.places(shards, rows))
        items = self._state.reader.items(shards[alive], rows[alive])
        # A hash only says where to look.
        same = [item for item in items if item.path == itself.path]
        return sorted(same, key=lambda item: -1.0 if item.start is None else item.start)

    def captioner_name(self, *, offline: bool = False) -> tuple[str, str | None]:
        """The model that re-ranks and captions by default, and a line that says which where it is not the index's own. With
        `offline`, none is fetched for it."""
        return self._decoder_models.default_name(offline=offline)

    def captioner(self, name: str = "auto") -> LoadedModel:
        """A model that re-ranks, captions and explains, loaded once. Raises `ModelError`."""
        return self._decoder_models.load(name)

    def describe(self, item: Item, captioner: str = "auto") -> Caption | None:
        """A caption of an image or of the middle of a moment; None where it cannot be read. Raises `ModelError`."""
        from retrieval.crossmodal.decoder import CaptionDecoder

        try:
            image = self.images.image(item.image_place)
        except MediaError:
            return None
        return CaptionDecoder(self.captioner(captioner)).describe([image])[0]

    def evidence(
        self, question: str, k: int = 3, *, min_relevance: float = 0.5, candidates: int = 50, captioner: str = "auto"
    ) -> list[tuple[Hit, Caption]]:
        """Evidence on a question: images and moments found by its words and re-ranked by `captioner`, with a caption each;
        empty where nothing is relevant. Raises what `answer` raises."""
        from retrieval.crossmodal.answer import evidence_query

        query = evidence_query(question, k, min_relevance, Rerank(candidates=candidates, reranker=captioner))
        if "text" in self._state.selections.kinds(query.filter):
            return []
        described = [(hit, self.describe(hit.item, captioner)) for hit in self.search(query)]
        # What vanished since it was found cannot be shown, and is no evidence.
        return [(hit, caption) for hit, caption in described if caption is not None]

    @cached_property
    def _fitted(self) -> Fitted:
        return Fitted.of_model(self.model.name)

    def _place(self, identity: str) -> tuple[int, int]:
        place = self._state.reader.find(identity)
        if place is None:
            raise ItemNotFoundError(f"the index has no item {identity!r}")
        return place

    def _cropped(self, query: Query) -> Query:
        """A query without a region, of the parts of its images and items that it means. Raises `MediaError` as well."""
        if query.region is None:
            return query
        from media.image import crop

        items = [self.images.image(self.item(identity).image_place) for identity in query.like]
        parts: list[Image | tuple[Image, ...]] = []
        for entry in (*query.images, *items):
            several = isinstance(entry, tuple)
            cropped = tuple(crop(image, query.region) for image in (entry if isinstance(entry, tuple) else (entry,)))
            parts.append(cropped if several else cropped[0])
        return replace(query, images=tuple(parts), like=(), region=None)

    def _stored(self, identities: Sequence[str]) -> NDArray[np.float32]:
        """The embeddings `(n, d)` of items, as the index holds them."""
        places = np.array([self._place(identity) for identity in identities], np.int64).reshape(-1, 2)
        return self._state.embeddings.take(places[:, 0], places[:, 1]).astype(np.float32)

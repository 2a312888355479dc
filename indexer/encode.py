"""encode: what was read of a unit becomes its result: rows with embeddings, the lines of its sources, and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from indexer.copies import Copies
from indexer.pipeline import Preparation, Prepared, SeenFilm, prepare_record
from indexer.plan import Unit
from indexer.rows import FACTS, image_item, item_id, moment_items, recognised_item, text_items, with_facts
from indexer.videos import VideoRead
from media.errors import MediaError, OwnOutputError
from media.facts import NO_FACTS, Facts, completed, with_sidecars
from media.sidecars import sidecar_facts
from media.types import CONTAINERS, Passage, Source
from retrieval.crossmodal.moments import FrameSpan, MomentFusion, merge
from retrieval.store.journal import UnitResult
from retrieval.store.roots import Roots
from retrieval.store.source_keys import key_of
from retrieval.store.sources import SourceLine
from retrieval.types import Item, ModelSpec

Entry = TypeVar("Entry")
Floats = NDArray[np.float32]


class Embedder(Protocol):
    """The model, as indexing needs it; `retrieval.models.encoder.Encoder` is one."""

    spec: ModelSpec

    def warm(self) -> None:
        """Load what is not loaded yet."""

    def release(self) -> None:
        """Give back memory that the next use brings back in a moment."""

    def preprocess(self, image: Image) -> Floats:
        """An RGB image to `(3, s, s) float32`; on any thread."""

    def encode_pixels(self, pixels: Sequence[Floats]) -> Floats:
        """`(n, d) float32`, unit rows. Raises `FloatingPointError` where one is not finite."""

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """`(n, d) float32`, unit rows. Raises `FloatingPointError` where one is not finite."""


@dataclass(kw_only=True)
class UnitEncoder:
    """Encodes units with one model. `how` is for an image that is read again, and `fusion` makes one embedding of a moment's
    frames. `encoded` counts the images and frames that went through the model, `own` the files that were left out since
    mmsearch wrote them."""

    embedder: Embedder
    roots: Roots
    batch_size: int
    how: Preparation
    fusion: MomentFusion = "mean"
    copies: Copies | None = None
    encoded: int = 0
    own: int = 0

    def result(
        self, unit: Unit, prepared: Sequence[Prepared], *, slice: int | None = None, last: bool = True
    ) -> UnitResult:
        """The result of a unit of files, or of one slice of a container, from its records as they were read."""
        failures: dict[str, list[tuple[str, MediaError]]] = {}
        marks: dict[str, SourceLine] = {}
        items, image_embeddings = self._images(prepared, failures, marks)
        texts, text_embeddings = self._texts(unit, prepared, failures, slice or 0)
        pictured = {item.path: item for item in items if item.kind == "image"}
        texts = [_as_pictured(text, pictured.get(text.path)) for text in texts]
        media: dict[str, set[str]] = {}
        for item in (*items, *texts):
            media.setdefault(item.source, set()).add(item.path)
        lines = []
        for source in unit.sources:
            paths = media.get(source.path, set())
            many = source.kind in ("tar", "parquet")
            mark = marks.get(source.path)
            # A page whose text the PDF holds need not be read.
            written = pictured if source.kind == "pages" and {*pictured} <= {text.path for text in texts} else {}
            digest = next((ready.sha256 for ready in prepared if ready.record.path == source.path), "")
            lines.append(
                replace(
                    source_line(self.roots, source, failures.get(source.path, [])),
                    media=len({path for path in paths if path != source.path}) if many else int(bool(paths)),
                    content=bytes.fromhex(digest) if source.path in paths else b"",
                    ocr_seen=mark.ocr_seen if mark is not None else len(written),
                    ocr_read=mark.ocr_read if mark is not None else len(written),
                )
            )
        return UnitResult(
            items=(*items, *texts),
            embeddings=np.concatenate([image_embeddings, text_embeddings]),
            lines=tuple(lines),
            slice=slice,
            last=last,
        )

    def video(self, video: VideoRead) -> UnitResult:
        """The result of a video, or of a sound file, that was read: moments, and what is said in it."""
        source = video.source
        facts, wrong = self._video_facts(source, video.ending.facts if video.ending is not None else NO_FACTS)
        failures: list[tuple[str, MediaError]] = []
        if isinstance(video.failure, OwnOutputError):
            self.own += 1
        elif video.failure is not None:
            failures.append((source.path, video.failure))
        failures += wrong
        items: list[Item] = []
        embeddings = [self.none()]
        if video.embeddings and video.ending is not None:
            moments = merge(video.spans, np.stack(video.embeddings), self.fusion)
            items += moment_items(self.roots, moments, source, (video.ending.width, video.ending.height))
            embeddings += [moment.embedding[None] for moment in moments]
            if video.ending.stopped is not None and video.failure is None:
                reason = f"read up to {video.ending.duration:.0f} s: {video.ending.stopped}"
                failures.append((source.path, MediaError("decode", reason)))
        passages = [Passage(source.path, cue.text, cue.kind, cue.start, cue.end) for cue in video.cues]
        embeddings_of_texts, places = finite(
            self.embedder.encode_texts, [passage.text for passage in passages], self.none()
        )
        failures += [(source.path, _notfinite("a text in it"))] if len(places) < len(passages) else []
        texts = text_items(self.roots, passages, source)
        items += [texts[place] for place in places]
        line = replace(
            source_line(self.roots, source, failures), media=int(bool(items)), heard=video.heard, content=video.content
        )
        return UnitResult(
            items=tuple(with_facts(item, facts) for item in items),
            embeddings=np.concatenate([*embeddings, embeddings_of_texts]),
            lines=(line,),
        )

    def copied_video(
        self, source: Source, content: bytes, *, heard: bool, facts_of: Callable[[str], Facts]
    ) -> UnitResult | None:
        """The result of a video that the index holds, under another name or with other sidecars; None where it does not, or
        where it has no transcript and is to be `heard`. `facts_of` gives what the file at a path says of itself."""
        copy = self.copies.video(source, content) if self.copies is not None else None
        if copy is None:
            return None
        line, items, embeddings = copy
        if heard and not line.heard:
            return None
        facts, wrong = self._video_facts(source, facts_of(source.path))
        line_here = replace(source_line(self.roots, source, wrong), media=line.media, content=content, heard=line.heard)
        rows = tuple(with_facts(item, facts) for item in items)
        return UnitResult(items=rows, embeddings=embeddings, lines=(line_here,))

    def _video_facts(self, source: Source, inside: Facts) -> tuple[Facts, list[tuple[str, MediaError]]]:
        """The facts of a video from what it says of itself and its sidecars, and what is wrong with those."""
        beside, wrong = sidecar_facts(source.sidecars)
        return completed(with_sidecars(inside, beside), source.path, source.mtime_ns), wrong

    def frames(self, pixels: Sequence[Floats]) -> tuple[Floats, list[int]]:
        """Embeddings of frames `(n, 3, s, s)`, and the positions of those whose embedding is finite."""
        embeddings, places = finite(self.embedder.encode_pixels, list(pixels), self.none())
        self.encoded += len(places)
        return embeddings, places

    def _pictures(self, pictures: Sequence[Sequence[Floats]]) -> tuple[Floats, list[int]]:
        """Embeddings of pictures, each of its views `(3, s, s)`: the unit mean of theirs. Also the positions of
        the pictures that have one."""
        embeddings, places = self.frames([view for views in pictures for view in views])
        if len(places) == len(pictures) == sum(map(len, pictures)):
            return embeddings, places
        owners = np.repeat(np.arange(len(pictures)), [len(views) for views in pictures])[places]
        kept = np.unique(owners)
        means = [embeddings[owners == owner].mean(axis=0) for owner in kept]
        units = [mean / max(float(np.linalg.norm(mean)), 1e-12) for mean in means]
        return np.stack([self.none().sum(axis=0), *units])[1:].astype(np.float32), kept.tolist()

    def _images(
        self,
        prepared: Sequence[Prepared],
        failures: dict[str, list[tuple[str, MediaError]]],
        marks: dict[str, SourceLine],
    ) -> tuple[list[Item], Floats]:
        """Rows of images, and of the text in those that the index holds, whose lines there come into `marks`."""
        items: list[Item] = []
        parts = [self.none()]
        fresh: list[Prepared] = []
        for ready in prepared:
            for path, error in ready.wrong:
                failures.setdefault(ready.record.source.path, []).append((path, error))
            if isinstance(ready.failure, OwnOutputError):
                self.own += 1
            elif ready.failure is not None:
                _fail(failures, ready, ready.failure)
            elif ready.views:
                fresh.append(ready)
            elif not ready.texts:
                self._copy(ready, items, parts, fresh, failures, marks)
        for start in range(0, len(fresh), self.batch_size):
            batch = fresh[start : start + self.batch_size]
            encoded, places = self._pictures([ready.views for ready in batch])
            parts.append(encoded)
            films: list[tuple[Prepared, SeenFilm]] = []
            for place, ready in enumerate(batch):
                if place not in places:
                    _fail(failures, ready, _notfinite("it"))
                elif ready.decoded is not None:
                    record = ready.record
                    item = image_item(self.roots, record.path, record.source, ready.sha256, ready.decoded)
                    items.append(with_facts(item, ready.facts))
                    if ready.decoded.missing is not None:
                        _fail(failures, ready, MediaError("decode", ready.decoded.missing))
                    films += [(ready, ready.film)] if ready.film is not None else []
            moments, encoded = self._films(films)
            items += moments
            parts.append(encoded)
        return items, np.concatenate(parts)

    def _films(self, films: Sequence[tuple[Prepared, SeenFilm]]) -> tuple[list[Item], Floats]:
        """The moments of films in photos, with the facts of the photos."""
        pixels = [frame for _, film in films for frame in film.pixels]
        spans = [(number, span) for number, (_, film) in enumerate(films) for span in film.spans]
        encoded = [self.none()]
        kept: list[tuple[int, FrameSpan]] = []
        for start in range(0, len(pixels), self.batch_size):
            embeddings, places = self.frames(pixels[start : start + self.batch_size])
            encoded.append(embeddings)
            kept += [spans[start + place] for place in places]
        of_frames, owners = np.concatenate(encoded), np.array([number for number, _ in kept], np.int64)
        items: list[Item] = []
        parts = [self.none()]
        for number, (ready, film) in enumerate(films):
            own = [span for owner, span in kept if owner == number]
            moments = merge(own, of_frames[owners == number], self.fusion) if own else []
            rows = moment_items(self.roots, moments, ready.record.source, (film.width, film.height))
            items += [with_facts(row, ready.facts) for row in rows]
            parts += [moment.embedding[None] for moment in moments]
        return items, np.concatenate(parts)

    def _copy(
        self, ready: Prepared, items: list[Item], parts: list[Floats], fresh: list[Prepared],
        failures: dict[str, list[tuple[str, MediaError]]], marks: dict[str, SourceLine],
    ) -> None:  # fmt: skip
        """An image whose content is in the index: a new row with the old embedding."""
        copy = self.copies.image(ready.sha256) if self.copies is not None else None
        record = ready.record
        film = self.copies.film(copy[0], record.source) if self.copies is not None and copy is not None else None
        if copy is None or (ready.holds_film and film is None):
            # Another content with the same 64-bit hash, or a film that was not looked at: it is read like any other.
            reread = prepare_record(record, replace(self.how, holds=_nothing))
            for path, error in reread.wrong[len(ready.wrong) :]:
                failures.setdefault(record.source.path, []).append((path, error))
            if reread.failure is not None:
                _fail(failures, reread, reread.failure)
            else:
                fresh.append(reread)
            return
        item, embedding = copy
        source = record.source
        recognised = self.copies.recognised(item) if self.copies is not None and source.path == record.path else None
        identity = item_id(self.roots, record.path, "image", "")
        item = replace(
            item, id=identity, path=record.path, source=source.path, size=source.size, mtime_ns=source.mtime_ns
        )
        items.append(with_facts(item, ready.facts))
        parts.append(embedding)
        if film is not None:
            items += [with_facts(moment, ready.facts) for moment in film[0]]
            parts.append(film[1])
        if recognised is not None:
            marks[source.path], texts, embeddings = recognised
            image = with_facts(item, ready.facts)
            items += [recognised_item(self.roots, image, text.text or "") for text in texts]
            parts.append(embeddings)

    def _texts(
        self, unit: Unit, prepared: Sequence[Prepared], failures: dict[str, list[tuple[str, MediaError]]], slice: int
    ) -> tuple[list[Item], Floats]:
        items: list[Item] = []
        owners: list[Prepared] = []
        for source in unit.sources:
            with_texts = [ready for ready in prepared if ready.texts and ready.record.source.path == source.path]
            passages = [passage for ready in with_texts for passage in ready.texts]
            # Numbers of passages must not meet those of another slice.
            first = slice * 10**6 if source.kind in CONTAINERS else 0
            facts = [ready.facts for ready in with_texts for _ in ready.texts]
            rows = text_items(self.roots, passages, source, first)
            items += [with_facts(row, facts_of_row) for row, facts_of_row in zip(rows, facts, strict=True)]
            owners += [ready for ready in with_texts for _ in ready.texts]
        embeddings, places = finite(self.embedder.encode_texts, [item.text or "" for item in items], self.none())
        for place in sorted(set(range(len(items))) - set(places)):
            _fail(failures, owners[place], _notfinite("a text of it"))
        return [items[place] for place in places], embeddings

    def none(self) -> Floats:
        """No embeddings, `(0, d)`."""
        return np.empty((0, self.embedder.spec.dim), np.float32)


def source_line(roots: Roots, source: Source, failures: Iterable[tuple[str, MediaError]]) -> SourceLine:
    """The line of a source without items, with these failures by absolute path."""
    return SourceLine(
        key=key_of(*roots.split(source.path)),
        kind=source.kind,
        size=source.size,
        mtime_ns=source.mtime_ns,
        about=key_of(*roots.split(source.about)) if source.about is not None else None,
        sidecar=source.sidecar_state,
        media=0,
        failures=tuple((roots.split(path)[1], error.stage, error.reason) for path, error in failures),
    )


def finite(
    encode: Callable[[Sequence[Entry]], Floats], entries: Sequence[Entry], none: Floats
) -> tuple[Floats, list[int]]:
    """Embeddings of the entries whose embedding is finite, and their positions. A batch that fails is halved and tried again,
    down to single entries."""
    if not entries:
        return none, []
    try:
        return encode(entries), list(range(len(entries)))
    except FloatingPointError:
        if len(entries) == 1:
            return none, []
    middle = len(entries) // 2
    left, places = finite(encode, entries[:middle], none)
    right, others = finite(encode, entries[middle:], none)
    return np.concatenate([left, right]), [*places, *(middle + place for place in others)]


def _as_pictured(text: Item, image: Item | None) -> Item:
    """A text with the facts of the image of the same unit that it is about."""
    if image is None:
        return text
    return replace(text, **{name: getattr(image, name) for name in FACTS})


def _notfinite(what: str) -> MediaError:
    return MediaError("encode", f"the model made no finite embedding of {what}")


def _fail(failures: dict[str, list[tuple[str, MediaError]]], ready: Prepared, error: MediaError) -> None:
    failures.setdefault(ready.record.source.path, []).append((ready.record.path, error))


def _nothing(_: str) -> bool:
    return False

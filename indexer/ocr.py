"""ocr: the text in pictures, read once their embeddings are searchable, and made durable a few pictures at a time.

Which pictures wait is in the table of sources: a run that was killed goes on where it was, and one that finds nothing to read
loads no model.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from PIL.Image import Image

from indexer.config import OcrConfig, OcrCounts
from indexer.encode import Embedder, finite
from indexer.likeness import THRESHOLD, TextLikeness
from indexer.places import places_of
from indexer.progress import Progress
from indexer.rows import recognised_item
from media import storage
from media.errors import MediaError
from media.foreign import page_of
from media.isolated import ImageDecoder
from media.reader import ImageReader
from media.recognition import at_reading_size
from media.types import MAX_PIXELS
from retrieval.store.journal import UnitResult
from retrieval.store.leases import open_state
from retrieval.store.manifest import Manifest
from retrieval.store.pictures import UnreadSource, unread_below, unread_of
from retrieval.store.row_places import RowPlaces
from retrieval.store.shards import ShardReader
from retrieval.store.sources import SourceLine, SourceTable
from retrieval.store.writer import IndexWriter
from retrieval.types import Item

# Images that are looked at together; pictures that are read, lines that are marked, and seconds, before a step is durable.
_CHUNK, _STEP_PICTURES, _STEP_LINES, _STEP_SECONDS = 1024, 8, 4096, 10.0
_PUBLISH_SECONDS = 120.0
# Pictures that are decoded before the recogniser asks for them, and the short side that they are decoded at, at least.
_AHEAD, _SIDE = 3, 1000
# Threads that decode, and processes for what is decoded apart.
_DECODERS = 2
# Letters of one picture that are kept.
_MOST_LETTERS = 20_000


@dataclass(frozen=True)
class _Picture:
    """One image to look at: its number among those of its source, and whether it is to be read."""

    source: UnreadSource
    number: int
    wanted: bool
    item: Item | None


@dataclass
class _Step:
    """What was read and not made durable yet."""

    lines: dict[bytes, SourceLine] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    read: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def is_full(self) -> bool:
        waited = time.monotonic() - self.began if self.read else 0.0
        return self.read >= _STEP_PICTURES or len(self.lines) >= _STEP_LINES or waited > _STEP_SECONDS


class PictureTexts:
    """Reads the text in the images below `paths` that nobody has looked at, and publishes it. Iterate over it to do the work;
    `counts` are there afterwards.

    Ctrl-C (`KeyboardInterrupt`) publishes what was read and is raised again. A picture that cannot be read is in the ledger.
    Raises what `IndexWriter` raises, and `ModelError` for a recogniser that cannot be loaded.
    """

    def __init__(
        self,
        writer: IndexWriter,
        paths: Sequence[str],
        embedder: Embedder,
        config: OcrConfig,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._writer, self._paths, self._embedder, self._config = writer, paths, embedder, config
        self._decoder = ImageDecoder(_DECODERS, max_pixels)
        self._files = ImageReader()
        self._step = _Step()
        # Of the source that was met last: its key, and how far its images were looked at and read.
        self._at = (b"", 0, 0)
        # Sources whose files are not as they were indexed.
        self._changed: set[bytes] = set()
        self.counts = OcrCounts()

    def __iter__(self) -> Iterator[Progress]:
        began = self._published_at = time.monotonic()
        with self._decoder, closing(open_state(self._writer.folder)) as lease:
            state = lease.manifest
            total = sum(len(source.places) - source.first for source in self._sources(state))
            if not total:
                return
            done = 0
            try:
                for picture in self._read(state):
                    done += 1
                    if picture.item is not None:
                        yield Progress(
                            done=done, total=total, failed=self.counts.failed, path=picture.item.path, stage="ocr"
                        )
            except BaseException:
                self._flush()
                self._writer.publish()
                raise
            self._flush()
        self._writer.publish(merge=True)
        self.counts.seconds = time.monotonic() - began

    def _sources(self, state: Manifest) -> Iterator[UnreadSource]:
        """What is to be looked at, in the order of its keys within each place of the run."""
        table = SourceTable(self._writer.folder, state)
        waiting = self._writer.waiting()
        for place in places_of(state.roots, self._paths):
            if place.names is None:
                sources = unread_below(table, place.prefix, self._config.reading)
            else:
                sources = unread_of(list(table.find(sorted(place.keys)).values()), self._config.reading)
            # Of a container that has changed and is half read, the old images are still there.
            yield from (source for source in sources if source.key not in waiting)

    def _read(self, state: Manifest) -> Iterator[_Picture]:
        """Every image to look at, once it is dealt with."""
        likeness: TextLikeness | None = None
        reader, places = ShardReader(self._writer.folder, state), RowPlaces(state)
        images = (
            (source, number) for source in self._sources(state) for number in range(source.first, len(source.places))
        )
        with ThreadPoolExecutor(_DECODERS, thread_name_prefix="ocr") as pool:
            while chunk := list(islice(images, _CHUNK)):
                numbers = np.array([source.places[number] for source, number in chunk], np.int64)
                shards, rows = places.rows(numbers)
                seen = np.array([number < source.seen for source, number in chunk], np.bool_)
                wanted = np.ones(len(chunk), np.bool_)
                if self._config.reading == "auto" or seen.any():
                    likeness = likeness or TextLikeness.of(self._embedder)
                    likely = likeness.scores(reader.embeddings(shards, rows)) >= THRESHOLD
                    # What `auto` looked at before, it read where it was likely.
                    wanted = likely if self._config.reading == "auto" else ~(seen & likely)
                items = iter(reader.items(shards[wanted], rows[wanted]))
                pictures = [
                    _Picture(source, number, here, next(items) if here else None)
                    for (source, number), here in zip(chunk, wanted.tolist(), strict=True)
                ]
                for picture, decoded in self._decoded(pictures, pool):
                    self._take(picture, decoded)
                    yield picture
                    if self._step.is_full:
                        self._flush()

    def _decoded(
        self, pictures: Iterable[_Picture], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[_Picture, Image | MediaError | None]]:
        """Each with its image, a few decoded ahead; None for one that is not to be read, or is not as it was indexed."""
        ahead: deque[tuple[_Picture, Future[Image | MediaError | None] | None]] = deque()
        decoding = 0
        try:
            for picture in pictures:
                future = pool.submit(self._image, picture.source, picture.item) if picture.item is not None else None
                ahead.append((picture, future))
                decoding += future is not None
                while decoding > _AHEAD or (ahead and ahead[0][1] is None):
                    first, ready = ahead.popleft()
                    decoding -= ready is not None
                    yield first, ready.result() if ready is not None else None
            for first, ready in ahead:
                yield first, ready.result() if ready is not None else None
        finally:
            for _, ready in ahead:
                if ready is not None:
                    ready.cancel()

    def _image(self, source: UnreadSource, item: Item) -> Image | MediaError | None:
        try:
            stat = storage.stat(item.source)
            if (stat.st_size, stat.st_mtime_ns) != (source.size, source.mtime_ns):
                return None
            page = page_of(item.path) if item.path != item.source else None
            if page is not None:
                return at_reading_size(self._decoder.page(*page, _SIDE).rgb)
            decoded = self._decoder.decode(self._files.read(item.path), _SIDE, os.path.basename(item.path))
            return at_reading_size(decoded.rgb)
        except MediaError as error:
            return error
        except OSError:
            # The next run sees what became of it.
            return None
        except Exception as error:  # Decoders raise what a damaged file makes them raise; it costs that file alone
            return MediaError("decode", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")

    def _take(self, picture: _Picture, decoded: Image | MediaError | None) -> None:
        """Read one picture, or leave it out, and mark that in its source's line."""
        key = picture.source.key
        if picture.item is not None and decoded is None:
            self._changed.add(key)
        if key in self._changed:
            return
        failures: tuple[tuple[str, str, str], ...] = ()
        if picture.item is None:
            self.counts.left_out += self._config.reading == "auto"
        else:
            self._step.read += 1
            try:
                if isinstance(decoded, MediaError):
                    raise decoded
                self._keep_text(picture.item, decoded)
            except MediaError as error:
                self.counts.failed += 1
                place = self._writer.manifest.roots.split(picture.item.path)[1]
                failures = ((place, error.stage, error.reason),)
        self._mark(picture, failures)

    def _keep_text(self, item: Item, image: Image | None) -> None:
        lines = self._config.recogniser.read(image) if image is not None else []
        self.counts.read += 1
        text = "\n".join(line.text for line in lines)[:_MOST_LETTERS]
        if text:
            self.counts.with_text += 1
            self._step.items.append(recognised_item(self._writer.manifest.roots, item, text))

    def _mark(self, picture: _Picture, failures: tuple[tuple[str, str, str], ...]) -> None:
        source, number = picture.source, picture.number
        if self._at[0] != source.key:
            self._at = (source.key, source.seen, source.read)
        _, seen, read = self._at
        seen = max(seen, number + 1)
        # With `all`, what is not read now was read before.
        if read == number and (picture.wanted or self._config.reading == "all"):
            read = number + 1
        self._at = (source.key, seen, read)
        before = self._step.lines.get(source.key)
        self._step.lines[source.key] = SourceLine(
            key=source.key,
            kind="image",
            size=source.size,
            mtime_ns=source.mtime_ns,
            failures=(*(before.failures if before is not None else ()), *failures),
            ocr_seen=seen,
            ocr_read=read,
        )

    def _flush(self) -> None:
        """Make a step durable, and publish now and then."""
        step, self._step = self._step, _Step()
        if step.lines:
            none = np.empty((0, self._embedder.spec.dim), np.float32)
            # A text that the model makes nothing of is still found by its words.
            embeddings = np.zeros((len(step.items), self._embedder.spec.dim), np.float32)
            embeddings[:, :1] = 1
            encoded, places = finite(self._embedder.encode_texts, [item.text or "" for item in step.items], none)
            embeddings[places] = encoded
            self._writer.journal(
                UnitResult(items=tuple(step.items), embeddings=embeddings, lines=tuple(step.lines.values()), adds=True)
            )
        if time.monotonic() - self._published_at > _PUBLISH_SECONDS:
            self._writer.publish()
            self._published_at = time.monotonic()

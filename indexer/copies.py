"""What the index holds already, by content: a renamed image or video is copied, not encoded again."""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.rows import item_id
from media import storage
from media.errors import MediaError
from media.types import Source
from retrieval.store.manifest import Manifest
from retrieval.store.roots import Roots
from retrieval.store.shards import ShardReader
from retrieval.store.source_keys import Touched, key_of, place_of
from retrieval.store.sources import SourceLine, SourceTable
from retrieval.types import Item

_PIECE = 64 * 1024


@dataclass(frozen=True)
class Copies:
    """Rows of the state that a run began with, read by a reader and a table of their own: an open Parquet file serves one
    thread at a time, and both who encodes images and who reads videos ask."""

    reader: ShardReader
    table: SourceTable
    _alone: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def of(folder: Path, state: Manifest, touched: Touched) -> Copies:
        """Those of one state of the index at `folder`; `touched` counts what is read."""
        return Copies(ShardReader(folder, state, touched), SourceTable(folder, state, touched))

    def may_hold_image(self, sha256: str) -> bool:
        """Whether the index holds an image of this content; wrong once in some 10¹⁹ times."""
        return bool(self.reader.find_content(sha256))

    def image(self, sha256: str) -> tuple[Item, NDArray[np.float32]] | None:
        """That image: its item and its embedding `(1, d)`. None also for one of which something is missing: that is read
        again, so that the ledger tells of the copy as well."""
        with self._alone:
            for shard, row in self.reader.find_content(sha256):
                places = np.array([shard]), np.array([row])
                item = self.reader.items(*places)[0]
                if item.kind == "image" and item.sha256 == sha256 and not self._fails(shard, row, item.path):
                    return item, self.reader.embeddings(*places).astype(np.float32)
        return None

    def recognised(self, image: Item) -> tuple[SourceLine, list[Item], NDArray[np.float32]] | None:
        """The text that was recognised in an image of the index which is a file of its own: the line of its source, which tells
        how far it was looked at, and the rows with their embeddings `(n, d)`. None where nobody looked."""
        if image.path != image.source:
            return None
        with self._alone:
            key = key_of(*self.table.manifest.roots.split(image.source))
            line = self.table.find([key]).get(key)
            if line is None or not line.ocr_seen:
                return None
            places = self._places(replace(line, spans=tuple(span for span in line.spans if span.kind == "text")))
            items = self.reader.items(*places)
            return line, items, self.reader.embeddings(*places).astype(np.float32)

    def film(self, image: Item, source: Source) -> tuple[list[Item], NDArray[np.float32]] | None:
        """The moments of the film in a photo of the index, with their embeddings `(n, d)`, as rows of `source`; None where it
        has none."""
        if image.path != image.source:
            return None
        with self._alone:
            roots = self.table.manifest.roots
            key = key_of(*roots.split(image.source))
            line = self.table.find([key]).get(key)
            spans = tuple(span for span in line.spans if span.kind == "video") if line is not None else ()
            if line is None or not spans:
                return None
            places = self._places(replace(line, spans=spans))
            moments = [_moved(item, source, roots) for item in self.reader.items(*places)]
            return moments, self.reader.embeddings(*places).astype(np.float32)

    def _fails(self, shard: int, row: int, path: str) -> bool:
        """Whether the ledger has a line about the image itself: a line about its sidecar, or about another member of its
        container, is no matter."""
        key = self.reader.source_key(shard, row)
        line = self.table.find([key]).get(key)
        _, place = self.table.manifest.roots.split(path)
        return line is not None and any(failed == place for failed, _, _ in line.failures)

    def video(self, source: Source, content: bytes) -> tuple[SourceLine, list[Item], NDArray[np.float32]] | None:
        """A video of this content and size: its line, and its moments with their embeddings `(n, d)`, as rows of `source`.

        None also for a video of which not everything was read: its failure may have been mended. A sidecar of it that could not
        be read is no such failure.
        """
        with self._alone:
            for shard, row in self.reader.find_content(content):
                key = self.reader.source_key(shard, row)
                line = self.table.find([key]).get(key)
                if line is None or line.content != content or line.size != source.size or _damaged(line):
                    continue
                shards, rows = self._places(line)
                roots = self.table.manifest.roots
                items = [_moved(item, source, roots) for item in self.reader.items(shards, rows)]
                return line, items, self.reader.embeddings(shards, rows).astype(np.float32)
        return None

    def _places(self, line: SourceLine) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        shards, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for span in line.spans:
            first = 0
            for number, entry in enumerate(self.table.manifest.shards):
                if entry.kind != span.kind:
                    continue
                low, high = max(span.start, first), min(span.start + span.count, first + entry.rows)
                if low < high:
                    rows.append(np.arange(low - first, high - first, dtype=np.int64))
                    shards.append(np.full(high - low, number, np.int64))
                first += entry.rows
        return np.concatenate(shards), np.concatenate(rows)


def _damaged(line: SourceLine) -> bool:
    """Whether the file itself, and not a sidecar of it, has failed."""
    _, place = place_of(line.key)
    return any(path == place for path, _, _ in line.failures)


def _moved(item: Item, source: Source, roots: Roots) -> Item:
    """A row of another video as one of `source`."""
    part = f"{item.start:.3f}" if item.kind == "video" else f"{source.path}\0{item.id}"
    return replace(
        item,
        id=item_id(roots, source.path, item.kind, part),
        path=source.path,
        source=source.path,
        size=source.size,
        mtime_ns=source.mtime_ns,
    )


def sampled_digest(source: Source) -> bytes:
    """SHA-256 of a large file's size, beginning, middle and end: what tells videos apart without reading all of them.

    Raises `MediaError("read", reason)`.
    """
    digest = hashlib.sha256(str(source.size).encode())
    try:
        with storage.open_file(source.path, _PIECE) as opened:
            for start in (0, max(0, source.size // 2 - _PIECE // 2), max(0, source.size - _PIECE)):
                opened.seek(start)
                digest.update(opened.read(_PIECE))
    except OSError as error:
        raise MediaError("read", error.strerror or os.strerror(error.errno or 0)) from error
    return digest.digest()

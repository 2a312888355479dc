"""What an index held when a run began, against what is on disk now: unchanged, changed, gone, or in the ledger."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from media.types import CONTAINERS, MEMBER, Source, Unreadable
from media.walk import moving, walk
from retrieval.store.shards import Catalogue, Failure, ShardReader, key_of, read_failures, write_failures
from retrieval.store.writer import IndexWriter
from retrieval.types import Item


class KnownState:
    """The rows of the last commit and the ledger. What is replaced or gone is buried with the next `publish`.

    `count` holds `unchanged`, `removed` and `failed`. With `transcribe`, sound files may be new, and a video without texts is
    changed: nobody has heard it yet.
    """

    def __init__(self, writer: IndexWriter, roots: Sequence[str], *, retry_failed: bool, transcribe: bool) -> None:
        self._writer = writer
        self._roots = roots
        self._retry_failed, self._transcribe = retry_failed, transcribe
        self._ledger: dict[str, dict[str, Failure]] = {}
        for failure in read_failures(writer.folder):
            self._ledger.setdefault(failure.source, {})[failure.path] = failure
        self.half_done = writer.left_open()
        self.count: Counter[str] = Counter()
        self.changed_total = 0
        self._buried: list[NDArray[np.bool_] | slice] = []
        self._catalogue: Catalogue
        self._reader: ShardReader
        self._by_sha: NDArray[np.int64]
        self._read_catalogue()
        if writer.pending:
            self._recover()

    def _read_catalogue(self) -> None:
        self._reader = ShardReader(self._writer.folder, self._writer.manifest)
        self._catalogue = self._reader.catalogue()
        self._by_sha = np.argsort(self._catalogue.sha256, kind="stable")
        self._sha_sorted = self._catalogue.sha256[self._by_sha]

    def _recover(self) -> None:
        """Publish what a dead run left in the journal, in place of the older rows of the same files."""
        dead = np.zeros(len(self._catalogue.id), bool)
        items = self._writer.journalled()
        dead |= np.isin(self._catalogue.id, np.array([key_of(item.id) for item in items], np.int64))
        for name, stamp in {item.source: (item.size, item.mtime_ns) for item in items}.items():
            rows = self._catalogue.of_source(name)
            dead[rows] |= (self._catalogue.size[rows] != stamp[0]) | (self._catalogue.mtime_ns[rows] != stamp[1])
        self._buried.append(dead)
        self.publish()
        self._buried = []
        self._read_catalogue()

    def compare(self) -> None:
        """Walk once, to count what changed and find what is gone."""
        seen = np.zeros(len(self._catalogue.id), bool)
        lost: list[str] = []
        present: set[str] = set()
        for found in self._walk():
            if found.path in self._ledger:
                present.add(found.path)
            if isinstance(found, Unreadable):
                lost.append(found.path)
                self.note(
                    found.path, Source(path=found.path, kind="document", size=0, mtime_ns=0), "read", found.reason
                )
                present.add(found.path)
                continue
            rows = self._catalogue.of_source(found.path)
            seen[rows] = True
            if not self._unchanged(found):
                self.changed_total += 1
                continue
            self.count["failed"] += len(self._ledger.get(found.path, {}))
            if rows.stop > rows.start:
                members = len(np.unique(self._catalogue.path[rows])) if found.kind in ("tar", "parquet") else 1
                self.count["unchanged"] += members
        self._bury_gone(seen, lost)
        for name in [name for name in self._ledger if name not in present]:
            if self._below_roots(name) and not _below_any(name, lost):
                del self._ledger[name]

    def _bury_gone(self, seen: NDArray[np.bool_], lost: Sequence[str]) -> None:
        missing = np.flatnonzero(~seen)
        if not len(missing):
            return
        gone = np.zeros(len(seen), bool)
        media: set[str] = set()
        items = self._reader.items(self._catalogue.shard[missing], self._catalogue.row[missing])
        for index, item in zip(missing.tolist(), items, strict=True):
            if self._below_roots(item.source) and not _below_any(item.source, lost):
                gone[index] = True
                media.add(item.path if item.path.startswith(item.source + MEMBER) else item.source)
        self.count["removed"] += len(media)
        self._buried.append(gone)

    def _below_roots(self, path: str) -> bool:
        return _below_any(path, self._roots)

    def _unchanged(self, source: Source) -> bool:
        if source.kind == "sound" and not self._transcribe:
            # Its transcript, if there is one, stays: only a run that can hear may replace it.
            return True
        if source.path in self.half_done:
            return False
        failed = self._ledger.get(source.path, {}).values()
        if failed and self._retry_failed:
            return False
        rows = self._catalogue.of_source(source.path)
        stamps = [(failure.size, failure.mtime_ns) for failure in failed]
        if rows.stop > rows.start:
            if self._transcribe and source.kind == "video" and not stamps and not self._has_texts(rows):
                return False
            stamps.append((int(self._catalogue.size[rows.start]), int(self._catalogue.mtime_ns[rows.start])))
            # A text beside a picture belongs to it; when the picture comes or goes, the text means something else.
            single = source.kind not in CONTAINERS
            if single and int(self._catalogue.path[rows.start]) != key_of(source.about or source.path):
                return False
        return bool(stamps) and all(stamp == (source.size, source.mtime_ns) for stamp in stamps)

    def _has_texts(self, rows: slice) -> bool:
        shards = np.unique(self._catalogue.shard[rows]).tolist()
        return any(self._reader.manifest.shards[shard].kind == "text" for shard in shards)

    def changed(self) -> Iterator[Source]:
        """Every source that is new or not as it was, animated pictures as videos. Its old rows are buried, and what the ledger
        says of it is forgotten."""
        for source in self._walk():
            if isinstance(source, Unreadable) or self._unchanged(source):
                continue
            rows = self._catalogue.of_source(source.path)
            if rows.stop > rows.start:
                self._buried.append(rows)
            self._ledger.pop(source.path, None)
            yield replace(source, kind=moving(source.path, source.kind))

    def _walk(self) -> Iterator[Source | Unreadable]:
        return walk(self._roots, sound=True)

    def holds(self, sha256: str) -> bool:
        """Whether the index that this run began with holds a picture of this content."""
        return self._find(sha256) is not None

    def picture(self, sha256: str) -> tuple[Item, NDArray[np.float32]]:
        """That picture: its item and its embedding `(1, d)`."""
        place = self._find(sha256)
        if place is None:
            raise AssertionError("a content that was known is gone")
        shard, row = np.array([place[0]]), np.array([place[1]])
        return self._reader.items(shard, row)[0], self._reader.embeddings(shard, row).astype(np.float32)

    def _find(self, sha256: str) -> tuple[int, int] | None:
        """Where the index that this run began with holds a picture of this content."""
        start = int(np.searchsorted(self._sha_sorted, key_of(sha256), "left"))
        stop = int(np.searchsorted(self._sha_sorted, key_of(sha256), "right"))
        for number in self._by_sha[start:stop].tolist():
            shard = int(self._catalogue.shard[number])
            if self._reader.manifest.shards[shard].kind == "image":
                return shard, int(self._catalogue.row[number])
        return None

    def note(self, path: str, source: Source, stage: str, reason: str) -> None:
        """Put a failure in the ledger."""
        self.count["failed"] += 1
        self._ledger.setdefault(source.path, {})[path] = Failure(
            path=path, source=source.path, stage=stage, reason=reason, size=source.size, mtime_ns=source.mtime_ns
        )

    def publish(self, *, last: bool = False) -> None:
        """Publish what is in the journal, with the old rows of what was read anew dead."""
        dead = np.zeros(len(self._catalogue.id), bool)
        for rows in self._buried:
            dead[rows] = True
        buried = [
            (int(shard), self._catalogue.row[dead & (self._catalogue.shard == shard)])
            for shard in np.unique(self._catalogue.shard[dead])
        ]
        write_failures(self._writer.folder, [one for many in self._ledger.values() for one in many.values()])
        # Only the last commit merges small shards: until then the catalogue's shard numbers must hold.
        self._writer.commit(buried, merge=last)


def _below_any(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)

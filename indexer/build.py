"""build_index: find what changed, encode it, and commit; whatever happens, nothing that was done is lost."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.media.image import register_decoders
from indexer.pipeline import Preparation, Prepared, prepare
from indexer.sources import CONTAINERS, MEMBER, Record, Source, Unreadable, expand, roots_of, walk
from retrieval.encoder import Encoder
from retrieval.errors import IndexNotFoundError, MediaError
from retrieval.shards import (
    SHARD_ROWS,
    Catalogue,
    Failure,
    ShardReader,
    key_of,
    read_failures,
    write_failures,
)
from retrieval.types import Item, Kind
from retrieval.writer import IndexWriter, hold_open

COMMIT_ROWS = SHARD_ROWS // 2
COMMIT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build. `workers` are decoding threads; 0 means one for each CPU, at most eight."""

    batch_size: int = 32
    workers: int = 0
    retry_failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a build is: media files done of `total`, those encoded, and the file that came last."""

    done: int
    total: int
    failed: int
    path: str


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The contract's counts. `encoded` are pictures that went through the model; `seconds` leave out loading it."""

    indexed: int
    unchanged: int
    removed: int
    failed: int
    items: int
    encoded: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Pictures encoded over the time from the first read to the last commit."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


class IndexBuild:
    """One run over some paths. Iterate over it to do the work; `report` is there afterwards.

    Ctrl-C (`KeyboardInterrupt`) commits what is done and is raised again. Raises `IndexNotFoundError` when nothing
    under the paths can be indexed, and what `IndexWriter` raises.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], folder: Path, encoder: Encoder, config: BuildConfig
    ) -> None:
        self._roots = roots_of(paths)
        self._folder = folder
        self._encoder = encoder
        self._config = config
        self.report: BuildReport | None = None

    def __iter__(self) -> Iterator[Progress]:
        register_decoders()
        fresh = not (self._folder / "manifest.json").exists()
        if fresh and not any(isinstance(found, Source) for found in walk(self._roots)):
            raise IndexNotFoundError(f"nothing to index in {_shown(self._roots)}: no pictures or texts there")
        with IndexWriter(self._folder, self._encoder.spec) as writer:
            # Held open, so that the rows this run may copy stay on disk while it commits.
            with hold_open(self._folder):
                run = _Run(writer, self._encoder, self._config, self._roots)
                run.compare()
                try:
                    yield from run.work()
                except BaseException:
                    run.commit()
                    raise
                run.finish()
            self.report = run.report()
            if not self.report.items and not self.report.indexed:
                raise IndexNotFoundError(
                    f"nothing in {_shown(self._roots)} could be indexed; see: mmsearch failures --index {self._folder}"
                )


class _Run:
    """The state of one build."""

    def __init__(self, writer: IndexWriter, encoder: Encoder, config: BuildConfig, roots: Sequence[str]) -> None:
        self._writer = writer
        self._encoder = encoder
        self._config = config
        self._roots = roots
        self._ledger: dict[str, dict[str, Failure]] = {}
        for failure in read_failures(writer.folder):
            self._ledger.setdefault(failure.source, {})[failure.path] = failure
        self._half_done = writer.left_open()
        self._open: list[str] = []
        self._count: Counter[str] = Counter()
        self._buried: list[NDArray[np.bool_] | slice] = []
        self._changed_total = 0
        self._began = self._committed_at = time.monotonic()
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
        self.commit()
        self._buried = []
        self._read_catalogue()

    def compare(self) -> None:
        """Walk once, to count what changed and find what is gone."""
        seen = np.zeros(len(self._catalogue.id), bool)
        lost: list[str] = []
        present: set[str] = set()
        for found in walk(self._roots):
            if found.path in self._ledger:
                present.add(found.path)
            if isinstance(found, Unreadable):
                lost.append(found.path)
                self._note(
                    found.path, Source(path=found.path, kind="document", size=0, mtime_ns=0), "read", found.reason
                )
                present.add(found.path)
                continue
            rows = self._catalogue.of_source(found.path)
            seen[rows] = True
            if not self._unchanged(found):
                self._changed_total += 1
                continue
            self._count["failed"] += len(self._ledger.get(found.path, {}))
            if rows.stop > rows.start:
                members = len(np.unique(self._catalogue.path[rows])) if found.kind in ("tar", "parquet") else 1
                self._count["unchanged"] += members
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
        self._count["removed"] += len(media)
        self._buried.append(gone)

    def _below_roots(self, path: str) -> bool:
        return _below_any(path, self._roots)

    def _unchanged(self, source: Source) -> bool:
        if source.path in self._half_done:
            return False
        failed = self._ledger.get(source.path, {}).values()
        if failed and self._config.retry_failed:
            return False
        rows = self._catalogue.of_source(source.path)
        stamps = [(failure.size, failure.mtime_ns) for failure in failed]
        if rows.stop > rows.start:
            stamps.append((int(self._catalogue.size[rows.start]), int(self._catalogue.mtime_ns[rows.start])))
            # A text beside a picture belongs to it; when the picture comes or goes, the text means something else.
            single = source.kind not in CONTAINERS
            if single and int(self._catalogue.path[rows.start]) != key_of(source.about or source.path):
                return False
        return bool(stamps) and all(stamp == (source.size, source.mtime_ns) for stamp in stamps)

    def _changed(self) -> Iterator[Record]:
        """The records of every changed source; its old rows are buried with the next commit."""
        for source in walk(self._roots):
            if isinstance(source, Unreadable) or self._unchanged(source):
                continue
            rows = self._catalogue.of_source(source.path)
            if rows.stop > rows.start:
                self._buried.append(rows)
            self._ledger.pop(source.path, None)
            if source.kind in CONTAINERS:
                self._open.append(source.path)
                self._writer.mark_open([*self._half_done, *self._open])
            yield from expand(source)

    def work(self) -> Iterator[Progress]:
        """Encode what changed, a batch at a time."""
        if not self._changed_total:
            return
        config, side = self._config, self._encoder.spec.image_size
        self._encoder.warm()
        self._began = time.monotonic()
        how = Preparation(
            preprocess=self._encoder.preprocess, least_side=side, known=lambda sha: self._find(sha) is not None
        )
        workers = config.workers or min(8, os.cpu_count() or 1)
        pictures: list[Prepared] = []
        done = 0
        with closing(prepare(self._changed(), how, workers, 2 * config.batch_size)) as stream:
            for ready in stream:
                done += 1
                if ready.failure is not None:
                    self._fail(ready.record, ready.failure)
                elif ready.texts:
                    self._write_texts(ready)
                elif ready.pixels is None:
                    self._copy(ready)
                else:
                    pictures.append(ready)
                    if len(pictures) >= config.batch_size:
                        self._write_pictures(pictures)
                        pictures = []
                self._commit_sometimes()
                yield Progress(
                    done=done,
                    total=max(done, self._changed_total),
                    failed=self._count["failed"],
                    path=ready.record.path,
                )
        if pictures:
            self._write_pictures(pictures)

    def _write_pictures(self, batch: Sequence[Prepared]) -> None:
        pixels = [ready.pixels for ready in batch if ready.pixels is not None]
        try:
            rows = self._encoder.encode_pixels(pixels)
        except FloatingPointError as error:
            if len(batch) == 1:
                self._fail(batch[0].record, MediaError("encode", str(error)))
                return
            for ready in batch:
                self._write_pictures([ready])
            return
        self._writer.append([_picture(ready) for ready in batch], rows)
        self._count["indexed"] += len(batch)
        self._count["encoded"] += len(batch)

    def _write_texts(self, ready: Prepared) -> None:
        source = ready.record.source
        items: list[Item] = []
        first = self._count[f"texts of {source.path}"]
        for number, (path, text) in enumerate(ready.texts, first):
            items.append(
                Item(
                    id=item_id(path, "text", f"{source.path}\0{number}"),
                    path=path,
                    source=source.path,
                    kind="text",
                    text=text,
                    size=source.size,
                    mtime_ns=source.mtime_ns,
                    sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
                )
            )
        if source.kind in CONTAINERS:
            self._count[f"texts of {source.path}"] += len(items)
        self._writer.append(items, self._encoder.encode_texts([text for _, text in ready.texts]))
        if source.kind not in ("tar", "parquet") and not first:
            self._count["indexed"] += 1

    def _copy(self, ready: Prepared) -> None:
        """A picture whose content is in the index: a new row with the old embedding and facts."""
        place = self._find(ready.sha256)
        if place is None:
            raise AssertionError("a content that was known is gone")
        shard, row = np.array([place[0]]), np.array([place[1]])
        old = self._reader.items(shard, row)[0]
        source = ready.record.source
        item = replace(
            old,
            id=item_id(ready.record.path, "image", ""),
            path=ready.record.path,
            source=source.path,
            size=source.size,
            mtime_ns=source.mtime_ns,
        )
        self._writer.append([item], self._reader.embeddings(shard, row).astype(np.float32))
        self._count["indexed"] += 1

    def _find(self, sha256: str) -> tuple[int, int] | None:
        """Where the index that this run began with holds a picture of this content."""
        start = int(np.searchsorted(self._sha_sorted, key_of(sha256), "left"))
        stop = int(np.searchsorted(self._sha_sorted, key_of(sha256), "right"))
        for number in self._by_sha[start:stop].tolist():
            shard = int(self._catalogue.shard[number])
            if self._reader.manifest.shards[shard].kind == "image":
                return shard, int(self._catalogue.row[number])
        return None

    def _fail(self, record: Record, failure: MediaError) -> None:
        self._note(record.path, record.source, failure.stage, failure.reason)

    def _note(self, path: str, source: Source, stage: str, reason: str) -> None:
        self._count["failed"] += 1
        self._ledger.setdefault(source.path, {})[path] = Failure(
            path=path, source=source.path, stage=stage, reason=reason, size=source.size, mtime_ns=source.mtime_ns
        )

    def _commit_sometimes(self) -> None:
        waited = time.monotonic() - self._committed_at
        if self._writer.pending >= COMMIT_ROWS or (self._writer.pending and waited > COMMIT_SECONDS):
            self.commit()

    def commit(self, *, last: bool = False) -> None:
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
        self._committed_at = time.monotonic()

    def finish(self) -> None:
        """The last commit: every source that was begun is whole now."""
        self.commit(last=True)
        self._writer.mark_open([])

    def report(self) -> BuildReport:
        """The counts of this run."""
        return BuildReport(
            indexed=self._count["indexed"],
            unchanged=self._count["unchanged"],
            removed=self._count["removed"],
            failed=self._count["failed"],
            items=sum(shard.alive for shard in self._writer.manifest.shards),
            encoded=self._count["encoded"],
            seconds=time.monotonic() - self._began,
        )


def item_id(path: str, kind: Kind, part: str) -> str:
    """A name for an item that lasts as long as its path: 24 hexadecimal digits."""
    whole = "\0".join((path, kind, part)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(whole, digest_size=12).hexdigest()


def _picture(ready: Prepared) -> Item:
    decoded, source = ready.decoded, ready.record.source
    if decoded is None:
        raise AssertionError("a picture with pixels was decoded")
    return Item(
        id=item_id(ready.record.path, "image", ""),
        path=ready.record.path,
        source=source.path,
        kind="image",
        width=decoded.width,
        height=decoded.height,
        size=source.size,
        mtime_ns=source.mtime_ns,
        sha256=ready.sha256,
        taken_at=decoded.taken_at,
        camera=decoded.camera,
        latitude=decoded.latitude,
        longitude=decoded.longitude,
        phash=decoded.phash,
    )


def _below_any(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def _shown(paths: Sequence[str]) -> str:
    return ", ".join(path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n") for path in paths)

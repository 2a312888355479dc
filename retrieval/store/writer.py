"""Changing an index: one writer at a time, a journal that survives a kill, and commits that are seen whole.

Each encoded batch becomes a small Parquet file in `journal/`, on disk before the next batch begins. A commit merges
the journal into bounded shards, gives them vector files, and publishes the manifest last. The manifest says up to
which journal part it went, so a process that dies between any two steps loses and doubles nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.errors import FormatError, IndexLockedError, MmsearchError
from retrieval.files import write_atomically
from retrieval.store import shards as sh
from retrieval.store import vectors as vec
from retrieval.store.manifest import (
    Manifest,
    ShardEntry,
    VectorEntry,
    VectorPolicy,
    check_model,
    read_manifest,
    with_tombstones,
    write_manifest,
)
from retrieval.types import KINDS, Item, Kind, ModelSpec

# Small shards of one kind are merged once there are this many, so that daily additions do not pile up.
SMALL_SHARDS = 24


class IndexWriter:
    """The one writer of an index. Use as a context manager: it holds the lock from `__enter__` to `__exit__`.

    Raises `IndexLockedError` when another process writes, `ModelError` when the index was made by another model.
    """

    def __init__(self, folder: Path, spec: ModelSpec | None = None) -> None:
        self.folder = folder
        self._spec = spec
        self._lock: IO[str] | None = None
        self._part = 0
        self._pending = 0
        self.manifest: Manifest

    def __enter__(self) -> IndexWriter:
        created = not self.folder.exists()
        try:
            for name in ("shards", "vectors", "journal"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MmsearchError(
                f"cannot write to {self.folder}: {error.strerror}; name another place with --index"
            ) from error
        self._lock = _take_lock(self.folder)
        try:
            if (self.folder / "manifest.json").exists():
                self.manifest = read_manifest(self.folder)
                if self._spec is not None:
                    check_model(self.manifest.model, self._spec)
            elif self._spec is not None:
                self.manifest = Manifest(model=self._spec)
                write_manifest(self.folder, self.manifest)
            else:
                raise MmsearchError(f"{self.folder} has no manifest")
            self._sweep()
            self._part = max([self.manifest.journal, *self._journal_numbers()])
            self._pending = sum(self._rows_of(number) for number in self._journal_numbers())
        except BaseException:
            self._release()
            if created:
                with contextlib.suppress(OSError):
                    for name in ("lock", "readers"):
                        (self.folder / name).unlink(missing_ok=True)
                    for name in ("shards", "vectors", "journal", ""):
                        (self.folder / name).rmdir()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    @property
    def pending(self) -> int:
        """Rows in the journal that no shard holds yet."""
        return self._pending

    def append(self, items: Sequence[Item], embeddings: NDArray[np.float32]) -> None:
        """Make rows durable in the journal. `embeddings` is `(n, d)`, unit rows."""
        if not items:
            return
        table = sh.to_table(items, embeddings)
        with _disk(self.folder):
            sh.write_shard(self._journal_file(self._part + 1), table)
        self._part += 1
        self._pending += len(items)

    def journalled(self) -> list[Item]:
        """Items that an earlier run left in the journal: already encoded, not yet in a shard."""
        items: list[Item] = []
        for number in self._journal_numbers():
            items += sh.to_items(self._read_part(number))
        return items

    def mark_open(self, sources: Sequence[str]) -> None:
        """Note the sources of many rows that are being read now: one that a dead run left here is half done."""
        with _disk(self.folder):
            write_atomically(self._open_file, json.dumps(list(sources)).encode())

    def left_open(self) -> frozenset[str]:
        """The sources that an earlier run began and did not end."""
        try:
            return frozenset(json.loads(self._open_file.read_bytes()))
        except (OSError, ValueError):
            return frozenset()

    def commit(self, buried: Sequence[tuple[int, NDArray[np.int64]]] = (), *, merge: bool = False) -> Manifest:
        """Publish the journal as shards, with `buried` rows dead: pairs of a shard's number in the current manifest
        and rows. With `merge`, small shards are merged once they are many, and shard numbers change. Nothing is
        published when nothing changed and every vector file is there."""
        old = self.manifest
        entries = list(old.shards)
        for number, rows in buried:
            entries[number] = with_tombstones(entries[number], rows)
        numbers = self._journal_numbers()
        with _disk(self.folder):
            new = self._merge_journal(numbers) if numbers else []
            entries += new
            state = replace(
                old, shards=tuple(entries), journal=max([old.journal, *numbers]), generation=old.generation + 1
            )
            if merge:
                state = self._merge_small(state)
            state = replace(state, vectors=self._vectors(state, fresh=False))
            if replace(state, generation=old.generation) != old:
                write_manifest(self.folder, state)
                self.manifest = state
        for number in numbers:
            self._journal_file(number).unlink(missing_ok=True)
        self._pending = 0
        self._sweep()
        return self.manifest

    def compact(self) -> Manifest:
        """Rewrite all shards at full size without their dead rows, and every vector file."""
        self.commit(merge=False)
        with _disk(self.folder):
            state = self.manifest
            merged: list[ShardEntry] = []
            for kind in KINDS:
                merged += self._rewrite(state, kind, state.of_kind(kind))
            state = replace(state, shards=tuple(merged), vectors=(), generation=state.generation + 1)
            state = replace(state, vectors=self._vectors(state, fresh=True))
            write_manifest(self.folder, state)
        self.manifest = state
        self._sweep()
        return state

    def rebuild_vectors(self, policy: VectorPolicy | None = None) -> Manifest:
        """Make every vector file anew from the shards, checking each shard's SHA-256 first; with another policy from now on,
        where one is given."""
        for shard in self.manifest.shards:
            sh.verify(self.folder, shard)
        with _disk(self.folder):
            state = replace(self.manifest, vectors=(), generation=self.manifest.generation + 1)
            state = replace(state, policy=policy or state.policy)
            state = replace(state, vectors=self._vectors(state, fresh=True))
            write_manifest(self.folder, state)
        self.manifest = state
        self._sweep()
        return state

    def _merge_journal(self, numbers: Sequence[int]) -> list[ShardEntry]:
        by_kind: dict[Kind, list[pa.Table]] = {kind: [] for kind in KINDS}
        for number in numbers:
            table = self._read_part(number)
            kinds = np.array(table.column("kind").to_pylist())
            for kind in KINDS:
                rows = np.flatnonzero(kinds == kind)
                if len(rows):
                    by_kind[kind].append(table.take(pa.array(rows)))
        return [
            entry
            for kind, tables in by_kind.items()
            for entry in self._write_shards(kind, iter(tables), self.manifest.generation + 1)
        ]

    def _write_shards(self, kind: Kind, tables: Iterator[pa.Table], generation: int, tag: str = "") -> list[ShardEntry]:
        """Tables one after the other, cut into shards of at most `SHARD_ROWS` rows."""
        entries: list[ShardEntry] = []
        held: list[pa.Table] = []
        count = 0

        def flush() -> None:
            nonlocal held, count
            if not count:
                return
            name = f"shards/{kind}-{generation:06d}{tag}-{len(entries):04d}.parquet"
            whole = pa.concat_tables(held)
            digest = sh.write_shard(self.folder / name, whole)
            size = (self.folder / name).stat().st_size
            entries.append(ShardEntry(file=name, kind=kind, rows=count, sha256=digest, bytes=size))
            held, count = [], 0

        for table in tables:
            start = 0
            while start < table.num_rows:
                piece = table.slice(start, sh.SHARD_ROWS - count)
                held.append(piece)
                count += piece.num_rows
                start += piece.num_rows
                if count == sh.SHARD_ROWS:
                    flush()
        flush()
        return entries

    def _rewrite(self, state: Manifest, kind: Kind, shards: Sequence[ShardEntry], tag: str = "c") -> list[ShardEntry]:
        reader = sh.ShardReader(self.folder, state)
        numbers = {shard.file: number for number, shard in enumerate(state.shards)}

        def living() -> Iterator[pa.Table]:
            for shard in shards:
                dead, start = shard.tombstone_rows(), 0
                for table in reader.iter_tables(numbers[shard.file]):
                    here = np.arange(start, start + table.num_rows)
                    start += table.num_rows
                    keep = ~np.isin(here, dead)
                    yield table if keep.all() else table.filter(pa.array(keep))

        return self._write_shards(kind, living(), state.generation + 1, tag)

    def _merge_small(self, state: Manifest) -> Manifest:
        """Merge the small shards at the end of each kind once they are many; O(rows added), amortised."""
        for kind in KINDS:
            shards = state.of_kind(kind)
            tail = len(shards)
            while tail and shards[tail - 1].rows < sh.SHARD_ROWS // 4:
                tail -= 1
            small = shards[tail:]
            covered = {name for entry in state.vectors if entry.type != "flat" for name in entry.shards}
            small = tuple(shard for shard in small if shard.file not in covered)
            if len(small) >= SMALL_SHARDS:
                merged = self._rewrite(state, kind, small, "m")
                gone = {shard.file for shard in small}
                kept = [shard for shard in state.shards if shard.file not in gone]
                state = replace(state, shards=tuple(kept + merged))
        return state

    def _vectors(self, state: Manifest, fresh: bool) -> tuple[VectorEntry, ...]:
        reader = sh.ShardReader(self.folder, state)
        numbers = {shard.file: number for number, shard in enumerate(state.shards)}
        known = {entry.shards: entry for entry in state.vectors}

        def load(shard: ShardEntry) -> NDArray[np.float16]:
            return reader.all_embeddings(numbers[shard.file])

        entries: list[VectorEntry] = []
        for action, shards in vec.plan(state, state.model.dim):
            names = tuple(shard.file for shard in shards)
            if action == "keep" and not fresh:
                entries.append(known[names])
            elif action == "ivf":
                name = f"vectors/{shards[0].kind}-{state.generation:06d}.ivf.faiss"
                entries.append(vec.write_ivf(self.folder, name, shards, load))
            else:
                entries.append(vec.write_flat(self.folder, shards[0], load(shards[0])))
        return tuple(entries)

    @property
    def _open_file(self) -> Path:
        return self.folder / "journal" / "open.json"

    def _journal_file(self, number: int) -> Path:
        return self.folder / "journal" / f"{number:08d}.parquet"

    def _journal_numbers(self) -> list[int]:
        files = (self.folder / "journal").glob("*.parquet")
        return sorted(number for number in (int(file.stem) for file in files) if number > self.manifest.journal)

    def _read_part(self, number: int) -> pa.Table:
        return sh.read_table(self._journal_file(number))

    def _rows_of(self, number: int) -> int:
        return int(self._read_part(number).num_rows)

    def _sweep(self) -> None:
        """Delete files that no committed state names, unless a reader may still hold an older state."""
        for file in (self.folder / "journal").iterdir():
            stale = file.suffix == ".parquet" and int(file.stem) <= self.manifest.journal
            if stale or file.suffix == ".partial":
                file.unlink(missing_ok=True)
        with _no_readers(self.folder) as alone:
            if not alone:
                return
            named = {entry.file for entry in self.manifest.files()}
            for part in ("shards", "vectors"):
                for file in (self.folder / part).iterdir():
                    if f"{part}/{file.name}" not in named:
                        file.unlink(missing_ok=True)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


@contextlib.contextmanager
def hold_open(folder: Path) -> Iterator[None]:
    """While this is held, no writer deletes files of an older state. A read-only index needs no such promise."""
    try:
        handle = os.open(folder / "readers", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield
        return
    try:
        _flock(handle, shared=True)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _no_readers(folder: Path) -> Iterator[bool]:
    handle = os.open(folder / "readers", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        yield _flock(handle, shared=False)
    finally:
        os.close(handle)


def _take_lock(folder: Path) -> IO[str]:
    handle = open(folder / "lock", "a+", encoding="utf-8")
    if not _flock(handle.fileno(), shared=False):
        handle.seek(0)
        try:
            holder = json.loads(handle.read())
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
        except (ValueError, KeyError, OSError):
            who = "another process"
        handle.close()
        raise IndexLockedError(f"{folder} is being written by {who}; wait for it to end")
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    handle.truncate(0)
    handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
    handle.flush()
    return handle


def _flock(handle: int, *, shared: bool) -> bool:
    """An advisory lock that the system drops with the process; `False` when it is taken."""
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
    import msvcrt

    if shared:
        return True
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into one clear line; what was committed before stays as it was."""
    try:
        yield
    except (FormatError, MmsearchError):
        raise
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise MmsearchError(
            f"cannot write to {folder}: {reason}; what was committed before is safe, free some space and run it again"
        ) from error

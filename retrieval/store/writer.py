"""Changing an index: one writer at a time, a journal that survives a kill, and publications that are seen whole.

Each result of a unit becomes a part of the journal, on disk before the next is begun. A publication takes what the
parts say in one step: it adopts their rows, makes tombstones of the rows that they replace, takes their failures, and
writes one manifest, last. What a part says does not depend on the run that wrote it or that publishes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import portalocker

from media.excludes import Excludes
from retrieval.errors import FormatError, IndexLockedError, IndexNotFoundError, MmsearchError
from retrieval.files import PARTIAL
from retrieval.store import shards as sh
from retrieval.store.changes import adopted_rows, change_of, spans_of, winners_of, with_all_tombstones
from retrieval.store.journal import Part, UnitResult, part_file, part_numbers, read_part, write_part
from retrieval.store.leases import sweep, write_lease
from retrieval.store.ledger import keep_ledger, ledger_generation
from retrieval.store.manifest import (
    CopiesState,
    Counts,
    Manifest,
    VectorPolicy,
    check_model,
    read_manifest,
    write_manifest,
)
from retrieval.store.rewrite import compacted, merge_small, merge_sources, write_shards
from retrieval.store.roots import Roots
from retrieval.store.side_files import make_words_and_facts
from retrieval.store.sources import SourceLine, SourceTable, to_table, write_segment
from retrieval.store.succession import carry_out_succession, plan_succession
from retrieval.store.vector_files import make_vector_files, outgrown, retraining_hint
from retrieval.types import KINDS, ModelSpec

_FOLDERS = ("shards", "vectors", "sources", "copies", "journal", "leases")


class IndexWriter:
    """The one writer of an index. Use as a context manager: it holds the lock from `__enter__` to `__exit__`.

    Raises `IndexLockedError` when another process writes, `ModelError` when the index was made by another model.
    `notices` are lines that the user should see.
    """

    def __init__(self, folder: Path, spec: ModelSpec | None = None) -> None:
        self.folder = folder
        self._spec = spec
        self._lock: IO[str] | None = None
        self._parts: dict[int, Part] = {}
        self._next = 0
        self._adopted = 0
        self.notices: list[str] = []
        self.manifest: Manifest

    def __enter__(self) -> IndexWriter:
        created = not self.folder.exists()
        try:
            for name in _FOLDERS:
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MmsearchError(
                f"cannot write to {self.folder}: {error.strerror}; name another place with --index"
            ) from error
        self._lock = take_lock(self.folder)
        try:
            # Before anything is swept: a run that was killed may have left files that the manifest does not name yet.
            with _disk(self.folder):
                carry_out_succession(self.folder)
            if (self.folder / "manifest.json").exists():
                self.manifest = read_manifest(self.folder)
                if self._spec is not None:
                    check_model(self.manifest.model, self._spec)
            elif self._spec is not None:
                self.manifest = Manifest(model=self._spec, roots=Roots())
                self._write(self.manifest)
            else:
                raise IndexNotFoundError(f"no index at {self.folder}; make one with: mmsearch index FOLDER")
            if ledger_generation(self.folder) != self.manifest.generation:
                self._keep_ledger(-1)
            self._sweep()
            numbers = part_numbers(self.folder)
            self._next = max([self.manifest.journal, *numbers]) + 1
            self._parts = {number: read_part(self.folder, number) for number in numbers}
        except BaseException:
            self._release()
            if created:
                with contextlib.suppress(OSError):
                    (self.folder / "lock").unlink(missing_ok=True)
                    for name in (*_FOLDERS, ""):
                        (self.folder / name).rmdir()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    @property
    def pending(self) -> int:
        """Rows in the journal that no shard holds yet."""
        return sum(sum(counts) for part in self._parts.values() for counts in part.row_counts.values())

    def waiting(self) -> dict[bytes, tuple[SourceLine, int]]:
        """Of containers of which only some slices were read: the line of the last slice in the journal, and how many slices
        the journal and the index hold without a gap."""
        held: dict[bytes, tuple[SourceLine, int]] = {}
        for key, parts in winners_of(self._parts).items():
            line = parts[-1][1]
            if parts[-1][0].slice is not None and not parts[-1][0].last:
                held[key] = (line, (parts[-1][0].slice or 0) + 1)
        return held

    def add_root(self, path: str) -> None:
        """Let the folder `path` (absolute) be a root of this index, where none holds it already."""
        roots = self.manifest.roots.including(self.folder, path)
        if roots != self.manifest.roots:
            with _disk(self.folder):
                self._write(replace(self.manifest, roots=roots, generation=self.manifest.generation + 1))

    def set_excludes(self, excludes: Excludes) -> bool:
        """Let the index remember what it leaves out; returns whether that is another than before."""
        if excludes == self.manifest.excludes:
            return False
        with _disk(self.folder):
            self._write(replace(self.manifest, excludes=excludes, generation=self.manifest.generation + 1))
        return True

    def journal(self, result: UnitResult) -> None:
        """Make the result of a unit durable; `publish` takes it from there."""
        if not result.lines:
            return
        with _disk(self.folder):
            part = write_part(self.folder, self._next, result, self.manifest.roots)
        self._parts[part.number] = part
        self._next += 1

    def publish(self, removed: Iterable[bytes] = (), *, merge: bool = False) -> Manifest:
        """Publish the journal, and let the sources of the keys `removed` go. With `merge`, small shards are merged once they
        are many. Nothing is written when nothing changed and every vector file is there."""
        table = SourceTable(self.folder, self.manifest)
        lost = list(removed)
        gone = table.find(lost)
        change = change_of(self._parts, table, lost)
        with _disk(self.folder):
            old, generation = self.manifest, self.manifest.generation + 1
            spans, contents = spans_of(change, self._parts, old)
            fresh = [
                entry
                for kind in KINDS
                for entry in write_shards(
                    self.folder, kind, adopted_rows(kind, change, self._parts), generation, contents[kind]
                )
            ]
            lines = [replace(line, spans=(*line.spans, *spans.get(key, ()))) for key, line in change.lines.items()]
            state = replace(
                old,
                shards=(
                    *with_all_tombstones(old, [*change.replaced, *(s for line in gone.values() for s in line.spans)]),
                    *fresh,
                ),
                counts=_counted(old.counts, lines, [*change.before, *gone.values()]),
                journal=max([old.journal, *self._parts]),
                held=tuple(sorted(change.held)),
                generation=generation,
            )
            if lines or gone:
                segment = write_segment(self.folder, f"sources/{generation:06d}.parquet", [to_table(lines, list(gone))])
                state = merge_sources(self.folder, replace(state, sources=(*old.sources, segment)))
            if merge:
                state = merge_small(self.folder, state)
            self._adopted += sum(entry.rows for entry in fresh)
            # A run that brought most of the rows waits for training at its end; one that adds a few never does.
            retrain = merge and 2 * self._adopted > sum(entry.rows for entry in state.shards)
            state = replace(state, vectors=make_vector_files(self.folder, state, retrain=retrain))
            state = _with_copies(self.folder, state)
            if replace(state, generation=old.generation, journal=old.journal) != old:
                self._write(state, frozenset(gone), lines)
        with _disk(self.folder):
            make_words_and_facts(self.folder, self.manifest)
        if merge and outgrown(self.manifest):
            self.notices.append(
                "the index has many more rows than its lists were made for: mmsearch compact makes it faster"
            )
        hint = retraining_hint(self.manifest)
        if hint is not None and hint not in self.notices:
            self.notices.append(hint)
        self._forget(
            [number for number in self._parts if number not in change.held and number <= self.manifest.journal]
        )
        self._sweep()
        return self.manifest

    def compact(self) -> Manifest:
        """Publish the journal, rewrite all shards at full size without tombstones, and make every vector file anew."""
        self.publish()
        with _disk(self.folder):
            state = compacted(self.folder, self.manifest)
            state = _with_copies(self.folder, replace(state, vectors=make_vector_files(self.folder, state)))
            self._write(state)
        self._sweep()
        return state

    def rebuild_vectors(self, policy: VectorPolicy | None = None) -> Manifest:
        """Make every vector file, the words and the groups of copies anew from the shards, checking each shard's SHA-256 first;
        with another policy from now on, where one is given."""
        for shard in self.manifest.shards:
            sh.verify(self.folder, shard)
        with _disk(self.folder):
            state = replace(self.manifest, vectors=(), copies=CopiesState(), generation=self.manifest.generation + 1)
            state = replace(state, policy=policy or state.policy)
            state = _with_copies(self.folder, replace(state, vectors=make_vector_files(self.folder, state)))
            make_words_and_facts(self.folder, state, anew=True)
            self._write(state)
        self._sweep()
        return state

    def succeed(self) -> Manifest:
        """Let the successor inside this index, which is whole, take its place: other rows, of another model. Killed at any
        moment, the index is the one or the other, and the next writer ends what was begun."""
        with _disk(self.folder):
            plan_succession(self.folder, self.manifest)
            carry_out_succession(self.folder)
        self.manifest = read_manifest(self.folder)
        self._parts = {}
        self._keep_ledger(-1)
        self._sweep()
        return self.manifest

    def _write(self, state: Manifest, gone: frozenset[bytes] = frozenset(), lines: Sequence[SourceLine] = ()) -> None:
        """Publish a state: its lease, then the manifest, after which every new reader sees it, then the ledger."""
        before = self.manifest.generation
        write_lease(self.folder, state)
        write_manifest(self.folder, state)
        self.manifest = state
        self._keep_ledger(before, gone, lines)

    def _keep_ledger(self, before: int, gone: frozenset[bytes] = frozenset(), lines: Sequence[SourceLine] = ()) -> None:
        notice = keep_ledger(self.folder, SourceTable(self.folder, self.manifest), before, gone, lines)
        if notice is not None:
            self.notices.append(notice)

    def _forget(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            del self._parts[number]
            part_file(self.folder, number).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete files that neither this state nor a reader's lease names."""
        done, held = self.manifest.journal, set(self.manifest.held)
        for file in (self.folder / "journal").iterdir():
            stale = file.suffix == ".parquet" and int(file.stem) <= done and int(file.stem) not in held
            if stale or file.suffix == PARTIAL:
                file.unlink(missing_ok=True)
        sweep(self.folder, self.manifest, ("shards", "vectors", "sources", "copies"))

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _counted(before: Counts, lines: Iterable[SourceLine], gone: Iterable[SourceLine]) -> Counts:
    for line in lines:
        before = before.plus(line.counts())
    for line in gone:
        before = before.plus(line.counts(), -1)
    return before


def take_lock(folder: Path) -> IO[str]:
    """The lock of the one writer, held until the handle is closed. Raises `IndexLockedError` with who holds it."""
    handle = open(folder / "lock", "a+", encoding="utf-8")
    try:
        portalocker.lock(handle, portalocker.LOCK_EX | portalocker.LOCK_NB)
    except portalocker.LockException as error:
        handle.seek(0)
        try:
            holder = json.loads(handle.read())
            who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
        except (ValueError, KeyError, OSError):
            who = "another process"
        handle.close()
        raise IndexLockedError(f"{folder} is being written by {who}; wait for it to end") from error
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    handle.truncate(0)
    handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
    handle.flush()
    return handle


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Turn a full or failing disk into one clear line; what was published before stays as it was."""
    try:
        yield
    except (FormatError, MmsearchError):
        raise
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise MmsearchError(
            f"cannot write to {folder}: {reason}; what was published before is safe, free some space and run it again"
        ) from error


def _with_copies(folder: Path, state: Manifest) -> Manifest:
    """A state that knows the copies among all of its rows."""
    if state.copies_are_current:
        return state
    # Imported here: a run that finds nothing to do needs none of it.
    from retrieval.store.copies import with_copies

    return with_copies(folder, state)

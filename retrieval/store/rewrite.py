"""Rewriting what an index holds: shards from rows, small shards into larger ones, and all of it without tombstones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.store import shards as sh
from retrieval.store.keys import hash_of, write_keys
from retrieval.store.manifest import CopiesState, Manifest, ShardEntry, with_tombstones
from retrieval.store.side_files import write_words_and_facts
from retrieval.store.sources import MERGE_SHARE, SPAN, SourceTable, write_segment
from retrieval.types import KINDS, Kind

# Small shards of one kind are merged once there are this many, so that daily additions do not pile up.
SMALL_SHARDS = 24


def write_shards(
    folder: Path,
    kind: Kind,
    tables: Iterator[pa.Table],
    generation: int,
    contents: Sequence[tuple[int, int]],
    tag: str = "",
) -> list[ShardEntry]:
    """Tables one after the other, cut into shards of at most `SHARD_ROWS` rows, each with its keys, words and facts; `contents`
    are rows where a content begins, with its hash; of images the digest column is used instead."""
    entries: list[ShardEntry] = []
    held: list[pa.Table] = []
    count = written = 0

    def flush() -> None:
        nonlocal held, count, written
        if not count:
            return
        name = f"shards/{kind}-{generation:06d}{tag}-{len(entries):04d}.parquet"
        whole = pa.concat_tables(held)
        digest = sh.write_shard(folder / name, whole)
        here = [(row - written, content) for row, content in contents if written <= row < written + count]
        if kind == "image":
            digests = whole.column("sha256").to_pylist()
            here = [(row, hash_of(digest)) for row, digest in enumerate(digests) if digest]
        write_keys(folder, name, whole.column("id").to_pylist(), here)
        write_words_and_facts(folder, name, kind, whole)
        size = (folder / name).stat().st_size
        entries.append(ShardEntry(file=name, kind=kind, rows=count, sha256=digest, bytes=size))
        written += count
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


def merge_small(folder: Path, state: Manifest) -> Manifest:
    """Merge the small shards at the end of each kind once they are many; O(rows added), amortised. Tombstones stay, so
    every row keeps its place within its kind."""
    for kind in KINDS:
        shards = state.of_kind(kind)
        tail = len(shards)
        while tail and shards[tail - 1].rows < sh.SHARD_ROWS // 4:
            tail -= 1
        covered = {name for entry in state.vectors if entry.type != "flat" for name in entry.shards}
        small = tuple(shard for shard in shards[tail:] if shard.file not in covered)
        if len(small) < SMALL_SHARDS:
            continue
        reader = sh.ShardReader(folder, state)
        numbers = {shard.file: number for number, shard in enumerate(state.shards)}
        tables = (table for shard in small for table in reader.iter_tables(numbers[shard.file]))
        ends = np.cumsum([0, *(shard.rows for shard in small)])
        contents = [
            (int(start) + row, content)
            for shard, start in zip(small, ends, strict=False)
            for row, content in reader.contents(numbers[shard.file])
        ]
        merged = write_shards(folder, kind, tables, state.generation, contents, tag="m")
        tombstones = np.concatenate(
            [shard.tombstone_rows() + start for shard, start in zip(small, ends, strict=False)]
        ).astype(np.int64)
        first = 0
        for place, entry in enumerate(merged):
            here = tombstones[(tombstones >= first) & (tombstones < first + entry.rows)] - first
            merged[place] = with_tombstones(entry, here)
            first += entry.rows
        files = {shard.file for shard in small}
        state = replace(state, shards=(*(s for s in state.shards if s.file not in files), *merged))
    return state


def merge_sources(folder: Path, state: Manifest) -> Manifest:
    """Merge the newest segments of the table of sources while each has a quarter of the lines of the one before it."""
    segments = list(state.sources)
    keep = len(segments)
    while keep >= 2 and MERGE_SHARE * sum(s.lines for s in segments[keep - 1 :]) >= segments[keep - 2].lines:
        keep -= 1
    if keep == len(segments):
        return state
    merging = segments[keep - 1 :]
    table = SourceTable(folder, state)
    name = f"sources/{state.generation:06d}m.parquet"
    merged = write_segment(folder, name, table.merged(merging, whole=keep == 1))
    return replace(state, sources=(*segments[: keep - 1], merged))


def compacted(folder: Path, state: Manifest) -> Manifest:
    """A state of the next generation with all shards at full size and no tombstones, without vector files."""
    fresh = replace(state, shards=(), vectors=(), sources=(), copies=CopiesState(), generation=state.generation + 1)
    reader = sh.ShardReader(folder, state)
    shards: list[ShardEntry] = []
    for kind in KINDS:
        contents = _living_contents(reader, state, kind)
        shards += write_shards(folder, kind, _living(reader, state, kind), fresh.generation, contents, "c")
    table = SourceTable(folder, state)
    moved = (_moved(part, state) for part in table.merged(state.sources, whole=True))
    segment = write_segment(folder, f"sources/{fresh.generation:06d}c.parquet", moved)
    return replace(fresh, shards=tuple(shards), sources=(segment,))


def _living(reader: sh.ShardReader, state: Manifest, kind: Kind) -> Iterator[pa.Table]:
    for number, shard in enumerate(state.shards):
        if shard.kind != kind:
            continue
        keep = np.ones(shard.rows, bool)
        keep[shard.tombstone_rows()] = False
        start = 0
        for table in reader.iter_tables(number):
            here = keep[start : start + table.num_rows]
            start += table.num_rows
            yield table if here.all() else table.filter(pa.array(here))


def _living_contents(reader: sh.ShardReader, state: Manifest, kind: Kind) -> list[tuple[int, int]]:
    """Where each content begins among the living rows of a kind, with its hash."""
    contents: list[tuple[int, int]] = []
    first = 0
    for number, shard in enumerate(state.shards):
        if shard.kind == kind:
            tombstones = shard.tombstones
            contents += [
                (first + row, content)
                for row, content in reader.contents(number)
                if not any(start <= row < stop for start, stop in tombstones)
            ]
            first += shard.rows
    places = _Moves.of(state, kind).new_place(np.array([row for row, _ in contents], np.int64))
    return [(int(place), content) for place, (_, content) in zip(places, contents, strict=True)]


@dataclass(frozen=True)
class _Moves:
    """Where the living rows of a kind come to lie when its tombstones are left out."""

    starts: NDArray[np.int64]
    lost: NDArray[np.int64]

    @staticmethod
    def of(state: Manifest, kind: Kind) -> _Moves:
        starts, lost, first, total = [0], [0], 0, 0
        for shard in state.of_kind(kind):
            for start, stop in shard.tombstones:
                total += stop - start
                starts.append(first + stop)
                lost.append(total)
            first += shard.rows
        return _Moves(np.array(starts, np.int64), np.array(lost, np.int64))

    def new_place(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows - self.lost[np.searchsorted(self.starts, rows, "right") - 1]


def _moved(table: pa.Table, state: Manifest) -> pa.Table:
    """Lines of sources with their spans as they are once tombstones are left out."""
    spans = [spans or b"" for spans in table.column("spans").to_pylist()]
    flat = np.frombuffer(b"".join(spans), SPAN).copy()
    for number, kind in enumerate(KINDS):
        of_kind = flat["kind"] == number
        flat["start"][of_kind] = _Moves.of(state, kind).new_place(flat["start"][of_kind])
    data, at, out = flat.tobytes(), 0, []
    for span_bytes in spans:
        out.append(data[at : at + len(span_bytes)])
        at += len(span_bytes)
    place = table.schema.get_field_index("spans")
    return table.set_column(place, "spans", pa.array(out, pa.binary()))

"""Bringing an index of format 1 up to date: its rows and embeddings are taken over, nothing is encoded again.

Format 1 had absolute paths, no table of sources, and a journal that named no replacements.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from media.names import join_name, split_name
from media.types import MEMBER, below
from media.walk import source_kind
from retrieval.errors import FormatError, OldFormatError
from retrieval.store.keys import hash_of
from retrieval.store.leases import write_lease
from retrieval.store.ledger import LEDGER, keep_ledger
from retrieval.store.manifest import Counts, Manifest, read_manifest, write_manifest
from retrieval.store.rewrite import write_shards
from retrieval.store.roots import Roots
from retrieval.store.shards import schema
from retrieval.store.source_keys import key_of
from retrieval.store.sources import RowSpan, SourceLine, SourceTable, to_table, write_segment
from retrieval.store.vector_files import make_vector_files
from retrieval.store.writer import take_lock
from retrieval.types import KINDS, Kind, ModelSpec


@dataclass
class _Source:
    """What the rows of one source say about it."""

    size: int
    mtime: int
    about: str | None = None
    content: str = ""
    media: set[str] = field(default_factory=set)
    spans: list[RowSpan] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)


def bring_up_to_date(folder: Path) -> str | None:
    """Rewrite an index of an earlier format in today's, and say so in one line; None where there is nothing to do.

    Killed at any moment it leaves the old index as it was. Raises `FormatError` where the old index is damaged, and what
    the writer's lock raises.
    """
    try:
        if (folder / "manifest.json").exists():
            read_manifest(folder)
        return None
    except OldFormatError:
        pass
    with take_lock(folder):
        try:
            value = json.loads((folder / "manifest.json").read_text("utf-8"))
            _migrate(folder, value)
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise FormatError(
                f"{folder} was written by an older mmsearch and cannot be brought up to date ({error}); "
                "move it away and index again"
            ) from error
    return "the index was written by an older mmsearch: it was brought up to date, nothing had to be encoded again"


def _migrate(folder: Path, old: Mapping[str, Any]) -> None:
    for name in ("sources", "leases", "journal", "vectors"):
        (folder / name).mkdir(exist_ok=True)
    parts = [file for file in sorted((folder / "journal").glob("*.parquet")) if int(file.stem) > int(old["journal"])]
    later = set().union(*(pq.read_table(file, columns=["id"]).column("id").to_pylist() for file in parts))
    tables = {kind: _living(folder, old, kind, parts, later) for kind in KINDS}
    names = {name for kind in KINDS for name in _sources(folder, old, kind, parts)}
    failures = _failures(folder)
    roots = _roots(folder, names | {failure["source"] for failure in failures})
    sources: dict[str, _Source] = {}
    generation = int(old["generation"]) + 1
    shards = []
    for kind in KINDS:
        contents: list[tuple[int, int]] = []
        moved = _moved(tables[kind], kind, roots, sources, contents)
        shards += write_shards(folder, kind, moved, generation, contents, "v2")
    for failure in failures:
        source = sources.setdefault(failure["source"], _Source(int(failure["size"]), int(failure["mtime"])))
        source.failures.append((roots.split(failure["path"])[1], failure["stage"], failure["reason"]))
    lines = [_line(name, source, roots, _half_read(folder)) for name, source in sources.items()]
    counts = Counts()
    for line in lines:
        counts = counts.plus(line.counts())
    state = Manifest(
        model=ModelSpec.from_json(old["model"]),
        roots=roots,
        shards=tuple(shards),
        sources=(write_segment(folder, f"sources/{generation:06d}.parquet", [to_table(lines)]),),
        counts=counts,
        journal=max([int(old["journal"]), *(int(file.stem) for file in parts)]),
        generation=generation,
    )
    state = Manifest(**{**vars(state), "vectors": make_vector_files(folder, state)})
    write_lease(folder, state)
    write_manifest(folder, state)
    (folder / LEDGER).unlink(missing_ok=True)
    keep_ledger(folder, SourceTable(folder, state), -1)


def _roots(folder: Path, names: set[str]) -> Roots:
    """The folder around the index, and one more that holds whatever else there is."""
    home = os.path.dirname(os.path.abspath(folder))
    roots = Roots.of(folder, [])
    if folder.name == ".mmsearch":
        roots = roots.including(folder, home)
    outside = [os.path.dirname(name) for name in names if roots.find(name) is None]
    return roots.including(folder, os.path.commonpath(outside)) if outside else roots


def _living(folder: Path, old: Mapping[str, Any], kind: Kind, parts: list[Path], later: set[str]) -> Iterator[pa.Table]:
    """The rows of a kind that a search could return, those that the journal replaces left out, and those of the journal."""
    for entry in old["shards"]:
        if entry["kind"] != kind:
            continue
        table = pq.read_table(folder / entry["file"])
        keep = np.ones(table.num_rows, bool)
        for start, stop in old["tombstones"].get(entry["file"], []):
            keep[start:stop] = False
        if later:
            keep &= ~np.isin(np.array(table.column("id").to_pylist()), np.array(sorted(later)))
        yield table.filter(pa.array(keep))
    newest: dict[str, tuple[int, int]] = {}
    tables = [pq.read_table(file) for file in parts]
    for number, table in enumerate(tables):
        rows = zip(table.column("id").to_pylist(), table.column("kind").to_pylist(), strict=True)
        newest.update((identity, (number, row)) for row, (identity, row_kind) in enumerate(rows) if row_kind == kind)
    for number, table in enumerate(tables):
        rows_here = sorted(row for part, row in newest.values() if part == number)
        if rows_here:
            yield table.take(pa.array(rows_here, pa.int64()))


def _sources(folder: Path, old: Mapping[str, Any], kind: Kind, parts: list[Path]) -> set[str]:
    files = [folder / entry["file"] for entry in old["shards"] if entry["kind"] == kind]
    names: set[str] = set()
    for file in [*files, *parts]:
        names |= set(_names(pq.read_table(file, columns=["source", "source_raw"]), "source"))
    return names


def _names(table: pa.Table, column: str) -> list[str]:
    pairs = zip(table.column(column).to_pylist(), table.column(f"{column}_raw").to_pylist(), strict=True)
    return [join_name(text, raw) for text, raw in pairs]


def _moved(
    tables: Iterator[pa.Table], kind: Kind, roots: Roots, sources: dict[str, _Source], contents: list[tuple[int, int]]
) -> Iterator[pa.Table]:
    """Tables with paths below roots. Fills `sources` from the rows, and `contents` with where each begins."""
    first = 0
    for table in tables:
        owners, paths = _names(table, "source"), _names(table, "path")
        shape = schema(table.schema.field("embedding").type.list_size)
        columns = {name: table.column(name) for name in table.column_names if name != "phash"}
        columns["dhash"] = table.column("phash")
        columns |= {name: pa.nulls(table.num_rows) for name in shape.names if name not in columns}
        for name, number, values in (("source", "source_root", owners), ("path", "root", paths)):
            places = [roots.split(value) for value in values]
            texts = [split_name(place) for _, place in places]
            columns[number] = pa.chunked_array([pa.array([root for root, _ in places], pa.int32())])
            columns[name] = pa.chunked_array([pa.array([text for text, _ in texts], pa.string())])
            columns[f"{name}_raw"] = pa.chunked_array([pa.array([raw for _, raw in texts], pa.binary())])
        facts = zip(
            owners, paths, table.column("size").to_pylist(), table.column("mtime").to_pylist(),
            table.column("sha256").to_pylist(), strict=True,
        )  # fmt: skip
        for row, (owner, path, size, mtime, sha256) in enumerate(facts, first):
            source = sources.setdefault(owner, _Source(size, mtime))
            source.media.add(path)
            if kind == "image" and path == owner:
                source.content = sha256
            elif kind == "text" and path != owner and not path.startswith(owner + MEMBER):
                source.about = path
            last = source.spans[-1] if source.spans else None
            if last is not None and last.kind == kind and last.start + last.count == row:
                source.spans[-1] = RowSpan(kind=kind, start=last.start, count=last.count + 1)
            else:
                source.spans.append(RowSpan(kind=kind, start=row, count=1))
        first += table.num_rows
        yield pa.Table.from_arrays([columns[name].cast(shape.field(name).type) for name in shape.names], schema=shape)
    if kind == "image":
        contents += [
            (span.start, hash_of(source.content))
            for source in sources.values()
            for span in source.spans[:1]
            if source.content
        ]


def _line(name: str, source: _Source, roots: Roots, half_read: set[str]) -> SourceLine:
    kind = source_kind(name) or "document"
    single = kind in ("document", "subtitles")
    about = source.about if single and source.about is not None and roots.find(source.about) is not None else None
    if kind == "document" and about is not None:
        kind = "sidecar"
    if any(span.kind == "video" for span in source.spans):
        kind = "video"
    if kind == "pages":
        # It has the first page alone: the next run reads it again.
        kind = "image"
    members = {path for path in source.media if path != name}
    return SourceLine(
        key=key_of(*roots.split(name)),
        kind=kind,
        # What was half read is read again: no file has this size.
        size=-1 if name in half_read else source.size,
        mtime_ns=source.mtime,
        about=key_of(*roots.split(about)) if about is not None else None,
        content=bytes.fromhex(source.content),
        media=len(members) if kind in ("tar", "parquet") else int(bool(source.media)),
        heard=any(span.kind == "text" for span in source.spans),
        spans=tuple(source.spans),
        failures=tuple(source.failures),
    )


def _half_read(folder: Path) -> set[str]:
    try:
        return set(json.loads((folder / "journal" / "open.json").read_bytes()))
    except (OSError, ValueError):
        return set()


def _failures(folder: Path) -> list[dict[str, Any]]:
    """The old ledger; empty where it is damaged, and then the files in it are tried again."""
    try:
        table = pq.read_table(folder / LEDGER)
        paths, sources = _names(table, "path"), _names(table, "source")
    except (OSError, KeyError, pa.ArrowException):
        return []
    rows = table.select(["stage", "reason", "size", "mtime"]).to_pylist()
    places = zip(paths, sources, rows, strict=True)
    return [
        {**row, "path": path, "source": source}
        for path, source, row in places
        if below(path, "/") and below(source, "/")
    ]

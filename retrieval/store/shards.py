"""Rows in Parquet: the schema, writing one shard, and reading rows back. The only user of pyarrow for an index.

A shard holds items of one kind, metadata and embedding side by side, so neither can drift from the other. Row groups
are small and the embedding column is stored plain, because a search reads a few rows from anywhere.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.errors import FormatError, MmsearchError
from retrieval.store.manifest import Manifest, ShardEntry
from retrieval.types import Item, Kind

SHARD_ROWS = 65_536
ROW_GROUP = 512
_META: tuple[tuple[str, pa.DataType], ...] = (
    ("id", pa.string()),
    ("path", pa.string()),
    ("path_raw", pa.binary()),
    ("source", pa.string()),
    ("source_raw", pa.binary()),
    ("kind", pa.string()),
    ("start", pa.float64()),
    ("end", pa.float64()),
    ("text", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("size", pa.int64()),
    ("mtime", pa.int64()),
    ("sha256", pa.string()),
    ("taken_at", pa.string()),
    ("camera", pa.string()),
    ("latitude", pa.float64()),
    ("longitude", pa.float64()),
    ("dhash", pa.int64()),
)
_PLAIN = ("kind", "start", "end", "text", "width", "height", "size", "sha256", "taken_at", "camera")
_PLACE = ("latitude", "longitude", "dhash")


def schema(dim: int) -> pa.Schema:
    """The columns of a shard. `mtime` is in nanoseconds; `path_raw` holds a name that is not valid UTF-8."""
    embedding = pa.field("embedding", pa.list_(pa.field("element", pa.float16(), nullable=False), dim), nullable=False)
    return pa.schema([pa.field(name, kind) for name, kind in _META] + [embedding])


def to_table(items: Sequence[Item], embeddings: NDArray[np.float32]) -> pa.Table:
    """Items and their unit rows `(n, d)` as one table; embeddings are stored as float16."""
    paths = [_split_name(item.path) for item in items]
    sources = [_split_name(item.source) for item in items]
    columns: dict[str, list[Any]] = {
        "id": [item.id for item in items],
        "path": [shown for shown, _ in paths],
        "path_raw": [raw for _, raw in paths],
        "source": [shown for shown, _ in sources],
        "source_raw": [raw for _, raw in sources],
        "mtime": [item.mtime_ns for item in items],
    }
    for name in (*_PLAIN, *_PLACE):
        columns[name] = [getattr(item, name) for item in items]
    dim = embeddings.shape[1]
    flat = pa.array(np.ascontiguousarray(embeddings, np.float16).reshape(-1))
    arrays = [pa.array(columns[name], kind) for name, kind in _META]
    shape = schema(dim)
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=shape.field("embedding").type))
    return pa.Table.from_arrays(arrays, schema=shape)


def to_items(table: pa.Table) -> list[Item]:
    """The inverse of `to_table`, without the embeddings."""
    items = []
    for row in table.drop_columns(["embedding"] if "embedding" in table.column_names else []).to_pylist():
        items.append(
            Item(
                id=row["id"],
                path=_join_name(row["path"], row["path_raw"]),
                source=_join_name(row["source"], row["source_raw"]),
                mtime_ns=row["mtime"],
                **{name: row[name] for name in (*_PLAIN, *_PLACE)},
            )
        )
    return items


def embeddings_of(table: pa.Table) -> NDArray[np.float16]:
    """`(n, d) float16`, unit rows to half precision."""
    column = table.column("embedding").combine_chunks()
    dim = column.type.list_size
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float16).reshape(-1, dim)


def write_shard(file: Path, table: pa.Table) -> str:
    """Write `table` to `file` through a temporary name, synced; returns the SHA-256 of the bytes."""
    scratch = file.with_name(file.name + ".partial")
    compressed = {name: "zstd" for name, _ in _META} | {"embedding.list.element": "none"}
    pq.write_table(
        table,
        scratch,
        row_group_size=ROW_GROUP,
        compression=compressed,
        use_dictionary=["kind", "camera", "source"],
        write_statistics=False,
        store_schema=True,
    )
    with open(scratch, "rb+") as written:
        os.fsync(written.fileno())
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    os.replace(scratch, file)
    return digest


def read_table(file: Path) -> pa.Table:
    """One whole Parquet file; `FormatError` when it is not readable."""
    try:
        return pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise FormatError(f"{file} is damaged or missing ({_first_line(error)})") from error


def verify(folder: Path, shard: ShardEntry) -> None:
    """Raise `FormatError` when the bytes of a shard are not those that were committed."""
    file = folder / shard.file
    try:
        with open(file, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise FormatError(f"{file} is damaged or missing ({error.strerror}); index again into a new folder") from error
    if digest != shard.sha256:
        raise FormatError(
            f"{file} is damaged: its SHA-256 is {digest[:12]}…, the manifest says {shard.sha256[:12]}…; "
            "restore it from a backup, or move the index away and index again"
        )


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """Every living row's provenance as arrays `(n,)`, ordered by source: what changed can be told without embeddings.

    Names and digests are held as 64-bit keys (`key_of`), so a million rows take some 70 MB. Keys are good within one
    process only. `size` and `mtime_ns` are those of the source; `shard` and `row` say where the row is.
    """

    source: NDArray[np.int64]
    path: NDArray[np.int64]
    id: NDArray[np.int64]
    sha256: NDArray[np.int64]
    size: NDArray[np.int64]
    mtime_ns: NDArray[np.int64]
    shard: NDArray[np.int64]
    row: NDArray[np.int64]

    def of_source(self, name: str) -> slice:
        """The rows that came from one file."""
        key = key_of(name)
        return slice(int(np.searchsorted(self.source, key, "left")), int(np.searchsorted(self.source, key, "right")))


def key_of(name: str) -> int:
    """A 64-bit key of a name, the same all through one process."""
    return hash(name)


class ShardReader:
    """Random access to the rows of one committed state. Files are opened once and kept, so a reader sees that state
    for as long as it lives. Row numbers are positions in the shard; the shard is its number in `manifest.shards`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self._open = lru_cache(maxsize=256)(self._open_file)
        self._ids = lru_cache(maxsize=None)(self._read_ids)
        # Row groups that were read stay decoded, some 150 kB each: hits of many searches lie in the same ones.
        self._facts = lru_cache(maxsize=256)(self._read_facts)

    def _open_file(self, number: int) -> pq.ParquetFile:
        entry = self.manifest.shards[number]
        file = self.folder / entry.file
        try:
            opened = pq.ParquetFile(file, memory_map=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise FormatError(
                f"{file} is damaged or missing ({_first_line(error)}); restore it, or move the index away and index again"
            ) from error
        if opened.metadata.num_rows != entry.rows:
            raise FormatError(f"{file} has {opened.metadata.num_rows} rows, the manifest says {entry.rows}")
        return opened

    def _read_facts(self, shard: int, group: int) -> pa.Table:
        """One row group without the embeddings."""
        try:
            return self._open(shard).read_row_group(group, columns=[name for name, _ in _META])
        except (OSError, pa.ArrowInvalid) as error:
            name = self.folder / self.manifest.shards[shard].file
            raise FormatError(f"{name} is damaged ({_first_line(error)})") from error

    def _read_ids(self, number: int) -> pa.ChunkedArray:
        return self._open(number).read(columns=["id"]).column("id")

    def take(self, shard: int, rows: NDArray[np.int64], columns: Sequence[str] | None) -> pa.Table:
        """The given rows of one shard, in the given order; reads only the row groups that hold them."""
        opened = self._open(shard)
        groups = np.unique(rows // ROW_GROUP)
        try:
            table = opened.read_row_groups(groups.tolist(), columns=None if columns is None else list(columns))
        except (OSError, pa.ArrowInvalid) as error:
            name = self.folder / self.manifest.shards[shard].file
            raise FormatError(f"{name} is damaged ({_first_line(error)})") from error
        local = np.searchsorted(groups, rows // ROW_GROUP) * ROW_GROUP + rows % ROW_GROUP
        return table.take(pa.array(local))

    def items(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Item]:
        """Metadata of `(shard, row)` pairs, in their order."""
        found: dict[tuple[int, int], Item] = {}
        for shard in np.unique(shards).tolist():
            wanted = rows[shards == shard]
            for group in np.unique(wanted // ROW_GROUP).tolist():
                here = wanted[wanted // ROW_GROUP == group]
                table = self._facts(shard, group).take(pa.array(here % ROW_GROUP))
                for row, item in zip(here.tolist(), to_items(table), strict=True):
                    found[shard, row] = item
        return [found[shard, row] for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)]

    def find(self, identity: str) -> tuple[int, int] | None:
        """The shard and row of the living item with this id; None where there is none. Ids of a shard are read once."""
        for number, entry in enumerate(self.manifest.shards):
            row = pc.index(self._ids(number), identity).as_py()
            if row >= 0 and not any(start <= row < stop for start, stop in entry.tombstones):
                return number, int(row)
        return None

    def embeddings(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """`(n, d) float16`, unit rows, of `(shard, row)` pairs in their order."""
        out = np.empty((len(rows), self.manifest.model.dim), np.float16)
        for shard in np.unique(shards).tolist():
            where = np.flatnonzero(shards == shard)
            out[where] = embeddings_of(self.take(shard, rows[where], ["embedding"]))
        return out

    def all_embeddings(self, shard: int) -> NDArray[np.float16]:
        """`(rows, d) float16`: every row of a shard, dead ones included."""
        return embeddings_of(self._open(shard).read(columns=["embedding"]))

    def sample(self, kinds: Sequence[Kind], groups: int = 4) -> NDArray[np.float16]:
        """`(n, d) float16`: embeddings of a few row groups of these kinds, spread over all, the same at every call."""
        places = [
            (number, group)
            for number, entry in enumerate(self.manifest.shards)
            if entry.kind in kinds and entry.alive
            for group in range(-(-entry.rows // ROW_GROUP))
        ]
        chosen = {places[round(n * (len(places) - 1) / max(1, groups - 1))] for n in range(groups)} if places else set()
        parts = [np.empty((0, self.manifest.model.dim), np.float16)]
        for number, group in sorted(chosen):
            parts.append(embeddings_of(self._open(number).read_row_group(group, columns=["embedding"])))
        return np.concatenate(parts)

    def iter_tables(self, shard: int) -> Iterator[pa.Table]:
        """A whole shard, some row groups at a time."""
        for batch in self._open(shard).iter_batches(batch_size=8 * ROW_GROUP):
            yield pa.Table.from_batches([batch])

    def catalogue(self) -> Catalogue:
        """Provenance of every living row."""
        names = ("source", "source_raw", "path", "path_raw", "id", "size", "mtime", "sha256")
        parts: list[list[NDArray[np.int64]]] = [[np.empty(0, np.int64)] for _ in range(8)]
        for number, entry in enumerate(self.manifest.shards):
            table = self._open(number).read(columns=list(names))
            keep = np.setdiff1d(np.arange(entry.rows, dtype=np.int64), entry.tombstone_rows())
            if len(keep) < entry.rows:
                table = table.take(pa.array(keep))
            columns = (
                _keys(_joined(table, "source")),
                _keys(_joined(table, "path")),
                _keys(table.column("id").to_pylist()),
                _keys(table.column("sha256").to_pylist()),
                table.column("size").to_numpy(),
                table.column("mtime").to_numpy(),
                np.full(len(keep), number, np.int64),
                keep,
            )
            for part, column in zip(parts, columns, strict=True):
                part.append(column)
        joined = [np.concatenate(part) for part in parts]
        order = np.argsort(joined[0], kind="stable")
        source, path, identity, sha, size, mtime, shard, row = (column[order] for column in joined)
        return Catalogue(
            source=source, path=path, id=identity, sha256=sha, size=size, mtime_ns=mtime, shard=shard, row=row
        )

    def distinct_paths(self, kind: Kind) -> int:
        """How many different media files the living rows of a kind come from."""
        seen: set[str] = set()
        for number, entry in enumerate(self.manifest.shards):
            if entry.kind == kind and entry.alive:
                paths = _joined(self._open(number).read(columns=["path", "path_raw"]), "path")
                dead = set(entry.tombstone_rows().tolist())
                seen.update(path for row, path in enumerate(paths) if row not in dead)
        return len(seen)


_LEDGER = pa.schema(
    [
        ("path", pa.string()),
        ("path_raw", pa.binary()),
        ("source", pa.string()),
        ("source_raw", pa.binary()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("size", pa.int64()),
        ("mtime", pa.int64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One file that could not be indexed. `stage` is `read`, `decode` or `encode`."""

    path: str
    source: str
    stage: str
    reason: str
    size: int = 0
    mtime_ns: int = 0


def read_failures(folder: Path) -> list[Failure]:
    """The ledger, in path order; empty when there is none."""
    file = folder / "failures.parquet"
    if not file.exists():
        return []
    return [
        Failure(
            path=_join_name(row["path"], row["path_raw"]),
            source=_join_name(row["source"], row["source_raw"]),
            stage=row["stage"],
            reason=row["reason"],
            size=row["size"],
            mtime_ns=row["mtime"],
        )
        for row in read_table(file).to_pylist()
    ]


def write_failures(folder: Path, failures: Sequence[Failure]) -> None:
    """Replace the ledger, atomically."""
    rows = []
    for failure in sorted(failures, key=lambda one: one.path):
        path, path_raw = _split_name(failure.path)
        source, source_raw = _split_name(failure.source)
        rows.append(
            {
                "path": path,
                "path_raw": path_raw,
                "source": source,
                "source_raw": source_raw,
                "stage": failure.stage,
                "reason": failure.reason,
                "size": failure.size,
                "mtime": failure.mtime_ns,
            }
        )
    file = folder / "failures.parquet"
    scratch = file.with_name(file.name + ".partial")
    try:
        pq.write_table(pa.Table.from_pylist(rows, schema=_LEDGER), scratch)
    except OSError as error:
        raise MmsearchError(f"cannot write {file}: {_first_line(error)}") from error
    os.replace(scratch, file)


def _split_name(name: str) -> tuple[str, bytes | None]:
    """A file name as text that Parquet can hold, and its raw bytes where that text is not the whole truth."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = os.fsencode(name)
        return raw.decode("utf-8", "replace"), raw
    return name, None


def _join_name(shown: str, raw: bytes | None) -> str:
    return shown if raw is None else os.fsdecode(raw)


def _joined(table: pa.Table, name: str) -> list[str]:
    shown: list[str] = table.column(name).to_pylist()
    raws = table.column(f"{name}_raw")
    if raws.null_count < len(raws):
        return [_join_name(text, raw) for text, raw in zip(shown, raws.to_pylist(), strict=True)]
    return shown


def _keys(names: list[str]) -> NDArray[np.int64]:
    return np.fromiter((key_of(name) for name in names), np.int64, len(names))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

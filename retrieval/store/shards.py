"""Rows in Parquet: the schema, writing one shard, and reading rows back. The only user of pyarrow for an index.

A shard holds items of one kind, metadata and embedding side by side, so neither can drift from the other. Row groups
are small and the embedding column is stored plain, because a search reads a few rows from anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from media.names import join_name, split_name
from retrieval.errors import FormatError
from retrieval.files import replacing
from retrieval.store.keys import ShardKeys, hash_of
from retrieval.store.manifest import Manifest, ShardEntry
from retrieval.store.roots import Roots
from retrieval.store.source_keys import Touched, key_of
from retrieval.types import Item, Kind

SHARD_ROWS = 65_536
# Up to so many rows are cut out of a table one by one.
_SLICED = 100
ROW_GROUP = 512
_META: tuple[tuple[str, pa.DataType], ...] = (
    ("id", pa.string()),
    ("root", pa.int32()),
    ("path", pa.string()),
    ("path_raw", pa.binary()),
    ("source_root", pa.int32()),
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
    ("place", pa.string()),
    ("rating", pa.int32()),
    ("words", pa.string()),
    ("date_source", pa.string()),
    ("text_kind", pa.string()),
)
_PLAIN = (
    "kind", "start", "end", "text", "width", "height", "size", "sha256", "taken_at", "camera", "latitude", "longitude", "dhash",
    "place", "rating", "words", "date_source", "text_kind",
)  # fmt: skip


def schema(dim: int) -> pa.Schema:
    """The columns of a shard. `path` and `source` lie below their roots, by number; `path_raw` holds a name that is not valid
    UTF-8. `mtime` is in nanoseconds."""
    embedding = pa.field("embedding", pa.list_(pa.field("element", pa.float16(), nullable=False), dim), nullable=False)
    return pa.schema([pa.field(name, kind) for name, kind in _META] + [embedding])


def current(table: pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    """`table` with those `columns` of metadata (None: all) that its writer did not know yet, as nulls."""
    for place, (name, kind) in enumerate(_META):
        if name not in table.column_names and (columns is None or name in columns):
            place = min(place, table.num_columns)
            table = table.add_column(place, pa.field(name, kind), pa.nulls(table.num_rows, kind))
    return table


def to_table(items: Sequence[Item], embeddings: NDArray[np.float32], roots: Roots) -> pa.Table:
    """Items and their unit rows `(n, d)` as one table; embeddings are stored as float16."""
    columns: dict[str, list[Any]] = {"id": [item.id for item in items], "mtime": [item.mtime_ns for item in items]}
    for name, number in (("path", "root"), ("source", "source_root")):
        places = [roots.split(getattr(item, name)) for item in items]
        names = [split_name(path) for _, path in places]
        columns[number] = [root for root, _ in places]
        columns[name] = [text for text, _ in names]
        columns[f"{name}_raw"] = [raw for _, raw in names]
    for name in _PLAIN:
        columns[name] = [getattr(item, name) for item in items]
    dim = embeddings.shape[1]
    flat = pa.array(np.ascontiguousarray(embeddings, np.float16).reshape(-1))
    arrays = [pa.array(columns[name], kind) for name, kind in _META]
    shape = schema(dim)
    arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=shape.field("embedding").type))
    return pa.Table.from_arrays(arrays, schema=shape)


def to_items(table: pa.Table, roots: Roots) -> list[Item]:
    """The inverse of `to_table`, without the embeddings: paths are absolute, below the roots as they are now."""
    items = []
    for row in table.drop_columns(["embedding"] if "embedding" in table.column_names else []).to_pylist():
        items.append(
            Item(
                id=row["id"],
                path=roots.join(row["root"], join_name(row["path"], row["path_raw"])),
                source=roots.join(row["source_root"], join_name(row["source"], row["source_raw"])),
                mtime_ns=row["mtime"],
                **{name: row[name] for name in _PLAIN},
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
    """Write `table` to `file`, durably; returns the SHA-256 of the bytes."""
    compressed = {name: "zstd" for name, _ in _META} | {"embedding.list.element": "none"}
    with replacing(file) as scratch:
        pq.write_table(
            table,
            scratch,
            row_group_size=ROW_GROUP,
            compression=compressed,
            use_dictionary=["kind", "camera", "source", "root", "source_root", "place", "date_source", "text_kind"],
            write_statistics=False,
            store_schema=True,
        )
        with open(scratch, "rb") as written:
            return hashlib.file_digest(written, "sha256").hexdigest()


def read_table(file: Path) -> pa.Table:
    """One whole Parquet file of rows; `FormatError` when it is not readable."""
    try:
        return current(pq.read_table(file))
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


class ShardReader:
    """Random access to the rows of one committed state. Files are opened once and kept, so a reader sees that state
    for as long as it lives. Row numbers are positions in the shard; the shard is its number in `manifest.shards`."""

    def __init__(self, folder: Path, manifest: Manifest, touched: Touched | None = None) -> None:
        self.folder = folder
        self.manifest = manifest
        self.touched = touched if touched is not None else Touched()
        self._open = lru_cache(maxsize=256)(self._open_file)
        self._keys = lru_cache(maxsize=None)(self._open_keys)
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
            table = current(self._open(shard).read_row_group(group, columns=[name for name, _ in _META]))
        except (OSError, pa.ArrowInvalid) as error:
            name = self.folder / self.manifest.shards[shard].file
            raise FormatError(f"{name} is damaged ({_first_line(error)})") from error
        self.touched.rows += table.num_rows
        return table

    def _open_keys(self, number: int) -> ShardKeys:
        return ShardKeys.open(self.folder, self.manifest.shards[number].file)

    def take(self, shard: int, rows: NDArray[np.int64], columns: Sequence[str] | None) -> pa.Table:
        """The given rows of one shard, in the given order; reads only the row groups that hold them. A column that the
        shard's writer did not know yet is null."""
        opened = self._open(shard)
        groups = np.unique(rows // ROW_GROUP)
        try:
            table = opened.read_row_groups(groups.tolist(), columns=None if columns is None else list(columns))
            table = current(table, columns)
        except (OSError, pa.ArrowInvalid) as error:
            name = self.folder / self.manifest.shards[shard].file
            raise FormatError(f"{name} is damaged ({_first_line(error)})") from error
        self.touched.rows += table.num_rows
        local = np.searchsorted(groups, rows // ROW_GROUP) * ROW_GROUP + rows % ROW_GROUP
        return _rows_of(table, local)

    def columns(self, shard: int, names: Sequence[str]) -> pa.Table:
        """Whole columns of metadata of a shard; those that its writer did not know yet are left out."""
        opened = self._open(shard)
        known = set(opened.schema_arrow.names)
        try:
            return opened.read(columns=[name for name in names if name in known])
        except (OSError, pa.ArrowInvalid) as error:
            name = self.folder / self.manifest.shards[shard].file
            raise FormatError(f"{name} is damaged ({_first_line(error)})") from error

    def items(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Item]:
        """Metadata of `(shard, row)` pairs, in their order."""
        by_place: dict[tuple[int, int], Item] = {}
        for shard in np.unique(shards).tolist():
            wanted = rows[shards == shard]
            for group in np.unique(wanted // ROW_GROUP).tolist():
                here = wanted[wanted // ROW_GROUP == group]
                table = _rows_of(self._facts(shard, group), here % ROW_GROUP)
                for row, item in zip(here.tolist(), to_items(table, self.manifest.roots), strict=True):
                    by_place[shard, row] = item
        self.touched.items += len(by_place)
        return [by_place[shard, row] for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)]

    def find(self, identity: str) -> tuple[int, int] | None:
        """The shard and row of the living item with this id; None where there is none."""
        hashed = hash_of(identity)
        for number, entry in enumerate(self.manifest.shards):
            for row in self._keys(number).rows_of_id(hashed):
                if not _tombstoned(entry, row) and self._facts_of(number, row)["id"] == identity:
                    return number, row
        return None

    def find_content(self, digest: str | bytes) -> list[tuple[int, int]]:
        """Shard and row where a content may be: of images by their SHA-256 in hexadecimal, of videos by the digest in their
        line. The caller compares the row or the line."""
        hashed = hash_of(digest)
        return [
            (number, row)
            for number in range(len(self.manifest.shards))
            for row in self._keys(number).rows_of_content(hashed)
        ]

    def contents(self, shard: int) -> list[tuple[int, int]]:
        """Rows of a shard where the content of a source begins, with the content's hash, in row order."""
        keys = self._keys(shard)
        return sorted(zip(keys.content_rows.tolist(), keys.contents.tolist(), strict=True))

    def source_key(self, shard: int, row: int) -> bytes:
        """The key of the source that a row came from."""
        facts = self._facts_of(shard, row)
        return key_of(facts["source_root"], join_name(facts["source"], facts["source_raw"]))

    def _facts_of(self, shard: int, row: int) -> dict[str, Any]:
        facts: dict[str, Any] = self._facts(shard, row // ROW_GROUP).slice(row % ROW_GROUP, 1).to_pylist()[0]
        return facts

    def embeddings(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """`(n, d) float16`, unit rows, of `(shard, row)` pairs in their order."""
        out = np.empty((len(rows), self.manifest.model.dim), np.float16)
        for shard in np.unique(shards).tolist():
            where = np.flatnonzero(shards == shard)
            out[where] = embeddings_of(self.take(shard, rows[where], ["embedding"]))
        return out

    def all_embeddings(self, shard: int) -> NDArray[np.float16]:
        """`(rows, d) float16`: every row of a shard, tombstones included."""
        # Not through the mapping: who reads all shards one after the other would hold all of their pages.
        file = self.folder / self.manifest.shards[shard].file
        try:
            with pq.ParquetFile(file, memory_map=False) as opened:
                return embeddings_of(opened.read(columns=["embedding"]))
        except (OSError, pa.ArrowInvalid) as error:
            raise FormatError(f"{file} is damaged ({_first_line(error)})") from error

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
            yield current(pa.Table.from_batches([batch]))

    def living(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shard and row of every row that a search may return, in index order: for measurements and tests."""
        shards, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, entry in enumerate(self.manifest.shards):
            rows.append(np.setdiff1d(np.arange(entry.rows, dtype=np.int64), entry.tombstone_rows()))
            shards.append(np.full(len(rows[-1]), number, np.int64))
        return np.concatenate(shards), np.concatenate(rows)


def _rows_of(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Some rows of a table, in their order."""
    if len(rows) > _SLICED:
        return table.take(pa.array(rows))
    # The first `take` of a process imports all of Arrow's functions, which takes longer than a cold search does.
    return pa.concat_tables([table.schema.empty_table(), *(table.slice(row, 1) for row in rows.tolist())])


def _tombstoned(entry: ShardEntry, row: int) -> bool:
    return any(start <= row < stop for start, stop in entry.tombstones)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__

"""Embeddings by their place in the shards, read where they lie.

The files of the shards are mapped, and rows copied from where `retrieval.store.row_offsets` says that they are: a row costs a
kilobyte of reading, where decoding its row group would cost five hundred. A column that is laid out in another way is read
through Parquet.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store.manifest import Manifest
from retrieval.store.row_offsets import RowOffsets, read_layout, read_offsets
from retrieval.store.shards import ShardReader


class StoredEmbeddings:
    """Random access to the embeddings of one committed state. `reader` serves what cannot be mapped. Not shared between
    threads."""

    def __init__(self, folder: Path, manifest: Manifest, reader: ShardReader) -> None:
        self._folder, self._manifest, self._reader = folder, manifest, reader
        # The bytes of each shard that was asked for; None for one that is read through Parquet.
        self._data: dict[int, memoryview | None] = {}
        self._layouts: dict[int, RowOffsets] | None = None
        # Of every row group whose place is known: its shard and first row as one number, ascending, and its offset.
        self._keys = self._offsets = np.empty(0, np.int64)

    def take(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """`(n, d) float16`, unit rows, of `(shard, row)` pairs in their order. Raises `FormatError`."""
        out = np.empty((len(rows), self._manifest.model.dim), np.float16)
        wanted = np.unique(shards).tolist()
        for shard in wanted:
            if shard not in self._data:
                self._data[shard] = self._open(shard)
        odd = [shard for shard in wanted if self._data[shard] is None]
        if odd:
            where = np.flatnonzero(np.isin(shards, odd))
            out[where] = self._reader.embeddings(shards[where], rows[where])
            where = np.flatnonzero(~np.isin(shards, odd))
            out[where] = self._mapped(shards[where], rows[where])
            return out
        return self._mapped(shards, rows)

    def _mapped(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The same for shards that are mapped."""
        dim = self._manifest.model.dim
        places = shards << 32 | rows
        group = np.searchsorted(self._keys, places, side="right") - 1
        starts = self._offsets[group] + (places - self._keys[group]) * 2 * dim
        # Slices, copied once: a third of a microsecond a row, in whichever of many shards each lies.
        pieces = [
            data[start : start + 2 * dim]
            for shard, start in zip(shards.tolist(), starts.tolist(), strict=True)
            if (data := self._data[shard]) is not None
        ]
        return np.frombuffer(b"".join(pieces), np.float16).reshape(len(rows), dim)

    def _open(self, shard: int) -> memoryview | None:
        """Map a shard, and learn where its rows are; None where they are not laid out row after row."""
        file = self._folder / self._manifest.shards[shard].file
        if self._layouts is None:
            self._layouts = self._stored_layouts()
            self._index()
        try:
            with open(file, "rb") as opened:
                data = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:
            raise FormatError(
                f"{file} is damaged or missing; restore it, or move the index away and index again"
            ) from error
        if len(data) != self._manifest.shards[shard].bytes or shard not in self._layouts:
            layout = read_layout(file, self._manifest.model.dim)
            if layout is None:
                return None
            self._layouts[shard] = layout
            self._index()
        return data

    def _stored_layouts(self) -> dict[int, RowOffsets]:
        """What the files beside the vector files say."""
        numbers = {shard.file: number for number, shard in enumerate(self._manifest.shards)}
        return {
            numbers[name]: layout
            for entry in self._manifest.vectors
            if entry.type != "flat"
            for name, layout in read_offsets(self._folder, entry).items()
        }

    def _index(self) -> None:
        """Put all places that are known in one order."""
        layouts = sorted((self._layouts or {}).items())
        self._keys = np.concatenate([np.empty(0, np.int64), *(shard << 32 | each.firsts for shard, each in layouts)])
        self._offsets = np.concatenate([np.empty(0, np.int64), *(each.offsets for _, each in layouts)])

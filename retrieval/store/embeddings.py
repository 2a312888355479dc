"""Embeddings by their place in the shards, read where they lie.

A shard stores its embedding column uncompressed and plain, one page a row group, so the rows of a row group lie one after
another in the file. They are mapped and copied from there: a row costs a kilobyte of reading, where decoding its row group
would cost five hundred. A column that is laid out in another way is read through Parquet.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store.manifest import Manifest
from retrieval.store.shards import ShardReader

_COLUMN = "embedding"
# A page header has a dozen small numbers; more than this between pages would be a second page.
_LARGEST_HEADER = 256


class _Column(NamedTuple):
    """The bytes of one shard `(m,) uint8`, where the rows of each row group start in them, and the first row of each."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    firsts: NDArray[np.int64]


class StoredEmbeddings:
    """Random access to the embeddings of one committed state. `reader` serves what cannot be mapped."""

    def __init__(self, folder: Path, manifest: Manifest, reader: ShardReader) -> None:
        self._folder, self._manifest, self._reader = folder, manifest, reader
        self._column = lru_cache(maxsize=None)(self._open_column)

    def take(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """`(n, d) float16`, unit rows, of `(shard, row)` pairs in their order. Raises `FormatError`."""
        dim = self._manifest.model.dim
        out = np.empty((len(rows), dim), np.float16)
        for shard in np.unique(shards).tolist():
            where = np.flatnonzero(shards == shard)
            column = self._column(shard)
            if column is None:
                out[where] = self._reader.embeddings(shards[where], rows[where])
                continue
            group = np.searchsorted(column.firsts, rows[where], side="right") - 1
            places = column.offsets[group] + (rows[where] - column.firsts[group]) * 2 * dim
            windows = np.lib.stride_tricks.sliding_window_view(column.data, 2 * dim)
            out[where] = windows[places].view(np.float16)
        return out

    def _open_column(self, shard: int) -> _Column | None:
        """The mapped column of a shard; None where it is not laid out row after row."""
        entry = self._manifest.shards[shard]
        file = self._folder / entry.file
        try:
            metadata = pq.read_metadata(file)
            data = np.memmap(file, np.uint8, "r")
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise FormatError(
                f"{file} is damaged or missing; restore it, or move the index away and index again"
            ) from error
        names = [metadata.schema.column(number).path.partition(".")[0] for number in range(metadata.num_columns)]
        number, row = names.index(_COLUMN), 0
        offsets, firsts = [], []
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            chunk = metadata.row_group(group).column(number)
            size = rows * self._manifest.model.dim * 2
            start, stop = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
            page = _page_size(bytes(data[start : start + 32]))
            plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
            if not plain or not size <= page <= stop - start <= page + _LARGEST_HEADER:
                return None
            offsets.append(stop - size)
            firsts.append(row)
            row += rows
        return _Column(np.asarray(data), np.array(offsets, np.int64), np.array(firsts, np.int64))


def _page_size(header: bytes) -> int:
    """The size of a page's content, from its header: the third field of a Thrift compact struct, all of them zigzag
    varints (parquet-format, `PageHeader`); -1 where the bytes are no such header."""
    at, value = 0, -1
    for _ in range(3):
        if at >= len(header) or header[at] != 0x15:
            return -1
        at, shift, raw = at + 1, 0, 0
        while at < len(header):
            raw |= (header[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if header[at - 1] < 0x80:
                break
        value = (raw >> 1) ^ -(raw & 1)
    return value

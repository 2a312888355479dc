"""Where each row's embedding lies in its shard's file.

A shard stores its embedding column uncompressed and plain, one page a row group, so the rows of a row group lie one after
another in the file, and a row is addressed by its row group's offset. A second file of rows, in half precision, would cost a
kilobyte a row of disk for what is there already; reading a shard's Parquet metadata costs ten milliseconds a shard, and the
candidates of one search lie in most of them. So the offsets of all row groups under an inverted file lie in a file of their own
beside it, some fifty bytes for each thousand rows. It goes with the vector file, and is made from the shards at any time;
where it is missing, as in an index of an earlier version, or damaged, the metadata is read instead.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.files import write_atomically
from retrieval.store.keys import offsets_file
from retrieval.store.manifest import ShardEntry, VectorEntry

_COLUMN = "embedding"
# A page header has a dozen small numbers; more than this between pages would be a second page.
_LARGEST_HEADER = 256


class RowOffsets(NamedTuple):
    """Of one shard: where the rows of each row group start in its file, and the first row of each, `(groups,) int64` both."""

    offsets: NDArray[np.int64]
    firsts: NDArray[np.int64]


def read_layout(file: Path, dim: int) -> RowOffsets | None:
    """The offsets of a shard's embeddings of `dim` half-precision numbers; None where they do not lie row after row. Raises
    `FormatError`."""
    try:
        metadata = pq.read_metadata(file)
        with open(file, "rb") as opened:
            return _layout(opened, metadata, dim)
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise FormatError(
            f"{file} is damaged or missing; restore it, or move the index away and index again"
        ) from error


def write_offsets(folder: Path, vectors: str, shards: Sequence[ShardEntry], dim: int) -> None:
    """Write the offsets of the shards under the vector file `vectors`; nothing where one is laid out in another way. Raises
    `OSError` and `FormatError`."""
    rows = []
    for number, shard in enumerate(shards):
        layout = read_layout(folder / shard.file, dim)
        if layout is None:
            return
        rows.append(np.stack([np.full(len(layout.firsts), number), layout.firsts, layout.offsets], 1))
    out = io.BytesIO()
    np.save(out, np.concatenate(rows).astype(np.int64), allow_pickle=False)
    write_atomically(folder / offsets_file(vectors), out.getvalue())


def read_offsets(folder: Path, entry: VectorEntry) -> dict[str, RowOffsets]:
    """The offsets beside a vector file, by shard; none where there are none."""
    try:
        table = np.load(folder / offsets_file(entry.file), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return {}
    if table.dtype != np.int64 or table.ndim != 2 or table.shape[1] != 3:
        return {}
    cuts = np.searchsorted(table[:, 0], np.arange(len(entry.shards) + 1)).tolist()
    return {
        name: RowOffsets(table[start:stop, 2], table[start:stop, 1])
        for name, start, stop in zip(entry.shards, cuts, cuts[1:], strict=False)
        if stop > start
    }


def _layout(opened: io.BufferedReader, metadata: pq.FileMetaData, dim: int) -> RowOffsets | None:
    names = [metadata.schema.column(number).path.partition(".")[0] for number in range(metadata.num_columns)]
    number, row = names.index(_COLUMN), 0
    offsets, firsts = [], []
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        chunk = metadata.row_group(group).column(number)
        size = rows * dim * 2
        start, stop = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
        opened.seek(start)
        page = _page_size(opened.read(32))
        plain = chunk.compression == "UNCOMPRESSED" and not chunk.has_dictionary_page
        if not plain or not size <= page <= stop - start <= page + _LARGEST_HEADER:
            return None
        offsets.append(stop - size)
        firsts.append(row)
        row += rows
    return RowOffsets(np.array(offsets, np.int64), np.array(firsts, np.int64))


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

"""Which images of an index nobody has looked at for their text, from the table of sources alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from retrieval.store.row_places import place_of_position
from retrieval.store.sources import SPAN, SourceLine, SourceTable, to_table
from retrieval.types import KINDS

# `auto` looks at each image and reads those that are likely to hold text, `all` reads each.
Reading: TypeAlias = Literal["auto", "all"]
_COLUMNS = ("kind", "size", "mtime", "slices", "spans", "ocr_seen", "ocr_read")


@dataclass(frozen=True)
class UnreadSource:
    """A source with images to look at: `places (n,) int64` are those of all its images (`retrieval.store.row_places`), of
    which the first `seen` and `read` are as its line says, and `first` is where to begin."""

    key: bytes
    size: int
    mtime_ns: int
    places: NDArray[np.int64]
    seen: int
    read: int
    first: int


def unread_below(table: SourceTable, prefix: bytes, reading: Reading) -> Iterator[UnreadSource]:
    """The sources whose key begins with `prefix` that have such images, in key order. Raises `FormatError`."""
    for part in table.below(prefix, _COLUMNS):
        yield from _unread(part, reading)


def unread_of(lines: Sequence[SourceLine], reading: Reading) -> Iterator[UnreadSource]:
    """The same of some lines."""
    yield from _unread(to_table(lines), reading)


def _unread(table: pa.Table, reading: Reading) -> Iterator[UnreadSource]:
    mark = "ocr_seen" if reading == "auto" else "ocr_read"
    kinds = table.column("kind")
    # Of a file that is one image, any mark says all.
    plain = pc.and_(pc.equal(kinds, "image"), pc.equal(pc.coalesce(table.column(mark), 0), 0))
    many = pc.is_in(kinds, pa.array(["tar", "parquet", "pages"]))
    wanted = pc.and_(pc.or_(plain, many), pc.equal(table.column("slices"), 0))
    for line in table.filter(wanted).to_pylist():
        places = _places(line["spans"] or b"")
        seen, read = line["ocr_seen"] or 0, line["ocr_read"] or 0
        first = seen if reading == "auto" else read
        if first < len(places):
            yield UnreadSource(line["key"], line["size"], line["mtime"], places, seen, read, first)


def _places(packed: bytes) -> NDArray[np.int64]:
    spans = np.frombuffer(packed, SPAN)
    images = spans[spans["kind"] == KINDS.index("image")]
    ranges = [np.arange(start, start + count, dtype=np.int64) for _, start, count in images.tolist()]
    return place_of_position("image", np.concatenate([np.empty(0, np.int64), *ranges]))

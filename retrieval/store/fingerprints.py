"""Fingerprints on disk: what copies are recognised by, in mapped columns, with sorted tables to look rows up in.

A segment holds the rows of some publications. New rows are looked up in every segment, so what a publication costs follows
what it brings; neighbouring segments are merged as those of the table of sources are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.copies.grouping import Fingerprints
from retrieval.copies.hashes import BANDS, BandTable, band_table
from retrieval.errors import FormatError
from retrieval.files import write_atomically
from retrieval.store.manifest import CopiesFile

_ALIGNED = 8
# Rows of one content, name or second that a new one is compared with: they have found each other already.
_MOST_PARTNERS = 256
_HEAD = np.dtype("<u8")
_KEY = np.dtype("<u8")
_ROW = np.dtype("<u4")
_VALUE = np.dtype("<u2")
_COLUMNS = {
    "places": "<i8",
    "hashes": "<u8",
    "contents": "<u8",
    "stacks": "<u8",
    "cameras": "<u8",
    "taken": "<i8",
    "sizes": "<i8",
    "widths": "<i4",
    "heights": "<i4",
    "seconds": "<f4",
    "roles": "u1",
}


@dataclass(frozen=True)
class KeyTable:
    """Keys, ascending, each with the position of its row; rows whose key is 0 are left out."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.uint32]

    @staticmethod
    def of(keys: NDArray[np.uint64]) -> KeyTable:
        """The table of one key a row."""
        rows = np.flatnonzero(keys)
        order = np.argsort(keys[rows], kind="stable")
        return KeyTable(keys[rows][order].astype(_KEY), rows[order].astype(_ROW))

    def pairs(self, wanted: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions among `wanted (q,)`, ascending, and of the first `_MOST_PARTNERS` rows that have the same key; 0 matches
        nothing."""
        low = np.searchsorted(self.keys, wanted, "left")
        counts = np.where(wanted != 0, np.searchsorted(self.keys, wanted, "right") - low, 0)
        counts = np.minimum(counts, _MOST_PARTNERS)
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.rows[np.repeat(low, counts) + within]
        return np.repeat(np.arange(len(wanted)), counts), rows.astype(np.int64)


@dataclass(frozen=True)
class Segment:
    """Fingerprints, ascending by place, and their tables: `shots` are keys of a camera and a second."""

    prints: Fingerprints
    bands: BandTable
    contents: KeyTable
    stacks: KeyTable
    shots: KeyTable

    @staticmethod
    def of(prints: Fingerprints) -> Segment:
        """The tables of some fingerprints."""
        return Segment(
            prints,
            band_table(prints.hashes),
            KeyTable.of(prints.contents),
            KeyTable.of(prints.stacks),
            KeyTable.of(prints.shots()),
        )

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions of those `places` that it holds."""
        where = np.searchsorted(self.prints.places, places)
        inside = where < len(self.prints)
        where, places = where[inside], places[inside]
        return np.asarray(where[self.prints.places[where] == places], np.int64)


def write_segment(folder: Path, name: str, segment: Segment) -> CopiesFile:
    """Write a segment, durably. Raises `OSError`."""
    keys = (segment.contents, segment.stacks, segment.shots)
    head = [len(segment.prints), segment.bands.rows.shape[1], *(len(table.keys) for table in keys)]
    columns = [getattr(segment.prints, column).astype(kind) for column, kind in _COLUMNS.items()]
    for table in keys:
        columns += [table.keys.astype(_KEY), table.rows.astype(_ROW)]
    columns += [segment.bands.rows.astype(_ROW), segment.bands.values.astype(_VALUE)]
    return write_columns(folder, name, len(segment.prints), head, columns)


def open_segment(folder: Path, entry: CopiesFile) -> Segment:
    """Map a segment. Raises `FormatError` where it is damaged or missing."""
    columns = Columns.open(folder, entry, 5)
    rows, banded, *counts = columns.head
    prints = Fingerprints(*(columns.next(_COLUMNS[field.name], rows) for field in fields(Fingerprints)))
    keys = [KeyTable(columns.next(_KEY, count), columns.next(_ROW, count)) for count in counts]
    table_rows = columns.next(_ROW, BANDS * banded).reshape(BANDS, banded)
    values = columns.next(_VALUE, BANDS * banded).reshape(BANDS, banded)
    columns.finish()
    return Segment(prints, BandTable(values, table_rows), keys[0], keys[1], keys[2])


def write_columns(
    folder: Path, name: str, rows: int, head: Sequence[int], columns: Sequence[NDArray[Any]]
) -> CopiesFile:
    """Write what `Columns` reads, durably. Raises `OSError`."""
    parts = [np.array(head, _HEAD).tobytes(), *(column.tobytes() for column in columns)]
    data = b"".join(part + bytes(-len(part) % _ALIGNED) for part in parts)
    write_atomically(folder / name, data)
    return CopiesFile(file=name, rows=rows, bytes=len(data))


class Columns:
    """A mapped file of numbers: a head of a few counts, then one column after the other, each at a multiple of eight bytes, so
    that they are searched where they lie."""

    def __init__(self, file: Path, data: NDArray[np.uint8], head: list[int]) -> None:
        self._file, self._data, self.head = file, data, head
        self._at = 8 * len(head)

    @staticmethod
    def open(folder: Path, entry: CopiesFile, counts: int) -> Columns:
        """Map a file whose head has so many `counts`. Raises `FormatError` where its size is not the one that was written."""
        file = folder / entry.file
        try:
            data = np.asarray(np.memmap(file, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise _damaged(file) from error
        if len(data) != entry.bytes or len(data) < 8 * counts:
            raise _damaged(file)
        return Columns(file, data, [int(count) for count in data[: 8 * counts].view(_HEAD)])

    def next(self, kind: str | np.dtype[Any], count: int) -> NDArray[Any]:
        """The next column. Raises `FormatError` beyond the end."""
        size = np.dtype(kind).itemsize * count
        if self._at + size > len(self._data):
            raise _damaged(self._file)
        column = self._data[self._at : self._at + size].view(kind)
        self._at += size + -size % _ALIGNED
        return column

    def finish(self) -> None:
        """Raise `FormatError` where something is left."""
        if self._at != len(self._data):
            raise _damaged(self._file)


def _damaged(file: Path) -> FormatError:
    return FormatError(f"{file} is damaged or missing; mend it with: mmsearch index FOLDER --rebuild-vectors")

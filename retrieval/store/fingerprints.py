"""Fingerprints on disk: what copies are recognised by, in mapped columns, with sorted tables to look rows up in.

A segment holds the rows of some publications. New rows are looked up in every segment, so what a publication costs follows
what it brings; neighbouring segments are merged as those of the table of sources are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.copies.grouping import Fingerprints
from retrieval.copies.hashes import BANDS, BandTable, band_table
from retrieval.store.manifest import CopiesFile
from retrieval.store.number_columns import Columns, write_columns

# Rows of one content, name or second that a new one is compared with: they have found each other already.
_MOST_PARTNERS = 256
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

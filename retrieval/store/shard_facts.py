"""The facts of one shard's rows as arrays: read from its columns, or mapped from the file of facts that lies beside it.

Reading the columns takes nearly a second for a million rows; the file, in Arrow's format, opens in a fraction of a millisecond.
It can be made anew from the shard at any time.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.files import replacing
from retrieval.filter import date_span
from retrieval.store.keys import facts_file

# A row without a date.
NO_DATE = np.iinfo(np.int64).min
NO_MONTH = np.iinfo(np.int32).min
# The offset of local time is looked up once for each of these seconds: zones change it on the quarter hour.
_QUARTER = 900
_ISO = "%Y-%m-%dT%H:%M:%S"
# Columns of a shard that its facts are made of.
COLUMNS = ("taken_at", "mtime", "camera", "place", "root", "path")


@dataclass(frozen=True)
class Coded:
    """A column of few distinct texts: `codes (rows,) int32` are places in `names`, -1 for none."""

    codes: NDArray[np.int32]
    names: tuple[str, ...]

    def mask(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """`(rows,) bool`, from what each of the names `(n,)` gives; False for none."""
        return np.concatenate([wanted, [False]])[self.codes]

    def counts(self, rows: NDArray[np.int64]) -> Counter[str]:
        """How many of some rows have each name."""
        codes = self.codes[rows]
        counts = np.bincount(codes[codes >= 0], minlength=len(self.names)).tolist()
        return Counter({name: count for name, count in zip(self.names, counts, strict=True) if count})


@dataclass(frozen=True)
class Folders:
    """The folder of each row: `codes (rows,) int32` are places in `places`, each the number of a root and the path of the
    folder below it."""

    codes: NDArray[np.int32]
    places: tuple[tuple[int, str], ...]

    def mask(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """`(rows,) bool`, from what each of the places `(n,)` gives."""
        return np.asarray(wanted[self.codes])

    def counts(self, rows: NDArray[np.int64]) -> Counter[str]:
        """How many of some rows lie in each folder, whichever root it is below."""
        totals: Counter[str] = Counter()
        counts = np.bincount(self.codes[rows], minlength=len(self.places)).tolist()
        for (_, below), count in zip(self.places, counts, strict=True):
            if count:
                totals[below] += count
        return totals


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many rows there are of each month (since January 1970), folder, camera and place."""

    months: Counter[int] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    cameras: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally, sign: int = 1) -> None:
        """Count the rows of another tally, too; with `sign` -1, no more."""
        for mine, theirs in ((self.folders, other.folders), (self.cameras, other.cameras), (self.places, other.places)):
            for name, count in theirs.items():
                mine[name] += sign * count
        for month, count in other.months.items():
            self.months[month] += sign * count


class ShardFacts:
    """The facts of the media of one shard, from a file that is mapped."""

    def __init__(self, table: pa.Table, metadata: Mapping[str, Any]) -> None:
        self._table, self._metadata = table, metadata

    @staticmethod
    def open(folder: Path, shard: str, rows: int) -> ShardFacts | None:
        """The facts that lie beside a shard of so many rows; None where there is no such file, or it is damaged."""
        try:
            with pa.memory_map(str(folder / facts_file(shard))) as mapped:
                table = pa.ipc.open_file(mapped).read_all()
            stored = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
            facts = ShardFacts(table, {"names": json.loads(stored["names"]), "tally": json.loads(stored["tally"])})
            facts._check(rows)
            return facts
        except (OSError, ValueError, KeyError, IndexError, TypeError, pa.ArrowException):
            # It is made of the shard's columns, which are read then.
            return None

    def _check(self, rows: int) -> None:
        """Raise `ValueError` or another of these where a column is not what it should be."""
        if len(self.moments) != rows or self.moments.dtype != np.int64:
            raise ValueError("dates")
        names = self._metadata["names"]
        for name, least in (("camera", -1), ("place", -1), ("folders", 0)):
            codes = self._column(name)
            if len(codes) != rows or codes.dtype != np.int32:
                raise ValueError(name)
            if rows and not least <= int(codes.min()) <= int(codes.max()) < max(1, len(names[name])):
                raise ValueError(name)
        self.folders, self.tally  # noqa: B018

    @cached_property
    def moments(self) -> NDArray[np.int64]:
        """`(rows,) int64`: when each was taken, in seconds of local time since 1970, else when its file last changed, else
        `NO_DATE`."""
        return self._column("moments")

    def coded(self, name: str) -> Coded:
        """The column `camera` or `place`."""
        return Coded(self._column(name), tuple(self._metadata["names"][name]))

    @cached_property
    def folders(self) -> Folders:
        """The folder of each path."""
        places = tuple((int(root), str(below)) for root, below in self._metadata["names"]["folders"])
        return Folders(self._column("folders"), places)

    @cached_property
    def tally(self) -> Tally:
        """That of all rows, tombstones too."""
        stored = self._metadata["tally"]
        return Tally(
            months=Counter({int(month): count for month, count in stored["months"].items()}),
            folders=Counter(stored["folders"]),
            cameras=Counter(stored["cameras"]),
            places=Counter(stored["places"]),
        )

    def _column(self, name: str) -> NDArray[Any]:
        return np.asarray(self._table.column(name).chunk(0).to_numpy())


def write_facts(folder: Path, shard: str, table: pa.Table) -> None:
    """Write the facts of a shard of media, of which `table` has `COLUMNS`, beside it."""
    moments = with_changed(taken_of(table), table)
    camera, place, folders = coded_of(table, "camera"), coded_of(table, "place"), folders_of(table)
    rows = np.arange(len(moments), dtype=np.int64)
    tally = {
        "months": month_counts(months_of(moments)),
        "folders": folders.counts(rows),
        "cameras": camera.counts(rows),
        "places": place.counts(rows),
    }
    names = {"camera": camera.names, "place": place.names, "folders": folders.places}
    columns = {"moments": moments, "camera": camera.codes, "place": place.codes, "folders": folders.codes}
    metadata = {"names": json.dumps(names), "tally": json.dumps(tally)}
    stored = pa.table(columns).replace_schema_metadata(metadata)
    with (
        replacing(folder / facts_file(shard)) as partial,
        pa.OSFile(str(partial), "wb") as sink,
        pa.ipc.new_file(sink, stored.schema) as writer,
    ):
        writer.write_table(stored)


def taken_of(table: pa.Table) -> NDArray[np.int64]:
    """`(rows,) int64`: when each was taken, in seconds of local time since 1970, `NO_DATE` where that is not known."""
    return _parsed(table.column("taken_at"))


def with_changed(taken: NDArray[np.int64], table: pa.Table) -> NDArray[np.int64]:
    """`taken (rows,) int64` with the time that the file last changed where there is no date."""
    missing = np.flatnonzero(taken == NO_DATE)
    if not len(missing):
        return taken
    changed = table.column("mtime").to_numpy()[missing]
    moments = taken.copy()
    moments[missing] = np.where(changed == 0, NO_DATE, _local(changed // 1_000_000_000))
    return moments


def months_of(moments: NDArray[np.int64]) -> NDArray[np.int32]:
    """`(rows,) int32`: months since January 1970, `NO_MONTH` for none."""
    months = moments.astype("datetime64[s]").astype("datetime64[M]").astype(np.int64)
    return np.where(moments == NO_DATE, NO_MONTH, months).astype(np.int32)


def month_counts(months: NDArray[np.int32]) -> Counter[int]:
    """How many there are of each month since 1970; those without a date are left out."""
    months = months[months != NO_MONTH]
    if not len(months):
        return Counter()
    least = int(months.min())
    counts = np.bincount(months - least)
    return Counter({least + int(at): int(counts[at]) for at in np.flatnonzero(counts)})


def coded_of(table: pa.Table, name: str) -> Coded:
    """A column of texts, `camera` or `place`; none anywhere where the shard is from a version that did not know it."""
    if name not in table.column_names:
        return Coded(np.full(table.num_rows, -1, np.int32), ())
    codes, names = _encode(table.column(name))
    return Coded(codes, tuple(names))


def folders_of(table: pa.Table) -> Folders:
    """The folder of each path."""
    import pyarrow.compute as pc

    parts = pc.split_pattern(table.column("path"), os.sep, max_splits=1, reverse=True)
    deep = pc.greater(pc.list_value_length(parts), 1)
    codes, below = _encode(pc.if_else(deep, pc.list_element(parts, 0), ""))
    count = max(1, len(below))
    roots = table.column("root").to_numpy().astype(np.int64)
    pairs, numbers = np.unique(roots * count + codes, return_inverse=True)
    places = tuple((pair // count, below[pair % count]) for pair in pairs.tolist())
    return Folders(numbers.astype(np.int32), places)


def _encode(column: Any) -> tuple[NDArray[np.int32], list[str]]:
    """A column of texts as codes, -1 for null, and the names that they stand for."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = array.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    return codes, encoded.dictionary.to_pylist()


def _parsed(column: Any) -> NDArray[np.int64]:
    """Texts in ISO 8601 as seconds since 1970, whatever their zone; `NO_DATE` for null and for what is no date."""
    import pyarrow.compute as pc

    texts = pc.utf8_slice_codeunits(column, 0, 19)
    moments = pc.strptime(texts, format=_ISO, unit="s", error_is_null=True)
    # Arrow reads the 30th of February as a day of March.
    same = pc.equal(pc.utf8_slice_codeunits(moments.cast(pa.string()), 8, 10), pc.utf8_slice_codeunits(texts, 8, 10))
    seconds = np.array(pc.fill_null(moments.cast(pa.int64()), NO_DATE).to_numpy(), np.int64)
    seconds[~np.asarray(pc.fill_null(same, False).to_numpy(), np.bool_)] = NO_DATE
    others = np.flatnonzero((seconds == NO_DATE) & np.asarray(pc.is_valid(texts).to_numpy(), np.bool_))
    if len(others):
        seconds[others] = [_seconds(text) for text in texts.take(pa.array(others)).to_pylist()]
    return seconds


def _seconds(text: str) -> int:
    """The first second of a date of any length; `NO_DATE` for what is none."""
    try:
        return round((date_span(text)[0] - datetime(1970, 1, 1)).total_seconds())
    except QueryError:
        return NO_DATE


def _local(seconds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Moments since 1970 in seconds of local time."""
    quarters, places = np.unique(seconds // _QUARTER, return_inverse=True)
    offsets = np.array([_offset(int(quarter) * _QUARTER) for quarter in quarters], np.int64)
    return np.asarray(seconds + offsets[places], np.int64)


def _offset(seconds: int) -> int:
    try:
        return time.localtime(seconds).tm_gmtoff
    except (OverflowError, OSError, ValueError):
        return 0

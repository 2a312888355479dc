"""Facts of every row as arrays, a shard at a time: what filters, sorting by date and facets read.

A column is read when it is first needed and then kept. A text about an image or a video has the facts of that file where it has
none of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.store.manifest import Manifest
from retrieval.store.pattern import Pattern
from retrieval.store.shard_facts import (
    NO_DATE,
    Coded,
    Folders,
    ShardFacts,
    Tally,
    coded_of,
    folders_of,
    month_counts,
    months_of,
    taken_of,
    with_changed,
)
from retrieval.store.shards import ShardReader

# Seconds that lie between the beginnings of two videos, on a line that holds several: no video is a quarter as long.
_APART = 1e8


class Facts:
    """The facts of one committed state. Rows are positions in a shard; tombstones have facts, too."""

    def __init__(self, manifest: Manifest, reader: ShardReader) -> None:
        self._manifest, self._reader = manifest, reader
        self.roots = manifest.roots.paths
        self.moments = lru_cache(maxsize=None)(self._moments)
        self.months = lru_cache(maxsize=None)(self._months)
        self.points = lru_cache(maxsize=None)(self._points)
        self.ratings = lru_cache(maxsize=None)(self._ratings)
        self.folders = lru_cache(maxsize=None)(self._folders)
        self.coded = lru_cache(maxsize=None)(self._coded)
        self._own_of = lru_cache(maxsize=None)(self._own)
        self._owners_of = lru_cache(maxsize=None)(self._owners)

    def lacks(self, shard: int, name: str) -> int:
        """How many rows of a shard are from a version that did not know a column: all or none."""
        rows = self._manifest.shards[shard].rows
        return rows if name not in self._reader.columns(shard, [name]).column_names else 0

    def _own(self, shard: int) -> ShardFacts | None:
        entry = self._manifest.shards[shard]
        return ShardFacts.open(self._reader.folder, entry.file, entry.rows) if entry.kind != "text" else None

    def stored_tally(self, shard: int) -> Tally | None:
        """The tally of all rows of a shard, tombstones too, where it lies beside it."""
        own = self._own_of(shard)
        return own.tally if own is not None else None

    def tally(self, shard: int, rows: NDArray[np.int64]) -> Tally:
        """The tally of some rows."""
        if not len(rows):
            return Tally()
        return Tally(
            months=month_counts(self.months(shard)[rows]),
            folders=self.folders(shard).counts(rows),
            cameras=self.coded(shard, "camera").counts(rows),
            places=self.coded(shard, "place").counts(rows),
        )

    def _moments(self, shard: int) -> NDArray[np.int64]:
        """`(rows,) int64`: when each was taken, in seconds of local time since 1970, else when its file last changed, else
        `NO_DATE`."""
        own = self._own_of(shard)
        if own is not None:
            return own.moments
        table = self._reader.columns(shard, ["taken_at", "mtime"])
        taken = taken_of(table)
        owners = self._owners_of(shard)
        if owners is not None:
            for other, here, there in owners.parts():
                here, there = here[taken[here] == NO_DATE], there[taken[here] == NO_DATE]
                taken[here] = self.moments(other)[there]
        return with_changed(taken, table)

    def _months(self, shard: int) -> NDArray[np.int32]:
        """`(rows,) int32`: months since January 1970, `NO_MONTH` for none."""
        return months_of(self.moments(shard))

    def _points(self, shard: int) -> NDArray[np.float64]:
        """`(rows, 2) float64`: latitude and longitude in degrees, NaN where there is no place."""
        table = self._reader.columns(shard, ["latitude", "longitude"])
        points = np.stack([_floats(table.column(name)) for name in ("latitude", "longitude")], 1)
        inside = (np.abs(points[:, 0]) <= 90) & (np.abs(points[:, 1]) <= 180)
        # What a camera without a fix writes.
        points[~inside | (points == 0).all(1)] = np.nan
        owners = self._owners_of(shard)
        if owners is not None:
            for other, here, there in owners.parts():
                without = np.isnan(points[here, 0])
                points[here[without]] = self.points(other)[there[without]]
        return points

    def _ratings(self, shard: int) -> NDArray[np.int8]:
        """`(rows,) int8`: stars, 0 for none."""
        import pyarrow.compute as pc

        table = self._reader.columns(shard, ["rating"])
        ratings = np.zeros(self._manifest.shards[shard].rows, np.int8)
        if "rating" in table.column_names:
            ratings[:] = np.clip(pc.fill_null(table.column("rating"), 0).to_numpy(), 0, 5)
        owners = self._owners_of(shard)
        if owners is not None:
            for other, here, there in owners.parts():
                without = ratings[here] == 0
                ratings[here[without]] = self.ratings(other)[there[without]]
        return ratings

    def _coded(self, shard: int, name: str) -> Coded:
        """A column of texts, `camera` or `place`."""
        own = self._own_of(shard)
        if own is not None:
            return own.coded(name)
        coded = coded_of(self._reader.columns(shard, [name]), name)
        owners = self._owners_of(shard)
        if owners is None:
            return coded
        codes, number_of_name = coded.codes, {text: number for number, text in enumerate(coded.names)}
        for other, here, there in owners.parts():
            theirs = self.coded(other, name)
            numbers = [number_of_name.setdefault(text, len(number_of_name)) for text in theirs.names]
            without = codes[here] < 0
            codes[here[without]] = np.array([*numbers, -1], np.int32)[theirs.codes[there[without]]]
        return Coded(codes, tuple(number_of_name))

    def _folders(self, shard: int) -> Folders:
        """The folder of each path."""
        own = self._own_of(shard)
        return own.folders if own is not None else folders_of(self._reader.columns(shard, ["root", "path"]))

    def holding(self, shard: int, pattern: Pattern, columns: tuple[str, ...]) -> NDArray[np.bool_]:
        """`(rows,) bool`: where any of these columns, or the last name of `path` by the column `name`, matches."""
        stored = ["path" if name == "name" else name for name in columns]
        table = self._reader.columns(shard, [*stored, "path_raw"])
        mask = np.zeros(self._manifest.shards[shard].rows, np.bool_)
        for name, column in zip(columns, stored, strict=True):
            if column not in table.column_names:
                continue
            texts = table.column("path") if column == "path" else table.column(column)
            if name == "name":
                texts = _last_names(texts)
            mask |= pattern.mask(texts)
        return mask

    def is_media(self, shard: int) -> bool:
        """Whether a shard holds images or moments."""
        return self._manifest.shards[shard].kind != "text"

    def texts_saying(self, pattern: Pattern) -> SayingTexts:
        """The living texts of the index that match: captions, subtitles, recognised text and others."""
        keys, starts, ends = [], [np.empty(0)], [np.empty(0)]
        for shard, entry in enumerate(self._manifest.shards):
            if entry.kind != "text" or not entry.alive:
                continue
            mask = self.holding(shard, pattern, ("text",))
            mask[entry.tombstone_rows()] = False
            if mask.any():
                table = self._reader.columns(shard, ["root", "path", "path_raw", "start", "end"]).filter(pa.array(mask))
                keys.append(_keys(table))
                starts.append(_floats(table.column("start")))
                ends.append(_floats(table.column("end")))
        joined = pa.concat_arrays(keys) if keys else pa.array([], pa.large_binary())
        return SayingTexts(joined, np.concatenate(starts), np.concatenate(ends))

    def said_of(self, shard: int, texts: SayingTexts) -> NDArray[np.bool_]:
        """`(rows,) bool`: the media of a shard that some of the texts are about; of a video the moments in which it is said."""
        import pyarrow.compute as pc

        mask = np.zeros(self._manifest.shards[shard].rows, np.bool_)
        if not len(texts.starts):
            return mask
        table = self._reader.columns(shard, ["root", "path", "path_raw", "start", "end"])
        paths = texts.keys.dictionary_encode()
        numbers = paths.indices.to_numpy(zero_copy_only=False)
        at = pc.index_in(_keys(table), value_set=paths.dictionary).fill_null(-1).to_numpy(zero_copy_only=False)
        starts, ends = _floats(table.column("start")), _floats(table.column("end"))
        # A text without a time is about all of a video.
        always = np.zeros(len(paths.dictionary), np.bool_)
        timed = ~np.isnan(texts.starts)
        always[numbers[~timed]] = True
        about = at >= 0
        mask[about] = np.isnan(starts[about]) | always[at[about]]
        # Each text at its place on one line of time, on which the videos lie apart: of those that begin before a moment ends,
        # the one that lasts longest tells whether any is heard in it.
        begins = numbers[timed] * _APART + np.clip(texts.starts[timed], 0, _APART / 4)
        order = np.argsort(begins, kind="stable")
        begins = begins[order]
        lasts = np.maximum.accumulate((numbers[timed] * _APART + np.clip(texts.ends[timed], 0, _APART / 4))[order])
        rows = np.flatnonzero(about & ~mask)
        last = np.searchsorted(begins, at[rows] * _APART + np.clip(ends[rows], 0, _APART / 4), "right") - 1
        heard = last >= 0
        heard[heard] = lasts[last[heard]] >= at[rows[heard]] * _APART + np.clip(starts[rows[heard]], 0, _APART / 4)
        mask[rows[heard]] = True
        return mask

    def _owners(self, shard: int) -> _Owners | None:
        """The media that the texts of a shard are about; None for media."""
        import pyarrow.compute as pc

        if self._manifest.shards[shard].kind != "text":
            return None
        paths = _keys(self._reader.columns(shard, ["root", "path", "path_raw"]))
        owner, row = np.full(len(paths), -1, np.int32), np.zeros(len(paths), np.int64)
        for number, first, media in self._media:
            places = pc.index_in(paths, value_set=media)
            at = places.fill_null(-1).to_numpy(zero_copy_only=False)
            here = (at >= 0) & (owner < 0)
            owner[here], row[here] = number, first[at[here]]
        return _Owners(owner, row)

    @cached_property
    def _media(self) -> list[tuple[int, NDArray[np.int64], Any]]:
        """Each shard of media with the distinct paths of its living rows, and the first row of each."""
        media = []
        for number, entry in enumerate(self._manifest.shards):
            if entry.kind == "text" or not entry.alive:
                continue
            keys = _keys(self._reader.columns(number, ["root", "path", "path_raw"]))
            alive = np.setdiff1d(np.arange(entry.rows, dtype=np.int64), entry.tombstone_rows())
            codes = keys.take(pa.array(alive)).dictionary_encode()
            indices = codes.indices.to_numpy(zero_copy_only=False)
            media.append((number, alive[np.unique(indices, return_index=True)[1]], codes.dictionary))
        return media


@dataclass(frozen=True)
class SayingTexts:
    """Texts: the keys of the media that each is about `(n,)`, and from when to when it is said there, in seconds, NaN for texts
    without a time."""

    keys: Any
    starts: NDArray[np.float64]
    ends: NDArray[np.float64]


@dataclass(frozen=True)
class _Owners:
    """The shard `(rows,)` and row `(rows,)` of the media that each text is about, shard -1 for none."""

    shards: NDArray[np.int32]
    rows: NDArray[np.int64]

    def parts(self) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """For each shard of media: it, the texts about its rows, and these rows."""
        parts = []
        for shard in np.unique(self.shards[self.shards >= 0]).tolist():
            here = np.flatnonzero(self.shards == shard).astype(np.int64)
            parts.append((int(shard), here, self.rows[here]))
        return parts


def _last_names(paths: Any) -> Any:
    """What follows the last separator of each path."""
    import pyarrow.compute as pc

    parts = pc.split_pattern(paths, os.sep, max_splits=1, reverse=True)
    parts = parts.combine_chunks() if isinstance(parts, pa.ChunkedArray) else parts
    return parts.values.take(pc.subtract(parts.offsets[1:], 1))


def _keys(table: pa.Table) -> Any:
    """The paths of rows with their roots, as one array of texts; names that are not UTF-8 with their bytes."""
    import pyarrow.compute as pc

    raw = pc.fill_null(table.column("path_raw").combine_chunks().cast(pa.large_binary()), b"")
    root = table.column("root").combine_chunks().cast(pa.string()).cast(pa.large_binary())
    path = table.column("path").combine_chunks().cast(pa.large_binary())
    return pc.binary_join_element_wise(root, path, raw, pa.scalar(b"\0", pa.large_binary()))


def _floats(column: Any) -> NDArray[np.float64]:
    """A column of numbers, NaN for null."""
    import pyarrow.compute as pc

    return np.array(pc.fill_null(column, np.nan).to_numpy(), np.float64)

"""Rows of a state by their place: a number that stays the same while shards are merged.

A place is the number of a kind, shifted by 48 bits, and the row's position among all rows of that kind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retrieval.store.manifest import Manifest
from retrieval.types import KINDS, Kind

_SHIFT = 48


def place_of_position(kind: Kind, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places of rows by their positions within a kind."""
    return positions + (KINDS.index(kind) << _SHIFT)


def of_kind(kind: Kind, places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`(n,) bool`: which places are of a kind."""
    return np.asarray(places >> _SHIFT == KINDS.index(kind), np.bool_)


class RowPlaces:
    """Between places and `(shard, row)` of one state."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._shards = {
            number: np.array([place for place, shard in enumerate(manifest.shards) if shard.kind == kind], np.int64)
            for number, kind in enumerate(KINDS)
        }
        self._ends = {
            number: np.cumsum([manifest.shards[shard].rows for shard in shards.tolist()]).astype(np.int64)
            for number, shards in self._shards.items()
        }
        # The place of each shard's first row.
        self._firsts = np.zeros(len(manifest.shards), np.int64)
        for number, shards in self._shards.items():
            before = np.concatenate([np.zeros(1, np.int64), self._ends[number]])[: len(shards)]
            self._firsts[shards] = before + (number << _SHIFT)

    def places(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places `(n,)` of rows."""
        return self._firsts[shards] + rows

    def rows(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards `(n,)` and rows `(n,)` of places."""
        shards = np.zeros(len(places), np.int64)
        for number in np.unique(places >> _SHIFT).tolist():
            where = places >> _SHIFT == number
            positions = places[where] & ((1 << _SHIFT) - 1)
            shards[where] = self._shards[number][np.searchsorted(self._ends[number], positions, "right")]
        return shards, places - self._firsts[shards]

    def living(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`(n,) bool`: which places have no tombstone."""
        shards, rows = self.rows(places)
        alive = np.ones(len(places), np.bool_)
        for shard in np.unique(shards).tolist():
            ranges = self._manifest.shards[shard].tombstones
            if ranges:
                where = shards == shard
                starts, stops = np.array(ranges, np.int64).T
                number = np.searchsorted(starts, rows[where], "right") - 1
                alive[where] = (number < 0) | (rows[where] >= stops[np.maximum(number, 0)])
        return alive

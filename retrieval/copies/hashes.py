"""Pairs of near 64-bit difference hashes among many, without comparing all with all.

Multi-index hashing (Norouzi, Punjani and Fleet, 2012): a hash is cut into four bands of 16 bits. Two hashes that differ in at
most seven bits differ in at most one bit of some band; so the rows near to a hash lie under its own bands, and under each of
them with one bit turned, in a table of rows that is sorted by band. Of pairs that differ in eight to ten bits, most are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BANDS = 4
BAND_BITS = 16
# The most bits that two near hashes differ in. Up to 2 · BANDS - 1 no pair is missed.
NEAR_BITS = 10
# A hash with fewer bits set, or unset, is that of a picture without a drawing: blank, black, or a gradient from side to side.
LEAST_BITS = 8
# Rows that are looked at under one value of a band, the first ones. More of them share a pattern than tells pictures apart.
MOST_PROBED = 2048
# Pairs that are kept of one query, its nearest.
MOST_PAIRS = 32
_PAIRS_AT_ONCE = 4_000_000

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class BandTable:
    """For each band `(4, v)`: its values, ascending, and the positions of their rows among all hashes. Hashes that say nothing
    (`telling`) are not in it."""

    values: NDArray[np.uint16]
    rows: NDArray[np.uint32]


def telling(hashes: Hashes) -> NDArray[np.bool_]:
    """`(n,) bool`: whether a hash says something of its picture."""
    bits = np.bitwise_count(hashes)
    return np.asarray((bits >= LEAST_BITS) & (bits <= 64 - LEAST_BITS), np.bool_)


def distances(left: Hashes, right: Hashes) -> NDArray[np.uint8]:
    """How many bits differ, `(n,) uint8`, pair by pair."""
    return np.asarray(np.bitwise_count(left ^ right), np.uint8)


def bands(hashes: Hashes) -> NDArray[np.uint16]:
    """`(4, n) uint16`: the bands of each hash."""
    shifts = np.arange(BANDS, dtype=np.uint64)[:, None] * np.uint64(BAND_BITS)
    return ((hashes[None] >> shifts) & np.uint64(0xFFFF)).astype(np.uint16)


def band_table(hashes: Hashes) -> BandTable:
    """The table of `hashes (n,)`; rows of equal bands stand in their order."""
    rows = np.flatnonzero(telling(hashes)).astype(np.uint32)
    values = bands(hashes[rows])
    orders = np.argsort(values, axis=1, kind="stable")
    return BandTable(np.take_along_axis(values, orders, 1), rows[orders])


def near_pairs(queries: Hashes, hashes: Hashes, table: BandTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions among `queries (q,)` and among `hashes (n,)`, of which `table` is the band table, of the pairs that differ in
    at most `NEAR_BITS` bits: of each query its `MOST_PAIRS` nearest, ties by position; ascending by query."""
    # Thousands of equal pictures ask once.
    distinct, number = np.unique(queries, return_inverse=True)
    parts = [np.empty(0, np.int64)]
    for query, row in _candidates(distinct, table):
        near = distances(distinct[query], hashes[row]) <= NEAR_BITS
        parts.append(query[near] << 32 | row[near])
    pairs = np.unique(np.concatenate(parts))
    query, row = pairs >> 32, pairs & 0xFFFFFFFF
    order = np.lexsort((row, distances(distinct[query], hashes[row]), query))
    query, row = query[order], row[order]
    kept = np.arange(len(query)) - np.searchsorted(query, query, "left") < MOST_PAIRS
    query, row = query[kept], row[kept]
    # Back from distinct hashes to the queries that have them.
    low = np.searchsorted(query, number, "left")
    counts = np.searchsorted(query, number, "right") - low
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(queries)), counts), row[np.repeat(low, counts) + within]


def _candidates(queries: Hashes, table: BandTable) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of a query and a row that agree in a band but for one bit, some millions at a time; a pair may come again."""
    asking = np.flatnonzero(telling(queries)).astype(np.int64)
    if not len(asking) or not table.rows.shape[1]:
        return
    turns = np.concatenate([np.zeros(1, np.uint16), np.uint16(1) << np.arange(BAND_BITS, dtype=np.uint16)])
    for band, values in enumerate(bands(queries[asking])):
        for turn in turns:
            wanted = values ^ turn
            low = np.searchsorted(table.values[band], wanted, "left")
            counts = np.minimum(np.searchsorted(table.values[band], wanted, "right") - low, MOST_PROBED)
            ends = np.cumsum(counts)
            start = 0
            while start < len(asking):
                before = int(ends[start - 1]) if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
                here = counts[start:stop]
                within = np.arange(int(here.sum())) - np.repeat(np.cumsum(here) - here, here)
                rows = table.rows[band][np.repeat(low[start:stop], here) + within]
                yield np.repeat(asking[start:stop], here), rows.astype(np.int64)
                start = stop

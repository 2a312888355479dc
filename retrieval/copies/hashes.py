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
# Rows that are looked at under one value of a band, the first ones: so many, or sixteen times as many as there are on average.
# A pattern that more of them share does not tell pictures apart.
LEAST_PROBED = 512
# Pairs that are kept of one query, its nearest.
MOST_PAIRS = 32
_PAIRS_AT_ONCE = 4_000_000
_QUERIES_AT_ONCE = 8192

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
    parts = [np.empty((2, 0), np.int64)]
    for query, row in _candidates(distinct, table):
        near = distances(distinct[query], hashes[row]) <= NEAR_BITS
        pairs = np.unique(query[near] << 32 | row[near])
        query, row = pairs >> 32, pairs & 0xFFFFFFFF
        order = np.lexsort((row, distances(distinct[query], hashes[row]), query))
        query, row = query[order], row[order]
        kept = np.arange(len(query)) - np.searchsorted(query, query, "left") < MOST_PAIRS
        parts.append(np.stack([query[kept], row[kept]]))
    query, row = np.concatenate(parts, 1)
    # Back from distinct hashes to the queries that have them.
    low = np.searchsorted(query, number, "left")
    counts = np.searchsorted(query, number, "right") - low
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(queries)), counts), row[np.repeat(low, counts) + within]


def _candidates(queries: Hashes, table: BandTable) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of a query and a row that agree in a band but for one bit, all of some queries at a time, as many as bound the
    memory; a pair may come again."""
    asking = np.flatnonzero(telling(queries)).astype(np.int64)
    entries = table.rows.shape[1]
    if not len(asking) or not entries:
        return
    most = max(LEAST_PROBED, 16 * entries >> BAND_BITS)
    turns = np.concatenate([np.zeros(1, np.uint16), np.uint16(1) << np.arange(BAND_BITS, dtype=np.uint16)])
    for first in range(0, len(asking), _QUERIES_AT_ONCE):
        block = asking[first : first + _QUERIES_AT_ONCE]
        # (4, 17, q): where the rows under each band, and each of its turns, begin in the table.
        wanted = bands(queries[block])[:, None] ^ turns[None, :, None]
        ranges = [_range_of(values, here) for values, here in zip(table.values, wanted, strict=True)]
        low = np.concatenate([low for low, _ in ranges]).T
        counts = np.minimum(np.concatenate([high - low for low, high in ranges]).T, most)
        of_bands = np.repeat(np.arange(BANDS), len(turns))
        ends = np.cumsum(counts.sum(1))
        start = 0
        while start < len(block):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_ONCE, "right")))
            here = counts[start:stop].reshape(-1)
            within = np.arange(int(here.sum())) - np.repeat(np.cumsum(here) - here, here)
            at = np.repeat(low[start:stop].reshape(-1), here) + within
            band = np.repeat(np.tile(of_bands, stop - start), here)
            yield np.repeat(block[start:stop], counts[start:stop].sum(1)), table.rows[band, at].astype(np.int64)
            start = stop


def _range_of(values: NDArray[np.uint16], wanted: NDArray[np.uint16]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the rows of each of the `wanted` values of a band begin and end."""
    return np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")

"""One hit for what a person sees as one thing: the moments of a video, opened at the best of them.

Rows are grouped by integer keys, so a search knows its groups before it reads a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from retrieval.store.manifest import Manifest
from retrieval.store.selection import Selection
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex

MOST_MOMENTS = 10
# Candidates of the first round of a grouped search, and how many times more each further round asks for. They depend on
# nothing but the round, so a search for more hits begins with the hits of a search for fewer.
FIRST_ROUND = 64
_GROWTH = 4


@dataclass(frozen=True)
class Candidates:
    """Rows of a state, best first: `scores (n,) float32`, cosines; `shards` and `rows (n,) int64`; `keys (n,) int64`, equal for
    rows that belong to one hit."""

    scores: NDArray[np.float32]
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    keys: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: NDArray[np.int64]) -> Candidates:
        """Some of them, in the order of `chosen`."""
        return Candidates(self.scores[chosen], self.shards[chosen], self.rows[chosen], self.keys[chosen])


class Videos:
    """Which video each moment of a state belongs to. The shards' paths are read once, when first needed."""

    def __init__(self, manifest: Manifest, reader: ShardReader) -> None:
        self._manifest, self._reader = manifest, reader

    @cached_property
    def numbers(self) -> dict[int, NDArray[np.int64]]:
        """For each shard of moments, the number of each row's video, `(rows,) int64`, from 0 in order of appearance."""
        number_of_path: dict[tuple[int, str, bytes | None], int] = {}
        numbers: dict[int, NDArray[np.int64]] = {}
        for shard, entry in enumerate(self._manifest.shards):
            if entry.kind != "video":
                continue
            every = np.arange(entry.rows, dtype=np.int64)
            table = self._reader.take(shard, every, ["root", "path", "path_raw"])
            root = table.column("root").to_numpy()
            path = table.column("path").combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
            # Moments of a video stand together: a name is looked at where it changes.
            changes = (np.diff(root) != 0) | (np.diff(path) != 0)
            if table.column("path_raw").null_count < entry.rows:
                changes[:] = True
            firsts = np.concatenate([every[:1], 1 + np.flatnonzero(changes)])
            names = table.take(firsts).to_pydict()
            video_numbers = [
                number_of_path.setdefault(name, len(number_of_path))
                for name in zip(names["root"], names["path"], names["path_raw"], strict=True)
            ]
            numbers[shard] = np.repeat(np.array(video_numbers, np.int64), np.diff([*firsts, entry.rows]))
        return numbers

    def keys(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,) int64`: the number of a moment's video; of any other row a negative number of its own."""
        keys = -1 - (shards << 32 | rows)
        for shard in np.unique(shards).tolist():
            if self._manifest.shards[shard].kind == "video":
                where = shards == shard
                keys[where] = self.numbers[shard][rows[where]]
        return keys

    def rows_of(self, keys: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Every row that has one of these keys, by shard, each shard's ascending."""
        rows: dict[int, list[NDArray[np.int64]]] = {}
        places = -1 - keys[keys < 0]
        for shard in np.unique(places >> 32).tolist():
            rows.setdefault(shard, []).append(np.sort(places[places >> 32 == shard] & 0xFFFFFFFF))
        videos = keys[keys >= 0]
        if len(videos):
            for shard, numbers in self.numbers.items():
                rows.setdefault(shard, []).append(np.flatnonzero(np.isin(numbers, videos)).astype(np.int64))
        return {shard: np.concatenate(parts) for shard, parts in rows.items()}


def single_candidates(index: VectorIndex, direction: NDArray[np.float32], k: int, selection: Selection) -> Candidates:
    """The best `k` selected rows, each a hit of its own."""
    scores, shards, rows = index.search(direction, k, selection)
    return Candidates(scores, shards, rows, -1 - (shards << 32 | rows))


def grouped_candidates(
    index: VectorIndex, videos: Videos, direction: NDArray[np.float32], k: int, selection: Selection
) -> Candidates:
    """The best selected rows, of `k` hits at least where there are so many.

    It searches in rounds, each among the rows that belong to no hit yet. So a video with thousands of good
    moments costs one round, and the cost of a search follows the number of its hits.
    """
    size, hits = FIRST_ROUND, 0
    rounds: list[Candidates] = []
    while True:
        scores, shards, rows = index.search(direction, size, selection)
        keys = videos.keys(shards, rows)
        rounds.append(Candidates(scores, shards, rows, keys))
        fresh = np.unique(keys)
        hits += len(fresh)
        if hits >= k or len(scores) < size:
            break
        selection = selection.without(videos.rows_of(fresh))
        size *= _GROWTH
    joined = Candidates(
        np.concatenate([part.scores for part in rounds]),
        np.concatenate([part.shards for part in rounds]),
        np.concatenate([part.rows for part in rounds]),
        np.concatenate([part.keys for part in rounds]),
    )
    return joined.take(np.lexsort((joined.rows, joined.shards, -joined.scores)))


def collapse(keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Groups of rows with equal `keys (n,)`, given best first: the positions of each group's rows, ascending. Groups stand in
    the order of their first rows."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group, minlength=len(first)))[:-1])
    return [members[number] for number in np.argsort(first).tolist()]

"""One hit for what a person sees as one thing: the moments of a video, opened at the best of them, and copies of a picture.

Rows are grouped by integer keys, so a search knows its groups before it reads a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from retrieval.store.copy_groups import CopyGroups
from retrieval.store.manifest import Manifest
from retrieval.store.row_places import RowPlaces, of_kind
from retrieval.store.selection import Selection
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex, falling

MOST_MOMENTS = 10
# Copies that a hit names, itself among them.
MOST_COPIES = 101
# Candidates of the first round of a grouped search, and how many times more each further round asks for. They depend on
# nothing but the round, so a search for more hits begins with the hits of a search for fewer.
FIRST_ROUND = 64
_GROWTH = 4
# Keys of groups of copies begin here, those of videos below.
FIRST_GROUP = 1 << 40


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

    def rows_of(self, numbers: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Every moment of these videos, by shard, each shard's ascending."""
        rows = {}
        for shard, number in self.numbers.items() if len(numbers) else ():
            rows[shard] = np.flatnonzero(np.isin(number, numbers)).astype(np.int64)
        return rows


class HitKeys:
    """Which hit each row of a state belongs to, as a number: its video's, or that of its group of copies. With `videos` None
    each moment is a hit of its own, with `copies` None each copy."""

    def __init__(self, videos: Videos | None, copies: CopyGroups | None, places: RowPlaces) -> None:
        self.videos, self.copies, self._places = videos, copies, places

    @cached_property
    def _group_of_video(self) -> NDArray[np.int64]:
        """The group of each video by its number, -1 for none."""
        if self.videos is None or self.copies is None:
            return np.empty(0, np.int64)
        most = max((int(numbers.max()) for numbers in self.videos.numbers.values() if len(numbers)), default=-1)
        groups = np.full(most + 1, -1, np.int64)
        films = self.copies.places[of_kind("video", self.copies.places)]
        films = films[self._places.living(films)]
        groups[self.members(films)] = self.copies.groups_of(films)
        return groups

    def members(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,) int64`: what a group counts as one, by its places: the number of a film, a negative number of a picture."""
        return self.members_of(*self._places.rows(places))

    def members_of(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same of rows."""
        return self.single(shards, rows) if self.videos is None else self.videos.keys(shards, rows)

    @staticmethod
    def single(shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,) int64`: a negative number for each row, its own."""
        return -1 - (shards << 32 | rows)

    def keys(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The hit `(n,)` of each row, `FIRST_GROUP` and more for groups of copies; and what the row is within it: its own
        number, or its video's."""
        members = self.members_of(shards, rows)
        keys = members.copy()
        if self.copies is not None:
            groups = np.full(len(keys), -1, np.int64)
            own = members < 0
            groups[own] = self.copies.groups_of(self._places.places(shards[own], rows[own]))
            if self.videos is None:
                # Moments that are hits of their own are no copies of a film's photo.
                places = self._places.places(shards, rows)
                groups[of_kind("video", places)] = -1
            else:
                groups[~own] = self._group_of_video[members[~own]]
            keys[groups >= 0] = FIRST_GROUP + groups[groups >= 0]
        return keys, members

    def rows_of(self, keys: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
        """Every row that has one of these keys, by shard, each shard's ascending."""
        alone = -1 - keys[keys < 0]
        shards, rows = [alone >> 32], [alone & 0xFFFFFFFF]
        films = [keys[(keys >= 0) & (keys < FIRST_GROUP)]]
        if self.copies is not None:
            for group in (keys[keys >= FIRST_GROUP] - FIRST_GROUP).tolist():
                places = self.copies.members_of(group)
                films_here = of_kind("video", places)
                shard, row = self._places.rows(places[~films_here])
                shards.append(shard)
                rows.append(row)
                if self.videos is not None and films_here.any():
                    films.append(np.flatnonzero(self._group_of_video == group))
        shard, row = np.concatenate(shards), np.concatenate(rows)
        by_shard = {number: np.sort(row[shard == number]) for number in np.unique(shard).tolist()}
        if self.videos is not None:
            by_shard.update(self.videos.rows_of(np.concatenate(films)))
        return by_shard


def single_candidates(index: VectorIndex, direction: NDArray[np.float32], k: int, selection: Selection) -> Candidates:
    """The best `k` selected rows, each a hit of its own."""
    scores, shards, rows = index.search(direction, k, selection)
    return Candidates(scores, shards, rows, HitKeys.single(shards, rows))


def grouped_candidates(
    index: VectorIndex, hit_keys: HitKeys, direction: NDArray[np.float32], k: int, selection: Selection
) -> Candidates:
    """The best selected rows, of `k` hits at least where there are so many. Of copies the one with the best score stands for
    all: one picture, or the moments of one film.

    It searches in rounds, each among the rows that belong to no hit yet. So a video with thousands of good
    moments costs one round, and the cost of a search follows the number of its hits.
    """
    size, hits = FIRST_ROUND, 0
    rounds: list[Candidates] = []
    below, last = np.inf, -1
    while True:
        scores, shards, rows = index.search(direction, size, selection)
        # What a round finds comes after what the rounds before it found, as far as a search for fewer goes.
        scores = falling(scores, shards << 32 | rows, below, last)
        if len(scores):
            below, last = float(scores[-1]), int(shards[-1] << 32 | rows[-1])
        keys, members = hit_keys.keys(shards, rows)
        rounds.append(Candidates(scores, shards, rows, keys).take(best_member(keys, members)))
        fresh = np.unique(keys)
        hits += len(fresh)
        if hits >= k or len(scores) < size:
            break
        selection = selection.without(hit_keys.rows_of(fresh))
        size *= _GROWTH
    joined = Candidates(
        np.concatenate([part.scores for part in rounds]),
        np.concatenate([part.shards for part in rounds]),
        np.concatenate([part.rows for part in rounds]),
        np.concatenate([part.keys for part in rounds]),
    )
    return joined.take(np.lexsort((joined.rows, joined.shards, -joined.scores)))


def best_member(keys: NDArray[np.int64], members: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of rows, given best first, less those of other members of a hit than its first."""
    _, first, hit = np.unique(keys, return_index=True, return_inverse=True)
    return np.flatnonzero(members[first][hit] == members).astype(np.int64)


def collapse(keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Groups of rows with equal `keys (n,)`, given best first: the positions of each group's rows, ascending. Groups stand in
    the order of their first rows."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group, minlength=len(first)))[:-1])
    return [members[number] for number in np.argsort(first).tolist()]

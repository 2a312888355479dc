"""Groups of copies: what belongs together by content, by name, by time and by looks, and which of a group is the best.

Looks never chain: a picture joins a group because it is like the group's best, not because it is like one that is like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.copies.hashes import NEAR_BITS, distances, telling
from retrieval.copies.stacks import Role

CopyKind = Literal["same", "near", "stack"]
# Equal hashes need this cosine to be those of one picture, and more for each bit that differs (measured:
# benchmarks/README.md).
NEAR_COSINE = 0.80
COSINE_A_BIT = 0.015
# How much the ratios of the sides of near pictures differ, as a factor.
NEAR_RATIO = 1.12
# Pictures of one camera in one folder are a burst where they are taken so near in time, in seconds, and look so alike.
BURST_SECONDS = 2
BURST_COSINE = 0.85
# The film of a Live Photo lasts three seconds, that of a motion photo a little more.
LONGEST_LIVE = 6.0
LIVE_COSINE = 0.5
# Of pictures that belong together by content or name, so many are compared with others by looks.
_ANCHORS = 4
_UNKNOWN = 0


@dataclass(frozen=True)
class Fingerprints:
    """What copies are recognised by, a row an image or a film, `(n,)` each.

    `places` say which row of the index it is; films have their first moment's. `hashes` are difference hashes, 0 for none.
    Equal `contents` mean equal bytes, equal `stacks` a name in common within one folder, equal `cameras` one camera in one
    folder; 0 for none. `taken` is in seconds, 0 for unknown, `seconds` the length of a film. `roles` are of `Role`.
    """

    places: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    contents: NDArray[np.uint64]
    stacks: NDArray[np.uint64]
    cameras: NDArray[np.uint64]
    taken: NDArray[np.int64]
    sizes: NDArray[np.int64]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    seconds: NDArray[np.float32]
    roles: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Fingerprints:
        """Some rows, by position or by mask."""
        return Fingerprints(*(np.asarray(getattr(self, field.name)[rows]) for field in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Fingerprints]) -> Fingerprints:
        """Several one after the other; at least one."""
        return Fingerprints(
            *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Fingerprints))
        )

    def shots(self, shift: int = 0) -> NDArray[np.uint64]:
        """`(n,) uint64`: equal for pictures that one camera took in one second; `shift` seconds later or earlier. 0 where the
        camera or the time is unknown."""
        seconds = (self.taken + shift).astype(np.uint64)
        # Arrays wrap around at 64 bits without a word, as is wanted of a hash.
        mixed = (self.cameras ^ (seconds * np.uint64(0x9E3779B97F4A7C15))) | np.uint64(1)
        return np.where((self.cameras != 0) & (self.taken != _UNKNOWN), mixed, np.uint64(0))


@dataclass(frozen=True)
class Group:
    """Rows of some fingerprints that are copies of one another, best first."""

    kind: CopyKind
    rows: NDArray[np.int64]


def looks_alike(
    prints: Fingerprints, a: NDArray[np.int64], b: NDArray[np.int64], cosines: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether pairs of pictures `(m,)` with these cosines are near copies. Photos that were taken at different times are not,
    however alike they look."""
    bits = distances(prints.hashes[a], prints.hashes[b])
    ratio = prints.widths.astype(np.float64) / np.maximum(prints.heights, 1)
    unlike = np.maximum(ratio[a], ratio[b]) > NEAR_RATIO * np.minimum(ratio[a], ratio[b])
    times = prints.taken
    apart = (times[a] != _UNKNOWN) & (times[b] != _UNKNOWN) & (times[a] != times[b])
    alike = (bits <= NEAR_BITS) & (cosines >= NEAR_COSINE + COSINE_A_BIT * bits)
    return np.asarray(alike & ~unlike & ~apart & telling(prints.hashes[a]) & telling(prints.hashes[b]), np.bool_)


def one_burst(
    prints: Fingerprints, a: NDArray[np.int64], b: NDArray[np.int64], cosines: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Whether pairs of pictures `(m,)` with these cosines belong to one burst."""
    same = (prints.cameras[a] == prints.cameras[b]) & (prints.cameras[a] != 0)
    dated = (prints.taken[a] != _UNKNOWN) & (prints.taken[b] != _UNKNOWN)
    near = np.abs(prints.taken[a] - prints.taken[b]) <= BURST_SECONDS
    return np.asarray(same & dated & near & (cosines >= BURST_COSINE), np.bool_)


def best_first(prints: Fingerprints) -> NDArray[np.int64]:
    """Rows in the order in which they stand for a group: raw files and films behind pictures, the picture that its phone chose
    from a burst before the others, then most pixels, originals before edits, most bytes, and index order."""
    roles = prints.roles.astype(np.int64)
    rank = np.select([roles == Role.COVER, roles < Role.RAW, roles == Role.RAW], [0, 1, 2], 3)
    pixels = prints.widths.astype(np.int64) * prints.heights
    return np.lexsort((prints.places, -prints.sizes, roles, -pixels, rank)).astype(np.int64)


def group_copies(
    prints: Fingerprints, embeddings: NDArray[np.float32], a: NDArray[np.int64], b: NDArray[np.int64]
) -> list[Group]:
    """The groups of two rows and more among `prints`, whose `embeddings (n, d)` are unit rows; pairs `(a, b)` may be copies by
    looks or time, and are compared here. Rows of one content or stack need no pair."""
    order = best_first(prints)
    cluster, of_names = _clusters(prints, embeddings, order)
    members = _by_value(cluster, order)
    neighbours = _Neighbours.of(len(prints), a, b)
    taken = np.zeros(len(prints), np.bool_)
    asked_by = np.full(len(prints), -1, np.int64)
    rank = np.empty(len(prints), np.int64)
    rank[order] = np.arange(len(prints))
    groups: list[Group] = []
    for leader in order.tolist():
        if taken[leader]:
            continue
        own = members[int(cluster[leader])]
        taken[own] = True
        parts, timed, frontier = [own], False, own
        anchors = own[:_ANCHORS]
        while len(frontier):
            around = neighbours.of_rows(frontier)
            around = around[~taken[around] & (asked_by[around] != leader)]
            asked_by[around] = leader
            alike, burst = _compare(prints, embeddings, anchors, around)
            joining = np.unique(cluster[around[alike | burst]])
            timed |= bool((burst & ~alike).any())
            fresh = [members[number] for number in joining.tolist()]
            frontier = np.concatenate([np.empty(0, np.int64), *fresh])
            taken[frontier] = True
            parts += fresh
        rows = np.concatenate(parts)
        if len(rows) < 2:
            continue
        rows = rows[np.argsort(rank[rows])]
        contents = prints.contents[rows]
        kind: CopyKind = "near"
        if contents[0] != 0 and (contents == contents[0]).all():
            kind = "same"
        elif timed or of_names[rows].any():
            kind = "stack"
        groups.append(Group(kind, rows))
    return groups


def _compare(
    prints: Fingerprints, embeddings: NDArray[np.float32], anchors: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each row looks like one of the anchors, and whether it is of one burst with one."""
    alike, burst = np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    for anchor in anchors:
        cosines = embeddings[rows] @ embeddings[anchor]
        both = np.full(len(rows), anchor, np.int64)
        alike |= looks_alike(prints, both, rows, cosines)
        burst |= one_burst(prints, both, rows, cosines)
    return alike, burst


def _clusters(
    prints: Fingerprints, embeddings: NDArray[np.float32], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A number for each row, equal for those that belong together by content or name; and which rows do so by name."""
    parents = list(range(len(prints)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    of_names = np.zeros(len(prints), np.bool_)
    for rows in _by_value(prints.contents, order).values():
        if prints.contents[rows[0]] != 0:
            for row in rows[1:].tolist():
                parents[root(row)] = root(int(rows[0]))
    for rows in _by_value(prints.stacks, order).values():
        if len(rows) > 1 and prints.stacks[rows[0]] != 0:
            stacked = _stacked(prints, embeddings, rows)
            of_names[stacked] = len(stacked) > 1
            for row in stacked[1:].tolist():
                parents[root(row)] = root(int(stacked[0]))
    return np.array([root(row) for row in range(len(prints))], np.int64), of_names


def _stacked(prints: Fingerprints, embeddings: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of rows with one stack name, best first, those that are one shot: pictures of a burst, or one photo with its edits, its
    raw file and its film. Two photos of one name and different format are not, unless they look alike."""
    roles = prints.roles[rows]
    bursts = rows[(roles == Role.COVER) | (roles == Role.BURST)]
    if len(bursts):
        return np.asarray(bursts, np.int64)
    photos, raws = rows[roles == Role.PHOTO], rows[roles == Role.RAW]
    first = (photos if len(photos) else raws)[:1]
    films = rows[(roles == Role.FILM) & (prints.seconds[rows] <= LONGEST_LIVE)]
    films = films[embeddings[films] @ embeddings[first[0]] >= LIVE_COSINE] if len(first) else films[:0]
    others = raws[1:] if not len(photos) else raws
    return np.concatenate([first, rows[roles == Role.EDIT], others, films])


@dataclass(frozen=True)
class _Neighbours:
    """Which rows are paired with which: those of row r are `others[starts[r]:starts[r + 1]]`."""

    starts: NDArray[np.int64]
    others: NDArray[np.int64]

    @staticmethod
    def of(count: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> _Neighbours:
        left, right = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.argsort(left, kind="stable")
        return _Neighbours(np.searchsorted(left[order], np.arange(count + 1)), right[order])

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The neighbours of some rows, ascending."""
        parts = [self.others[self.starts[row] : self.starts[row + 1]] for row in rows.tolist()]
        return np.unique(np.concatenate([np.empty(0, np.int64), *parts]))


def _by_value(values: NDArray[np.int64] | NDArray[np.uint64], order: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Rows by their value, in this `order`."""
    sorted_rows = order[np.argsort(values[order], kind="stable")]
    distinct, starts = np.unique(values[sorted_rows], return_index=True)
    parts = np.split(sorted_rows, starts[1:])
    return dict(zip(distinct.tolist(), parts, strict=True)) if len(order) else {}

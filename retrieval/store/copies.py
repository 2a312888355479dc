"""Finding the copies of a state: what a publication brings is looked up among all that the index has.

The groups that new rows belong to are made again from their members; all others stay as they are. So what is found does not
depend on how many publications it took, and a publication costs what it brings and what that is like.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from media.names import join_name
from retrieval.copies.grouping import BURST_SECONDS, Fingerprints, group_copies, looks_alike, one_burst
from retrieval.copies.hashes import near_pairs
from retrieval.copies.stacks import folder_and_name, stack_of
from retrieval.errors import FormatError
from retrieval.store.copy_groups import CopyGroups
from retrieval.store.embeddings import StoredEmbeddings
from retrieval.store.fingerprints import Segment, open_segment, write_segment
from retrieval.store.keys import hash_of
from retrieval.store.manifest import CopiesFile, CopiesState, Manifest
from retrieval.store.row_places import RowPlaces, place_of_position
from retrieval.store.shards import ShardReader
from retrieval.store.sources import MERGE_SHARE
from retrieval.types import Kind

_FACTS = ("root", "path", "path_raw", "end", "width", "height", "size", "taken_at", "date_source", "camera", "dhash")
_BLOCK = 16_384
# New rows that are looked up together.
_AT_ONCE = 2_000_000
_ZERO = datetime(1, 1, 1)
# A path by its root, its text, and its bytes where the text cannot hold them.
_Path = tuple[int, str, bytes | None]


def with_copies(folder: Path, state: Manifest) -> Manifest:
    """A state that knows the copies among all of its rows; the files are new where something changed. What an earlier
    publication left is made anew where it is damaged, or is of an index that did not look for copies."""
    if state.copies_are_current:
        return state
    images, moments = state.rows("image"), state.rows("video")
    before = state.copies
    if before.images > images or before.moments > moments:
        before = CopiesState()
    try:
        return _current(folder, replace(state, copies=before))
    except FormatError:
        if before == CopiesState():
            raise
        return _current(folder, replace(state, copies=CopiesState()))


def _current(folder: Path, state: Manifest) -> Manifest:
    """A state that knows all copies; what is new is looked up some at a time, so that memory does not follow how much it is."""
    turn = 0
    while not state.copies_are_current:
        state = _Update(folder, state, turn).state()
        turn += 1
    return state


class _Update:
    """A look for copies of the first of what is new; `turn` counts those of one publication."""

    def __init__(self, folder: Path, state: Manifest, turn: int) -> None:
        self._folder, self._before = folder, state
        self._name = f"copies/{state.generation:06d}" + (f"-{turn}" if turn else "")
        self._reader = ShardReader(folder, state)
        self._stored = StoredEmbeddings(folder, state, self._reader)
        self._places = RowPlaces(state)
        self._segments = [open_segment(folder, entry) for entry in state.copies.segments]
        self._groups = CopyGroups.open(folder, state) or CopyGroups.of([])

    def state(self) -> Manifest:
        """The state with the next `_AT_ONCE` rows looked up, or a few more."""
        after, parts = self._before.copies, []
        rows = 0
        for covered, part in self._fresh():
            after = covered
            if part is not None:
                parts.append(part)
                rows += len(part)
            if rows >= _AT_ONCE:
                break
        if not parts:
            return replace(self._before, copies=after)
        fresh = Segment.of(Fingerprints.joined(parts))
        groups = self._grouped(fresh)
        if groups is not None:
            after = replace(after, groups=groups.write(self._folder, f"{self._name}.groups"))
        kept, merged = self._merged(fresh)
        segment = write_segment(self._folder, f"{self._name}.prints", merged)
        return replace(self._before, copies=replace(after, segments=(*kept, segment)))

    def _merged(self, fresh: Segment) -> tuple[tuple[CopiesFile, ...], Segment]:
        """The segments that stay, and the newest ones with what is fresh as one, without rows that are gone."""
        entries = self._before.copies.segments
        keep, rows = len(entries), len(fresh.prints)
        while keep and MERGE_SHARE * rows >= entries[keep - 1].rows:
            keep -= 1
            rows += entries[keep].rows
        if keep == len(entries):
            return entries, fresh
        prints = Fingerprints.joined([*(segment.prints for segment in self._segments[keep:]), fresh.prints])
        prints = prints.take(self._places.living(prints.places))
        return entries[:keep], Segment.of(prints.take(np.argsort(prints.places, kind="stable")))

    def _grouped(self, fresh: Segment) -> CopyGroups | None:
        """The groups with the fresh rows in theirs; None where nothing changes."""
        places, links = self._partners(fresh)
        if not len(places):
            return None
        # The groups that have a partner are made again, whole.
        numbers = np.unique(self._groups.groups_of(places))
        numbers = numbers[numbers >= 0]
        whole = [self._living(self._groups.members_of(number)) for number in numbers.tolist()]
        places = np.unique(np.concatenate([self._living(places), *whole]))
        prints = self._prints(places, fresh)
        places = prints.places
        stars = [np.column_stack([np.repeat(group[:1], len(group) - 1), group[1:]]) for group in whole if len(group)]
        pairs = np.concatenate([links, *stars])
        pairs = pairs[np.isin(pairs, places).all(1)]
        a, b = np.searchsorted(places, pairs[:, 0]), np.searchsorted(places, pairs[:, 1])
        embeddings = self._stored.take(*self._places.rows(places)).astype(np.float32)
        made = [(group.kind, places[group.rows]) for group in group_copies(prints, embeddings, a, b)]
        if not made and not len(numbers):
            return None
        return self._groups.without(numbers, CopyGroups.of(made))

    def _partners(self, fresh: Segment) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places of rows that may have copies, ascending, fresh ones and what they are like; and pairs of places `(m, 2)`
        that are alike in looks or in time."""
        places, links = [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)]
        prints = fresh.prints
        for segment in (*self._segments, fresh):
            others = segment.prints.places
            for a, b in (segment.contents.pairs(prints.contents), segment.stacks.pairs(prints.stacks)):
                different = (prints.places[a] != others[b]) & self._places.living(others[b])
                places += [prints.places[a[different]], others[b[different]]]
            by_looks = [near_pairs(prints.hashes, segment.prints.hashes, segment.bands)]
            for shift in range(-BURST_SECONDS, BURST_SECONDS + 1):
                by_looks.append(segment.shots.pairs(prints.shots(shift)))
            for a, b in by_looks:
                if segment is fresh:
                    # Each pair comes from both of its sides, or from one where the other has many.
                    codes = np.unique(np.maximum(a, b) << 32 | np.minimum(a, b))
                    a, b = codes >> 32, codes & 0xFFFFFFFF
                for start in range(0, len(a), _BLOCK):
                    pairs = self._alike(prints, segment.prints, a[start : start + _BLOCK], b[start : start + _BLOCK])
                    links.append(pairs)
                    places.append(pairs.reshape(-1))
        return np.unique(np.concatenate(places)), np.concatenate(links)

    def _living(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return places[self._places.living(places)]

    def _alike(
        self, left: Fingerprints, right: Fingerprints, a: NDArray[np.int64], b: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Those pairs `(m, 2)` of places that look alike or are of one burst."""
        places: NDArray[np.int64] = np.column_stack([left.places[a], right.places[b]])
        keep = (places[:, 0] != places[:, 1]) & self._places.living(places[:, 1])
        places, a, b = places[keep], a[keep], b[keep]
        if not len(a):
            return places
        both = Fingerprints.joined([left.take(a), right.take(b)])
        numbers = np.arange(len(a))
        # What no cosine would make a copy needs no embedding.
        certain = np.ones(len(a), np.float32)
        others = numbers + len(a)
        able = looks_alike(both, numbers, others, certain) | one_burst(both, numbers, others, certain)
        places, numbers, others = places[able], numbers[able], others[able]
        if not len(places):
            return places
        rows = [self._stored.take(*self._places.rows(side)).astype(np.float32) for side in places.T]
        cosines = np.einsum("ij,ij->i", *rows)
        alike = looks_alike(both, numbers, others, cosines) | one_burst(both, numbers, others, cosines)
        return np.asarray(places[alike], np.int64)

    def _prints(self, places: NDArray[np.int64], fresh: Segment) -> Fingerprints:
        """The fingerprints of some places, ascending."""
        parts = [segment.prints.take(segment.at(places)) for segment in (*self._segments, fresh)]
        prints = Fingerprints.joined(parts)
        return prints.take(np.argsort(prints.places, kind="stable"))

    def _fresh(self) -> Iterator[tuple[CopiesState, Fingerprints | None]]:
        """The living rows that were not looked at yet, shard by shard in the order of their places: what will have been looked
        at with them, and their fingerprints."""
        state = self._before.copies
        covered: dict[Kind, int] = {"image": state.images, "video": state.moments}
        for kind, done in covered.items():
            first, last = 0, -1
            before: _Path | None = None
            for number, shard in enumerate(self._before.shards):
                if shard.kind != kind:
                    continue
                start, first = first, first + shard.rows
                if first <= done:
                    last = number
                    continue
                if kind == "video" and before is None and last >= 0 and start == done:
                    # A video may begin in what an earlier turn looked at.
                    end = np.array([self._before.shards[last].rows - 1])
                    before = next(zip(*self._reader.take(last, end, _FACTS[:3]).to_pydict().values(), strict=True))
                state = replace(state, images=first) if kind == "image" else replace(state, moments=first)
                rows = np.arange(max(0, done - start), shard.rows, dtype=np.int64)
                rows = np.setdiff1d(rows, shard.tombstone_rows(), assume_unique=True)
                if not len(rows):
                    yield state, None
                    continue
                table = self._reader.take(number, rows, _FACTS)
                contents = np.zeros(shard.rows, np.uint64)
                for row, content in self._reader.contents(number):
                    contents[row] = content
                paths = list(zip(*(table.column(name).to_pylist() for name in _FACTS[:3]), strict=True))
                if kind == "video":
                    heads = [
                        place for place, path in enumerate(paths) if path != (paths[place - 1] if place else before)
                    ]
                else:
                    heads = list(range(len(paths)))
                before = paths[-1]
                yield state, _fingerprints(kind, table, paths, heads, start + rows, contents[rows]) if heads else None


def _fingerprints(
    kind: Kind,
    table: pa.Table,
    paths: list[_Path],
    heads: list[int],
    positions: NDArray[np.int64],
    contents: NDArray[np.uint64],
) -> Fingerprints:
    """The fingerprints of the rows `heads` of a table: of every image, and of the first moment of each video."""
    chosen = np.array(heads, np.int64)
    facts = {name: table.column(name).to_pylist() for name in _FACTS[3:]}
    ends = [*heads[1:], len(paths)]
    stacks, cameras, taken, roles = [], [], [], []
    for head in heads:
        root, path, raw = paths[head]
        folder, name = folder_and_name(join_name(path, raw))
        stack, role = stack_of(name, kind == "video")
        stacks.append(hash_of(f"{root}\0{folder}\0{stack}"))
        roles.append(int(role))
        camera, when = facts["camera"][head], facts["taken_at"][head]
        cameras.append(hash_of(f"{root}\0{folder}\0{camera}") if camera else 0)
        # The time of a file's last change says when it was copied, not when the picture was taken.
        taken.append(_seconds(when) if when and facts["date_source"][head] != "file" else 0)
    moving = kind == "video"
    return Fingerprints(
        places=place_of_position(kind, positions[chosen]),
        hashes=np.array([facts["dhash"][head] or 0 for head in heads], np.int64).view(np.uint64),
        contents=contents[chosen],
        stacks=np.array(stacks, np.uint64),
        cameras=np.array(cameras, np.uint64),
        taken=np.array(taken, np.int64),
        sizes=np.array([facts["size"][head] or 0 for head in heads], np.int64),
        widths=np.array([facts["width"][head] or 0 for head in heads], np.int32),
        heights=np.array([facts["height"][head] or 0 for head in heads], np.int32),
        seconds=np.array([(facts["end"][end - 1] or 0) if moving else 0 for end in ends], np.float32),
        roles=np.array(roles, np.uint8),
    )


def _seconds(when: str) -> int:
    """An ISO time in seconds, whatever its zone; 0 where it is none."""
    try:
        return int((datetime.fromisoformat(when).replace(tzinfo=None) - _ZERO).total_seconds())
    except ValueError:
        return 0

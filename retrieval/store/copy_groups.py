"""Groups of copies on disk: for each group its rows, best first, and for each row its group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from retrieval.store.manifest import CopiesFile, Manifest
from retrieval.store.number_columns import Columns, write_columns

if TYPE_CHECKING:
    from retrieval.copies.grouping import CopyKind

COPY_KINDS: tuple[CopyKind, ...] = ("same", "near", "stack")
_PLACE = np.dtype("<i8")
_NUMBER = np.dtype("<u4")
_KIND = np.dtype("u1")


@dataclass(frozen=True)
class CopyGroups:
    """The groups of one state. Group g has the places `members[starts[g]:starts[g + 1]]`, best first, tombstones among them,
    and is of kind `COPY_KINDS[kinds[g]]`. `places` are all members ascending, `position` where each stands in `members`."""

    members: NDArray[np.int64]
    starts: NDArray[np.uint32]
    kinds: NDArray[np.uint8]
    places: NDArray[np.int64]
    position: NDArray[np.uint32]

    @staticmethod
    def of(groups: Sequence[tuple[CopyKind, NDArray[np.int64]]]) -> CopyGroups:
        """From the kind and the places of each group."""
        return CopyGroups._made(
            np.concatenate([np.empty(0, np.int64), *(places for _, places in groups)]),
            np.array([len(places) for _, places in groups], np.int64),
            np.array([COPY_KINDS.index(kind) for kind, _ in groups], _KIND),
        )

    @staticmethod
    def _made(members: NDArray[np.int64], sizes: NDArray[np.int64], kinds: NDArray[np.uint8]) -> CopyGroups:
        order = np.argsort(members, kind="stable")
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(_NUMBER)
        return CopyGroups(members, starts, kinds, members[order], order.astype(_NUMBER))

    def _sizes(self) -> NDArray[np.int64]:
        starts = self.starts.astype(np.int64)
        return np.asarray(starts[1:] - starts[:-1], np.int64)

    def without(self, groups: NDArray[np.int64], added: CopyGroups) -> CopyGroups:
        """The others than `groups`, and behind them those that are `added`."""
        sizes = self._sizes()
        kept = np.ones(len(self), np.bool_)
        kept[groups] = False
        return CopyGroups._made(
            np.concatenate([self.members[np.repeat(kept, sizes)], added.members]),
            np.concatenate([sizes[kept], added._sizes()]),
            np.concatenate([self.kinds[kept], added.kinds]),
        )

    @staticmethod
    def open(folder: Path, manifest: Manifest) -> CopyGroups | None:
        """The groups of a state; None where there are none. Raises `FormatError` for a file that is damaged or missing."""
        entry = manifest.copies.groups
        if entry is None:
            return None
        columns = Columns.open(folder, entry, 2)
        rows, groups = columns.head
        opened = CopyGroups(
            columns.next(_PLACE, rows),
            columns.next(_NUMBER, groups + 1),
            columns.next(_KIND, groups),
            columns.next(_PLACE, rows),
            columns.next(_NUMBER, rows),
        )
        columns.finish()
        return opened

    def write(self, folder: Path, name: str) -> CopiesFile:
        """Write them, durably. Raises `OSError`."""
        columns: list[NDArray[Any]] = [
            self.members.astype(_PLACE),
            self.starts.astype(_NUMBER),
            self.kinds.astype(_KIND),
            self.places.astype(_PLACE),
            self.position.astype(_NUMBER),
        ]
        return write_columns(folder, name, len(self.members), [len(self.members), len(self.kinds)], columns)

    def __len__(self) -> int:
        return len(self.kinds)

    def groups_of(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """`(n,) int64`: the group of each place, -1 for none."""
        if not len(self.places):
            return np.full(len(places), -1, np.int64)
        at = np.minimum(np.searchsorted(self.places, places), len(self.places) - 1)
        groups = np.searchsorted(self.starts, self.position[at], "right").astype(np.int64) - 1
        return np.where(self.places[at] == places, groups, -1)

    def members_of(self, group: int) -> NDArray[np.int64]:
        """The places of one group, best first."""
        return np.asarray(self.members[int(self.starts[group]) : int(self.starts[group + 1])], np.int64)

    def kind_of(self, group: int) -> CopyKind:
        """What makes its rows copies."""
        return COPY_KINDS[int(self.kinds[group])]

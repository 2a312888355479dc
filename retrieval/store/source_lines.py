"""Lines of the table of sources, as a run compares them with what is on disk: in order, and whole folders at once."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.store.sources import SourceLine, SourceTable

# Files that are what they are by themselves: no other file tells what they are about, or what is in them.
_PLAIN_KINDS = ("image", "video", "document")
# Lines that are made at once.
_MADE = 512


class Columns(NamedTuple):
    """What of a line the comparison reads."""

    kind: str
    size: int
    mtime: int
    about: bytes | None
    media: int
    slices: int
    heard: bool
    failures: bytes | None
    sidecar: bytes | None

    @property
    def failed(self) -> list[list[str]]:
        """The failures, as they were stored."""
        stored: list[list[str]] = json.loads(self.failures) if self.failures is not None else []
        return stored

    @staticmethod
    def of(line: SourceLine) -> Columns:
        """Those of a line."""
        failures = json.dumps(line.failures).encode() if line.failures else None
        return Columns(
            line.kind, line.size, line.mtime_ns, line.about, line.media, line.slices, line.heard, failures, line.sidecar
        )


class PairedLines:
    """Lines that are there already, by key."""

    def __init__(self, pairs: Sequence[tuple[bytes, Columns]]) -> None:
        self._pairs, self._at = pairs, 0

    @property
    def key(self) -> bytes | None:
        """The key of the next line, None at the end."""
        return self._pairs[self._at][0] if self._at < len(self._pairs) else None

    def take(self) -> Columns:
        """The next line; the one after it is next then."""
        self._at += 1
        return self._pairs[self._at - 1][1]


class Lines:
    """The lines below a prefix, some thousands at a time. Values of Python are made of a line only where it is taken."""

    def __init__(self, table: SourceTable, prefix: bytes) -> None:
        self._parts = table.below(prefix, Columns._fields)
        self._part: pa.Table = None
        self._keys: list[bytes] = []
        # Lines that were made, and the place in the part of the first of them.
        self._made: list[Columns] = []
        self._made_from = 0
        self._numbers: tuple[NDArray[Any], ...] | None = None
        self._at = 0
        self._next_part()

    def __iter__(self) -> Iterator[tuple[bytes, Columns]]:
        while (key := self.key) is not None:
            yield key, self.take()

    @property
    def key(self) -> bytes | None:
        """The key of the next line, None at the end."""
        return self._keys[self._at] if self._at < len(self._keys) else None

    def take(self) -> Columns:
        """The next line; the one after it is next then."""
        number = self._at - self._made_from
        if not 0 <= number < len(self._made):
            part, number = self._part.slice(self._at, _MADE), 0
            self._made_from = self._at
            self._made = list(map(Columns, *(part.column(name).to_pylist() for name in Columns._fields)))
        line = self._made[number]
        self._advance(self._at + 1)
        return line

    def hold(self, prefix: bytes, names: Sequence[bytes], sizes: Sequence[int], times: Sequence[int]) -> bool:
        """Whether the lines of one folder, whose keys begin with `prefix`, are just of these files, all plain and without a
        failure. False also where they go on in the next part of the table."""
        start = bisect_left(self._keys, prefix, self._at)
        stop = start + len(names)
        if stop >= len(self._keys) or self._keys[stop].startswith(prefix):
            return False
        if self._keys[start:stop] != [prefix + name for name in names]:
            return False
        plain, stored_sizes, stored_times, _ = self._arrays()
        return bool(
            plain[start:stop].all()
            and np.array_equal(stored_sizes[start:stop], np.array(sizes, np.int64))
            and np.array_equal(stored_times[start:stop], np.array(times, np.int64))
        )

    def skip(self, prefix: bytes) -> int:
        """Pass over the lines of a folder that was held; how many media files they are."""
        stop = bisect_left(self._keys, prefix + b"\xff" * 256, self._at)
        media = int(self._arrays()[3][self._at : stop].sum())
        self._advance(stop)
        return media

    def _advance(self, at: int) -> None:
        self._at = at
        if at >= len(self._keys):
            self._next_part()

    def _next_part(self) -> None:
        self._part = next((part for part in self._parts if part.num_rows), None)
        self._keys = [] if self._part is None else self._part.column("key").to_pylist()
        self._at = 0
        self._made, self._made_from, self._numbers = [], 0, None

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        """Of each line of the part: whether it is plain, its size, its time, and its media files."""
        if self._numbers is None:
            import pyarrow.compute as pc

            part = self._part
            plain = pc.is_in(part.column("kind"), value_set=pa.array(_PLAIN_KINDS))
            for name in ("about", "failures"):
                plain = pc.and_(plain, pc.is_null(part.column(name)))
            plain = pc.and_(plain, pc.equal(pc.fill_null(pc.binary_length(part.column("sidecar")), 0), 0))
            plain = pc.and_(plain, pc.equal(part.column("slices"), 0))
            self._numbers = (
                np.asarray(plain.combine_chunks().to_numpy(zero_copy_only=False), np.bool_),
                *(np.asarray(part.column(name).to_numpy(), np.int64) for name in ("size", "mtime", "media")),
            )
        return self._numbers

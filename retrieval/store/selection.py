"""Selections: which rows of a state a search may return, made from a `Filter` once and cached."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.store.conditions import Condition, conditions, missing
from retrieval.store.facts import Facts
from retrieval.store.manifest import Manifest
from retrieval.types import Filter, Kind

# A selection takes an eighth of a byte a row.
_CACHED = 16


@dataclass(frozen=True, eq=False)
class Selection:
    """One bitmap a shard, in the order of the manifest; tombstones are never in it.

    `bits[s]` is `(⌈rows / 8⌉,) uint8`, row r being bit r % 8 of byte r // 8; `sizes` are the rows of the shards and `counts`
    how many of them are selected. Selections compare by identity, because results computed for one are cached under it.
    `root` is the selection that this one was cut from, itself if from none.
    """

    bits: tuple[NDArray[np.uint8], ...]
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    origin: Selection | None = None

    @staticmethod
    def of_masks(masks: Iterable[NDArray[np.bool_]], origin: Selection | None = None) -> Selection:
        """From one mask `(rows,) bool` a shard."""
        all_masks = list(masks)
        return Selection(
            tuple(np.packbits(mask, bitorder="little") for mask in all_masks),
            tuple(len(mask) for mask in all_masks),
            tuple(int(np.count_nonzero(mask)) for mask in all_masks),
            origin,
        )

    @staticmethod
    def of_kinds(manifest: Manifest, kinds: Sequence[str]) -> Selection:
        """Every living row of some kinds."""
        return Selection.of_masks(living(manifest, number, kinds) for number in range(len(manifest.shards)))

    @property
    def root(self) -> Selection:
        """The selection that this one was cut from, itself if from none."""
        return self if self.origin is None else self.origin

    @property
    def count(self) -> int:
        """How many rows are selected."""
        return sum(self.counts)

    def mask(self, shard: int) -> NDArray[np.bool_]:
        """`(rows,) bool` of one shard."""
        return np.unpackbits(self.bits[shard], count=self.sizes[shard], bitorder="little").astype(np.bool_)

    def holds(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`(n,) bool`: which `(shard, row)` pairs are selected."""
        selected = [
            self.bits[shard][row >> 3] >> (row & 7) & 1
            for shard, row in zip(shards.tolist(), rows.tolist(), strict=True)
        ]
        return np.array(selected, np.bool_)

    def rows(self, shard: int) -> NDArray[np.int64]:
        """The selected rows of one shard, ascending."""
        return np.flatnonzero(self.mask(shard)).astype(np.int64)

    def has(self, shard: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """`(n,) bool`: which of these rows of one shard are selected."""
        return np.asarray(self.bits[shard][rows >> 3] >> (rows & 7).astype(np.uint8) & 1, np.bool_)

    def without(self, rows: Mapping[int, NDArray[np.int64]]) -> Selection:
        """The same less some rows, given by shard."""
        bits, counts = list(self.bits), list(self.counts)
        for shard, gone in rows.items():
            mask = self.mask(shard)
            mask[gone] = False
            bits[shard] = np.packbits(mask, bitorder="little")
            counts[shard] = int(np.count_nonzero(mask))
        return Selection(tuple(bits), self.sizes, tuple(counts), self.root)


def living(manifest: Manifest, shard: int, kinds: Sequence[str]) -> NDArray[np.bool_]:
    """`(rows,) bool`: the rows of a shard without tombstones, none where it is of another kind."""
    entry = manifest.shards[shard]
    mask = np.full(entry.rows, entry.kind in kinds)
    mask[entry.tombstone_rows()] = False
    return mask


class Selections:
    """The selections of one state by their filters; the most recently used are cached."""

    def __init__(self, manifest: Manifest, facts: Facts) -> None:
        self._manifest, self._facts = manifest, facts
        self._made: OrderedDict[Filter, Selection] = OrderedDict()

    def kinds(self, wanted: Filter) -> tuple[Kind, ...]:
        """The kinds that a filter lets pass: its own, else images and videos, or texts where there is no media."""
        if wanted.kinds is not None:
            return wanted.kinds
        media = self._manifest.alive("image") + self._manifest.alive("video")
        return ("image", "video") if media else ("text",)

    def select(self, wanted: Filter) -> Selection:
        """The rows that pass `wanted`. Raises `QueryError` for a place that is not known."""
        selection = self._made.pop(wanted, None)
        if selection is None:
            kinds = self.kinds(wanted)
            rows_pass = conditions(wanted)
            selection = Selection.of_masks(
                self._passing(number, kinds, rows_pass) for number in range(len(self._manifest.shards))
            )
        self._made[wanted] = selection
        while len(self._made) > _CACHED:
            self._made.popitem(last=False)
        return selection

    def _passing(self, shard: int, kinds: Sequence[str], rows_pass: Sequence[Condition]) -> NDArray[np.bool_]:
        mask = living(self._manifest, shard, kinds)
        for condition in rows_pass:
            if not mask.any():
                break
            mask &= condition(self._facts, shard)
        return mask

    def notes(self, wanted: Filter) -> tuple[str, ...]:
        """Sentences on a filter: which part of it lets nothing pass, and what was indexed before its fact was."""
        parts = wanted.parts()
        if not parts:
            return ()
        kinds = self.kinds(wanted)
        shards = [number for number, entry in enumerate(self._manifest.shards) if entry.kind in kinds and entry.alive]
        notes = []
        if wanted.rating is not None:
            old = sum(self._facts.lacks(number, "rating") for number in shards)
            if old:
                notes.append(
                    f"{old} items were indexed before ratings were read; bring them up to date with: mmsearch index FOLDER"
                )
        if shards and not self.select(wanted).count:
            notes += [missing(part) for part in parts if not self.select(part).count]
        return tuple(notes)

"""The words of every shard of one state as one lexical index: where a term occurs, and the counts that BM25 needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.store.manifest import Manifest
from retrieval.store.words_file import ShardWords

# The most terms that a prefix stands for in one shard.
_MOST_COMPLETIONS = 256


@dataclass(frozen=True)
class TermRanges:
    """Where the postings of one term lie in each shard, not read yet."""

    ranges: dict[int, tuple[int, int]]

    @property
    def documents(self) -> int:
        """How many postings there are."""
        return sum(stop - start for start, stop in self.ranges.values())


class Lexicon:
    """The lexical index of one committed state. Raises `FormatError` for a damaged file."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self.manifest = folder, manifest

    @cached_property
    def shards(self) -> dict[int, ShardWords]:
        """By shard number; without those that were written before words were indexed."""
        opened = {
            number: ShardWords.open(self._folder, entry.file, entry.rows)
            for number, entry in enumerate(self.manifest.shards)
        }
        return {number: words for number, words in opened.items() if words is not None}

    @property
    def unindexed(self) -> int:
        """Living rows whose words are not indexed: they were written by an older version."""
        return sum(entry.alive for number, entry in enumerate(self.manifest.shards) if number not in self.shards)

    @cached_property
    def size(self) -> int:
        """How many rows there are, tombstones included."""
        return sum(words.size for words in self.shards.values())

    @cached_property
    def mean_length(self) -> float:
        """How many terms a row has on average; 1 where there are none."""
        return max(1.0, sum(words.total for words in self.shards.values()) / max(1, self.size))

    def find(self, term: bytes) -> TermRanges:
        """Where a term occurs."""
        return self._ranges({number: words.term_range(term) for number, words in self.shards.items()})

    def complete(self, prefix: bytes) -> TermRanges:
        """Where the terms that begin with `prefix` occur, of each shard the first few hundred."""
        found = {number: words.prefix_range(prefix) for number, words in self.shards.items()}
        return self._ranges({number: (a, min(b, a + _MOST_COMPLETIONS)) for number, (a, b) in found.items()})

    def about(self, key: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards and rows, tombstones included, of everything about the media file of a `media_key`, in index order."""
        shards, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, words in self.shards.items():
            low, high = words.about_range(np.array([key], np.uint64))
            rows.append(np.sort(words.by_media[low[0] : high[0]].astype(np.int64)))
            shards.append(np.full(len(rows[-1]), number, np.int64))
        return np.concatenate(shards), np.concatenate(rows)

    def _ranges(self, found: dict[int, tuple[int, int]]) -> TermRanges:
        return TermRanges(
            {
                number: self.shards[number].postings(first, stop)
                for number, (first, stop) in found.items()
                if first < stop
            }
        )

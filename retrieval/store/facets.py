"""Facets: how many of the selected items there are of each year, month, folder, camera, place and kind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from retrieval.results import Facets
from retrieval.store.facts import Facts
from retrieval.store.manifest import Manifest
from retrieval.store.selection import Selection
from retrieval.store.shard_facts import Tally

# Folders, cameras and places are given up to so many, those with most items first.
MOST = 1000


class VideosOnce:
    """Keeps one row of each video, while shards are gone through one after the other. `videos` gives the number of each row's
    video, `(rows,)`, for each shard of moments."""

    def __init__(self, videos: Mapping[int, NDArray[np.int64]]) -> None:
        self._videos = videos
        self._seen = np.empty(0, np.int64)

    def take(self, shard: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of some rows of a shard, `(n,)`, the first of each video that no shard before had."""
        numbers = self._videos[shard][rows]
        firsts = np.unique(numbers, return_index=True)[1]
        rows, numbers = rows[firsts], numbers[firsts]
        # The moments of a video may lie in two shards.
        rows = rows[~np.isin(numbers, self._seen)]
        self._seen = np.union1d(self._seen, numbers)
        return rows


def count_facets(
    manifest: Manifest, facts: Facts, selection: Selection, videos: Mapping[int, NDArray[np.int64]]
) -> Facets:
    """The facets of a selection. `videos` gives the number of each row's video, `(rows,)`, for each shard of moments."""
    total = Tally()
    kinds: Counter[str] = Counter()
    videos_once = VideosOnce(videos)
    for shard, entry in enumerate(manifest.shards):
        if not selection.counts[shard]:
            continue
        stored = facts.stored_tally(shard) if entry.kind == "image" else None
        if stored is not None and selection.counts[shard] == entry.alive:
            # All that lives is selected: the counts that lie beside the shard, less what has died since.
            kinds["image"] += entry.alive
            total.add(stored)
            total.add(facts.tally(shard, entry.tombstone_rows()), -1)
            continue
        rows = selection.rows(shard)
        if entry.kind == "video":
            rows = videos_once.take(shard, rows)
        kinds[entry.kind] += len(rows)
        total.add(facts.tally(shard, rows))
    months = {month: count for month, count in total.months.items() if count}
    years: Counter[int] = Counter()
    for month, count in months.items():
        years[month // 12] += count
    return Facets(
        years={f"{1970 + year:04}": years[year] for year in sorted(years, reverse=True)},
        months={
            f"{1970 + month // 12:04}-{month % 12 + 1:02}": months[month] for month in sorted(months, reverse=True)
        },
        folders=_largest(_with_parents(total.folders)),
        cameras=_largest(total.cameras),
        places=_largest(total.places),
        kinds=_largest(kinds),
    )


def _with_parents(folders: Mapping[str, int]) -> Counter[str]:
    whole: Counter[str] = Counter()
    for below, count in folders.items():
        name = below.replace(os.sep, "/")
        while name:
            whole[name] += count
            name = name.rpartition("/")[0]
    return whole


def _largest(counts: Mapping[str, int]) -> dict[str, int]:
    """Those with most, by name where equal; what has no name or nothing is left out."""
    order = sorted((name for name, count in counts.items() if name and count), key=lambda name: (-counts[name], name))
    return {name: counts[name] for name in order[:MOST]}

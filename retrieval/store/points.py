"""Points: where the selected items were taken, joined to as many clusters as a map can show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.store.facets import VideosOnce
from retrieval.store.facts import Facts
from retrieval.store.manifest import Manifest
from retrieval.store.selection import Selection

# Cells along the longer side of the area, and clusters that are given, those of most items.
CELLS = 256
MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where so many items were taken on average, in degrees."""

    latitude: float
    longitude: float
    count: int


def count_points(
    manifest: Manifest, facts: Facts, selection: Selection, videos: Mapping[int, NDArray[np.int64]]
) -> list[Point]:
    """One point for each cell of the smallest area that holds all, the largest first, then by place. A video counts once.
    `videos` gives the number of each row's video, `(rows,)`, for each shard of moments."""
    parts = [np.empty((0, 2))]
    videos_once = VideosOnce(videos)
    for shard, entry in enumerate(manifest.shards):
        if not selection.counts[shard]:
            continue
        rows = selection.rows(shard)
        if entry.kind == "video":
            rows = videos_once.take(shard, rows)
        parts.append(facts.points(shard)[rows])
    points = np.concatenate(parts)
    points = points[~np.isnan(points[:, 0])]
    if not len(points):
        return []
    least = points.min(0)
    side = max(float((points.max(0) - least).max()) / CELLS, 1e-5)
    cells = np.floor((points - least) / side).astype(np.int64)
    _, numbers, counts = np.unique(cells[:, 0] * (CELLS + 2) + cells[:, 1], return_inverse=True, return_counts=True)
    means = np.stack([np.bincount(numbers, points[:, axis]) / counts for axis in (0, 1)], 1)
    order = np.lexsort((means[:, 1], means[:, 0], -counts))[:MOST]
    return [
        Point(latitude=round(float(means[at, 0]), 5), longitude=round(float(means[at, 1]), 5), count=int(counts[at]))
        for at in order.tolist()
    ]

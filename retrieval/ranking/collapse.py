"""Moments of one video under one hit: what a person wants to see is the video, opened at its best moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from retrieval.types import Hit

MOST_MOMENTS = 10


def group_moments(hits: Sequence[Hit], k: int) -> list[Hit]:
    """The first `k` of `hits` (best first), a video counting once, by its best moment.

    That hit's `moments` are the video's moments among `hits`, itself first, best first, at most `MOST_MOMENTS`. Ranks are
    counted anew.
    """
    places: dict[str, int] = {}
    groups: list[list[Hit]] = []
    for hit in hits:
        place = places.get(hit.item.path) if hit.item.kind == "video" else None
        if place is not None:
            groups[place].append(hit)
            continue
        if hit.item.kind == "video":
            places[hit.item.path] = len(groups)
        groups.append([hit])
    return [
        replace(group[0], rank=rank, moments=tuple(group[:MOST_MOMENTS]) if group[0].item.kind == "video" else ())
        for rank, group in enumerate(groups[:k], 1)
    ]

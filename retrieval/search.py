"""Search as stages over arrays, in the order in which they run:

    select ─► candidates ─► rerank ─► collapse ─► judge ─► hits

`select` makes the bitmap of rows that may be found, `candidates` the rows nearest to the query with the key of the hit that
each belongs to, `rerank` reads some of them again, `collapse` makes one hit of the rows with equal keys, `judge` says how
likely each is relevant, and `hits` reads the rows that are left. Each is a function with plain values between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.ranking.collapse import (
    FIRST_GROUP,
    MOST_COPIES,
    MOST_MOMENTS,
    Candidates,
    collapse,
    grouped_candidates,
    single_candidates,
)
from retrieval.ranking.relevance import Calibration, judge
from retrieval.state import IndexState
from retrieval.store.selection import Selection
from retrieval.types import Answer, Filter, Hit, Item, Kind, Query, Rerank

if TYPE_CHECKING:
    from media.reader import ImageSource
    from retrieval.crossmodal.rerank import Reranked, Reranker


@dataclass(frozen=True, kw_only=True)
class Calibrations:
    """The relevance of one query's cosines and of a reranker's fused scores; None where there is no calibration."""

    cosine: Calibration | None
    fused: Calibration | None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A reranker, where it finds the images of candidates, and how much it may read."""

    reranker: Reranker
    images: ImageSource
    how: Rerank


def search(
    state: IndexState,
    query: Query,
    direction: NDArray[np.float32],
    calibrations: Calibrations,
    reading: Reading | None,
) -> Answer:
    """Every stage for one query, whose `direction (d,)` is a unit vector; `reading` where it is re-ranked. Raises `QueryError`
    where relevance is asked for and there is no calibration."""
    selection = select(state, query)
    nearest = candidates(state, query, direction, selection)
    chosen = np.empty(0, np.int64)
    again = None
    if reading is not None:
        chosen = shortlist(nearest.keys, reading.how.candidates)
        again = rerank(state, query, nearest.take(chosen), reading)
    fused, second = scatter(nearest.scores, chosen, again)
    order = reorder(fused, chosen)
    groups = [order[group] for group in collapse(nearest.keys[order])]
    relevance = judge(nearest.scores, fused, np.isfinite(second), calibrations.cosine, calibrations.fused)
    if query.min_relevance is not None:
        groups = relevant(groups, relevance, query.min_relevance)
    hits = read_hits(state, nearest, fused, second, relevance, groups[: query.k], selection)
    if again is None:
        return Answer(hits=hits)
    return Answer(
        hits=hits,
        seen=int(np.isfinite(again.second).sum()),
        unreadable=again.unreadable,
        out_of_time=again.out_of_time,
        text_cut=again.text_cut,
    )


def asked_filter(query: Query) -> Filter:
    """The filter of a query, its `kind` included."""
    return query.filter if query.kind is None else replace(query.filter, kinds=(query.kind,))


def reads_by_text(query: Query, kinds: Sequence[Kind]) -> bool:
    """Whether re-ranking orders images by a text, else texts by images. Raises `QueryError` for a query that is neither."""
    if query.text is not None and "text" not in kinds:
        return True
    if query.images and query.text is None and "text" in kinds:
        return False
    raise QueryError("re-ranking orders images by words, or texts by an image; this query is neither")


def select(state: IndexState, query: Query) -> Selection:
    """Which rows may be found."""
    return state.selections.select(asked_filter(query))


def candidates(state: IndexState, query: Query, direction: NDArray[np.float32], selection: Selection) -> Candidates:
    """The rows nearest to the query: of as many hits as it asks for, or as re-ranking reads."""
    k = max(query.k, query.rerank.candidates if query.rerank is not None else 0)
    kinds = state.selections.kinds(asked_filter(query))
    moving = "video" in kinds and state.manifest.alive("video") > 0
    hit_keys = state.hit_keys(moments=not (query.group and moving), copies=query.copies)
    if hit_keys.videos is None and (hit_keys.copies is None or kinds == ("text",)):
        return single_candidates(state.vectors, direction, k, selection)
    return grouped_candidates(state.vectors, hit_keys, direction, k, selection)


def shortlist(keys: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Which `count` of the rows with these `keys (n,)`, best first, a reranker reads: the best of each of the first hits for
    one half, so that no video takes all, and the best of the others for the rest. Their positions, ascending."""
    firsts = np.sort(np.unique(keys, return_index=True)[1])[: (count + 1) // 2]
    others = np.setdiff1d(np.arange(len(keys)), firsts)[: count - len(firsts)]
    return np.sort(np.concatenate([firsts, others])).astype(np.int64)


def rerank(state: IndexState, query: Query, chosen: Candidates, reading: Reading) -> Reranked:
    """What a reranker says of some candidates."""
    milliseconds = reading.how.milliseconds
    items = state.reader.items(chosen.shards, chosen.rows)
    if reads_by_text(query, state.selections.kinds(asked_filter(query))):
        return reading.reranker.by_text(query.text or "", items, chosen.scores, reading.images, milliseconds)
    flat = [image for entry in query.images for image in (entry if isinstance(entry, tuple) else (entry,))]
    return reading.reranker.by_images(flat, items, chosen.scores, milliseconds)


def scatter(
    cosines: NDArray[np.float32], chosen: NDArray[np.int64], again: Reranked | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fused and second scores `(n,)` of all candidates: the cosine and NaN where none was given."""
    fused, second = cosines.copy(), np.full(len(cosines), np.nan, np.float32)
    if again is not None:
        fused[chosen], second[chosen] = again.fused, again.second
    return fused, second


def reorder(fused: NDArray[np.float32], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions of all candidates in their new order: those that a reranker was given by their fused scores, then the
    others as they were."""
    others = np.setdiff1d(np.arange(len(fused)), chosen)
    return np.concatenate([chosen[np.argsort(-fused[chosen], kind="stable")], others]).astype(np.int64)


def relevant(
    groups: Sequence[NDArray[np.int64]], relevance: NDArray[np.float64], min_relevance: float
) -> list[NDArray[np.int64]]:
    """The hits whose first row is relevant enough, with those of their rows that are. Raises `QueryError` without a
    calibration."""
    if np.isnan(relevance).any():
        raise QueryError(
            "relevance cannot be told: nothing was fitted for this model, and the index is too small to judge by itself; "
            "search without a least relevance"
        )
    return [group[relevance[group] >= min_relevance] for group in groups if relevance[group[0]] >= min_relevance]


def read_hits(
    state: IndexState,
    nearest: Candidates,
    fused: NDArray[np.float32],
    second: NDArray[np.float32],
    relevance: NDArray[np.float64],
    groups: Sequence[NDArray[np.int64]],
    selection: Selection,
) -> tuple[Hit, ...]:
    """The hits themselves, the rows of each group best first, with the copies of each that are selected."""
    groups = [group[:MOST_MOMENTS] for group in groups]
    copies = [selected_copies(state, int(nearest.keys[group[0]]), selection) for group in groups]
    wanted = nearest.take(np.concatenate([np.empty(0, np.int64), *groups]))
    places = [state.places.places(wanted.shards, wanted.rows), *copies]
    items = iter(state.reader.items(*state.places.rows(np.concatenate(places))))
    items_of_groups = [[next(items) for _ in group] for group in groups]
    hits = []
    for rank, (group, items_of_group, places_of_copies) in enumerate(
        zip(groups, items_of_groups, copies, strict=True), 1
    ):
        rows = [
            Hit(
                rank=rank,
                score=float(fused[at]),
                first_stage_score=float(nearest.scores[at]),
                rerank_score=None if np.isnan(second[at]) else float(second[at]),
                relevance=None if np.isnan(relevance[at]) else float(relevance[at]),
                item=item,
            )
            for at, item in zip(group.tolist(), items_of_group, strict=True)
        ]
        is_video = nearest.keys[group[0]] >= 0 and rows[0].item.kind == "video"
        hit = replace(rows[0], moments=tuple(rows)) if is_video else rows[0]
        hits.append(_with_copies(hit, [next(items) for _ in places_of_copies]))
    return tuple(hits)


def selected_copies(state: IndexState, key: int, selection: Selection) -> NDArray[np.int64]:
    """The places of what the hit of this key is a copy of, itself among them, best first; none for a hit that is no copy."""
    if key < FIRST_GROUP or state.copies is None:
        return np.empty(0, np.int64)
    places = state.copies.members_of(key - FIRST_GROUP)
    return places[selection.root.holds(*state.places.rows(places))][:MOST_COPIES]


def _with_copies(hit: Hit, items: Sequence[Item]) -> Hit:
    """A hit that shows the best picture among its copies `items`, best first, and names the others. A film is shown only where
    no picture is among them: then it is opened at the moment that was found."""
    picture = next((item for item in items if item.kind == "image"), None)
    shown = hit if picture is None else replace(hit, item=picture, moments=())
    return replace(shown, copies=tuple(item.path for item in items if item.path != shown.item.path))

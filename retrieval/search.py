"""Search as stages over arrays, in the order in which they run:

    select ─► match ─► rerank ─► collapse ─► judge ─► hits

`select` makes the bitmap of rows that may be found, `match` (`retrieval.matching`) the rows that are nearest to the query and
those that its words find, in one order, with the key of the hit that each belongs to, `rerank` reads some of them again,
`collapse` makes one hit of the rows with equal keys, `judge` says how likely each is relevant, and `hits` reads the rows that
are left. Each is a function with plain values between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.matching import POOLS, Matched, hit_keys, match
from retrieval.ranking.collapse import FIRST_GROUP, MOST_COPIES, MOST_MOMENTS, Candidates, collapse
from retrieval.ranking.relevance import Calibration, judge
from retrieval.state import IndexState
from retrieval.store.selection import Selection
from retrieval.store.shard_facts import NO_DATE
from retrieval.types import Answer, Filter, Hit, Item, Kind, Query, Rerank, Sort

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
    unlike: NDArray[np.float32] | None = None,
) -> Answer:
    """Every stage for one query, whose `direction (d,)` is a unit vector; `reading` where it is re-ranked, and `unlike (m,
    d)` unit rows of what hits must not look like. Raises `QueryError` where relevance is asked for and there is no
    calibration."""
    kinds = state.selections.kinds(asked_filter(query))
    selection = select(state, query)
    matched = match(state, query, kinds, selection, direction, unlike)
    nearest = matched.nearest
    chosen = np.empty(0, np.int64)
    again = None
    if reading is not None:
        chosen = shortlist(nearest.keys, reading.how.candidates)
        again = rerank(state, query, nearest.take(chosen), reading)
    fused, second = scatter(nearest.scores, chosen, again)
    order = reorder(fused, chosen)
    groups = [order[group] for group in collapse(nearest.keys[order])]
    relevance = judge(nearest.scores, fused, np.isfinite(second), calibrations.cosine, calibrations.fused)
    pools = np.searchsorted(POOLS, np.arange(len(groups)), side="right")
    if query.min_relevance is not None:
        groups, pools = relevant(groups, pools, relevance, query.min_relevance)
    if query.sort != "relevance":
        groups = by_date(state, nearest, groups, pools, query.sort)
    if again is None and query.sort == "relevance":
        fused = never_rising(fused, groups)
    hits = read_hits(state, matched, fused, second, relevance, groups[: query.k], selection)
    unindexed = 0 if query.words is None or query.match == "meaning" else state.lexicon.unindexed
    if again is None:
        return Answer(hits=hits, unindexed=unindexed)
    return Answer(
        hits=hits,
        unindexed=unindexed,
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
    if query.words is not None and "text" not in kinds:
        return True
    if query.images and query.words is None and "text" in kinds:
        return False
    raise QueryError("re-ranking orders images by words, or texts by an image; this query is neither")


def select(state: IndexState, query: Query) -> Selection:
    """Which rows may be found."""
    return state.selections.select(asked_filter(query))


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
        return reading.reranker.by_text(query.words or "", items, chosen.scores, reading.images, milliseconds)
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
    groups: Sequence[NDArray[np.int64]],
    pools: NDArray[np.int64],
    relevance: NDArray[np.float64],
    min_relevance: float,
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The hits whose first row is relevant enough, with those of their rows that are, and the pool of each. Raises `QueryError`
    without a calibration."""
    if np.isnan(relevance).any():
        raise QueryError(
            "relevance cannot be told: nothing was fitted for this model, and the index is too small to judge by itself; "
            "search without a least relevance"
        )
    kept = [number for number, group in enumerate(groups) if relevance[group[0]] >= min_relevance]
    return [groups[number][relevance[groups[number]] >= min_relevance] for number in kept], pools[kept]


def by_date(
    state: IndexState,
    nearest: Candidates,
    groups: Sequence[NDArray[np.int64]],
    pools: NDArray[np.int64],
    sort: Sort,
) -> list[NDArray[np.int64]]:
    """The hits of each pool `(n,)` by the date of their first rows, ties as they were."""
    firsts = np.array([group[0] for group in groups], np.int64)
    keys = date_keys(state, nearest.shards[firsts], nearest.rows[firsts], sort)
    return [groups[number] for number in np.lexsort((keys, pools)).tolist()]


def date_keys(state: IndexState, shards: NDArray[np.int64], rows: NDArray[np.int64], sort: Sort) -> NDArray[np.int64]:
    """`(n,) int64`, ascending in the order of `sort`; what has no date comes last."""
    moments = np.full(len(rows), NO_DATE, np.int64)
    for shard in np.unique(shards).tolist():
        here = shards == shard
        moments[here] = state.facts.moments(shard)[rows[here]]
    keys = moments if sort == "oldest" else -np.maximum(moments, NO_DATE + 1)
    return np.where(moments == NO_DATE, np.iinfo(np.int64).max, keys)


def listed(state: IndexState, query: Query) -> Answer:
    """What passes the filter of a query that looks for nothing, by date, ties in index order, from `query.skip` on; a video
    once, with its first moments. Scores are 0."""
    selection = select(state, query)
    sort: Sort = "oldest" if query.sort == "oldest" else "newest"
    chosen = [selection.rows(shard) for shard in range(len(selection.sizes))]
    shards = np.repeat(np.arange(len(chosen), dtype=np.int64), [len(rows) for rows in chosen])
    rows = np.concatenate([np.empty(0, np.int64), *chosen])
    kinds = state.selections.kinds(asked_filter(query))
    keys = hit_keys(state, query, kinds).keys(shards, rows)[0]
    firsts = np.sort(np.unique(keys, return_index=True)[1]) if (keys >= 0).any() else np.arange(len(keys))
    dates = date_keys(state, shards[firsts], rows[firsts], sort)
    total, end = len(dates), query.skip + query.k
    if total > end:
        # Those at the last date that is wanted stay together, for the order among them.
        near = dates <= np.partition(dates, end - 1)[end - 1]
        firsts, dates = firsts[near], dates[near]
    best = firsts[np.argsort(dates, kind="stable")][query.skip : end]
    members = np.flatnonzero(np.isin(keys, keys[best]))
    groups_in_order = [members[group] for group in collapse(keys[members])]
    group_of_first = {int(group[0]): group for group in groups_in_order}
    groups = [group_of_first[at] for at in best.tolist()]
    nothing = np.full(len(keys), np.nan)
    zeros = np.zeros(len(keys), np.float32)
    every = Matched(
        Candidates(zeros, shards, rows, keys), np.zeros(len(keys), np.bool_), np.full(len(keys), -1, np.int64), None
    )
    hits = read_hits(state, every, zeros, nothing.astype(np.float32), nothing, groups, selection)
    return Answer(hits=tuple(_ranked(hit, query.skip) for hit in hits), total=total)


def _ranked(hit: Hit, skipped: int) -> Hit:
    """A hit whose rank counts those that were skipped, too."""
    if not skipped:
        return hit
    moments = tuple(replace(moment, rank=moment.rank + skipped) for moment in hit.moments)
    return replace(hit, rank=hit.rank + skipped, moments=moments)


def never_rising(scores: NDArray[np.float32], groups: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """The scores `(n,)` with that of each hit's first row at least that of every hit after it: words put a hit before others of
    a greater cosine."""
    firsts = np.array([group[0] for group in groups], np.int64)
    raised = scores.copy()
    raised[firsts] = np.maximum.accumulate(scores[firsts][::-1])[::-1]
    return raised


def read_hits(
    state: IndexState,
    matched: Matched,
    fused: NDArray[np.float32],
    second: NDArray[np.float32],
    relevance: NDArray[np.float64],
    groups: Sequence[NDArray[np.int64]],
    selection: Selection,
) -> tuple[Hit, ...]:
    """The hits themselves, the rows of each group best first, with the copies of each that are selected."""
    nearest = matched.nearest
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
                matched=matched.found_by(at),
                matched_words=matched.words_of(at),
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
    # A photo and the film inside of it are one file.
    return replace(shown, copies=tuple(dict.fromkeys(item.path for item in items if item.path != shown.item.path)))

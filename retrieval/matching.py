"""The stage that joins words to meaning: candidates of both kinds in one order, each with its exact cosine.

Ranks are those of a search without filters, so a filter leaves out hits and changes nothing else about their order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.ranking.collapse import Candidates, HitKeys, best_member, grouped_candidates, single_candidates
from retrieval.ranking.fusion import MEANING_DEPTH, fuse, look_up, ranks_of
from retrieval.ranking.words import WordHits, find_words
from retrieval.state import IndexState
from retrieval.store.selection import Selection
from retrieval.types import KINDS, Filter, Kind, Query

# Hits that are sorted by date together: the best hundred, then the next three hundred, and so on.
POOLS = 100 * 4 ** np.arange(16, dtype=np.int64)
# Of the hits by words that pass a filter, so many of the best are looked at.
MOST_WORD_HITS = 1000
# How many standard deviations above its mean over the collection a cosine to an unwanted item says that a hit is like it.
_LIKE = 1.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Matched:
    """Candidates, best first, with what each row was found by: `by_meaning (n,) bool`, and `word_hits (n,) int64`, its place in
    `words`, -1 for none."""

    nearest: Candidates
    by_meaning: NDArray[np.bool_]
    word_hits: NDArray[np.int64]
    words: WordHits | None

    def found_by(self, row: int) -> tuple[str, ...]:
        """What one row was found by, as a hit says it."""
        by = ["meaning"] if self.by_meaning[row] else []
        return (*by, "words") if self.word_hits[row] >= 0 else tuple(by)

    def words_of(self, row: int) -> tuple[str, ...]:
        """The words of the query that one row, or what is written about it, has."""
        if self.words is None or self.word_hits[row] < 0:
            return ()
        return self.words.words(int(self.word_hits[row]))


def match(
    state: IndexState,
    query: Query,
    kinds: tuple[Kind, ...],
    selection: Selection,
    direction: Floats,
    unlike: Floats | None,
) -> Matched:
    """The candidates of a query of these `kinds` within `selection`: the rows nearest to `direction (d,)`, of as many hits as
    are asked for, and those that its words find. Where its words find nothing, the former as they are. `unlike (m, d)` are
    unit rows of what hits must not look like."""
    words = _find(state, query, kinds)
    k = max(query.k, query.rerank.candidates if query.rerank is not None else 0)
    if query.sort != "relevance":
        # Whole pools, so that a search for fewer gives the first of a search for more.
        k = max(k, int(POOLS[np.searchsorted(POOLS, query.k)]))
    if words is None:
        nearest = _none() if query.match == "words" else near(state, query, kinds, direction, k, selection)
        return Matched(nearest, np.ones(len(nearest), np.bool_), np.full(len(nearest), -1, np.int64), None)
    by_meaning, ranked = _none(), _none()
    if query.match == "auto":
        by_meaning = near(state, query, kinds, direction, max(k, MEANING_DEPTH), selection)
        whole = _unfiltered(state, kinds)
        same = whole.counts == selection.counts
        ranked = by_meaning if same else near(state, query, _scope(kinds), direction, MEANING_DEPTH, whole)
    words = _selected(words, selection)
    rows = np.flatnonzero(~_unwanted(state, kinds, words, direction, unlike))[:MOST_WORD_HITS]
    return _fused(state, query, kinds, by_meaning, ranked, words.take(rows), direction)


def near(
    state: IndexState, query: Query, kinds: tuple[Kind, ...], direction: Floats, k: int, selection: Selection
) -> Candidates:
    """The selected rows nearest to `direction`, of `k` hits."""
    keys = hit_keys(state, query, kinds)
    if keys.videos is None and (keys.copies is None or kinds == ("text",)):
        return single_candidates(state.vectors, direction, k, selection)
    return grouped_candidates(state.vectors, keys, direction, k, selection)


def hit_keys(state: IndexState, query: Query, kinds: tuple[Kind, ...]) -> HitKeys:
    """Which rows of these kinds are one hit of a query: the moments of a video, and copies, unless it asks for each."""
    moving = "video" in kinds and state.manifest.alive("video") > 0
    return state.hit_keys(moments=not (query.group and moving), copies=query.copies)


def _find(state: IndexState, query: Query, kinds: tuple[Kind, ...]) -> WordHits | None:
    """What the query's words find among all that may be found of these kinds, filters aside."""
    if query.words is None or query.match == "meaning":
        return None
    living = state.selections.select(Filter(kinds=KINDS))
    return find_words(state.lexicon, living, query.words, _scope(kinds), query.negatives, prefix=query.prefix)


def _scope(kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
    """The kinds that are ranked together: images and videos are, also where a filter leaves one of them."""
    return kinds if "text" in kinds else ("image", "video")


def _unfiltered(state: IndexState, kinds: tuple[Kind, ...]) -> Selection:
    return state.selections.select(Filter(kinds=_scope(kinds)))


def _selected(words: WordHits, selection: Selection) -> WordHits:
    keep = np.zeros(len(words), np.bool_)
    for shard in np.unique(words.shards).tolist():
        here = words.shards == shard
        keep[here] = selection.has(shard, words.rows[here])
    return words.take(keep)


def _unwanted(
    state: IndexState, kinds: tuple[Kind, ...], words: WordHits, direction: Floats, unlike: Floats | None
) -> NDArray[np.bool_]:
    """Which hits look more like an unwanted item than like what is wanted.

    Images are nearer to each other than to texts, so cosines are compared by how far they stand out in the collection.
    """
    if unlike is None or not len(unlike) or not len(words):
        return np.zeros(len(words), np.bool_)
    rows = state.embeddings.take(words.shards, words.rows).astype(np.float32)
    sample = state.sample(kinds)
    asked = np.concatenate([direction[None], unlike])
    usual = sample @ asked.T if len(sample) else rows @ asked.T
    spread = np.maximum(usual.std(0), 1e-6)
    stand_out = (rows @ asked.T - usual.mean(0)) / spread
    worst = stand_out[:, 1:].max(1)
    return np.asarray((worst > _LIKE) & (worst > stand_out[:, 0]), np.bool_)


def _fused(
    state: IndexState,
    query: Query,
    kinds: tuple[Kind, ...],
    by_meaning: Candidates,
    ranked: Candidates,
    words: WordHits,
    direction: Floats,
) -> Matched:
    """Both sorts of candidates, by their fused scores, then by cosine."""
    places = words.shards << 32 | words.rows
    fresh = np.flatnonzero(~np.isin(places, by_meaning.shards << 32 | by_meaning.rows))
    shards, rows = words.shards[fresh], words.rows[fresh]
    stored = state.embeddings.take(shards, rows).astype(np.float32)
    cosines: Floats = np.einsum("ij,j->i", stored, direction)
    one_hit = hit_keys(state, query, kinds)
    keys, _ = one_hit.keys(shards, rows)
    joined = Candidates(
        np.concatenate([by_meaning.scores, cosines]),
        np.concatenate([by_meaning.shards, shards]),
        np.concatenate([by_meaning.rows, rows]),
        np.concatenate([by_meaning.keys, keys]),
    )
    distinct, group = np.unique(joined.keys, return_inverse=True)
    word_hits = look_up(joined.shards << 32 | joined.rows, places, np.arange(1, len(words) + 1)) - 1
    best = np.full(len(distinct), len(words), np.int64)
    has = word_hits >= 0
    # Ranks ascend with places, so a video's first hit is its best.
    np.minimum.at(best, group[has], word_hits[has])
    hit = best < len(words)
    ranks, coverage = np.zeros(len(distinct), np.int64), np.zeros(len(distinct), np.float32)
    exact = np.zeros(len(distinct), np.bool_)
    ranks[hit], coverage[hit], exact[hit] = words.ranks[best[hit]], words.coverage[best[hit]], words.exact[best[hit]]
    meaning_ranks = look_up(distinct, *ranks_of(ranked.keys))
    fused = fuse(meaning_ranks, ranks, coverage, exact)
    nearest = np.full(len(distinct), -np.inf)
    np.maximum.at(nearest, group, joined.scores)
    # A text that is said at a moment opens the video there; the name of a video is not about its first moment.
    leads = has & words.timed[word_hits] if len(words) else has
    order = np.lexsort(
        (joined.rows, joined.shards, -joined.scores, ~leads, distinct[group], -nearest[group], -fused[group])
    )
    # Of copies, the one that comes first stands for all.
    order = order[best_member(distinct[group][order], one_hit.members_of(joined.shards, joined.rows)[order])]
    met = (meaning_ranks > 0) | ~hit
    return Matched(joined.take(order), met[group][order], np.where(hit, best, -1)[group][order], words)


def _none() -> Candidates:
    nothing = np.empty(0, np.int64)
    return Candidates(np.empty(0, np.float32), nothing, nothing, nothing)

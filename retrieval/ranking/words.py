"""What a query's words find: BM25 over the rows of an index, joined to the media that the rows are about.

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations and Trends in Information
Retrieval 3 (4), 2009. Each row is a document: the name of an image, a caption of it, a cue of a video. A medium gets of each
term the best that one of its rows gives, so that a word in a folder's name and another in a caption count together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from retrieval.ranking.about import media_of, timed_texts
from retrieval.ranking.stop_words import STOP_WORDS
from retrieval.store.lexicon import Lexicon, TermRanges
from retrieval.store.selection import Selection
from retrieval.store.words_file import WHOLE
from retrieval.terms import QueryWord, query_words, whole
from retrieval.types import Kind

K1, B = 1.2, 0.75
# Words of a query beyond these are left to meaning.
MOST_WORDS = 32
# Postings that one search looks at for its hits: the rarest terms first; what is left only adds to the scores of those.
MOST_POSTINGS = 200_000
# Of the media that have the words, so many of the best are looked up.
MOST_HITS = 2048
# A term in more than this share of all rows tells nothing, unless these are a handful.
COMMON_SHARE, HANDFUL = 0.5, 3


@dataclass(frozen=True)
class WordHits:
    """Rows that a query's words found, best first: `shards`, `rows` and `ranks (n,) int64`, ranks from 1, equal for equal
    scores; `scores (n,) float32`, of BM25, higher is better; `coverage (n,) float32`, how much of what was asked is in it, in
    0..1; `exact (n,) bool`, whether its file or folder is called as the whole query; `timed (n,) bool`, whether it is a
    moment that a text with a time led to; `matched (n, w) bool`, which of the query's words `typed` it has."""

    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    ranks: NDArray[np.int64]
    scores: NDArray[np.float32]
    coverage: NDArray[np.float32]
    exact: NDArray[np.bool_]
    timed: NDArray[np.bool_]
    matched: NDArray[np.bool_]
    typed: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> WordHits:
        """Some of them, in the order of `chosen`."""
        return WordHits(
            self.shards[chosen],
            self.rows[chosen],
            self.ranks[chosen],
            self.scores[chosen],
            self.coverage[chosen],
            self.exact[chosen],
            self.timed[chosen],
            self.matched[chosen],
            self.typed,
        )

    def words(self, number: int) -> tuple[str, ...]:
        """The words of the query that a hit has, as they were typed."""
        return tuple(word for word, here in zip(self.typed, self.matched[number].tolist(), strict=True) if here)


@dataclass(frozen=True)
class _Term:
    """A term of the query: the `word` that it is of, where it occurs, its `idf`, what it counts for `coverage`, and whether a
    row is a hit for having it."""

    word: int
    ranges: TermRanges
    idf: float
    part: bool
    mass: float
    telling: bool


@dataclass(frozen=True)
class _Rows:
    """Rows that have terms of the query: `keys (n,) uint64`, equal for rows about one medium, `shards`, `rows`, and `weights
    (n, t) float32`, what each term gives."""

    keys: NDArray[np.uint64]
    shards: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float32]


def find_words(
    lexicon: Lexicon,
    living: Selection,
    text: str,
    kinds: Sequence[Kind],
    negatives: Sequence[str] = (),
    *,
    prefix: bool = False,
) -> WordHits | None:
    """The living rows of `kinds` that the words of `text` find; None where they find nothing.

    A text about an image or a video finds the image, or the moment of the video, unless texts are asked for. What has every
    word of a negative is left out. With `prefix`, the last word may be the beginning of one. Raises `FormatError`.
    """
    words = query_words(text)[:MOST_WORDS]
    if not words or not lexicon.size:
        return None
    terms = _terms(lexicon, words, prefix=prefix and not text[-1:].isspace())
    names = _names(lexicon, text)
    chosen = _affordable(terms)
    if not chosen and not names.ranges:
        return None
    searches = []
    if any(kind != "text" for kind in kinds):
        searches.append(False)
    if "text" in kinds:
        searches.append(True)
    parts = []
    for texts in searches:
        rows = _rows(lexicon, living, terms, chosen, names, texts=texts)
        if len(rows.keys):
            gone = _having_all(lexicon, negatives, texts=texts)
            parts.append(_hits(lexicon, living, rows, terms, words, kinds, gone, texts=texts))
    return _joined([part for part in parts if len(part)])


def _terms(lexicon: Lexicon, words: Sequence[QueryWord], *, prefix: bool) -> list[_Term]:
    terms: list[_Term] = []
    for number, word in enumerate(words):
        last = prefix and number == len(words) - 1
        for place, part in enumerate(word.parts):
            begun = last and place == len(word.parts) - 1
            ranges = lexicon.complete(part.encode()) if begun else lexicon.find(part.encode())
            idf = _idf(lexicon.size, ranges.documents)
            empty = part in STOP_WORDS or (len(part) == 1 and part.isascii())
            telling = (not empty or begun) and _tells(lexicon.size, ranges.documents)
            terms.append(_Term(number, ranges, idf, True, 0.0 if empty and not begun else idf, telling))
        if word.compound is not None:
            compound = word.compound.encode()
            ranges = lexicon.complete(compound) if last else lexicon.find(compound)
            idf = _idf(lexicon.size, ranges.documents)
            terms.append(_Term(number, ranges, idf, False, 0.0, _tells(lexicon.size, ranges.documents)))
    return terms


def _idf(size: int, documents: int) -> float:
    return float(np.log1p(max(0.0, size - documents + 0.5) / (documents + 0.5)))


def _tells(size: int, documents: int) -> bool:
    few = documents <= size * COMMON_SHARE or (documents <= HANDFUL and documents < size)
    return 0 < documents <= MOST_POSTINGS and few


def _names(lexicon: Lexicon, text: str) -> TermRanges:
    """Rows whose file or folder is called as the whole text, with or without a suffix."""
    bare = os.path.splitext(text.strip())[0]
    ranges: dict[int, tuple[int, int]] = {}
    for name in dict.fromkeys((whole(bare), whole(text))):
        if name:
            ranges = {**lexicon.find(WHOLE + name.encode()).ranges, **ranges}
    named = TermRanges(ranges)
    return named if _tells(lexicon.size, named.documents) else TermRanges({})


def _affordable(terms: Sequence[_Term]) -> list[int]:
    """The telling terms whose postings are looked at, the rarest first."""
    order = sorted((n for n, term in enumerate(terms) if term.telling), key=lambda n: terms[n].ranges.documents)
    total, chosen = 0, []
    for number in order:
        total += terms[number].ranges.documents
        if total > MOST_POSTINGS:
            break
        chosen.append(number)
    return chosen


def _rows(
    lexicon: Lexicon,
    living: Selection,
    terms: Sequence[_Term],
    chosen: Sequence[int],
    names: TermRanges,
    *,
    texts: bool,
) -> _Rows:
    """The living rows that have a chosen term or the name, with what every term gives them; the last column is the name's."""
    keys, shards, places, weights = [], [], [], []
    for number, words in lexicon.shards.items():
        if texts and lexicon.manifest.shards[number].kind != "text":
            continue
        ranges = [terms[n].ranges.ranges[number] for n in chosen if number in terms[n].ranges.ranges]
        ranges += [names.ranges[number]] if number in names.ranges else []
        if not ranges:
            continue
        rows = np.unique(np.concatenate([words.rows[start:stop] for start, stop in ranges])).astype(np.int64)
        keep = living.has(number, rows)
        if not texts:
            keep &= words.about[rows] != 0
        rows = rows[keep]
        given = np.zeros((len(rows), len(terms) + 1), np.float32)
        lengths = words.lengths[rows].astype(np.float32)
        norm = K1 * (1 - B + B * lengths / np.float32(lexicon.mean_length))
        for column, (idf, found) in enumerate([*((term.idf, term.ranges) for term in terms), (0.0, names)]):
            if number not in found.ranges:
                continue
            start, stop = found.ranges[number]
            counts = _counts(words.rows[start:stop], words.counts[start:stop], rows)
            given[:, column] = counts > 0 if found is names else idf * counts * (K1 + 1) / (counts + norm)
        keys.append((np.uint64(number) << np.uint64(32)) | rows.astype(np.uint64) if texts else words.about[rows])
        shards.append(np.full(len(rows), number, np.int64))
        places.append(rows)
        weights.append(given)
    if not keys:
        return _Rows(
            np.empty(0, np.uint64),
            np.empty(0, np.int64),
            np.empty(0, np.int64),
            np.empty((0, len(terms) + 1), np.float32),
        )
    return _Rows(np.concatenate(keys), np.concatenate(shards), np.concatenate(places), np.concatenate(weights))


def _counts(postings: NDArray[np.uint32], counts: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """How often each of the ascending `rows` has a term; the postings of several terms follow one another, each ascending."""
    total = np.zeros(len(rows), np.float32)
    cuts = [0, *(np.flatnonzero(np.diff(postings.astype(np.int64)) <= 0) + 1).tolist(), len(postings)]
    for start, stop in pairwise(cuts):
        here = postings[start:stop]
        at = np.minimum(np.searchsorted(here, rows), len(here) - 1)
        total += np.where(here[at] == rows, counts[start:stop][at], 0)
    return total


def _having_all(lexicon: Lexicon, negatives: Iterable[str], *, texts: bool) -> NDArray[np.uint64]:
    """The keys of what has every word of a negative."""
    gone = [np.empty(0, np.uint64)]
    for negative in negatives:
        parts = [part for word in query_words(negative)[:MOST_WORDS] for part in word.parts]
        parts = [part for part in parts if part not in STOP_WORDS]
        held: NDArray[np.uint64] | None = None
        for part in parts:
            postings = lexicon.find(part.encode())
            keys = [np.empty(0, np.uint64)]
            for number, (start, stop) in postings.ranges.items():
                rows = lexicon.shards[number].rows[start:stop]
                own = (np.uint64(number) << np.uint64(32)) | rows.astype(np.uint64)
                keys.append(own if texts else lexicon.shards[number].about[rows])
            every = np.unique(np.concatenate(keys))
            held = every if held is None else np.intersect1d(held, every, assume_unique=True)
        if held is not None:
            gone.append(held)
    return np.unique(np.concatenate(gone))


def _hits(
    lexicon: Lexicon,
    living: Selection,
    rows: _Rows,
    terms: Sequence[_Term],
    words: Sequence[QueryWord],
    kinds: Sequence[Kind],
    gone: NDArray[np.uint64],
    *,
    texts: bool,
) -> WordHits:
    """The media that these rows are about, or the rows themselves where they are `texts`."""
    order = np.argsort(rows.keys, kind="stable")
    keys, firsts = np.unique(rows.keys[order], return_index=True)
    weights = np.maximum.reduceat(rows.weights[order], firsts, axis=0)
    scores, exact = weights[:, :-1].sum(1), weights[:, -1] > 0
    # Of each medium the row that has most of the words: of a video it tells the moment.
    sums = rows.weights.sum(1)
    ranked = np.lexsort((rows.rows, rows.shards, -sums, rows.keys))
    best = ranked[np.searchsorted(rows.keys[ranked], keys)]
    keep = ~np.isin(keys, gone)
    first = np.lexsort((rows.rows[best], rows.shards[best], -scores, ~exact))
    first = first[keep[first]][:MOST_HITS]
    shards, places = rows.shards[best[first]], rows.rows[best[first]]
    timed = timed_texts(lexicon, shards, places)
    if not texts:
        shards, places = media_of(lexicon, living, keys[first], shards, places, kinds)
        there = shards >= 0
        first, shards, places, timed = first[there], shards[there], places[there], timed[there]
    matched, coverage = _matched(weights[first], terms, len(words))
    coverage[exact[first]] = 1
    hits = WordHits(
        shards,
        places,
        first,
        scores[first],
        coverage,
        exact[first],
        timed,
        matched,
        tuple(word.typed for word in words),
    )
    return _ranked(hits)


def _ranked(hits: WordHits) -> WordHits:
    """The same in order of their scores, with ranks."""
    hits = hits.take(np.lexsort((hits.rows, hits.shards, -hits.scores)))
    starts = np.flatnonzero(np.diff(hits.scores, prepend=np.float32(np.inf)))
    sizes = np.diff(np.append(starts, len(hits)))
    return WordHits(
        hits.shards,
        hits.rows,
        np.repeat(starts + 1, sizes),
        hits.scores,
        hits.coverage,
        hits.exact,
        hits.timed,
        hits.matched,
        hits.typed,
    )


def _joined(parts: Sequence[WordHits]) -> WordHits | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return _ranked(
        WordHits(
            np.concatenate([part.shards for part in parts]),
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.ranks for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.coverage for part in parts]),
            np.concatenate([part.exact for part in parts]),
            np.concatenate([part.timed for part in parts]),
            np.concatenate([part.matched for part in parts]),
            parts[0].typed,
        )
    )


def _matched(
    weights: NDArray[np.float32], terms: Sequence[_Term], count: int
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Which of the query's words each of n hits has, `(n, w) bool`, and how much of the query that is, `(n,) float32`."""
    matched = np.zeros((len(weights), count), np.bool_)
    covered = np.zeros(len(weights), np.float32)
    total = sum(term.mass for term in terms)
    for number in range(count):
        here = [n for n, term in enumerate(terms) if term.word == number]
        parts = [n for n in here if terms[n].part]
        compound = (weights[:, [n for n in here if not terms[n].part]] > 0).any(1)
        has = weights[:, parts] > 0
        matched[:, number] = compound | has.all(1)
        masses = np.array([terms[n].mass for n in parts], np.float32)
        covered += np.where(compound, masses.sum(), (has * masses).sum(1))
    return matched, covered / np.float32(total) if total else covered

"""Searching the vector files of one state within a selection of its rows. Faiss's `-1` never leaves here."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from retrieval.store.embeddings import StoredEmbeddings
from retrieval.store.gpu import OnGpu
from retrieval.store.manifest import Manifest
from retrieval.store.selection import Selection
from retrieval.store.shards import ShardReader
from retrieval.store.vector_parts import Embeddings, Part, open_parts

# Of an inverted file, so many selected rows or fewer are scanned exactly (measured: benchmarks/README.md).
EXACT_ROWS = 32_768
# The share of an inverted file's lists that a search visits where all of its rows are selected: of 8-bit codes, and of
# compressed ones, whose lists take a tenth of the time.
PROBE_SHARE = 1 / 24
CODED_PROBE_SHARE = 1 / 6
# The fewest candidates of an inverted file that are scored again by what is stored.
LEAST_ASKED = 128
# Of compressed codes, candidates are taken in tiers: the best so many of four times as many candidates, then four times as
# many, and so on, whatever the search asks for.
FIRST_TIER = 64
CANDIDATES_PER_ROW = 4
_TIER_GROWTH = 4
# The most rows that Faiss gives from a GPU.
GPU_MOST = 2048
# Up to so many multiply-adds one thread is faster than several.
SMALL_WORK = 8_000_000
# Bytes of copied rows that are kept for the selections used last.
_COPIES = 128 * 1024**2
_BLOCK = 8192
# The largest rounding error of an inner product of unit vectors in float32.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class _Copy:
    """The rows of a small selection, `labels` in their file, copied together for an exact scan."""

    index: Any
    labels: NDArray[np.int64]


class VectorIndex:
    """The vector files of one committed state, searchable within a selection of its rows.

    Rows are addressed as `(shard, row)`: the shard's number in `manifest.shards`, the row's position in it. `stored` gives the
    exact rows, by default from the shards. Raises `FormatError` for a file that is not what the manifest says.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str = "cpu", stored: Embeddings | None = None) -> None:
        import faiss

        self._faiss: Any = faiss
        self._manifest = manifest
        self._stored = stored or StoredEmbeddings(folder, manifest, ShardReader(folder, manifest))
        # Bitmaps and copies of selections, kept while they are used.
        self._bitmaps: WeakKeyDictionary[Selection, dict[str, NDArray[np.uint8]]] = WeakKeyDictionary()
        self._copies: OrderedDict[tuple[Selection, str], _Copy] = OrderedDict()
        self._parts = open_parts(folder, manifest, device, self._stored)

    @property
    def parts_on_gpu(self) -> int:
        """How many vector files are searched on a GPU."""
        return sum(part.gpu is not None for part in self._parts)

    def search(
        self, query: NDArray[np.float32], k: int, selection: Selection, nprobe: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The best `k` selected rows for one unit query `(d,) float32`, fewer only where fewer are selected.

        Returns scores `(m,) float32` (inner products with the stored rows, exact to float32; higher is closer), shard numbers
        `(m,)` and rows `(m,)`, best first, ties by shard and row. Flat files, and inverted files of which at most `EXACT_ROWS`
        rows are selected, are searched exactly. Of any other inverted file the lists nearest to the query are scanned whole, so
        the first rows of a search for many are those of a search for few. Their number is a twenty-fourth of `nlist`, a sixth
        where codes are compressed, and at least 32, or what the index's policy says, more where fewer rows are selected; every
        selected row is scanned where these lists hold fewer than `k` of them. `nprobe` visits exactly so many lists instead.

        Compressed codes tell which rows are candidates, their exact scores which of those are best: of 256 the first 64, of
        1,024 with them the first 256, and so on. A row that its code hid from the first of these looks may turn up in a later
        one; then it comes after the rows of the earlier, with a score just below theirs, which is less than its own.
        """
        if query.shape != (self._manifest.model.dim,):
            raise ValueError(f"a query of shape {query.shape} for embeddings of {self._manifest.model.dim}")
        scores, shards, rows = [np.empty(0, np.float32)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for part in self._parts:
            most = min(k, _selected(part, selection))
            if most < 1:
                continue
            score, labels = self._search_part(part, query, most, selection, nprobe)
            shard, row = part.places(labels)
            scores.append(score)
            shards.append(shard)
            rows.append(row)
        score, shard, row = np.concatenate(scores), np.concatenate(shards), np.concatenate(rows)
        order = np.lexsort((row, shard, -score))[:k]
        return score[order], shard[order], row[order]

    def _search_part(
        self, part: Part, query: NDArray[np.float32], k: int, selection: Selection, nprobe: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The best `k` of the selected rows of one file, of which at least `k` are selected: scores and labels, best first."""
        if part.gpu is not None:
            nearest = self._search_gpu(part, part.gpu, query, k, selection, nprobe)
            if nearest is not None:
                return nearest
        # The root of a selection decides, so that what is left of one is searched like the whole.
        if not part.flat and nprobe is None and _selected(part, selection.root) <= EXACT_ROWS:
            return self._search_copy(part, query, k, selection)
        most = _selected(part, selection)
        selector = None if most == part.entry.rows else self._faiss.IDSelectorBitmap(self._bitmap(part, selection))
        settings = self._settings(part, selection, selector, nprobe)
        if part.lists is not None:
            return self._search_codes(part, query, k, selection, settings, whole=nprobe is None)
        asked = min(most, _first_guess(k, part.flat))
        while True:
            near, labels = self._ask(part.index, query, asked, settings)
            scores = self._exact(part, labels, query)
            complete = asked == most or len(labels) < asked
            if complete or _certain(near, scores, k):
                break
            asked = min(most, 4 * asked)
        if len(labels) < k and nprobe is None:
            return self._scan(part, query, k, selection)
        order = np.lexsort((labels, -scores))[:k]
        return scores[order], labels[order]

    def _search_codes(
        self, part: Part, query: NDArray[np.float32], k: int, selection: Selection, settings: Any, *, whole: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The same of compressed codes. With `whole`, all others follow where the visited lists hold fewer than `k`."""
        most = _selected(part, selection)
        scores, labels = np.empty(0, np.float32), np.empty(0, np.int64)
        waiting, waiting_scores = labels, scores
        size = FIRST_TIER
        while len(labels) < k:
            found, more = self._nearest_codes(part, query, min(most, CANDIDATES_PER_ROW * size), settings, most)
            fresh = found[~np.isin(found, np.concatenate([labels, waiting]))]
            waiting = np.concatenate([waiting, fresh])
            waiting_scores = np.concatenate([waiting_scores, self._exact(part, fresh, query)])
            order = np.lexsort((waiting, -waiting_scores))
            waiting, waiting_scores = waiting[order], waiting_scores[order]
            taken = size - len(labels) if more else len(waiting)
            scores, labels = _after(scores, labels, waiting_scores[:taken], waiting[:taken])
            waiting, waiting_scores = waiting[taken:], waiting_scores[taken:]
            if not more:
                break
            size *= _TIER_GROWTH
        if len(labels) < k and whole:
            others_scores, others = self._scan(part, query, most, selection)
            left = ~np.isin(others, labels)
            scores, labels = _after(scores, labels, others_scores[left], others[left])
        return scores[:k], labels[:k]

    def _nearest_codes(
        self, part: Part, query: NDArray[np.float32], count: int, settings: Any, most: int
    ) -> tuple[NDArray[np.int64], bool]:
        """The rows whose codes score as the `count`-th best or better, all that score the same among them, and whether the
        visited lists hold more."""
        lists = part.lists
        assert lists is not None
        rotated = lists.rotated(query[None])[0]
        asked = min(most, count + count // 8)
        while True:
            near, labels = self._ask(part.index, rotated, asked, settings)
            if len(labels) <= count:
                return labels, len(labels) == asked < most
            if near[-1] < near[count - 1] or len(labels) < asked or asked == most:
                return labels[near >= near[count - 1]], True
            asked = min(most, 4 * asked)

    def _search_gpu(
        self, part: Part, gpu: OnGpu, query: NDArray[np.float32], k: int, selection: Selection, nprobe: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
        """The same on a GPU, which takes no selector and gives `GPU_MOST` rows at most: it is asked for more until enough of
        them are selected. None where that does not suffice."""
        settings = self._settings(part, selection, None, nprobe) if gpu.has_lists else None
        bitmap = self._bitmap(part, selection)
        asked = min(part.entry.rows, GPU_MOST, _first_guess(k, part.flat))
        while True:
            near, labels = self._ask(gpu.index, query, asked, settings)
            chosen = labels[_members(bitmap, labels)]
            scores = self._exact(part, chosen, query)
            error = np.abs(near[_members(bitmap, labels)] - scores)
            if asked == part.entry.rows or (
                len(chosen) >= k and np.partition(scores, -k)[-k] > near.min() + 2 * error.max() + _ROUNDING
            ):
                order = np.lexsort((chosen, -scores))[:k]
                return (scores[order], chosen[order]) if len(order) == k else None
            if asked == GPU_MOST or len(labels) < asked:
                return None
            asked = min(part.entry.rows, GPU_MOST, 4 * asked)

    def _search_copy(
        self, part: Part, query: NDArray[np.float32], k: int, selection: Selection
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The same for a small selection, by an exact scan of its rows."""
        copy = self._copy(part, selection.root)
        settings, most = None, len(copy.labels)
        if selection is not selection.root:
            left = _members(self._bitmap(part, selection), copy.labels)
            selector = self._faiss.IDSelectorBitmap(np.packbits(left, bitorder="little"))
            settings, most = self._faiss.SearchParameters(sel=selector), int(np.count_nonzero(left))
        asked = min(most, _first_guess(k, True))
        while True:
            near, numbers = self._ask(copy.index, query, asked, settings)
            scores = _products(copy.index.reconstruct_batch(numbers), query)
            if asked == most or _certain(near, scores, k):
                order = np.lexsort((numbers, -scores))[:k]
                return scores[order], copy.labels[numbers[order]]
            asked = min(most, 4 * asked)

    def _scan(
        self, part: Part, query: NDArray[np.float32], k: int, selection: Selection
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The same by looking at every selected row, for a search that asks for more than the nearest lists hold."""
        labels = np.flatnonzero(self._mask(part, selection)).astype(np.int64)
        scores = np.concatenate(
            [self._exact(part, labels[at : at + _BLOCK], query) for at in range(0, len(labels), _BLOCK)]
        )
        order = np.lexsort((labels, -scores))[:k]
        return scores[order], labels[order]

    def _settings(self, part: Part, selection: Selection, selector: Any, nprobe: int | None) -> Any:
        """Faiss's parameters of one search."""
        if part.flat:
            return self._faiss.SearchParameters(sel=selector) if selector is not None else None
        nlist = part.index.nlist
        if nprobe is None:
            chosen = self._manifest.policy.nprobe
            share = PROBE_SHARE if part.lists is None else CODED_PROBE_SHARE
            usual = chosen if chosen is not None else max(32, round(nlist * share))
            nprobe = math.ceil(usual * part.entry.rows / max(1, _selected(part, selection.root)))
        return self._faiss.SearchParametersIVF(sel=selector, nprobe=min(nlist, nprobe))

    def _ask(
        self, index: Any, query: NDArray[np.float32], k: int, settings: Any
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """What a Faiss index finds: its own scores `(m,)` and labels `(m,)`, best first."""
        faiss = self._faiss
        # A small scan takes less time than waking a team of threads for it. The number holds for the calling thread.
        threads = faiss.omp_get_max_threads()
        if index.ntotal * index.d <= SMALL_WORK:
            faiss.omp_set_num_threads(1)
        try:
            scores, labels = index.search(np.ascontiguousarray(query[None], np.float32), k, params=settings)
        finally:
            faiss.omp_set_num_threads(threads)
        valid = labels[0] >= 0
        return scores[0][valid], labels[0][valid]

    def _exact(self, part: Part, labels: NDArray[np.int64], query: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores `(n,)` of rows of one file by what is stored."""
        if not len(labels):
            return np.empty(0, np.float32)
        if part.flat:
            return _products(part.index.reconstruct_batch(labels), query)
        return _products(self._stored.take(*part.places(labels)).astype(np.float32), query)

    def _mask(self, part: Part, selection: Selection) -> NDArray[np.bool_]:
        """`(rows,) bool` over a file."""
        return np.concatenate([selection.mask(shard) for shard in part.shards.tolist()])

    def _bitmap(self, part: Part, selection: Selection) -> NDArray[np.uint8]:
        """The selection over the rows of a file, packed as Faiss wants it; made once for each selection."""
        made = self._bitmaps.setdefault(selection, {})
        if part.entry.file not in made:
            made[part.entry.file] = np.packbits(self._mask(part, selection), bitorder="little")
        return made[part.entry.file]

    def _copy(self, part: Part, selection: Selection) -> _Copy:
        """The selected rows of a file for an exact scan; those used last are kept, up to `_COPIES` bytes."""
        key = (selection, part.entry.file)
        copy = self._copies.pop(key, None)
        if copy is None:
            labels = np.flatnonzero(self._mask(part, selection)).astype(np.int64)
            rows = self._stored.take(*part.places(labels))
            copy = _Copy(_flat(rows), labels)
        self._copies[key] = copy
        row_bytes = 2 * self._manifest.model.dim
        while len(self._copies) > 1 and sum(len(other.labels) for other in self._copies.values()) * row_bytes > _COPIES:
            self._copies.popitem(last=False)
        return copy


def _selected(part: Part, selection: Selection) -> int:
    return sum(selection.counts[shard] for shard in part.shards.tolist())


def _first_guess(k: int, exact: bool) -> int:
    """How many rows to ask Faiss for at first. It adds up products in an order, and on some processors a precision, of its
    own, and inverted files hold 8-bit codes: near ties may stand in another order than by exact scores."""
    return k + max(16, k // 8) if exact else max(LEAST_ASKED, 4 * k)


def _certain(near: NDArray[np.float32], scores: NDArray[np.float32], k: int) -> bool:
    """Whether the best `k` of what Faiss gave, by exact `scores`, are the best of all that it looked at.

    A row that it left out scored at most its least of `near`, and Faiss is taken to err by at most twice the largest error
    seen here.
    """
    if len(scores) < k:
        return False
    error = float(np.abs(near - scores).max())
    return bool(np.partition(scores, -k)[-k] > near.min() + 2 * error + _ROUNDING)


def falling(scores: NDArray[np.float32], places: NDArray[np.int64], below: float, last: int) -> NDArray[np.float32]:
    """Scores `(n,)` of rows, best first, as they are where these rows come after one of the score `below` at the place `last`,
    ties by `places (n,)`: one that codes hid from a narrower look, and that would come before it, gets a score just below."""
    fallen, score = scores.copy(), np.float32(below)
    for number in range(len(fallen)):
        if (fallen[number], -places[number]) < (score, -last):
            break
        score = np.nextafter(score, np.float32(-np.inf))
        fallen[number], last = score, int(places[number])
    return fallen


def _after(
    scores: NDArray[np.float32], labels: NDArray[np.int64], more_scores: NDArray[np.float32], more: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows and their scores, best first, with `more` after them."""
    if len(labels):
        more_scores = falling(more_scores, more, float(scores[-1]), int(labels[-1]))
    return np.concatenate([scores, more_scores]), np.concatenate([labels, more])


def _products(rows: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inner products `(n,)`; a row's does not depend on the rows beside it, as a matrix product's may in its last digits."""
    products: NDArray[np.float32] = np.einsum("ij,j->i", rows, query)
    return products


def _members(bitmap: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    bits = bitmap[labels >> 3] >> (labels & 7).astype(np.uint8)
    return np.asarray(bits & 1, np.bool_)


def _flat(vectors: NDArray[np.float16]) -> Any:
    """A Faiss index over half-precision rows, scanned in full."""
    import faiss

    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.train(np.zeros((1, vectors.shape[1]), np.float32))
    index.add_sa_codes(np.ascontiguousarray(vectors).view(np.uint8))
    return index

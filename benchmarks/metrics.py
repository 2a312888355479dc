"""Retrieval metrics over scores, with exact ranks: no approximation anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]


def unit(rows: Floats) -> Floats:
    """Rows `(n, d)` at unit length."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Shares of 1, and the median rank (1 is best). `map_at_10` is mean average precision over the first ten."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    map_at_10: float

    def to_json(self) -> dict[str, float]:
        """The contract's keys."""
        return {
            "R@1": self.r1,
            "R@5": self.r5,
            "R@10": self.r10,
            "median_rank": self.median_rank,
            "mAP@10": self.map_at_10,
        }


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """For each query that has a right answer: the rank of its first one `(q,) int64`, from 1, and its average precision
    over the first ten `(q,) float64`."""

    first: NDArray[np.int64]
    precision: NDArray[np.float64]

    def recall(self) -> Recall:
        """Means over the queries; `ValueError` where there are none."""
        if not len(self.first):
            raise ValueError("no query has a right answer")
        return Recall(
            r1=float((self.first <= 1).mean()),
            r5=float((self.first <= 5).mean()),
            r10=float((self.first <= 10).mean()),
            median_rank=float(np.median(self.first)),
            map_at_10=float(self.precision.mean()),
        )

    def confidence(self, rounds: int = 1000, seed: int = 0) -> dict[str, tuple[float, float]]:
        """95 % intervals of R@1, R@5 and R@10, by the percentile bootstrap over queries (Efron, 1979), or where all queries are
        right, or none, which a bootstrap makes certain of, exact ones (Clopper and Pearson, 1934); none of a single query."""
        if len(self.first) < 2:
            return {}
        rng = np.random.default_rng(seed)
        hits = np.stack([self.first <= k for k in (1, 5, 10)], 1).astype(np.float64)
        means = np.stack([hits[rng.integers(0, len(hits), len(hits))].mean(0) for _ in range(rounds)])
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        least = 0.025 ** (1 / len(hits))
        low = np.where(hits.all(0), least, low)
        high = np.where(hits.any(0), high, 1 - least)
        return {f"R@{k}": (float(low[n]), float(high[n])) for n, k in enumerate((1, 5, 10))}


def rank(scores: Floats, right: Flags, again: Floats | None = None) -> Ranks:
    """Ranks of the right answers among all. `scores (q, n)`, higher is better; `right (q, n)`. Ties count against the model.

    `again (q, c)` are second scores of each query's first c answers, in the order of their first scores (ties by column, as
    a search gives them): those c are then ordered by `again`, and the rest stays behind them.
    """
    first: list[int] = []
    precision: list[float] = []
    for row in range(len(scores)):
        mine = right[row]
        total = int(mine.sum())
        if not total:
            continue
        if again is None:
            order = np.lexsort((mine, -scores[row]))
        else:
            order = np.argsort(-scores[row], kind="stable")
            head = order[: again.shape[1]]
            order = np.concatenate([head[np.lexsort((mine[head], -again[row]))], order[again.shape[1] :]])
        places = np.flatnonzero(mine[order]) + 1
        first.append(int(places[0]))
        early = places[places <= 10]
        precision.append(float(np.sum(np.arange(1, len(early) + 1) / early)) / min(10, total))
    return Ranks(first=np.array(first, np.int64), precision=np.array(precision, np.float64))


def recall_both_ways(images: Floats, texts: Floats, owner: NDArray[np.int64]) -> tuple[Recall, Recall]:
    """Text-to-image and image-to-text recall. `images (n, d)`, `texts (m, d)`, unit rows; `owner (m,)` is the image
    that a text describes.

    Karpathy's protocol (Karpathy and Fei-Fei, CVPR 2015): an image query is right at k when any of its own texts is
    among the first k.
    """
    to_image, to_text = ranks_both_ways(images, texts, owner)
    return to_image.recall(), to_text.recall()


def ranks_both_ways(
    images: Floats,
    texts: Floats,
    owner: NDArray[np.int64],
    again: tuple[Floats, Floats] | None = None,
    chunk: int = 500,
) -> tuple[Ranks, Ranks]:
    """The same as ranks of each query, computed `chunk` queries at a time, so that memory does not grow with the square of
    the set. `again` are second scores of the first answers, text to image and image to text, as `rank` takes them."""
    columns = np.arange(len(images))

    def ranks(queries: Floats, answers: Floats, by_image: bool, second: Floats | None) -> Ranks:
        parts = []
        for start in range(0, len(queries), chunk):
            rows = np.arange(start, min(start + chunk, len(queries)))
            right = owner == rows[:, None] if by_image else owner[rows, None] == columns
            parts.append(rank(queries[rows] @ answers.T, right, None if second is None else second[rows]))
        return Ranks(
            first=np.concatenate([part.first for part in parts]),
            precision=np.concatenate([part.precision for part in parts]),
        )

    to_image, to_text = again if again is not None else (None, None)
    return ranks(texts, images, False, to_image), ranks(images, texts, True, to_text)

"""Retrieval metrics over embeddings, with exact ranks: no approximation anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Recall:
    """Shares of 1, and the median rank (1 is best). `map_at_10` is mean average precision over the first ten."""

    r1: float
    r5: float
    r10: float
    median_rank: float
    map_at_10: float


def recall_both_ways(
    images: NDArray[np.float32], texts: NDArray[np.float32], owner: NDArray[np.int64]
) -> tuple[Recall, Recall]:
    """Text-to-image and image-to-text recall. `images (n, d)`, `texts (m, d)`, unit rows; `owner (m,)` is the image
    that a text describes.

    Karpathy's protocol (Karpathy and Fei-Fei, CVPR 2015): an image query is right at k when any of its own texts is
    among the first k. Ties count against the model.
    """
    scores = texts @ images.T
    own = scores[np.arange(len(texts)), owner]
    text_ranks = (scores >= own[:, None]).sum(1)
    first = np.full(len(images), len(texts) + 1)
    precision = np.zeros(len(images))
    for image in range(len(images)):
        mine = np.flatnonzero(owner == image)
        if not len(mine):
            continue
        column = scores[:, image]
        order = np.lexsort((owner == image, -column))
        places = np.sort(np.flatnonzero(np.isin(order, mine))) + 1
        first[image] = places[0]
        early = places[places <= 10]
        precision[image] = float(np.sum(np.arange(1, len(early) + 1) / early)) / min(10, len(mine))
    has_text = first <= len(texts)
    to_image = _recall(text_ranks, np.where(text_ranks <= 10, 1.0 / text_ranks, 0.0))
    return to_image, _recall(first[has_text], precision[has_text])


def _recall(ranks: NDArray[np.int64], precision: NDArray[np.float64]) -> Recall:
    return Recall(
        r1=float((ranks <= 1).mean()),
        r5=float((ranks <= 5).mean()),
        r10=float((ranks <= 10).mean()),
        median_rank=float(np.median(ranks)),
        map_at_10=float(precision.mean()),
    )

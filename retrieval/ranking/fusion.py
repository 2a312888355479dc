"""One order from two: by meaning and by words.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): a hit gets of each list 1 / (60 + its rank). Here the list of
words counts twice, and a hit in it by how much of the query it has, so that a few of its words do not outweigh what the whole
query means, and all of them do. A hit that is called as the whole query precedes all that are not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

K = 60
WORDS_WEIGHT = 2.0
# More than any sum of reciprocal ranks.
_EXACT = 1.0
# How many hits by meaning have a rank; those after them keep their order behind whatever has one.
MEANING_DEPTH = 200


def reciprocal(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """`(n,) float64`: what each of `ranks (n,)`, from 1, is worth; 0 for a rank of 0, which stands for none."""
    return np.where(ranks > 0, 1 / (K + ranks.astype(np.float64)), 0.0)


def fuse(
    meaning: NDArray[np.int64], words: NDArray[np.int64], coverage: NDArray[np.float32], exact: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The fused scores `(n,)` of hits, higher is better: their ranks by `meaning` and by `words` from 1, 0 for none, how much
    of the query's words they have, in 0..1, and whether they are called so."""
    return reciprocal(meaning) + WORDS_WEIGHT * coverage * reciprocal(words) + _EXACT * exact


def ranks_of(keys: NDArray[np.int64], most: int = MEANING_DEPTH) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct `keys (n,)` of rows, best first, and the rank of each by its first row: the first `most` of them."""
    distinct, firsts = np.unique(keys, return_index=True)
    order = np.argsort(firsts)[:most]
    return distinct[order], np.arange(1, len(order) + 1, dtype=np.int64)


def look_up(wanted: NDArray[np.int64], keys: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The value of each of `wanted (m,)` among distinct `keys (n,)`; 0 for one that is not there."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    order = np.argsort(keys)
    at = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)
    return np.where(keys[order[at]] == wanted, values[order[at]], 0)

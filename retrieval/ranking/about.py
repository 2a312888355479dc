"""From texts to the media that they are about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.store.lexicon import Lexicon
from retrieval.store.selection import Selection
from retrieval.store.words_file import NEVER
from retrieval.types import Kind


def timed_texts(lexicon: Lexicon, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these rows are texts with a time."""
    timed = np.zeros(len(rows), np.bool_)
    for number in np.unique(shards).tolist():
        if lexicon.manifest.shards[number].kind == "text":
            here = shards == number
            timed[here] = lexicon.shards[number].starts[rows[here]] != NEVER
    return timed


def media_of(
    lexicon: Lexicon,
    living: Selection,
    keys: NDArray[np.uint64],
    shards: NDArray[np.int64],
    rows: NDArray[np.int64],
    kinds: Sequence[Kind],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows of the media of `keys (n,)`, found by these rows: an image's, or of a video the moment that a text is said in,
    the first for its name. -1 where there is none that may be found."""
    kind_of = [entry.kind for entry in lexicon.manifest.shards]
    out_shards, out_rows = np.full(len(keys), -1, np.int64), np.full(len(keys), -1, np.int64)
    own = np.array([kind_of[shard] != "text" for shard in shards.tolist()], np.bool_)
    allowed = np.array([kind_of[shard] in kinds for shard in shards.tolist()], np.bool_)
    out_shards[own & allowed], out_rows[own & allowed] = shards[own & allowed], rows[own & allowed]
    others = np.flatnonzero(~own)
    for number, words in lexicon.shards.items():
        if kind_of[number] == "text" or kind_of[number] not in kinds or not len(others):
            continue
        low, high = words.about_range(keys[others])
        images = kind_of[number] == "image"
        single = np.flatnonzero((high == low + 1) & images)
        row = words.by_media[low[single]].astype(np.int64)
        alive = living.has(number, row)
        plain = single[alive & (out_shards[others[single]] < 0)]
        out_shards[others[plain]], out_rows[others[plain]] = number, words.by_media[low[plain]]
        for at in np.flatnonzero(high > low + images).tolist():
            hit = others[at]
            places = np.sort(words.by_media[low[at] : high[at]].astype(np.int64))
            places = places[living.has(number, places)]
            if not len(places):
                continue
            start = lexicon.shards[int(shards[hit])].starts[rows[hit]]
            begun = words.starts[places] <= start if start != NEVER else np.zeros(len(places), np.bool_)
            # A later shard may go on with the same video.
            if out_shards[hit] < 0 or begun.any():
                out_shards[hit], out_rows[hit] = number, places[max(0, int(np.count_nonzero(begun)) - 1)]
    return out_shards, out_rows

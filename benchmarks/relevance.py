"""Is relevance honest where nothing is there? `python -m benchmarks.relevance FILE... --model NAME`.

The files are tables of labelled photos, with the columns `image` and `label`. Every label is asked for in a collection of
photos that has some of it, and in one as large that has none. Photos of other labels that share a word with it ("crocodile",
"head of a crocodile") are in neither: nobody knows whether they are what was asked for.

Reported, by the relevance from which a hit is called `maybe`, `likely` or `very likely`: how many of the first hits are called
so where nothing is there (false positives), and how many of the right ones among the first ten hits where something is; by what
was fitted for the model, where something was, and by the measure for models of which nothing is known.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.metrics import Floats
from retrieval.models.encoder import Encoder
from retrieval.ranking.fitted import Fitted
from retrieval.ranking.relevance import WORDS, Calibration, from_sample
from retrieval.ranking.stop_words import STOP_WORDS
from retrieval.terms import tokens

_BATCH, _HITS = 64, 10


def encode(encoder: Encoder, files: Sequence[Path]) -> tuple[Floats, list[str]]:
    """Embeddings `(n, d)` of the photos in some tables, unit rows, and the label of each."""
    parts, labels = [], list[str]()
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=["image", "label"]):
            cells = [cell["bytes"] if isinstance(cell, dict) else cell for cell in batch.column(0).to_pylist()]
            pixels = [encoder.preprocess(Image.open(io.BytesIO(cell)).convert("RGB")) for cell in cells]
            parts.append(encoder.encode_pixels(pixels))
            labels += batch.column(1).to_pylist()
    return np.concatenate(parts), labels


def words_of(texts: Sequence[Sequence[str]]) -> list[set[str]]:
    """The words of each group of texts, folded as search folds them, without function words."""
    return [{term for term, _ in tokens(list(many)).parts.terms() if term not in STOP_WORDS} for many in texts]


def sharing_words(names: Sequence[str]) -> NDArray[np.bool_]:
    """Which labels share a word, `(n, n)`; each does with itself."""
    words = words_of([[name] for name in names])
    return np.array([[one is other or bool(one & other) for other in words] for one in words])


def collections(
    labels: NDArray[np.int64], label: int, strange: NDArray[np.bool_], size: int, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """A random collection that holds photos of a label, and one that holds none, and which it is. The other photos are among
    those that are `strange` to the label, `(photos,)`."""
    others = np.flatnonzero(strange)
    mine = rng.permutation(np.flatnonzero(labels == label))[: max(1, size // 50)]
    yield np.concatenate([mine, rng.choice(others, size - len(mine), replace=False)]), True
    yield rng.choice(others, size, replace=False), False


def measure(
    photos: Floats,
    texts: Floats,
    labels: NDArray[np.int64],
    names: Sequence[str],
    fitted: Calibration | None,
    size: int,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float | None]]]:
    """For each way to judge, and each word for a relevance: the share of labels whose first hit is called so where there is
    none (`false`), and the share of the right hits among the first ten that are called so (`right`), None without any."""
    rng = np.random.default_rng(seed)
    ways = {"sample": None, **({"fitted": fitted} if fitted is not None else {})}
    false: dict[str, list[float]] = {way: [] for way in ways}
    right: dict[str, list[float]] = {way: [] for way in ways}
    near = sharing_words(names)
    for label, text in enumerate(texts):
        for rows, is_there in collections(labels, label, ~near[label][labels], size, rng):
            scores = photos[rows] @ text
            first = np.argsort(-scores, kind="stable")[:_HITS]
            for way, calibration in ways.items():
                judge = calibration or from_sample(scores[rng.permutation(size)[:2000]], size)
                if judge is None:
                    raise ValueError("the collections are too small")
                relevance = judge.relevance(scores[first])
                if is_there:
                    right[way] += relevance[labels[rows[first]] == label].tolist()
                else:
                    false[way].append(float(relevance[0]))
    words = [(word, least) for least, word in WORDS if least]
    return {
        way: {
            word: {
                "false": round(float(np.mean(np.array(false[way]) >= least)), 3),
                "right": round(float(np.mean(np.array(right[way]) >= least)), 3) if right[way] else None,
            }
            for word, least in words
        }
        for way in ways
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relevance", description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="tables of labelled photos")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", type=int, default=2000, help="photos of a collection")
    given = parser.parse_args(arguments)
    encoder = Encoder.load(given.model, "auto", "auto")
    photos, names = encode(encoder, given.files)
    distinct = sorted(set(names))
    labels = np.array([distinct.index(name) for name in names], np.int64)
    fitted = Fitted.of_model(encoder.spec.name).cosine
    result = measure(
        photos, encoder.encode_texts(distinct), labels, distinct, fitted, min(given.size, len(photos) // 2)
    )
    print(json.dumps({"model": encoder.spec.name, "photos": len(photos), "labels": len(distinct), **result}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Warm searches of made-up rows by how many of them a filter lets pass: `python -m benchmarks.warm --help`.

Times are of `VectorIndex.search`, exact scores included, one query at a time; the first search of a selection, which makes its
bitmap or copies its rows, is given separately. Recall is against an exact scan of the selected rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.ann import synthetic
from benchmarks.speed import report
from retrieval.store import vector_index
from retrieval.store.journal import UnitResult
from retrieval.store.manifest import read_manifest
from retrieval.store.selection import Selection
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, ModelSpec

SHARES = (1.0, 0.5, 0.1, 0.05, 0.03, 0.01, 0.001)
_QUERIES = "queries.npy"
_JUDGED = 50


def main(arguments: Sequence[str] | None = None) -> int:
    """Write an index of made-up rows, or search in one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.warm", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    make = commands.add_parser("make", help="write an index of made-up rows, and queries beside it")
    make.add_argument("folder", type=Path)
    make.add_argument("--count", type=int, default=1_000_000)
    make.add_argument("--dim", type=int, default=512)
    search = commands.add_parser("search", help="time searches of it")
    search.add_argument("folder", type=Path)
    search.add_argument("--share", type=float, action="append", help=f"the shares that pass; by default {SHARES}")
    search.add_argument(
        "--exact-rows", type=int, help="scan so many selected rows exactly, instead of the usual number"
    )
    search.add_argument("-k", type=int, default=10)
    given = parser.parse_args(arguments)
    if given.what == "make":
        write_rows(given.folder, given.count, given.dim)
    else:
        if given.exact_rows is not None:
            vector_index.EXACT_ROWS = given.exact_rows
        for share in given.share or SHARES:
            report(measure(given.folder, share, given.k))
    return 0


def write_rows(folder: Path, count: int, dim: int) -> None:
    """An index of `count` image rows that no model made."""
    three = (0.5, 0.5, 0.5)
    spec = ModelSpec(
        name="none", architecture="none", weights_sha256="0" * 64, dim=dim, image_size=1, mean=three, std=three,
        interpolation="bicubic", resize_mode="shortest", tokenizer="none", context_length=1, clean="lower",
    )  # fmt: skip
    work = synthetic(count, dim)
    with IndexWriter(folder, spec) as writer:
        writer.add_root("/photos")
        for start in range(0, count, 16_384):
            rows = work.rows[start : start + 16_384].astype(np.float32)
            paths = [f"/photos/{number // 1000:05d}/{number:08d}.jpg" for number in range(start, start + len(rows))]
            items = [
                Item(id=f"{start + n:024x}", path=path, source=path, kind="image",
                     sha256=f"{start + n:064x}", size=1, mtime_ns=1)
                for n, path in enumerate(paths)
            ]  # fmt: skip
            writer.journal(UnitResult.of_rows(items, rows, writer.manifest.roots))
            if writer.pending >= 16 * 16_384:
                writer.publish()
        writer.publish(merge=True)
    np.save(folder / _QUERIES, work.texts)


def measure(folder: Path, share: float, k: int) -> dict[str, object]:
    """Milliseconds of a search where this share of the rows passes, chosen at random, and recall@k."""
    state, queries = read_manifest(folder), np.load(folder / _QUERIES)
    rng = np.random.default_rng(0)
    selection = Selection.of_masks(rng.random(entry.rows) < share for entry in state.shards)
    index = VectorIndex(folder, state)
    began = time.perf_counter()
    index.search(queries[0], k, selection)
    first = time.perf_counter() - began
    seconds, answers = [], []
    for query in queries:
        began = time.perf_counter()
        scores, _, _ = index.search(query, k, selection)
        seconds.append(time.perf_counter() - began)
        answers.append(scores)
    kth_scores = exact_kth_scores(folder, queries[:_JUDGED], selection, k)
    hits = [np.count_nonzero(scores >= kth_scores[number] - 1e-6) for number, scores in enumerate(answers[:_JUDGED])]
    return {
        "rows": sum(entry.rows for entry in state.shards),
        "vectors": "+".join(sorted({entry.type for entry in state.vectors})),
        "share": share,
        "selected": selection.count,
        "k": k,
        "recall": round(float(np.mean(hits)) / min(k, selection.count), 4),
        "first_ms": round(1000 * first, 1),
        "median_ms": round(1000 * float(np.median(seconds)), 2),
        "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 2),
    }


def exact_kth_scores(folder: Path, queries: NDArray[np.float32], selection: Selection, k: int) -> NDArray[np.float32]:
    """The score of the exact k-th row of each query, `(q,)`, by looking at every selected row."""
    state = read_manifest(folder)
    reader = ShardReader(folder, state)
    best = np.full((len(queries), k), -np.inf, np.float32)
    for shard in range(len(state.shards)):
        rows = reader.all_embeddings(shard)[selection.mask(shard)].astype(np.float32)
        best = np.sort(np.concatenate([best, queries @ rows.T], 1), 1)[:, -k:]
    return best[:, 0]


if __name__ == "__main__":
    raise SystemExit(main())

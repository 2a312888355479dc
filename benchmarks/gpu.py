"""Vector files on GPUs against the same on the CPU: `python -m benchmarks.gpu FOLDER --rows 1000000`.

Rows are those of `benchmarks.vectors`, written where they are not there yet. For each kind of vector file and each device it
prints a JSON object: what became of the file on the GPU, seconds to open it there, recall@10 of text queries against the exact
first ten, and milliseconds of warm searches one at a time, exact scores included. Raises where Faiss sees no GPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.speed import report
from benchmarks.vectors import make, write_rows
from retrieval.errors import QueryError
from retrieval.store.gpu import gpu_count
from retrieval.store.manifest import VectorType, read_manifest
from retrieval.store.selection import Selection
from retrieval.store.vector_index import VectorIndex

KINDS: tuple[VectorType, ...] = ("flat", "ivf", "pq4", "rabitq")
_K = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON object for each kind of vector file and device."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, action="append", help="how many, repeatable; by default a million")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument(
        "--device", action="append", help="cuda for all GPUs, cuda:N for one; by default both, and the CPU"
    )
    given = parser.parse_args(arguments)
    if not gpu_count():
        raise QueryError("Faiss sees no GPU here; run this where there is one")
    for rows in given.rows or (1_000_000,):
        folder = given.folder / f"clip-{rows}-{given.dim}"
        if not (folder / "truth.npy").exists():
            write_rows(folder, rows, given.dim, "clip")
        for kind in KINDS:
            make(folder, kind)
            for device in given.device or ("cpu", "cuda:0", "cuda"):
                report({"rows": rows, "dim": given.dim, "kind": kind, "gpus": gpu_count(), **measure(folder, device)})
    return 0


def measure(folder: Path, device: str) -> dict[str, object]:
    """Seconds to open the vector files on a device, recall and times of searches there."""
    state, queries, truth = read_manifest(folder), np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    every = Selection.of_kinds(state, ["image"])
    starts = np.cumsum([0, *(entry.rows for entry in state.shards)])
    began = time.perf_counter()
    index = VectorIndex(folder, state, device)
    index.search(queries[0], _K, every)
    opened = time.perf_counter() - began
    seconds, hits = [], 0
    for query, exact in zip(queries, truth, strict=True):
        began = time.perf_counter()
        _, shards, rows = index.search(query, _K, every)
        seconds.append(time.perf_counter() - began)
        hits += len(np.intersect1d(starts[shards] + rows, exact))
    return {
        "device": device,
        "files_on_gpu": index.parts_on_gpu,
        "open_seconds": round(opened, 2),
        "recall": round(hits / truth.size, 4),
        "median_ms": round(1000 * float(np.median(seconds)), 3),
        "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 3),
    }


if __name__ == "__main__":
    raise SystemExit(main())

"""Vector files of large indexes, each kind of codes in turn: `python -m benchmarks.vectors FOLDER --rows 1000000`.

For each number of rows it writes real shards of made-up embeddings to a folder below FOLDER (a kilobyte a row at 512
dimensions; kept, and taken again by the next run), then has each kind of vector file made over them by a process of its own and
searched by another. It prints a JSON object for each: recall@10 of text queries against an exact scan of every row,
milliseconds of warm searches one at a time, exact scores included, bytes a row of the vector file and what the searching
process holds of its own, seconds and peak memory of making it, and the first search after opening.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.made_up import CLIP, MINI, MadeUp
from benchmarks.speed import report
from retrieval.store import shards as sh
from retrieval.store.manifest import Manifest, ShardEntry, VectorPolicy, VectorType, read_manifest, write_manifest
from retrieval.store.roots import Roots
from retrieval.store.selection import Selection
from retrieval.store.shards import ShardReader
from retrieval.store.vector_files import make_vector_files
from retrieval.store.vector_index import VectorIndex
from retrieval.types import ModelSpec

KINDS: tuple[VectorType, ...] = ("ivf", "pq4", "rabitq")
_QUERIES = 200
_K = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON object for each number of rows and kind of vector file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vectors", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, action="append", help="how many, repeatable; by default a million and ten")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--shape", choices=("clip", "mini"), default="clip", help="how made-up rows lie")
    parser.add_argument(
        "--type", choices=KINDS, action="append", help="kinds of vector files, repeatable; by default all"
    )
    parser.add_argument("--nprobe", type=int, help="visit so many lists instead of the usual number")
    parser.add_argument("--step", choices=("make", "search"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.step is not None:
        kind: VectorType = given.type[0]
        print(json.dumps(make(given.folder, kind) if given.step == "make" else search(given.folder, given.nprobe)))
        return 0
    for rows in given.rows or (1_000_000, 10_000_000):
        folder = given.folder / f"{given.shape}-{rows}-{given.dim}"
        if not (folder / "truth.npy").exists():
            write_rows(folder, rows, given.dim, given.shape)
        for kind in given.type or KINDS:
            made = _step(folder, "make", kind, None)
            found = _step(folder, "search", kind, given.nprobe)
            report({"rows": rows, "dim": given.dim, "shape": given.shape, **made, **found})
    return 0


def _step(folder: Path, step: str, kind: VectorType, nprobe: int | None) -> dict[str, Any]:
    """One step in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.vectors", str(folder), "--step", step, "--type", kind]
    command += [] if nprobe is None else ["--nprobe", str(nprobe)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{step} {kind}: exit status {done.returncode}\n{done.stderr}")
    value: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return value


def write_rows(folder: Path, count: int, dim: int, shape: str) -> None:
    """Shards of `count` rows that no model made, their manifest, queries, and the exact first rows of each query."""
    three = (0.5, 0.5, 0.5)
    spec = ModelSpec(
        name="none", architecture="none", weights_sha256="0" * 64, dim=dim, image_size=1, mean=three, std=three,
        interpolation="bicubic", resize_mode="shortest", tokenizer="none", context_length=1, clean="lower",
    )  # fmt: skip
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    (folder / "vectors").mkdir(exist_ok=True)
    made = MadeUp(count, dim, MINI if shape == "mini" else CLIP)
    queries = made.texts(_QUERIES)
    best, numbers = np.full((_QUERIES, _K), -np.inf, np.float32), np.zeros((_QUERIES, _K), np.int64)
    entries: list[ShardEntry] = []
    start = 0
    for rows in made.blocks():
        name = f"shards/image-000001-{len(entries):04d}.parquet"
        digest = sh.write_shard(folder / name, _table(rows))
        size = (folder / name).stat().st_size
        entries.append(ShardEntry(file=name, kind="image", rows=len(rows), sha256=digest, bytes=size))
        scores = np.concatenate([best, queries @ rows.astype(np.float32).T], 1)
        labels = np.concatenate(
            [numbers, np.broadcast_to(np.arange(start, start + len(rows)), (_QUERIES, len(rows)))], 1
        )
        order = np.argpartition(-scores, _K, axis=1)[:, :_K]
        best, numbers = np.take_along_axis(scores, order, 1), np.take_along_axis(labels, order, 1)
        start += len(rows)
    write_manifest(folder, Manifest(model=spec, roots=Roots(), shards=tuple(entries), generation=1))
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", numbers)


def _table(rows: NDArray[np.float16]) -> pa.Table:
    """Rows of a shard that have an embedding and nothing else."""
    shape = sh.schema(rows.shape[1])
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    columns = [pa.nulls(len(rows), field.type) for field in shape if field.name != "embedding"]
    columns.append(pa.FixedSizeListArray.from_arrays(flat, type=shape.field("embedding").type))
    return pa.Table.from_arrays(columns, schema=shape)


def make(folder: Path, kind: VectorType) -> dict[str, Any]:
    """Make the vector file of one kind over all shards; it takes the place of the one before."""
    state = replace(read_manifest(folder), vectors=(), policy=VectorPolicy(type=kind))
    for file in (folder / "vectors").iterdir():
        file.unlink()
    began = time.perf_counter()
    state = replace(state, vectors=make_vector_files(folder, state))
    seconds = time.perf_counter() - began
    write_manifest(folder, state)
    return {
        "type": state.vectors[0].type,
        "build_seconds": round(seconds, 1),
        "build_peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "row_bytes": round(sum(entry.bytes for entry in state.vectors) / state.vectors[0].rows, 1),
    }


def search(folder: Path, nprobe: int | None) -> dict[str, Any]:
    """Recall and times of searches."""
    state, queries, truth = read_manifest(folder), np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    every = Selection.of_kinds(state, ["image"])
    starts = np.cumsum([0, *(entry.rows for entry in state.shards)])
    ShardReader(folder, state).embeddings(np.zeros(1, np.int64), np.zeros(1, np.int64))
    importlib.import_module("faiss").omp_get_max_threads()
    before = _own_bytes()
    began = time.perf_counter()
    index = VectorIndex(folder, state)
    index.search(queries[0], _K, every, nprobe)
    first = time.perf_counter() - began
    for query in queries:
        index.search(query, _K, every, nprobe)
    seconds, hits = [], 0
    for query, exact in zip(queries, truth, strict=True):
        began = time.perf_counter()
        _, shards, rows = index.search(query, _K, every, nprobe)
        seconds.append(time.perf_counter() - began)
        hits += len(np.intersect1d(starts[shards] + rows, exact))
    return {
        "nprobe": nprobe,
        "recall": round(hits / truth.size, 4),
        "first_ms": round(1000 * first, 1),
        "median_ms": round(1000 * float(np.median(seconds)), 2),
        "p95_ms": round(1000 * float(np.percentile(seconds, 95)), 2),
        "own_row_bytes": round((_own_bytes() - before) / starts[-1], 1),
        "files": os.fspath(folder),
    }


def _own_bytes() -> int:
    """What this process holds that it shares with nobody, mapped files not counted; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Anonymous:")), 0)


if __name__ == "__main__":
    raise SystemExit(main())

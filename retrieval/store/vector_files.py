"""Which vector files a state has, and how they are made.

`flat`: every vector of one shard as float16, for an exact scan. `ivf`: an inverted file with 8-bit codes over many shards,
whose candidates are scored again from the exact rows. A new shard gets a flat file; once the flat files of a kind take too
long to scan, their rows join lists with the centroids that are there, in an inverted file of their own. So adding n rows
costs O(n) and trains nothing; `compact` trains anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.files import replacing
from retrieval.store.manifest import Manifest, ShardEntry, VectorEntry, VectorPolicy
from retrieval.store.shards import SHARD_ROWS, ShardReader
from retrieval.types import KINDS

# Multiply-adds of an exact scan that stay well under a tenth of a second on two cores (measured: benchmarks/README.md).
EXACT_WORK = 160_000_000
# Multiply-adds of scanning what is outside of an inverted file, from which on it joins lists: a few milliseconds.
TAIL_WORK = 16_000_000
# With fewer rows than this an inverted file gains nothing.
LEAST_IVF = 256
# Inverted files without training of their own are made again together with what comes after them while they are at most
# this large: there are never many, and nobody who adds an image waits for the making of a large one.
MERGE_ROWS = 4 * SHARD_ROWS
# Lists with so many times the rows that they were trained for are worth training anew.
OUTGROWN = 4.0
_BATCH = 8192
_TRAINING_ROWS = 48

Load = Callable[[ShardEntry], NDArray[np.float16]]


def make_vector_files(folder: Path, state: Manifest, *, retrain: bool = False) -> tuple[VectorEntry, ...]:
    """The vector files that a state should have: those that it names stay where they fit, the others are written. With
    `retrain`, lists are made anew where they hold many more rows than they were trained for. Raises `OSError` for a disk
    that is full or fails."""
    reader = ShardReader(folder, state)
    numbers = {shard.file: number for number, shard in enumerate(state.shards)}

    def load(shard: ShardEntry) -> NDArray[np.float16]:
        return reader.all_embeddings(numbers[shard.file])

    entries: list[VectorEntry] = []
    for kind in KINDS:
        shards = state.of_kind(kind)
        if shards:
            entries += _of_kind(folder, state, shards, load, retrain)
    return tuple(entries)


def outgrown(state: Manifest) -> bool:
    """Whether some kind has over `OUTGROWN` times the rows that its lists were trained for, so that training anew pays."""
    for kind in KINDS:
        shards = state.of_kind(kind)
        lists = _inverted(state, shards)
        if lists and sum(shard.rows for shard in shards) > OUTGROWN * lists[0].rows:
            return True
    return False


def _of_kind(
    folder: Path, state: Manifest, shards: Sequence[ShardEntry], load: Load, retrain: bool
) -> Iterator[VectorEntry]:
    dim = state.model.dim
    held = {entry.shards: entry for entry in state.vectors}
    lists = _inverted(state, shards)
    if retrain and lists and sum(shard.rows for shard in shards) > OUTGROWN * lists[0].rows:
        lists = []
    inside = sum(len(entry.shards) for entry in lists)
    if state.policy.type == "flat":
        lists, inside = [], 0
    elif not lists and wants_ivf(sum(shard.rows for shard in shards), dim, state.policy):
        lists = [write_ivf(folder, f"vectors/{shards[0].kind}-{state.generation:06d}.ivf.faiss", shards, load)]
        inside = len(shards)
    elif lists:
        tail = shards[inside:]
        if sum(shard.rows for shard in tail) * dim > TAIL_WORK:
            while len(lists) > 1 and lists[-1].rows + sum(shard.rows for shard in tail) <= MERGE_ROWS:
                tail = (*shards[inside - len(lists[-1].shards) : inside], *tail)
                inside -= len(lists.pop().shards)
            name = f"vectors/{shards[0].kind}-{state.generation:06d}.more.faiss"
            lists.append(_write_more(folder, name, lists[0], tail, load))
            inside += len(tail)
    yield from lists
    for shard in shards[inside:]:
        entry = held.get((shard.file,))
        yield entry if entry is not None and entry.type == "flat" else write_flat(folder, shard, load(shard))


def _inverted(state: Manifest, shards: Sequence[ShardEntry]) -> list[VectorEntry]:
    """The inverted files that cover the first of these shards, one after the other."""
    names = tuple(shard.file for shard in shards)
    lists: list[VectorEntry] = []
    covered = 0
    for entry in state.vectors:
        if entry.type != "flat" and entry.shards == names[covered : covered + len(entry.shards)]:
            lists.append(entry)
            covered += len(entry.shards)
    return lists


def wants_ivf(rows: int, dim: int, policy: VectorPolicy) -> bool:
    """Whether this many rows go under an inverted file: by the policy, else where an exact scan on every query is too much."""
    if policy.type == "auto":
        return rows * dim > EXACT_WORK
    return policy.type == "ivf" and rows >= LEAST_IVF


def flat_name(shard: ShardEntry) -> str:
    """The vector file that belongs to a shard."""
    return f"vectors/{Path(shard.file).stem}.flat.faiss"


def write_flat(folder: Path, shard: ShardEntry, vectors: NDArray[np.float16]) -> VectorEntry:
    """Store the rows of one shard, `(n, d) float16`, for an exact scan."""
    import faiss

    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.train(np.zeros((1, vectors.shape[1]), np.float32))
    for start in range(0, len(vectors), _BATCH):
        index.add(vectors[start : start + _BATCH].astype(np.float32))
    name = flat_name(shard)
    size = _write(folder / name, index)
    return VectorEntry(file=name, type="flat", kind=shard.kind, shards=(shard.file,), rows=shard.rows, bytes=size)


def write_ivf(folder: Path, name: str, shards: Sequence[ShardEntry], load: Load, seed: int = 7) -> VectorEntry:
    """An inverted file over `shards`, with lists of its own.

    The number of lists is the power of two next to 2√n (Faiss's guidance for 10⁶ rows); k-means sees at most 48 rows a
    list, drawn evenly from all shards with `seed`, so the same shards give the same file.
    """
    import faiss

    rows = sum(shard.rows for shard in shards)
    nlist = max(1, min(2 ** round(float(np.log2(2 * np.sqrt(rows)))), rows // 8))
    share = min(1.0, _TRAINING_ROWS * nlist / rows)
    rng = np.random.default_rng(seed)
    sample = []
    for shard in shards:
        vectors = load(shard)
        count = min(len(vectors), max(1, round(len(vectors) * share)))
        sample.append(vectors[np.sort(rng.choice(len(vectors), count, replace=False))].astype(np.float32))
        del vectors
    training = np.concatenate(sample)
    del sample
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(training.shape[1]), training.shape[1], nlist, faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )  # fmt: skip
    index.cp.niter, index.cp.seed, index.cp.spherical = 8, seed, True
    index.cp.max_points_per_centroid = _TRAINING_ROWS
    index.train(training)
    del training
    return _filled(folder, name, index, shards, load)


def _write_more(folder: Path, name: str, trained: VectorEntry, shards: Sequence[ShardEntry], load: Load) -> VectorEntry:
    """An inverted file over `shards` with the centroids and the codes' ranges of one that is there."""
    import faiss

    old: Any = faiss.read_index(os.fspath(folder / trained.file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.clone_index(old.quantizer), old.d, old.nlist, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.by_residual, index.is_trained = old.by_residual, True
    index.sq.trained = old.sq.trained
    return _filled(folder, name, index, shards, load)


def _filled(folder: Path, name: str, index: Any, shards: Sequence[ShardEntry], load: Load) -> VectorEntry:
    """Add the rows of `shards` to a trained index and write it. Memory holds the codes once, at their exact size: the list
    of every row is known before the first is added."""
    import faiss

    lists = []
    for shard in shards:
        vectors = load(shard)
        for start in range(0, len(vectors), _BATCH):
            _, nearest = index.quantizer.search(vectors[start : start + _BATCH].astype(np.float32), 1)
            lists.append(nearest[:, 0].astype(np.int32))
        del vectors
    sizes = np.bincount(np.concatenate(lists), minlength=index.nlist)
    for number in np.flatnonzero(sizes).tolist():
        index.invlists.resize(number, int(sizes[number]))
        index.invlists.resize(number, 0)
    at = 0
    for shard in shards:
        vectors = load(shard)
        for start in range(0, len(vectors), _BATCH):
            batch = np.ascontiguousarray(vectors[start : start + _BATCH], np.float32)
            chosen = np.ascontiguousarray(lists[at], np.int64)
            index.add_core(len(batch), faiss.swig_ptr(batch), None, faiss.swig_ptr(chosen))
            at += 1
        del vectors
    return VectorEntry(
        file=name,
        type=f"ivf{index.nlist},sq8",
        kind=shards[0].kind,
        shards=tuple(shard.file for shard in shards),
        rows=int(index.ntotal),
        bytes=_write(folder / name, index),
    )


def _write(file: Path, index: Any) -> int:
    """Faiss files go through a temporary name as well; returns the size."""
    import faiss

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file) as scratch:
            faiss.write_index(index, os.fspath(scratch))
    except RuntimeError as error:
        raise OSError(f"cannot write {file}: {str(error).strip().splitlines()[-1]}") from error
    return file.stat().st_size

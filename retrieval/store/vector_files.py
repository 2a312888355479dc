"""Which vector files a state has.

`flat`: every vector of one shard as float16, for an exact scan. Else an inverted file over many shards with codes of one of
the kinds that `retrieval.store.inverted` makes, whose candidates are scored again from the exact rows. By itself an index
has 4-bit codes: of all kinds that find 95 % of the exact first ten for queries that are texts, they take the least memory
(`python -m benchmarks.vectors` compares them). A new shard gets a flat file; once the flat files of a kind take too long to
scan, their rows join lists with the centroids that are there, in an inverted file of their own. So adding n rows costs O(n)
and trains nothing; `compact` and `rebuild_vectors` train anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.store.inverted import Codes, Load, write_faiss, write_ivf, write_more
from retrieval.store.manifest import Manifest, ShardEntry, VectorEntry, VectorPolicy
from retrieval.store.row_offsets import write_offsets
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
# Rows that joined lists later are taken to lie elsewhere than those that they were made for where they are so many, and so many
# times as far from their centroids. Made-up rows of the same topics are 1.04 times as far, of other topics twice.
DRIFTED = 1.2
_LEAST_DRIFT = 0.05
_BATCH = 8192


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


def drifted(state: Manifest) -> bool:
    """Whether rows of some kind that joined its lists lie far from their centroids, compared with those that the lists were
    made for, so that searches find less among them until lists are made anew."""
    for kind in KINDS:
        lists = _inverted(state, state.of_kind(kind))
        joined = [entry for entry in lists[1:] if entry.spread is not None]
        rows = sum(entry.rows for entry in joined)
        if not joined or lists[0].spread is None or rows < _LEAST_DRIFT * lists[0].rows:
            continue
        if sum((entry.spread or 0) * entry.rows for entry in joined) > DRIFTED * lists[0].spread * rows:
            return True
    return False


def retraining_hint(state: Manifest) -> str | None:
    """One sentence where making the vector files anew would make searches better, None where it would not."""
    if drifted(state):
        return (
            "what was added since the lists of the vector index were made lies far from them, and searches find less of it; "
            "make them anew with: mmsearch index FOLDER --rebuild-vectors"
        )
    return None


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
        name = f"vectors/{shards[0].kind}-{state.generation:06d}.ivf.faiss"
        lists = [write_ivf(folder, name, shards, load, codes_for(state.policy))]
        write_offsets(folder, name, shards, dim)
        inside = len(shards)
    elif lists:
        tail = shards[inside:]
        if sum(shard.rows for shard in tail) * dim > TAIL_WORK:
            while len(lists) > 1 and lists[-1].rows + sum(shard.rows for shard in tail) <= MERGE_ROWS:
                tail = (*shards[inside - len(lists[-1].shards) : inside], *tail)
                inside -= len(lists.pop().shards)
            name = f"vectors/{shards[0].kind}-{state.generation:06d}.more.faiss"
            lists.append(write_more(folder, name, lists[0], tail, load))
            write_offsets(folder, name, tail, dim)
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
    return policy.type != "flat" and rows >= LEAST_IVF


def codes_for(policy: VectorPolicy) -> Codes:
    """The codes of a new inverted file."""
    return "sq8" if policy.type == "ivf" else "rabitq" if policy.type == "rabitq" else "pq4"


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
    size = write_faiss(folder / name, index)
    return VectorEntry(file=name, type="flat", kind=shard.kind, shards=(shard.file,), rows=shard.rows, bytes=size)

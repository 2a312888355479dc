"""Vector files under Faiss: which ones an index has, and writing them. `retrieval.store.vector_index` searches them.

Two kinds of file. `flat`: every vector of one shard as float16, scanned in full, exact. `ivf`: an inverted file with
8-bit codes over many shards, approximate, its candidates scored again from the exact rows. Both are memory
mapped, so opening costs nothing and a search touches only what it reads. New shards get a flat file of their own;
they join an inverted file once they are many, so adding n rows to N costs O(n).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.store.manifest import Manifest, ShardEntry, VectorEntry, VectorPolicy

# Multiply-adds of an exact scan that stay well under a tenth of a second on two cores (measured: benchmarks/README.md).
EXACT_WORK = 160_000_000
# Fewer rows than this make no lists worth the name.
LEAST_IVF = 256
# An inverted file is rebuilt when the rows outside it pass this share of those inside.
TAIL_SHARE = 0.25


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
    for start in range(0, len(vectors), 8192):
        index.add(vectors[start : start + 8192].astype(np.float32))
    name = flat_name(shard)
    return VectorEntry(
        file=name,
        type="flat",
        kind=shard.kind,
        shards=(shard.file,),
        rows=shard.rows,
        bytes=_write(folder / name, index),
    )


def write_ivf(
    folder: Path,
    name: str,
    shards: Sequence[ShardEntry],
    load: Callable[[ShardEntry], NDArray[np.float16]],
    seed: int = 7,
) -> VectorEntry:
    """An inverted file with 8-bit codes over `shards`, whose rows `load` gives as `(n, d) float16`.

    The number of lists is the power of two next to 2√n (Faiss's guidance for 10⁶ rows); k-means sees at most 48 rows a
    list, drawn evenly from all shards with `seed`, so the same shards give the same file.
    """
    import faiss

    rows = sum(shard.rows for shard in shards)
    lists = max(1, min(2 ** round(float(np.log2(2 * np.sqrt(rows)))), rows // 8))
    share = min(1.0, 48 * lists / rows)
    rng = np.random.default_rng(seed)
    sample = []
    for shard in shards:
        vectors = load(shard)
        count = min(len(vectors), max(1, round(len(vectors) * share)))
        chosen = np.sort(rng.choice(len(vectors), count, replace=False))
        sample.append(vectors[chosen].astype(np.float32))
    training = np.concatenate(sample)
    dim = training.shape[1]
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.cp.seed, index.cp.spherical = 8, seed, True
    index.cp.max_points_per_centroid = 48
    index.train(training)
    del sample, training
    for shard in shards:
        vectors = load(shard)
        for start in range(0, len(vectors), 8192):
            index.add(vectors[start : start + 8192].astype(np.float32))
    return VectorEntry(
        file=name,
        type=f"ivf{lists},sq8",
        kind=shards[0].kind,
        shards=tuple(shard.file for shard in shards),
        rows=rows,
        bytes=_write(folder / name, index),
    )


def plan(manifest: Manifest, dim: int) -> Iterator[tuple[str, tuple[ShardEntry, ...]]]:
    """What vector files a state should have: `("keep" | "flat" | "ivf", shards)` for each kind, in order.

    `keep` names the shards of a file that is there already and stays as it is.
    """
    by_shards = {entry.shards: entry for entry in manifest.vectors}
    for kind in ("image", "video", "text"):
        shards = tuple(shard for shard in manifest.shards if shard.kind == kind)
        if not shards:
            continue
        inside: tuple[ShardEntry, ...] = ()
        for names, entry in by_shards.items():
            if manifest.policy.type == "flat":
                continue
            if entry.kind == kind and entry.type != "flat" and names == tuple(s.file for s in shards[: len(names)]):
                inside = shards[: len(names)]
        rows, covered = sum(s.rows for s in shards), sum(s.rows for s in inside)
        if wants_ivf(rows, dim, manifest.policy) and (not inside or rows - covered > TAIL_SHARE * covered):
            yield "ivf", shards
            continue
        if inside:
            yield "keep", inside
        for shard in shards[len(inside) :]:
            yield ("keep" if (shard.file,) in by_shards else "flat"), (shard,)


def _write(file: Path, index: Any) -> int:
    import faiss

    file.parent.mkdir(parents=True, exist_ok=True)
    scratch = file.with_name(file.name + ".partial")
    try:
        faiss.write_index(index, os.fspath(scratch))
    except RuntimeError as error:
        raise OSError(f"cannot write {file}: {str(error).strip().splitlines()[-1]}") from error
    with open(scratch, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(scratch, file)
    return file.stat().st_size

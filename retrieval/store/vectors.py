"""Vectors under Faiss: build, open, search. The only user of faiss, and `-1` never leaves it.

Two kinds of file. `flat`: every vector of one shard as float16, scanned in full, exact. `ivf`: an inverted file with
8-bit codes over many shards, approximate, its candidates rescored by the caller from the exact rows. Both are memory
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

from retrieval.errors import FormatError
from retrieval.store.manifest import Manifest, ShardEntry, VectorEntry, VectorPolicy

# Multiply-adds of an exact scan that stay well under a tenth of a second on two cores (measured: benchmarks/README.md).
EXACT_WORK = 160_000_000
# Up to so many multiply-adds one thread is faster than several.
SMALL_WORK = 8_000_000
# Fewer rows than this make no lists worth the name.
LEAST_IVF = 256
# An inverted file is rebuilt when the rows outside it pass this share of those inside.
TAIL_SHARE = 0.25
PROBE_SHARE = 1 / 24
OVERFETCH = 8
# How many more than asked for a flat scan gives, so that exact scores can put near ties in their order.
_SPARE = 16


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


class VectorIndex:
    """The vector files of one committed state, searchable by kind.

    Rows are addressed as `(shard, row)`: the shard's number in `manifest.shards`, the row's position in it.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str = "cpu") -> None:
        import faiss

        self._faiss = faiss
        self._numbers = {shard.file: number for number, shard in enumerate(manifest.shards)}
        self._manifest = manifest
        self._parts = [(entry, self._read(folder / entry.file, entry)) for entry in manifest.vectors]
        self._resources: Any = None
        if device.startswith("cuda") and faiss.get_num_gpus() > 0:
            self._to_gpu(int(device.partition(":")[2] or 0))

    def _read(self, file: Path, entry: VectorEntry) -> Any:
        faiss = self._faiss
        flags = faiss.IO_FLAG_READ_ONLY
        flags |= faiss.IO_FLAG_MMAP_IFC if entry.type == "flat" else faiss.IO_FLAG_MMAP
        try:
            index = faiss.read_index(os.fspath(file), flags)
        except RuntimeError as error:
            raise FormatError(
                f"{file} is damaged or missing; mend it with: mmsearch index FOLDER --rebuild-vectors"
            ) from error
        if index.ntotal != entry.rows or index.d != self._manifest.model.dim:
            raise FormatError(
                f"{file} has {index.ntotal} rows of {index.d}, the manifest says {entry.rows} of "
                f"{self._manifest.model.dim}; mend it with: mmsearch index FOLDER --rebuild-vectors"
            )
        return index

    def _to_gpu(self, number: int) -> None:
        faiss = self._faiss
        self._resources = faiss.StandardGpuResources()
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        self._parts = [
            (entry, faiss.index_cpu_to_gpu(self._resources, number, index, options)) for entry, index in self._parts
        ]

    @property
    def exact(self) -> bool:
        """Whether every score is exact, so that candidates need no rescoring."""
        return all(entry.type == "flat" for entry, _ in self._parts)

    def search(
        self, query: NDArray[np.float32], k: int, kinds: Sequence[str], nprobe: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
        """The best living rows for one unit query `(d,)`.

        Returns scores `(m,)` (inner products; higher is closer), shard numbers `(m,)` and rows `(m,)`, best first, ties
        by shard and row. `m` is `k` or, where inverted files take part, up to eight times `k` candidates to rescore.
        `nprobe` is the number of lists that an inverted file visits; by default what the index's policy says, else a
        twenty-fourth of them, at least 32.
        """
        scores, shards, rows = [], [], []
        approximate = False
        for entry, index in self._parts:
            if entry.kind not in kinds or entry.rows == 0:
                continue
            wanted = k if entry.type == "flat" else k * OVERFETCH
            approximate |= entry.type != "flat"
            found, labels = self._search_part(entry, index, query, min(wanted, entry.rows), nprobe)
            starts = np.cumsum([0] + [self._entry(name).rows for name in entry.shards])
            part = np.searchsorted(starts, labels, side="right") - 1
            numbers = np.array([self._numbers[name] for name in entry.shards], np.int64)
            scores.append(found)
            shards.append(numbers[part])
            rows.append(labels - starts[part])
        if not scores:
            empty = np.empty(0, np.int64)
            return np.empty(0, np.float32), empty, empty
        score, shard, row = np.concatenate(scores), np.concatenate(shards), np.concatenate(rows)
        order = np.lexsort((row, shard, -score))[: k * OVERFETCH if approximate else k]
        return score[order], shard[order], row[order]

    def _entry(self, name: str) -> ShardEntry:
        return self._manifest.shards[self._numbers[name]]

    def _search_part(
        self, entry: VectorEntry, index: Any, query: NDArray[np.float32], k: int, nprobe: int | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        faiss = self._faiss
        dead = self._dead(entry)
        # A GPU index takes no selector: ask it for as many more as there are dead rows, and drop those afterwards.
        on_gpu = self._resources is not None
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(dead)) if len(dead) and not on_gpu else None
        flat = entry.type == "flat"
        asked = min(entry.rows, k + len(dead), 2048) if on_gpu else min(entry.rows, k + _SPARE if flat else k)
        if flat:
            settings = faiss.SearchParameters(sel=selector) if selector is not None else None
        else:
            lists = index.nlist
            chosen = nprobe if nprobe is not None else self._manifest.policy.nprobe
            probes = chosen if chosen is not None else max(32, round(lists * PROBE_SHARE))
            settings = faiss.SearchParametersIVF(sel=selector, nprobe=min(lists, probes))
        # A small scan takes less time than waking a team of threads for it. The number holds for the calling thread.
        threads = faiss.omp_get_max_threads()
        if entry.rows * index.d <= SMALL_WORK:
            faiss.omp_set_num_threads(1)
        try:
            scores, labels = index.search(np.ascontiguousarray(query[None], np.float32), asked, params=settings)
        finally:
            faiss.omp_set_num_threads(threads)
        valid = labels[0] >= 0
        if on_gpu:
            valid &= ~np.isin(labels[0], dead)
        found, near = scores[0][valid], labels[0][valid]
        if flat and not on_gpu and len(near):
            # Faiss adds up half-precision products in an order, and on some processors a precision, of its own.
            found = index.reconstruct_batch(near) @ query
            order = np.lexsort((near, -found))
            found, near = found[order], near[order]
        return found[:k], near[:k]

    def _dead(self, entry: VectorEntry) -> NDArray[np.int64]:
        parts, start = [np.empty(0, np.int64)], 0
        for name in entry.shards:
            shard = self._entry(name)
            parts.append(shard.tombstone_rows() + start)
            start += shard.rows
        return np.concatenate(parts)


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

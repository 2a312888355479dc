"""Vectors under Faiss: build, open, search. The only user of faiss, and `-1` never leaves it.

Two kinds of file. `flat`: every vector of one shard as float16, scanned in full, exact. `ivf`: an inverted file with
8-bit codes over many shards, approximate, its candidates rescored by the caller from the exact rows. Both are memory
mapped, so opening costs nothing and a search touches only what it reads. New shards get a flat file of their own;
they join an inverted file once they are many, so adding n rows to N costs O(n).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store.manifest import Manifest, ShardEntry, VectorEntry

# Up to so many multiply-adds one thread is faster than several.
SMALL_WORK = 8_000_000
PROBE_SHARE = 1 / 24
OVERFETCH = 8
# How many more than asked for a flat scan gives, so that exact scores can put near ties in their order.
_SPARE = 16


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

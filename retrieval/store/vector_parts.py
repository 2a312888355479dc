"""The vector files of one state, opened: mapped, so that all readers share one copy, and copied to a GPU where there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store.coded_lists import CodedLists, open_coded_lists
from retrieval.store.gpu import Gpus, OnGpu
from retrieval.store.inverted import codes_of
from retrieval.store.manifest import Manifest, VectorEntry


class Embeddings(Protocol):
    """Whatever gives the exact rows that candidates are scored by."""

    def take(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """`(n, d) float16`, unit rows, of `(shard, row)` pairs in their order."""
        ...


@dataclass(frozen=True)
class Part:
    """One vector file: `index` maps it, `gpu` is its copy on a GPU if there is one, `lists` is there where it holds compressed
    codes. Its row i is row i − `starts[p]` of shard number `shards[p]`, p being the last with `starts[p] ≤ i`."""

    entry: VectorEntry
    index: Any
    lists: CodedLists | None
    gpu: OnGpu | None
    shards: NDArray[np.int64]
    starts: NDArray[np.int64]

    @property
    def flat(self) -> bool:
        """Whether it is scanned in full."""
        return self.entry.type == "flat"

    def places(self, labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shard numbers and rows of rows of this file."""
        number = np.searchsorted(self.starts, labels, side="right") - 1
        return self.shards[number], labels - self.starts[number]


def open_parts(folder: Path, manifest: Manifest, device: str, stored: Embeddings) -> list[Part]:
    """Every vector file of a state, whose rows `stored` gives. Raises `FormatError` for one that the manifest says other of."""
    gpus = Gpus.of(device)
    numbers = {shard.file: number for number, shard in enumerate(manifest.shards)}
    parts = []
    for entry in manifest.vectors:
        sizes = [manifest.shards[numbers[name]].rows for name in entry.shards]
        index, lists = _read(folder / entry.file, entry)
        if index.ntotal != entry.rows or index.d != manifest.model.dim:
            raise FormatError(
                f"{folder / entry.file} has {index.ntotal} rows of {index.d}, the manifest says {entry.rows} of "
                f"{manifest.model.dim}; mend it with: mmsearch index FOLDER --rebuild-vectors"
            )
        part = Part(
            entry=entry,
            index=index,
            lists=lists,
            gpu=None,
            shards=np.array([numbers[name] for name in entry.shards], np.int64),
            starts=np.cumsum([0, *sizes[:-1]]).astype(np.int64),
        )
        parts.append(part if gpus is None or not entry.rows else replace(part, gpu=_on_gpu(gpus, part, stored)))
    return parts


def _on_gpu(gpus: Gpus, part: Part, stored: Embeddings) -> OnGpu | None:
    if part.lists is None:
        return gpus.copy(part.index)

    def rows(start: int, stop: int) -> NDArray[np.float16]:
        return stored.take(*part.places(np.arange(start, stop)))

    return gpus.exact(part.entry.rows, part.index.d, rows)


def _read(file: Path, entry: VectorEntry) -> tuple[Any, CodedLists | None]:
    import faiss

    try:
        if entry.type != "flat" and codes_of(entry) != "sq8":
            lists = open_coded_lists(file)
            return lists.index, lists
        mapped = faiss.IO_FLAG_MMAP_IFC if entry.type == "flat" else faiss.IO_FLAG_MMAP
        return faiss.read_index(os.fspath(file), faiss.IO_FLAG_READ_ONLY | mapped), None
    except (RuntimeError, OSError, ValueError) as error:
        raise FormatError(
            f"{file} is damaged or missing; mend it with: mmsearch index FOLDER --rebuild-vectors"
        ) from error

"""The vector files of one state, opened: mapped, so that all readers share one copy, and copied to a GPU where there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store.coded_lists import CodedLists, open_coded_lists
from retrieval.store.gpu import Gpus
from retrieval.store.inverted import codes_of
from retrieval.store.manifest import Manifest, VectorEntry


@dataclass(frozen=True)
class Part:
    """One vector file: `index` maps it, `gpu` is its copy on a GPU if there is one, `lists` is there where it holds compressed
    codes. Its row i is row i − `starts[p]` of shard number `shards[p]`, p being the last with `starts[p] ≤ i`."""

    entry: VectorEntry
    index: Any
    lists: CodedLists | None
    gpu: Any
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


def open_parts(folder: Path, manifest: Manifest, device: str) -> list[Part]:
    """Every vector file of a state. Raises `FormatError` for one that is not what the manifest says."""
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
        parts.append(
            Part(
                entry=entry,
                index=index,
                lists=lists,
                # Codes of the fast-scan kind have no counterpart on a GPU; their search is a matter of the CPU's shuffles.
                gpu=gpus.copy(index) if gpus is not None and entry.rows and lists is None else None,
                shards=np.array([numbers[name] for name in entry.shards], np.int64),
                starts=np.cumsum([0, *sizes[:-1]]).astype(np.int64),
            )
        )
    return parts


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

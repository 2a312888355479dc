"""One committed state of an index, opened for searching: its files, each opened when it is first needed."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.ranking.collapse import HitKeys, Videos
from retrieval.store.copy_groups import CopyGroups
from retrieval.store.embeddings import StoredEmbeddings
from retrieval.store.facts import Facts
from retrieval.store.gpu import gpu_count
from retrieval.store.lexicon import Lexicon
from retrieval.store.manifest import Manifest
from retrieval.store.row_places import RowPlaces
from retrieval.store.selection import Selections
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex
from retrieval.types import Kind


class IndexState:
    """What a search reads. Not shared between threads."""

    def __init__(self, folder: Path, manifest: Manifest, device: str) -> None:
        self.folder = folder
        self.manifest = manifest
        self.reader = ShardReader(folder, self.manifest)
        self.embeddings = StoredEmbeddings(folder, self.manifest, self.reader)
        self.facts = Facts(self.manifest, self.reader)
        self.selections = Selections(self.manifest, self.facts)
        self.lexicon = Lexicon(folder, self.manifest)
        self.videos = Videos(self.manifest, self.reader)
        self._device = device
        self.places = RowPlaces(self.manifest)
        self._hit_keys: dict[tuple[bool, bool], HitKeys] = {}
        self._samples: dict[tuple[Kind, ...], NDArray[np.float32]] = {}

    @cached_property
    def copies(self) -> CopyGroups | None:
        """The groups of copies, None where there are none."""
        return CopyGroups.open(self.folder, self.manifest)

    def hit_keys(self, *, moments: bool, copies: bool) -> HitKeys:
        """Which rows are one hit, where every one of the `moments`, or of the `copies`, is a hit of its own or not."""
        key = (moments, copies)
        if key not in self._hit_keys:
            self._hit_keys[key] = HitKeys(
                None if moments else self.videos, None if copies else self.copies, self.places
            )
        return self._hit_keys[key]

    @cached_property
    def vectors(self) -> VectorIndex:
        """The vector files."""
        return VectorIndex(self.folder, self.manifest, self._device, self.embeddings)

    def sample(self, kinds: tuple[Kind, ...]) -> NDArray[np.float32]:
        """`(n, d) float32`: some two thousand rows of these kinds, the same at every call."""
        if kinds not in self._samples:
            self._samples[kinds] = self.reader.sample(kinds).astype(np.float32)
        return self._samples[kinds]


def check_device(device: str) -> None:
    """Raise `QueryError` for an unknown device name, or a GPU that this machine does not have."""
    kind, colon, number = device.partition(":")
    if device not in ("auto", "cpu", "cuda") and not (kind == "cuda" and colon and number.isdecimal()):
        raise QueryError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= gpu_count():
        raise QueryError(f"device {device} is not here: this machine has {gpu_count()} CUDA GPUs; use auto or cpu")

"""Vector files on CUDA GPUs: the one place that asks Faiss for them, chooses what a file becomes there and converts it.

A flat file becomes an exact scan in half precision, an inverted file with 8-bit codes the same lists on the GPU. Fast-scan
codes have no counterpart there (their search is a matter of a CPU's shuffles), and a GPU reads whole rows faster than a CPU
does codes: where a GPU is asked for by name, their rows are scanned exactly in half precision, cut into one piece a GPU.
Reading all rows is worth it for a server and not for one search, so `auto` leaves such files to the CPU. So does what does not
fit. Files go to the GPU that has the fewest rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Rows that are converted at once.
_BATCH = 65_536

# Rows of a file from one number to another, `(n, d)`.
Rows = Callable[[int, int], NDArray[np.float16]]


@dataclass(frozen=True)
class OnGpu:
    """A vector file's counterpart: what Faiss searches, and whether it has the lists of an inverted file."""

    index: Any
    has_lists: bool


@dataclass(frozen=True)
class Gpus:
    """The GPUs that vector files are copied to, by number, with Faiss's resources of each and the rows that each has; `named`
    where a GPU was asked for by name."""

    named: bool
    resources: dict[int, Any]
    held: dict[int, int] = field(default_factory=dict)

    @staticmethod
    def of(device: str) -> Gpus | None:
        """The GPUs that `device` means: all for `auto` and `cuda`, one for `cuda:N`; None for `cpu`, or where there is none."""
        import faiss

        if device == "cpu" or faiss.get_num_gpus() == 0:
            return None
        named = device.partition(":")[2]
        numbers = [int(named)] if named else list(range(faiss.get_num_gpus()))
        return Gpus(
            device != "auto", {number: faiss.StandardGpuResources() for number in numbers}, dict.fromkeys(numbers, 0)
        )

    def copy(self, index: Any) -> OnGpu | None:
        """A mapped index, flat or with 8-bit codes, on one GPU; None where it does not fit."""
        import faiss

        number = min(self.held, key=self.held.__getitem__)
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        try:
            copied = faiss.index_cpu_to_gpu(self.resources[number], number, index, options)
        except RuntimeError:
            return None
        self.held[number] += index.ntotal
        return OnGpu(copied, hasattr(index, "nlist"))

    def exact(self, count: int, dim: int, rows: Rows) -> OnGpu | None:
        """`count` rows of `dim` dimensions for an exact scan in half precision, a piece a GPU; None where they do not fit,
        or no GPU was asked for by name."""
        import faiss

        if not self.named:
            return None
        cuts = np.linspace(0, count, len(self.resources) + 1).astype(int).tolist()
        pieces = []
        try:
            for (number, resources), start, stop in zip(self.resources.items(), cuts, cuts[1:], strict=False):
                config = faiss.GpuIndexFlatConfig()
                config.device, config.useFloat16 = number, True
                piece = faiss.GpuIndexFlat(resources, dim, faiss.METRIC_INNER_PRODUCT, config)
                for batch in _batches(rows, start, stop):
                    piece.add(batch)
                self.held[number] += stop - start
                pieces.append(piece)
        except RuntimeError:
            return None
        if len(pieces) == 1:
            return OnGpu(pieces[0], False)
        # Each piece in a thread, rows numbered on from the piece before.
        kind: Any = faiss.IndexShards
        shards = kind(dim, True, True)
        for piece in pieces:
            shards.add_shard(piece)
        return OnGpu(shards, False)


def _batches(rows: Rows, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
    for at in range(start, stop, _BATCH):
        yield np.ascontiguousarray(rows(at, min(at + _BATCH, stop)), np.float32)


def gpu_count() -> int:
    """How many GPUs Faiss can use."""
    import faiss

    return int(faiss.get_num_gpus())

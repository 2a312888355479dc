"""Vector files on CUDA GPUs: the one place that asks Faiss for them and converts an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpus:
    """The GPU that vector files are copied to."""

    number: int
    resources: Any

    @staticmethod
    def of(device: str) -> Gpus | None:
        """The GPU that `device` names (`cuda` or `cuda:N`); None where it names none, or Faiss sees none."""
        import faiss

        if not device.startswith("cuda") or faiss.get_num_gpus() == 0:
            return None
        return Gpus(int(device.partition(":")[2] or 0), faiss.StandardGpuResources())

    def copy(self, index: Any) -> Any:
        """The same index on the GPU, its codes in half precision where it has floats."""
        import faiss

        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        return faiss.index_cpu_to_gpu(self.resources, self.number, index, options)


def gpu_count() -> int:
    """How many GPUs Faiss can use."""
    import faiss

    return int(faiss.get_num_gpus())

"""What this machine computes with, told without importing torch."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

# What new models, GPUs, captions, re-ranking and training are made with. Indexing and searching on a CPU do without, once a
# model's towers are exported.
TORCH_PACKAGES = ("torch", "open-clip-torch", "transformers", "onnx")
_TORCH_MODULES = ("torch", "torchvision", "open_clip", "timm", "transformers", "onnx")


def without_torch(error: ModuleNotFoundError) -> str | None:
    """What to tell of a module that is not installed, where it is one of those that torch comes with; else None."""
    if (error.name or "").partition(".")[0] not in _TORCH_MODULES:
        return None
    return (
        f"this needs {error.name}, which is not installed; exported models are indexed and searched without it. Get it with: "
        f"pip install {' '.join(TORCH_PACKAGES)}"
    )


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (AVX512-BF16 or AMX); elsewhere bfloat16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def may_have_cuda() -> bool:
    """Whether an NVIDIA driver is here; whether torch can use it, only torch knows."""
    devices = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl")
    return any(Path(device).exists() for device in devices) or ctypes.util.find_library("nvcuda") is not None

"""What this machine computes with, told without importing torch."""

from __future__ import annotations

import ctypes.util
from pathlib import Path


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

"""Freed memory goes back to the system: decoding and models on many threads leave it in glibc's arenas, where it looks like a
leak."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable

TRIM_SECONDS = 30.0


def trim() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None on systems without it."""
    if not sys.platform.startswith("linux"):
        return None
    malloc_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return malloc_trim


async def keep_trimmed(seconds: float = TRIM_SECONDS) -> None:
    """Give freed memory back every so many seconds, until cancelled."""
    give_back = trim()
    while give_back is not None:
        await asyncio.sleep(seconds)
        # ctypes releases Python's lock for the call, which takes some milliseconds.
        await asyncio.to_thread(give_back, 0)

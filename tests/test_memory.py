"""What the server frees goes back to the system."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

from server.memory import keep_trimmed, trim


def resident() -> int:
    """Megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 // 10**6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc_trim is glibc's")
def test_freed_memory_below_memory_in_use_goes_back() -> None:
    assert trim() is not None
    # Blocks too small to be mapped one by one; the last stays, so that the heap cannot shrink from its end.
    blocks = [np.ones(60_000, np.uint8) for _ in range(5_000)]
    full = resident()
    last = blocks[-1]
    del blocks[:]

    async def for_a_while() -> None:
        task = asyncio.create_task(keep_trimmed(0.01))
        await asyncio.sleep(0.5)
        task.cancel()

    asyncio.run(for_a_while())
    assert resident() < full - 200
    assert last.all()

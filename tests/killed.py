"""What the killed writer of test_kill runs: one build with a plain encoder, slowed a little so that it can be caught."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

import indexer.build
from indexer.build import BuildConfig, IndexBuild
from retrieval.models.encoder import Encoder
from tests.stores import PlainEncoder


class SlowEncoder(PlainEncoder):
    """A few milliseconds a batch, so that a run lasts about a second."""

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        time.sleep(0.01)
        return super().encode_pixels(pixels)


def main() -> None:
    """Index one folder, committing often."""
    indexer.build.COMMIT_ROWS = 24
    build = IndexBuild(
        [sys.argv[1]],
        Path(sys.argv[1]) / ".mmsearch",
        cast(Encoder, SlowEncoder()),
        BuildConfig(batch_size=4, workers=2),
    )
    print("started", flush=True)
    for _ in build:
        pass
    print("done", flush=True)


if __name__ == "__main__":
    main()

"""What the killed writer of test_kill runs: a build or a compaction with a plain encoder, slowed so that it is caught.

With `KILLED_AFTER=n` in the environment it ends by itself, without a word, after so many steps."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import indexer.build
import indexer.ocr
import indexer.work
from indexer.build import IndexBuild
from indexer.change import ModelChange
from indexer.config import BuildConfig, ClusterConfig, OcrConfig
from retrieval.store.writer import IndexWriter
from tests.clusters import LoggedEncoder, make_small
from tests.stores import LettersRecogniser, OtherEncoder, PlainEncoder


class SlowEncoder(PlainEncoder):
    """A few milliseconds a batch, so that a run lasts about a second."""

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        time.sleep(0.01)
        return super().encode_pixels(pixels)


def main() -> None:
    """`compact INDEX`, or `index INDEX ROOT...`, publishing often, `ocr INDEX ROOT...` with the text in pictures,
    `cluster INDEX ROOT...` with workers of a cluster of this machine, or `change INDEX ROOT...` to another model."""
    act, index, *roots = sys.argv[1:]
    indexer.build.COMMIT_ROWS = 24
    indexer.work.SLICE = 6
    print("started", flush=True)
    if act == "compact":
        with IndexWriter(Path(index)) as writer:
            writer.compact()
    else:
        steps = int(os.environ.get("KILLED_AFTER", "-1"))
        config = BuildConfig(batch_size=4, workers=2)
        if act == "ocr":
            indexer.ocr._STEP_PICTURES = 2
            config = BuildConfig(batch_size=4, workers=2, ocr=OcrConfig(recogniser=LettersRecogniser(), reading="all"))
        encoder: PlainEncoder = SlowEncoder()
        if act == "cluster":
            make_small()
            encoder = LoggedEncoder(os.environ["ENCODED_LOG"])
            config = BuildConfig(batch_size=4, workers=2, cluster=ClusterConfig(address="local"))
        build: IndexBuild | ModelChange = IndexBuild(roots, Path(index), encoder, config)
        if act == "change":
            build = ModelChange(roots, Path(index), OtherEncoder(), config)
        for step, _ in enumerate(build):
            if step == steps:
                os._exit(9)
    print("done", flush=True)


if __name__ == "__main__":
    main()

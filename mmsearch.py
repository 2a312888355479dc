"""mmsearch: search a folder of media by meaning, from Python.

import mmsearch

mmsearch.index(["./media"])
with mmsearch.open("./media") as engine:
    for hit in engine.search(mmsearch.Query(text="a dog in the snow", k=5)):
        print(hit.score, hit.item.path)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval.engine import Engine
from retrieval.errors import MmsearchError
from retrieval.types import Hit, Item, Query, Rerank

if TYPE_CHECKING:
    from PIL.Image import Image

    from indexer.build import BuildReport

__all__ = ["Engine", "Hit", "Item", "MmsearchError", "Query", "Rerank", "index", "open", "open_image"]


def open(index: str | os.PathLike[str] | None = None, *, device: str = "auto") -> Engine:
    """Open the index at `index`, in it, or the nearest one upwards. Raises `MmsearchError`."""
    return Engine.open(index, device=device)


def index(
    paths: Sequence[str | os.PathLike[str]],
    *,
    index: str | os.PathLike[str] | None = None,
    model: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
) -> BuildReport:
    """Build an index over `paths`, or bring it up to date; returns what was done. Raises `MmsearchError`.

    Without `index` it is written to `.mmsearch` in the first of `paths`.
    """
    from indexer.run import build_index

    return build_index(paths, index, model=model, device=device, precision=precision, batch_size=batch_size)


def open_image(path: str | os.PathLike[str]) -> Image:
    """A picture as a query wants it: upright RGB. Raises `MmsearchError` for what cannot be decoded."""
    from media.containers import read_bytes
    from media.image import decode_image, register_decoders

    register_decoders()
    return decode_image(read_bytes(os.fspath(path)), 512).rgb


if __name__ == "__main__":
    from cli.main import main

    main()

"""mmsearch: search a folder of media by meaning, from Python.

import mmsearch

mmsearch.index("./media")
with mmsearch.open("./media") as engine:
    for hit in engine.search(mmsearch.Query(text="a dog in the snow", k=5)):
        print(hit.score, hit.item.path)
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    # `python -m` puts the working folder first, and that may be a folder of media, of which no file may be imported.
    sys.path[0] = os.path.dirname(os.path.abspath(__file__))

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from retrieval.errors import MmsearchError
from retrieval.types import Answer, Filter, Hit, Item, Near, Query, Rerank, Term

if TYPE_CHECKING:
    from PIL.Image import Image

    from client.connection import AsyncClient, Client
    from indexer.config import BuildReport
    from retrieval.engine import Engine

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Engine",
    "Filter",
    "Hit",
    "Item",
    "MmsearchError",
    "Near",
    "Query",
    "Rerank",
    "Term",
    "connect",
    "connect_async",
    "index",
    "open",
    "open_image",
]


def __getattr__(name: str) -> object:
    # The engine reads Parquet and numpy's arrays, which `mmsearch --help` and a program that only names a type do not need.
    if name == "Engine":
        from retrieval.engine import Engine

        return Engine
    if name in ("AsyncClient", "Client"):
        import client.connection

        return getattr(client.connection, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def open(index: str | os.PathLike[str] | None = None, *, device: str = "auto") -> Engine:
    """Open the index at `index`, in it, or the nearest one upwards. Raises `MmsearchError`."""
    from retrieval.engine import Engine

    return Engine.open(index, device=device)


def connect(url: str, *, token: str | None = None) -> Client:
    """The index of the server at `url`, with the methods of an engine, for use in a `with` statement. `token` is what the
    server asks for. Nothing is sent yet. Raises `QueryError` for a `url` that is none."""
    from client.connection import Client

    return Client(url, token)


def connect_async(url: str, *, token: str | None = None) -> AsyncClient:
    """The same for asynchronous programs, for use in an `async with` statement."""
    from client.connection import AsyncClient

    return AsyncClient(url, token)


def index(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    index: str | os.PathLike[str] | None = None,
    model: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    change_model: bool = False,
) -> BuildReport:
    """Build an index over `paths`, one or several, or bring it up to date; returns what was done. Raises `MmsearchError`.

    Without `index` it is written to `.mmsearch` in the first of `paths`. An index that is there keeps its model; with
    `change_model` it changes to `model`, if that is another, and the old one is searched until the new one is whole.
    """
    from indexer.run import build_index

    # Not the letters of a text: one path, as a list of one.
    several = list(paths) if isinstance(paths, Iterable) and not isinstance(paths, (str, os.PathLike)) else [paths]
    return build_index(
        several,
        index,
        model=model,
        device=device,
        precision=precision,
        batch_size=batch_size,
        change_model=change_model,
    )


def open_image(path: str | os.PathLike[str]) -> Image:
    """An image as a query wants it: upright RGB. Raises `MmsearchError`, with its path, for what cannot be read or decoded."""
    from media.containers import read_bytes
    from media.errors import MediaError
    from media.image import decode_image

    place = os.fspath(path)
    try:
        return decode_image(read_bytes(place), 512, name=place).rgb
    except MediaError as error:
        raise MediaError(error.stage, f"{place}: {error.reason}") from error


if __name__ == "__main__":
    from cli.main import main

    main()

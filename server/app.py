"""The application: what it consists of, and how it starts and ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI

from retrieval.models.encoder import Encoder
from retrieval.models.weights import cache_dir
from server.about import add_about
from server.access import Access
from server.around import add_around
from server.copies import add_copies
from server.errors import add_errors
from server.files import add_files
from server.guard import Guard, Patience
from server.http import Compressed
from server.lanes import Lane
from server.logs import AccessLog
from server.media import PREVIEW_SECONDS, Files
from server.memory import keep_trimmed
from server.metrics import Metrics
from server.openapi import complete
from server.page import load_page
from server.reading import add_reading
from server.related import add_related
from server.review import add_review
from server.searching import add_searching
from server.selection import add_selection
from server.service import SearchService
from server.uploads import Uploads
from server.watch import Watcher


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve and to whom.

    `roots` are folders that files may be served from, beside the one that holds the index; `token` None asks for none.
    `watch_poll` are the seconds between two looks at folders that report no changes, such as network drives; None relies on
    the system's reports, and `encoder` is the index's model, where it is loaded already. No cursor leads further than
    `deepest` hits. `port` is where the server listens, for the documents. `access_log` takes a line a request.
    """

    folder: Path
    hosts: frozenset[str]
    token: str | None = None
    device: str = "auto"
    roots: tuple[Path, ...] = ()
    watch: bool = False
    watch_poll: float | None = None
    encoder: Encoder | None = None
    deepest: int = 2000
    patience: Patience = field(default_factory=Patience)
    port: int = 0
    access_log: AccessLog | None = None


def create_app(config: ServeConfig) -> FastAPI:
    """The application over one index, its models loaded. Raises what `Engine.open` raises, and `QueryError` for a token that
    cannot be used."""
    access = Access(config.token) if config.token is not None else None
    metrics = Metrics()
    service = SearchService(config.folder, config.device, metrics)
    files = Files(config.folder, config.roots, service.images, cache_dir())
    uploads = Uploads(metrics)
    cores = os.cpu_count() or 1
    reads = Lane("file", metrics, threads=4, bound=1024, seconds=30)
    makes = Lane("thumb", metrics, threads=max(2, cores), bound=256, seconds=60)
    previews = Lane("preview", metrics, threads=1, bound=16, seconds=PREVIEW_SECONDS)
    roots = [*config.roots, *([config.folder.parent] if config.folder.name == ".mmsearch" else [])]
    watcher = Watcher(config.folder, roots, config.device, config.watch_poll, config.encoder) if config.watch else None
    service.warm()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if watcher is not None:
            watcher.start()
        trimming = asyncio.create_task(keep_trimmed())
        yield
        trimming.cancel()
        if watcher is not None:
            await asyncio.to_thread(watcher.close)
        for part in (service, uploads, reads, makes, previews):
            await asyncio.to_thread(part.close)

    app = FastAPI(
        title="mmsearch",
        description="Search by meaning.",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    add_errors(app)
    add_searching(app, service, uploads, config.deepest)
    add_copies(app, service)
    add_reading(app, service, files)
    add_related(app, service)
    add_files(app, service, files, reads=reads, makes=makes, previews=previews)
    add_around(app, service)
    add_review(app, service, watcher)
    add_selection(app, service, files, reads=reads, makes=makes)
    add_about(app, service, watcher, load_page(), access)
    complete(app, cookie=f"mmsearch_{config.port}", token=access is not None)
    routes = sorted({str(route.path).partition("/{")[0] for route in app.routes if hasattr(route, "path")}, key=len)
    app.add_middleware(Compressed)
    app.add_middleware(
        Guard,
        hosts=config.hosts,
        access=access,
        metrics=metrics,
        routes=routes,
        patience=config.patience,
        log=config.access_log,
    )
    return app

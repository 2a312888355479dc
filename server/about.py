"""What the server says of itself: status, health, measurements, documents, and the page."""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel

from media.names import valid_json
from retrieval.errors import MmsearchError
from retrieval.store.manifest import read_manifest
from server.access import SIGN_IN, Access
from server.documents import documents
from server.guard import policy
from server.http import FOR_EVER, REVALIDATE, etag, not_modified
from server.models import StatusResponse, WatchModel
from server.openapi import ERRORS, PLAIN
from server.page import POLICY, Page
from server.service import SearchService
from server.watch import Watcher

_KINDS = {"image": "images", "video": "moments", "text": "texts"}
_COUNTS = ("images", "moments", "texts", "failures")


class HealthResponse(BaseModel):
    """The index can be read."""

    status: str


def add_about(app: FastAPI, service: SearchService, watcher: Watcher | None, page: Page, access: Access | None) -> None:
    """The routes."""

    @app.get("/api/status", response_model=StatusResponse, responses=ERRORS, summary="What the index holds")
    async def status() -> StatusResponse:
        counts = await service.status()
        now = watcher.state if watcher is not None else None
        state = (
            WatchModel.model_validate({**valid_json(vars(now)), "remaining": now.remaining})
            if now is not None
            else None
        )
        return StatusResponse.model_validate({**counts, "reader": service.captioner, "watch": state})

    @app.get("/healthz", response_model=HealthResponse, responses=ERRORS, summary="Whether the index can be read")
    async def healthz() -> HealthResponse:
        await asyncio.to_thread(read_manifest, service.folder)
        return HealthResponse(status="ok")

    @app.get("/metrics", response_class=Response, responses=PLAIN, summary="Measurements for Prometheus")
    async def metrics() -> Response:
        # An index that is gone leaves its last counts: the measurements of requests are wanted all the same.
        with contextlib.suppress(MmsearchError):
            counts = {name: int(str(count)) for name, count in (await service.status()).items() if name in _COUNTS}
            items = {kind: counts[name] for kind, name in _KINDS.items()}
            service.metrics.index(items, counts["failures"])
        if watcher is not None:
            state = watcher.state
            service.metrics.watching("failing" if state.error else state.state, state.done, state.total)
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(documents(app.openapi(), nonce), headers={"Content-Security-Policy": policy(nonce)})

    if access is not None:
        app.add_api_route(SIGN_IN, access.sign_in, methods=["POST"], include_in_schema=False)

    @app.get("/page/{wanted}/{name}", include_in_schema=False)
    async def part(request: Request, wanted: str, name: str) -> Response:
        file = page.files.get(name) if wanted == page.version else None
        if file is None:
            raise HTTPException(404, "no such part of the page; load it again")
        headers = {"ETag": etag(page.version, name), "Cache-Control": FOR_EVER}
        same = not_modified(request, headers)
        return same or Response(file.content, media_type=file.media_type, headers=headers)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def root(request: Request) -> Response:
        headers = {"ETag": etag(page.version), "Cache-Control": REVALIDATE, "Content-Security-Policy": POLICY}
        return not_modified(request, headers) or HTMLResponse(page.document, headers=headers)

"""The routes: JSON in, JSON and files out. Every error is `{"error": "one sentence"}`."""

from __future__ import annotations

import asyncio
import gc
import io
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from PIL.Image import Image
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as StarletteError

from media.image import decode_image
from retrieval.crossmodal.answer import Evidence, compose
from retrieval.errors import ItemNotFoundError, MediaError, MmsearchError, ModelError, QueryError
from retrieval.models.weights import cache_dir
from retrieval.store.manifest import read_manifest
from retrieval.types import Hit, Item, Rerank
from retrieval.types import Query as SearchQuery
from server.documents import documents
from server.guard import Guard, policy
from server.media import Files, media_type
from server.metrics import Metrics
from server.models import (
    AskRequest,
    AskResponse,
    DescribeRequest,
    DescribeResponse,
    ErrorResponse,
    EvidenceModel,
    HitModel,
    ItemModel,
    SearchRequest,
    SearchResponse,
    Span,
    StatusResponse,
    WatchModel,
)
from server.page import page
from server.service import Busy, SearchService
from server.watch import Watcher

DEEPEST = 2000
_UPLOAD_SIDE = 512
_FIELDS = ("text", "image_id", "unlike_id", "kind", "k", "rerank", "min_relevance", "cursor")
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request makes no sense"},
    401: {"model": ErrorResponse, "description": "The token is missing or wrong"},
    404: {"model": ErrorResponse, "description": "No such item, or its file is gone"},
    413: {"model": ErrorResponse, "description": "The request is too large"},
    422: {"model": ErrorResponse, "description": "A field is not as it should be"},
    503: {"model": ErrorResponse, "description": "Not now, or not with this model"},
}
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture"},
    **_ERRORS,
}
_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture"},
    **_ERRORS,
}
_BINARY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": _BINARY, "description": "The file"},
    206: {"content": _BINARY, "description": "The part of the file that the Range header names"},
    416: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "No such range"},
    **_ERRORS,
}


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve and to whom. `roots` are folders that files may be served from, beside the one that holds the index;
    `token` None asks for none."""

    folder: Path
    hosts: frozenset[str]
    token: str | None = None
    device: str = "auto"
    roots: tuple[Path, ...] = ()
    watch: bool = False


def create_app(config: ServeConfig) -> FastAPI:
    """The application over one index, its models loaded. Raises what `Engine.open` raises."""
    metrics = Metrics()
    service = SearchService(config.folder, config.device, metrics)
    files = Files(config.folder, config.roots, service.pictures, cache_dir() / "thumbs")
    roots = [*config.roots, *([config.folder.parent] if config.folder.name == ".mmsearch" else [])]
    watcher = Watcher(config.folder, roots, config.device) if config.watch else None
    service.warm()
    # What is loaded now stays: the collector need not look through the models again while a request waits.
    gc.collect()
    gc.freeze()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if watcher is not None:
            watcher.start()
        yield
        if watcher is not None:
            await asyncio.to_thread(watcher.close)
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="mmsearch",
        description="Search by meaning.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    _errors(app)
    _searching(app, service)
    _reading(app, service, files)
    _files(app, service, files)
    _about(app, service, watcher)
    routes = sorted({str(route.path).partition("/{")[0] for route in app.routes if hasattr(route, "path")}, key=len)
    app.add_middleware(Guard, hosts=config.hosts, token=config.token, metrics=metrics, routes=routes)
    return app


def _errors(app: FastAPI) -> None:
    def told(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(_: Request, error: Exception) -> Response:
            return JSONResponse({"error": " ".join(str(error).split()) or type(error).__name__}, status)

        return answer

    for kind, status in (
        (QueryError, 400), (ItemNotFoundError, 404), (MediaError, 404), (ModelError, 503), (Busy, 503), (MmsearchError, 503)
    ):  # fmt: skip
        app.add_exception_handler(kind, told(status))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": _first(error.errors())}, 422)

    @app.exception_handler(StarletteError)
    async def _plain(_: Request, error: StarletteError) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)


def _searching(app: FastAPI, service: SearchService) -> None:
    body = {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}, "text": {"type": "string"}},
                }
            },
        },
    }

    @app.post(
        "/api/search", response_model=SearchResponse, responses=_ERRORS, openapi_extra={"requestBody": body},
        summary="Search by words, a picture of the index, an uploaded picture, or a mixture",
    )  # fmt: skip
    async def search(request: Request) -> SearchResponse:
        began = time.perf_counter()
        asked, uploaded = await _asked(request)
        offset = _offset(asked.cursor)
        images: tuple[Image, ...] = ()
        if uploaded is not None:
            try:
                images = (await asyncio.to_thread(lambda: decode_image(uploaded, _UPLOAD_SIDE).rgb),)
            except MediaError as error:
                raise QueryError(f"the image cannot be read: {error.reason}") from error
        if not (asked.text or "").strip() and not asked.image_id and not images:
            raise QueryError("give some words, an image_id or an image")
        query = SearchQuery(
            text=asked.text if (asked.text or "").strip() else None,
            images=images,
            negatives=tuple(asked.negatives),
            like=(asked.image_id,) if asked.image_id else (),
            unlike=(asked.unlike_id,) if asked.unlike_id else (),
            kind=asked.kind,
            k=offset + asked.k,
            rerank=Rerank(reranker=service.reader) if asked.rerank else None,
            min_relevance=asked.min_relevance,
        )
        hits = await service.search(query)
        more = len(hits) == offset + asked.k and offset + 2 * asked.k <= DEEPEST
        return SearchResponse(
            hits=[_hit(hit) for hit in hits[offset:]],
            next=f"{offset + asked.k:x}" if more else None,
            milliseconds=round(1000 * (time.perf_counter() - began), 2),
            model=service.model,
        )

    # Referred to by the request body above, which FastAPI cannot see: it is JSON or a form.
    plain = app.openapi

    def with_request() -> dict[str, Any]:
        document = plain()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.setdefault(
            "SearchRequest", SearchRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        )
        return document

    app.openapi = with_request  # type: ignore[method-assign]

    @app.get("/api/items/{identity}", response_model=ItemModel, responses=_ERRORS, summary="One item of the index")
    async def item(identity: str) -> ItemModel:
        found = await service.item(identity)
        return ItemModel(
            **{name: getattr(found, name) for name in ItemModel.model_fields if not name.endswith("_url")},
            media_url=f"/media/{found.id}",
            thumb_url=f"/thumb/{found.id}",
        )


async def _asked(request: Request) -> tuple[SearchRequest, bytes | None]:
    """The request from JSON or a form, and the uploaded picture."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return SearchRequest.model_validate_json(await request.body()), None
        if kind != "multipart/form-data":
            raise HTTPException(422, "send application/json or multipart/form-data")
        async with request.form(max_files=1, max_fields=24, max_part_size=1_000_000) as form:
            image = form.get("image")
            value: dict[str, Any] = {name: form[name] for name in _FIELDS if form.get(name) not in (None, "")}
            value["not"] = [str(one) for one in form.getlist("not")]
            uploaded = await image.read() if isinstance(image, UploadFile) else None
            return SearchRequest.model_validate(value), uploaded
    except ValidationError as error:
        raise HTTPException(422, _first(error.errors())) from error


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        offset = int(cursor, 16)
    except ValueError as error:
        raise HTTPException(422, "cursor: not one that this server gave") from error
    if not 0 <= offset <= DEEPEST:
        raise HTTPException(422, "cursor: not one that this server gave")
    return offset


def _hit(hit: Hit) -> HitModel:
    value = hit.to_json()
    return HitModel(
        **value,  # type: ignore[arg-type]
        media_url=f"/media/{hit.item.id}",
        thumb_url=f"/thumb/{hit.item.id}",
        moments=[
            Span(start=one.item.start, end=one.item.end, score=one.score)
            for one in hit.moments
            if one.item.start is not None and one.item.end is not None
        ],
    )


def _reading(app: FastAPI, service: SearchService, files: Files) -> None:
    @app.post("/api/describe", response_model=DescribeResponse, responses=_ERRORS, summary="A caption of an item")
    async def describe(asked: DescribeRequest) -> DescribeResponse:
        item = await service.item(asked.id)
        if item.kind == "text":
            raise QueryError("a text needs no description; give the id of a picture or a moment")
        files.place(item)
        caption = await service.read("describe", lambda engine: engine.describe(item, service.reader))
        if caption is None:
            raise MediaError("decode", "the picture cannot be read")
        return DescribeResponse(id=item.id, caption=caption.text, log_probability=round(caption.log_probability, 4))

    @app.post("/api/ask", response_model=AskResponse, responses=_ERRORS, summary="An answer with its evidence")
    async def ask(asked: AskRequest) -> AskResponse:
        if not asked.question.strip():
            raise QueryError("the question is empty")
        found = await service.read(
            "ask", lambda engine: engine.evidence(asked.question, asked.k, reader=service.reader)
        )
        evidence = [
            EvidenceModel(
                id=hit.item.id, path=hit.item.path, start=hit.item.start, end=hit.item.end, caption=caption.text,
                score=hit.score, media_url=f"/media/{hit.item.id}", thumb_url=f"/thumb/{hit.item.id}",
            )
            for hit, caption in found
        ]  # fmt: skip
        told = [Evidence(path=e.path, start=e.start, end=e.end, caption=e.caption, score=e.score) for e in evidence]
        return AskResponse(question=asked.question, answer=compose(told), evidence=evidence)

    @app.get("/api/explain", response_class=Response, responses=_PNG, summary="Which parts of a picture words rest on")
    async def explain(
        id: Annotated[str, Query(max_length=64)], text: Annotated[str, Query(min_length=1, max_length=300)]
    ) -> Response:
        item = await service.item(id)
        if item.kind == "text" or not text.strip():
            raise QueryError("give the id of a picture or a moment, and words")
        files.place(item)
        drawn = await service.read(
            "explain", lambda engine: _explained(engine.reader(service.reader), files, item, text)
        )
        return Response(drawn, media_type="image/png")


def _explained(reader: Any, files: Files, item: Item, text: str) -> bytes:
    from retrieval.crossmodal.explain import draw, explain

    rgb = files.picture(item)
    sheet = draw(rgb, explain(reader, rgb, text), reader.spec.resize_mode, width=240)
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _files(app: FastAPI, service: SearchService, files: Files) -> None:
    slots = asyncio.Semaphore(4)

    @app.get("/media/{identity}", response_class=Response, responses=_FILE, summary="The file of an item, by ranges")
    async def media(identity: str) -> Response:
        item = await service.item(identity)
        place = await asyncio.to_thread(files.place, item)
        kind, shown = media_type(item.path)
        headers = {
            "Cache-Control": "private, max-age=60",
            "Content-Security-Policy": "default-src 'none'; sandbox; frame-ancestors 'none'",
        }
        content = await asyncio.to_thread(files.content, item)
        if content is not None:
            return Response(content, media_type=kind, headers=headers)
        return FileResponse(
            place,
            media_type=kind,
            headers=headers,
            filename=Path(item.path).name.encode("utf-8", "replace").decode(),
            content_disposition_type="inline" if shown else "attachment",
        )

    @app.get("/thumb/{identity}", response_class=Response, responses=_JPEG, summary="A small picture of an item")
    async def thumb(identity: str, size: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
        item = await service.item(identity)
        if item.kind == "text" and item.path == item.source:
            raise MediaError("read", "a text has no picture")
        with service.metrics.stage("thumb"):
            content = await asyncio.to_thread(files.kept, item, size)
            if content is None:
                async with slots:
                    content = await asyncio.to_thread(files.thumb, item, size)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})


def _about(app: FastAPI, service: SearchService, watcher: Watcher | None) -> None:
    @app.get("/api/status", response_model=StatusResponse, responses=_ERRORS, summary="What the index holds")
    async def status() -> StatusResponse:
        held = await service.ask(lambda engine: (engine.status(), engine.manifest.generation))
        state = WatchModel(**vars(watcher.state)) if watcher is not None else None
        return StatusResponse(**held[0], generation=held[1], reader=service.reader, watch=state)  # type: ignore[arg-type]

    @app.get("/healthz", summary="Whether the index can be read")
    async def healthz() -> dict[str, str]:
        await asyncio.to_thread(read_manifest, service.folder)
        return {"status": "ok"}

    @app.get("/metrics", response_class=Response, include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(documents(app.openapi(), nonce), headers={"Content-Security-Policy": policy(nonce)})

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def root() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        headers = {"Content-Security-Policy": policy(nonce), "Cache-Control": "no-store"}
        return HTMLResponse(page(nonce), headers=headers)


def _first(errors: Sequence[Any]) -> str:
    """The first of pydantic's findings, in one sentence."""
    error = errors[0]
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    return f"{where}: {error['msg']}" if where else str(error["msg"])

"""Routes that read pixels and words together: captions, answers, and why an image matched."""

from __future__ import annotations

import io
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response

from media.names import base64_name, valid_text
from retrieval.crossmodal.answer import Evidence, compose
from retrieval.errors import MediaError, QueryError
from retrieval.types import Item
from server.http import REVALIDATE, etag, not_modified
from server.media import Files, version
from server.models import AskRequest, AskResponse, DescribeRequest, DescribeResponse, EvidenceModel
from server.openapi import ERRORS, binary
from server.searching import details_model, media_url, thumb_url
from server.service import SearchService


def add_reading(app: FastAPI, service: SearchService, files: Files) -> None:
    """The routes."""

    @app.post("/api/describe", response_model=DescribeResponse, responses=ERRORS, summary="A caption of an item")
    async def describe(request: Request, asked: DescribeRequest) -> DescribeResponse:
        return await described(service, files, asked.id, request)

    @app.post("/api/ask", response_model=AskResponse, responses=ERRORS, summary="An answer with its evidence")
    async def ask(request: Request, asked: AskRequest) -> AskResponse:
        return await answered(service, asked, request)

    @app.get(
        "/api/explain", response_class=Response, responses=binary("image/png", "The picture, once for each word"),
        summary="Which parts of a picture words rest on",
    )  # fmt: skip
    async def explain(
        request: Request,
        id: Annotated[str, Query(max_length=64)],
        text: Annotated[str, Query(min_length=1, max_length=2000)],
    ) -> Response:
        item = await service.item(id, request)
        if item.kind == "text" or not text.strip():
            raise QueryError("give the id of a picture or a moment, and words")
        headers = {"ETag": etag(version(item), text, service.model, service.captioner), "Cache-Control": REVALIDATE}
        same = not_modified(request, headers)
        if same is not None:
            return same
        files.place(item)
        drawn = await service.read(
            "explain", lambda engine: _explained(engine.captioner(service.captioner), files, item, text), request
        )
        return Response(drawn, media_type="image/png", headers=headers)


async def described(
    service: SearchService, files: Files, identity: str, request: Request | None = None
) -> DescribeResponse:
    """A caption of an item. Raises `QueryError` for a text, `MediaError` where it cannot be read, and `ModelError`."""
    item = await service.item(identity, request)
    if item.kind == "text":
        raise QueryError("a text needs no description; give the id of a picture or a moment")
    files.place(item)
    caption = await service.read("describe", lambda engine: engine.describe(item, service.captioner), request)
    if caption is None:
        raise MediaError("decode", "the picture cannot be read")
    return DescribeResponse(
        id=item.id, caption=caption.text, log_probability=caption.log_probability, tokens=list(caption.ids)
    )


async def answered(service: SearchService, asked: AskRequest, request: Request | None = None) -> AskResponse:
    """An answer with its evidence. Raises `QueryError` and `ModelError`."""
    if not asked.question.strip():
        raise QueryError("the question is empty")
    captioned = await service.read(
        "ask",
        lambda engine: engine.evidence(
            asked.question,
            asked.k,
            min_relevance=asked.min_relevance,
            candidates=asked.candidates,
            captioner=service.captioner,
        ),
        request,
    )
    evidence = [
        EvidenceModel(
            id=hit.item.id, path=valid_text(hit.item.path), path_raw=base64_name(hit.item.path),
            start=hit.item.start, end=hit.item.end, caption=caption.text, log_probability=caption.log_probability,
            tokens=list(caption.ids), score=hit.score, media_url=media_url(hit.item), thumb_url=thumb_url(hit.item),
            details=details_model(hit) if asked.details else None,
        )
        for hit, caption in captioned
    ]  # fmt: skip
    cited = [Evidence(path=e.path, start=e.start, end=e.end, caption=e.caption, score=e.score) for e in evidence]
    return AskResponse(question=asked.question, answer=compose(cited), evidence=evidence)


def _explained(loaded: Any, files: Files, item: Item, text: str) -> bytes:
    from media.marks import png_mark
    from retrieval.crossmodal.explain import draw, explain

    rgb = files.image(item)
    sheet = draw(rgb, explain(loaded, rgb, text), loaded.spec.resize_mode, width=240)
    out = io.BytesIO()
    sheet.save(out, "PNG", pnginfo=png_mark())
    return out.getvalue()

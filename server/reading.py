"""Routes that read pixels and words together: captions, answers, and why an image matched."""

from __future__ import annotations

import io
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from numpy.typing import NDArray

from media.names import base64_name, valid_text
from retrieval.crossmodal.answer import Evidence, compose
from retrieval.errors import MediaError, QueryError
from retrieval.types import Item
from retrieval.types import Query as SearchQuery
from server.http import REVALIDATE, etag, not_modified
from server.media import Files, version
from server.models import (
    AskRequest,
    AskResponse,
    DescribeRequest,
    DescribeResponse,
    EvidenceModel,
    WordMap,
    WordMapsResponse,
)
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

    @app.get(
        "/api/explain/words", response_model=WordMapsResponse, responses=ERRORS,
        summary="The same as numbers, for each word that says something",
    )  # fmt: skip
    async def word_maps(
        request: Request,
        id: Annotated[str, Query(max_length=64)],
        text: Annotated[str, Query(min_length=1, max_length=2000)],
    ) -> WordMapsResponse:
        item = await service.item(id, request)
        line = SearchQuery.parse(text)
        words = line.words or " ".join(line.filter.phrases)
        if item.kind == "text" or not words:
            raise QueryError("give the id of a picture or a moment, and words")
        files.place(item)
        return await service.read(
            "explain", lambda engine: _word_maps(engine.captioner(service.captioner), files, item, words), request
        )


def _word_maps(loaded: Any, files: Files, item: Item, text: str) -> WordMapsResponse:
    from retrieval.crossmodal.explain import explain, view_of
    from retrieval.ranking.stop_words import STOP_WORDS

    rgb = files.image(item)
    maps = explain(loaded, rgb, text)
    every = list(zip(maps.words, maps.relevance, strict=True))
    said = [(word, grid) for word, grid in every if word.casefold().strip(".,;:!?'\"") not in STOP_WORDS] or every
    left, top, right, bottom = view_of(rgb, loaded.spec.resize_mode)
    width, height = rgb.size
    return WordMapsResponse(
        region=(left / width, top / height, (right - left) / width, (bottom - top) / height),
        whole=_levels(np.mean([grid for _, grid in said], axis=0)),
        words=[WordMap(word=word, relevance=_levels(grid)) for word, grid in said],
    )


def _levels(grid: NDArray[np.float32]) -> list[list[float]]:
    """A map with its most as 1."""
    most = float(grid.max())
    return [[round(float(cell) / most, 3) if most > 0 else 0.0 for cell in row] for row in grid]


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

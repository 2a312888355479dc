"""`/api/search`, what is uploaded to it, and single items."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Request, Response
from fastapi import Query as Parameter
from PIL.Image import Image
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from media.names import valid_json, valid_text
from retrieval.errors import QueryError
from retrieval.query import add_filters, parse_region
from retrieval.search import asked_filter
from retrieval.types import Filter, Hit, Item, Query, Rerank
from server.errors import first_finding
from server.http import FOR_EVER, etag, not_modified
from server.media import version
from server.models import (
    DEEPEST_LIST,
    DetailsModel,
    FacetsResponse,
    HitModel,
    ItemModel,
    Narrowed,
    RerankModel,
    SearchRequest,
    SearchResponse,
    UploadResponse,
)
from server.openapi import ERRORS, SEARCH_BODY, UPLOAD_BODY, binary
from server.service import SearchService
from server.uploads import Uploads

# Fields that a form may repeat.
_SEVERAL = frozenset(("not", "in", "image_id", "unlike_id", "picture"))
_ALIASES = frozenset(field.alias or name for name, field in SearchRequest.model_fields.items())


def add_searching(app: FastAPI, service: SearchService, uploads: Uploads, deepest: int) -> None:
    """The routes; no cursor leads further than `deepest` hits."""

    @app.post(
        "/api/search", response_model=SearchResponse, responses=ERRORS, openapi_extra={"requestBody": SEARCH_BODY},
        summary="Search by words, a picture of the index, an uploaded picture, or a mixture",
    )  # fmt: skip
    async def search(request: Request) -> SearchResponse:
        began = time.perf_counter()
        form: FormData | None = None
        try:
            if _content_type(request) == "multipart/form-data":
                form = await request.form(max_files=1, max_fields=64, max_part_size=1_000_000)
                asked, uploaded = _from_form(form)
            else:
                asked, uploaded = await _from_json(request), None
            pictures = [asked.picture] if isinstance(asked.picture, str) else asked.picture or []
            if uploaded is not None:
                pictures = [await uploads.take(uploaded.file, request)]
        finally:
            if form is not None:
                await form.close()
        page = await find(service, asked, tuple(map(uploads.image, pictures)), deepest, request)
        page.picture = pictures[0] if pictures else None
        page.milliseconds = round(1000 * (time.perf_counter() - began), 2)
        return page

    @app.get(
        "/api/facets", response_model=FacetsResponse, responses=ERRORS,
        summary="How many items filters leave, by year, month, folder, camera, place and kind",
    )  # fmt: skip
    async def facets(request: Request, asked: Annotated[Narrowed, Parameter()]) -> FacetsResponse:
        return FacetsResponse.model_validate(vars(await service.facets(facets_filter(asked), request)))

    @app.post(
        "/api/upload", response_model=UploadResponse, responses=ERRORS, openapi_extra={"requestBody": UPLOAD_BODY},
        summary="Send an image to search by, once",
    )  # fmt: skip
    async def send(request: Request) -> UploadResponse:
        if _content_type(request) != "multipart/form-data":
            raise HTTPException(422, "send multipart/form-data")
        async with request.form(max_files=1, max_fields=0, max_part_size=1_000_000) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile) or len(form) != 1:
                raise HTTPException(422, "image: send one file, and nothing else")
            return UploadResponse(picture=await uploads.take(image.file, request))

    @app.get(
        "/upload/{picture}", response_class=Response, responses=binary("image/jpeg", "A small JPEG"),
        summary="A small picture of an uploaded image, by its hash",
    )  # fmt: skip
    async def upload(request: Request, picture: str = Path(max_length=64)) -> Response:
        headers = {"ETag": etag(picture), "Cache-Control": FOR_EVER}
        preview = uploads.preview(picture)
        return not_modified(request, headers) or Response(preview, media_type="image/jpeg", headers=headers)

    @app.get("/api/items/{identity}", response_model=ItemModel, responses=ERRORS, summary="One item of the index")
    async def item(request: Request, identity: str) -> ItemModel:
        return item_model(await service.item(identity, request))


async def find(
    service: SearchService,
    asked: SearchRequest,
    images: tuple[Image, ...],
    deepest: int,
    request: Request | None = None,
) -> SearchResponse:
    """The page of hits that is asked for, of a search that may have uploaded `images`; no cursor leads further than `deepest`
    hits. Raises what `SearchService.search` raises."""
    began = time.perf_counter()
    state, offset = read_cursor(asked.cursor)
    offset = offset if asked.offset is None else asked.offset
    query = _query(asked, images, offset, service.captioner)
    if not query.lists and offset > deepest:
        raise HTTPException(422, f"a search leads {deepest:,} hits deep at most; narrow it to see others")
    result = await service.search(query, request, state)
    answer = result.answer
    end, first = offset + asked.k, offset - query.skip
    more = len(answer.hits) > first + asked.k
    return SearchResponse(
        hits=[hit_model(hit, details=asked.details) for hit in answer.hits[first : first + asked.k]],
        next=f"{result.state}.{end:x}" if more and (query.lists or end + asked.k <= deepest) else None,
        more=more,
        total=answer.total,
        truncated=result.truncated,
        picture=None,
        notes=list(answer.notes),
        seen=answer.seen,
        unreadable=[(valid_text(path), reason) for path, reason in answer.unreadable],
        out_of_time=answer.out_of_time,
        text_cut=answer.text_cut,
        unindexed=answer.unindexed,
        milliseconds=round(1000 * (time.perf_counter() - began), 2),
        model=result.model,
    )


def facets_filter(asked: Narrowed) -> Filter:
    """What the fields of a request let pass. Raises `QueryError`."""
    line = Query.parse(asked.text or "")
    return asked_filter(replace(line, kind=asked.kind, filter=_narrow(line.filter, asked)))


def media_url(item: Item) -> str:
    """Where the file of an item is served."""
    return f"/media/{item.id}"


def thumb_url(item: Item) -> str:
    """Where its thumbnail is served; the address changes with the image."""
    return f"/thumb/{item.id}/{version(item)}"


def item_model(item: Item) -> ItemModel:
    """An item as the API gives it."""
    names = [name for name in ItemModel.model_fields if not name.endswith(("_url", "_raw"))]
    facts = valid_json({name: getattr(item, name) for name in names})
    return ItemModel.model_validate({**facts, "media_url": media_url(item), "thumb_url": thumb_url(item)})


def hit_model(hit: Hit, *, details: bool = False) -> HitModel:
    """A hit as the API gives it, with all that the index knows of it where `details` are asked for."""
    addresses = {"media_url": media_url(hit.item), "thumb_url": thumb_url(hit.item)}
    whole = details_model(hit) if details else None
    return HitModel.model_validate({**valid_json(hit.to_json()), **addresses, "details": whole})


def details_model(hit: Hit) -> DetailsModel:
    """A hit with its whole item and moments."""
    names = ("rank", "score", "first_stage_score", "rerank_score", "relevance", "matched", "matched_words", "copies")
    facts = valid_json({name: getattr(hit, name) for name in names})
    moments = [details_model(moment) for moment in hit.moments]
    return DetailsModel.model_validate({**facts, "item": item_model(hit.item), "moments": moments})


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _from_json(request: Request) -> SearchRequest:
    if _content_type(request) != "application/json":
        raise HTTPException(422, "send application/json or multipart/form-data")
    try:
        return SearchRequest.model_validate_json(await request.body())
    except ValidationError as error:
        raise HTTPException(422, first_finding(error.errors())) from error


def _from_form(form: FormData) -> tuple[SearchRequest, UploadFile | None]:
    """The same request from a form, where every value is a text and an empty one counts as absent."""
    value: dict[str, Any] = {}
    uploaded: UploadFile | None = None
    for name, given in form.multi_items():
        if name == "image":
            if not isinstance(given, UploadFile):
                raise HTTPException(422, "image: send a file")
            uploaded = given
        elif name not in _ALIASES:
            raise HTTPException(422, f"{name[:64]}: there is no such field")
        elif isinstance(given, UploadFile):
            raise HTTPException(422, f"{name}: send text")
        elif name in _SEVERAL:
            if given != "" or name == "not":
                value.setdefault(name, []).append(given)
        elif name in value:
            raise HTTPException(422, f"{name}: given twice")
        elif given != "":
            value[name] = given
    try:
        return SearchRequest.model_validate(value), uploaded
    except ValidationError as error:
        raise HTTPException(422, first_finding(error.errors())) from error


def read_cursor(cursor: str | None) -> tuple[str | None, int]:
    """The state of the index that a cursor is of, and where its page begins. Raises `HTTPException` (422)."""
    if cursor is None:
        return None, 0
    state, _, place = cursor.partition(".")
    try:
        offset = int(place, 16)
    except ValueError as error:
        raise HTTPException(422, "cursor: not one that this server gave") from error
    if not 0 < offset <= DEEPEST_LIST:
        raise HTTPException(422, "cursor: not one that this server gave")
    return state, offset


def _query(asked: SearchRequest, images: tuple[Image, ...], offset: int, reranker: str) -> Query:
    line = Query.parse(asked.text or "")
    region = parse_region(asked.region) if isinstance(asked.region, str) else asked.region
    if any(not text.strip() for text in asked.negatives):
        raise QueryError("not: every entry needs some words")
    like = _ids(asked.image_id)
    query = replace(
        line,
        images=images,
        negatives=(*line.negatives, *asked.negatives),
        like=like,
        unlike=_ids(asked.unlike_id),
        region=region,
        kind=asked.kind,
        filter=_narrow(line.filter, asked),
        sort=asked.sort,
        # One more than is wanted tells whether there is a next page.
        k=offset + asked.k + 1,
        rerank=_rerank(asked.rerank, reranker),
        group=not asked.moments,
        min_relevance=asked.min_relevance,
        match=asked.match,
        prefix=asked.prefix,
        copies=asked.copies,
    )
    if query.words is None and not like and not images and not query.lists:
        raise QueryError("give some words, an image_id, an image or a filter")
    # A list can begin anywhere; a search has to rank what comes before.
    return replace(query, skip=offset, k=asked.k + 1) if query.lists else query


def _ids(given: str | list[str] | None) -> tuple[str, ...]:
    return tuple(identity for identity in ([given] if isinstance(given, str) else given or []) if identity)


def _rerank(asked: bool | RerankModel, reranker: str) -> Rerank | None:
    if isinstance(asked, RerankModel):
        return Rerank(**asked.model_dump(), reranker=reranker)
    return Rerank(reranker=reranker) if asked else None


def _narrow(wanted: Filter, asked: Narrowed) -> Filter:
    """A filter with what the fields of a request say beside the line. Raises `QueryError`."""
    fields = [("after", asked.after), ("before", asked.before), ("camera", asked.camera), ("near", asked.near)]
    fields += [("in", folder) for folder in asked.folders]
    return add_filters(wanted, [(name, value) for name, value in fields if value is not None])

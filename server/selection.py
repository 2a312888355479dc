"""`/api/selection`: what can be done with items that somebody has selected. Nothing here changes or deletes anything."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import json
from collections.abc import AsyncIterator, Iterator
from typing import Literal

from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import ValidationError
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from media.names import base64_name, printable, valid_json, valid_text
from retrieval.cancellation import Cancellation
from retrieval.errors import ItemNotFoundError, MediaError
from retrieval.store.export import harmless_cell
from retrieval.types import Hit, Item
from server.archive import archive, contents
from server.errors import first_finding
from server.lanes import Busy, Lane
from server.media import Files, has_image
from server.models import MOST_SELECTED, SelectionRequest
from server.openapi import SELECTION, SELECTION_BODY
from server.service import SearchService
from server.sheet import CLOSING, item_card, opening

_MOST_ON_A_SHEET = 500
_AT_ONCE = 3
_THUMB = 384
Form = Literal["zip", "csv", "json", "html", "txt"]
_TYPES = {
    "zip": "application/zip",
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}
_COLUMNS = (
    "id", "kind", "path", "start", "end", "text", "width", "height", "size", "taken_at", "camera", "latitude", "longitude",
    "place", "rating", "words",
)  # fmt: skip
# What only a search knows of a hit.
_OF_SEARCH = ("score", "first_stage_score", "rerank_score")


class _Archive(StreamingResponse):
    """Holds its place among those that are sent at a time until it is sent, or its client has gone."""

    def __init__(self, parts: Iterator[bytes], headers: dict[str, str], places: asyncio.Semaphore) -> None:
        super().__init__(iterate_in_threadpool(parts), media_type=_TYPES["zip"], headers=headers)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._places:
            await super().__call__(scope, receive, send)


def add_selection(app: FastAPI, service: SearchService, files: Files, *, reads: Lane, makes: Lane) -> None:
    """The routes. `reads` is the lane for what is on disk, `makes` the one for images that have to be decoded."""
    places = asyncio.Semaphore(_AT_ONCE)

    @app.post(
        "/api/selection/{form}", response_class=Response, responses=SELECTION,
        openapi_extra={"requestBody": SELECTION_BODY},
        summary="Selected items as a zip of their files, a table, JSON, a contact sheet, or a list of paths",
    )  # fmt: skip
    async def selection(request: Request, form: Form) -> Response:
        asked = await _asked(request)
        items = await service.items(list(dict.fromkeys(asked.ids)), request)
        if not items:
            raise ItemNotFoundError("none of these items is in the index any more; search again")
        headers = {
            "Content-Disposition": f'attachment; filename="selection.{form}"',
            "Cache-Control": "no-store",
        }
        if form == "zip":
            if places.locked():
                raise Busy("too many archives are being sent; try again in a moment", 30)
            found = await reads.run(lambda _: contents(items, files), request)
            return _Archive(archive(found, files), headers, places)
        if form == "html":
            if len(items) > _MOST_ON_A_SHEET:
                raise HTTPException(422, f"ids: a contact sheet may have {_MOST_ON_A_SHEET} items at most")
            return StreamingResponse(sheet(items), media_type=_TYPES[form], headers=headers)
        written = {"csv": _csv, "json": _json, "txt": _paths}[form](items)
        return Response(written, media_type=_TYPES[form], headers=headers)

    async def sheet(items: list[Item]) -> AsyncIterator[str]:
        yield opening(html.escape(f"{len(items)} selected")) + "<ol>\n"
        for item in items:
            yield item_card(item, await thumb(item))
        yield "</ol>" + CLOSING

    async def thumb(item: Item) -> bytes | None:
        if not has_image(item):
            return None

        def make(cancellation: Cancellation) -> bytes:
            cancellation.check()
            return files.cached_thumb(item, _THUMB) or files.thumb(item, _THUMB)

        try:
            return await makes.run(make)
        except (MediaError, Busy):
            # The sheet has begun: the item is shown by its name.
            return None


async def _asked(request: Request) -> SelectionRequest:
    """The ids, from JSON or from a form, as whose answer a browser saves a file."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return SelectionRequest.model_validate_json(await request.body())
        if kind == "application/x-www-form-urlencoded":
            async with request.form(max_files=0, max_fields=MOST_SELECTED + 1) as form:
                return SelectionRequest.model_validate({**form, "ids": form.getlist("ids")})
    except ValidationError as error:
        raise HTTPException(422, first_finding(error.errors())) from error
    raise HTTPException(422, "send application/json or application/x-www-form-urlencoded")


def _csv(items: list[Item]) -> str:
    """A table of what is known of items; text that a spreadsheet would run has a `'` before it."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*_COLUMNS[:3], "path_raw", *_COLUMNS[3:]])
    for item in items:
        cells = [_cell(getattr(item, name)) for name in _COLUMNS]
        writer.writerow([*cells[:3], base64_name(item.path), *cells[3:]])
    return out.getvalue()


def _cell(value: object) -> object:
    return harmless_cell(valid_text(value)) if isinstance(value, str) else value


def _json(items: list[Item]) -> str:
    """A list of objects with the keys of `search --json`, null where only a search knows."""
    listed = []
    for rank, item in enumerate(items, 1):
        hit = Hit(rank=rank, score=0, first_stage_score=0, rerank_score=None, item=item, matched=())
        listed.append(valid_json({**hit.to_json(), **dict.fromkeys(_OF_SEARCH)}))
    return json.dumps(listed, ensure_ascii=False, indent=1)


def _paths(items: list[Item]) -> str:
    """A path a line, each once."""
    return "".join(f"{path}\n" for path in dict.fromkeys(printable(item.path) for item in items))

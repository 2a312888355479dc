"""`/api/items/{id}/file`: what belongs together, a video with its moments and subtitles, a picture with its captions."""

from __future__ import annotations

import os

from fastapi import FastAPI, Request

from media.names import valid_text
from media.types import MEMBER
from retrieval.store.roots import Roots
from retrieval.types import Item
from server.models import FileMoment, FileResponse, FileText
from server.openapi import ERRORS
from server.searching import thumb_url
from server.service import SearchService


def add_related(app: FastAPI, service: SearchService) -> None:
    """The route."""

    @app.get(
        "/api/items/{identity}/file", response_model=FileResponse, responses=ERRORS,
        summary="What the index holds of the file of an item: its moments, and the texts about it",
    )  # fmt: skip
    async def file(request: Request, identity: str) -> FileResponse:
        items, roots = await service.same_file(identity, request)
        return _file_response(items, roots)


def _file_response(items: list[Item], roots: Roots) -> FileResponse:
    shown = next((item for item in items if item.kind != "text"), items[0])
    place = roots.split(shown.path)[1] if roots.find(shown.path) is not None else os.path.basename(shown.path)
    return FileResponse(
        kind=shown.kind,
        place=valid_text(place.replace(os.sep, "/")),
        folder=valid_text(os.path.dirname(place.partition(MEMBER)[0]).replace(os.sep, "/")),
        moments=[
            FileMoment(id=item.id, start=item.start, end=item.end, thumb_url=thumb_url(item))
            for item in items
            if item.kind == "video" and item.start is not None and item.end is not None
        ],
        texts=[
            FileText(id=item.id, text_kind=item.text_kind, start=item.start, end=item.end, text=item.text)
            for item in items
            if item.kind == "text" and item.text is not None
        ],
    )

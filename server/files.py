"""`/media`, `/preview` and `/thumb`: the files of items, previews of their videos, and their thumbnails."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from media.names import valid_text
from retrieval.cancellation import Cancellation
from retrieval.errors import MediaError
from server.http import FOR_EVER, REVALIDATE, bytes_response, etag, file_response, film_response, not_modified
from server.lanes import Lane
from server.media import Files, has_image, is_page, media_type, next_size, version
from server.openapi import FILE, binary
from server.service import SearchService

# A file opened alone is shown by a page of the browser's own, which has a style and an element for the media. It is of this
# origin, since a video is asked for again by that page, and to an origin of nobody browsers refuse it; no script runs there.
_ALONE = (
    "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox allow-same-origin; "
    "frame-ancestors 'none'"
)
_JPEG = binary("image/jpeg", "The picture")


def add_files(app: FastAPI, service: SearchService, files: Files, *, reads: Lane, makes: Lane, previews: Lane) -> None:
    """The routes. `reads` is the lane for what is on disk as it is wanted, `makes` the one for images that have to be decoded,
    `previews` the one for videos."""

    @app.get("/media/{identity}", response_class=Response, responses=FILE, summary="The file of an item, by ranges")
    async def media(request: Request, identity: str) -> Response:
        item = await service.item(identity, request)
        path = item.source if is_page(item) else item.path
        kind, inline = media_type(path)
        headers = {"Cache-Control": REVALIDATE, "Content-Security-Policy": _ALONE}

        def answer(_: Cancellation) -> Response:
            place = files.place(item)
            content = files.content(item)
            if content is not None:
                return bytes_response(request, content, kind, headers)
            film = files.film(item)
            try:
                if film is not None:
                    return film_response(request, place, film, headers)
                return file_response(request, place, kind, headers, valid_text(Path(path).name), inline=inline)
            except OSError as error:
                raise MediaError("read", "the file is gone") from error

        return await reads.run(answer, request)

    @app.get(
        "/preview/{identity}", response_class=Response, responses=binary("video/mp4", "The stretch of the video"),
        summary="A moment of a video, or another stretch of it, as an MP4 that every browser plays",
    )  # fmt: skip
    async def preview(
        request: Request,
        identity: str,
        start: Annotated[float | None, Query(ge=0, le=1e7, allow_inf_nan=False)] = None,
        end: Annotated[float | None, Query(ge=0, le=1e7, allow_inf_nan=False)] = None,
    ) -> Response:
        item = await service.item(identity, request)
        if item.kind != "video" or item.start is None or item.end is None:
            raise MediaError("read", "only moments of videos have previews")
        first, last = (item.start, item.end) if start is None or end is None else (start, end)
        if last <= first:
            raise MediaError("read", "the end of a preview is after its start")
        content = await previews.run(lambda asked: files.preview(item, first, last, asked), request)
        headers = {"Cache-Control": REVALIDATE, "Content-Security-Policy": _ALONE}
        return bytes_response(request, content, "video/mp4", headers)

    @app.get("/thumb/{identity}", response_class=Response, responses=_JPEG, summary="A small picture of an item")
    async def thumb(request: Request, identity: str, size: Annotated[int, Query(ge=16, le=1024)] = 256) -> Response:
        return await small(request, identity, None, size)

    @app.get(
        "/thumb/{identity}/{wanted}", response_class=Response, responses=_JPEG,
        summary="The same at the address of one version of it, which never changes",
    )  # fmt: skip
    async def versioned(
        request: Request, identity: str, wanted: str, size: Annotated[int, Query(ge=16, le=1024)] = 256
    ) -> Response:
        return await small(request, identity, wanted, size)

    async def small(request: Request, identity: str, wanted: str | None, size: int) -> Response:
        item = await service.item(identity, request)
        if not has_image(item):
            raise MediaError("read", "a text has no picture")
        now = version(item)
        headers = {
            "ETag": etag(now, next_size(size)),
            "Cache-Control": FOR_EVER if wanted == now else REVALIDATE,
        }
        same = not_modified(request, headers)
        if same is not None:
            return same

        def make(cancellation: Cancellation) -> bytes:
            cancellation.check()
            return files.thumb(item, size)

        with service.metrics.stage("thumb"):
            content = await reads.run(lambda _: files.cached_thumb(item, size), request)
            if content is None:
                content = await makes.run(make, request)
        return Response(content, media_type="image/jpeg", headers=headers)

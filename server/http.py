"""What HTTP asks of every answer: validators and 304, byte ranges, and compression of what gains by it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime

from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

FOR_EVER = "private, max-age=31536000, immutable"
REVALIDATE = "private, no-cache"
# Pictures and archives, which gain nothing, and files whose ranges count bytes.
_PLAIN = ("/media/", "/thumb/", "/upload/", "/preview/", "/api/selection/zip")
_RANGE = re.compile(r"\s*(\d*)\s*-\s*(\d*)\s*")


def etag(*parts: object) -> str:
    """A validator of what `parts` make up."""
    return f'"{hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]}"'


def not_modified(request: Request, headers: Mapping[str, str]) -> Response | None:
    """304 where the client has what these headers (`ETag`, `Last-Modified`) describe (RFC 9110, section 13)."""
    given = request.headers.get("if-none-match")
    if given is not None:
        tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
        same = "*" in tags or headers.get("ETag", "").removeprefix("W/") in tags
    else:
        same = _not_after(headers.get("Last-Modified"), request.headers.get("if-modified-since"))
    return Response(status_code=304, headers=dict(headers)) if same else None


def _not_after(modified: str | None, since: str | None) -> bool:
    if modified is None or since is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except (ValueError, TypeError):
        return False


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The half-open range of bytes that a Range header asks for; None where it is to be ignored: another unit, no range, or
    several. Raises `ValueError` where none of the `size` bytes is in it."""
    unit, mark, ranges = header.partition("=")
    match = _RANGE.fullmatch(ranges)
    if not mark or unit.strip().lower() != "bytes" or match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= min(stop, size):
        raise ValueError(f"no byte of {size} is in that range")
    return start, stop


def file_response(
    request: Request, file: str, kind: str, headers: dict[str, str], name: str, *, inline: bool
) -> Response:
    """A file or the range of it that is asked for. Raises `OSError` where it is gone."""
    stat = os.stat(file)
    headers = {
        **headers,
        "ETag": etag(file, stat.st_mtime_ns, stat.st_size, stat.st_ino),
        "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
    }
    same = not_modified(request, headers)
    if same is not None:
        return same
    try:
        part = _wanted(request, stat.st_size, headers)
    except ValueError as error:
        return _unsatisfiable(stat.st_size, error)
    if part is None:
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0].lower() != b"range"]
    shown = name.encode("utf-8", "replace").decode()
    return _File(
        file,
        media_type=kind,
        headers=headers,
        filename=shown,
        stat_result=stat,
        content_disposition_type="inline" if inline else "attachment",
    )


def bytes_response(request: Request, content: bytes, kind: str, headers: dict[str, str]) -> Response:
    """The same for bytes that are no file of their own."""
    headers = {**headers, "ETag": etag(hashlib.sha256(content).hexdigest()), "Accept-Ranges": "bytes"}
    same = not_modified(request, headers)
    if same is not None:
        return same
    try:
        part = _wanted(request, len(content), headers)
    except ValueError as error:
        return _unsatisfiable(len(content), error)
    if part is None:
        return Response(content, media_type=kind, headers=headers)
    start, stop = part
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
    return Response(content[start:stop], 206, headers, kind)


def _wanted(request: Request, size: int, headers: Mapping[str, str]) -> tuple[int, int] | None:
    """The range to answer with; None for the whole. Raises `ValueError` for one that cannot be had."""
    given = request.headers.get("range")
    condition = request.headers.get("if-range")
    if given is None or (
        condition is not None and condition not in (headers.get("ETag"), headers.get("Last-Modified"))
    ):
        return None
    return parse_range(given, size)


def _unsatisfiable(size: int, error: ValueError) -> Response:
    return JSONResponse({"error": str(error)}, 416, {"Content-Range": f"bytes */{size}"})


class _File(FileResponse):
    """Opens no file for HEAD, which reaches the routes as GET."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__({**scope, "method": "HEAD"} if scope.get("mmsearch.head") else scope, receive, send)


class Compressed:
    """ASGI middleware: pages, scripts and JSON compressed; files of items as they are, since their ranges count bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._compressed = GZipMiddleware(app, minimum_size=1000, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = scope["type"] != "http" or scope["path"].startswith(_PLAIN)
        await (self._plain if plain else self._compressed)(scope, receive, send)

"""Errors as answers: every one is `{"error": "one sentence"}`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from media.names import valid_text
from retrieval.cancellation import Cancelled
from retrieval.errors import (
    IndexNotFoundError,
    ItemNotFoundError,
    MediaError,
    MmsearchError,
    ModelError,
    QueryError,
    UsageError,
)
from server.lanes import Busy, ClientGone
from server.service import ResultsChanged
from server.uploads import ImageNotFoundError

ERROR_HEADER = "Mmsearch-Error"
# Nobody reads it: for the counts alone.
_GONE = 499
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (QueryError, 400),
    (ItemNotFoundError, 404),
    (ImageNotFoundError, 404),
    (MediaError, 404),
    (ResultsChanged, 409),
    (ModelError, 503),
    (Busy, 503),
    (UsageError, 400),
    (MmsearchError, 503),
    (ClientGone, _GONE),
    (Cancelled, _GONE),
    (ClientDisconnect, _GONE),
)
_INDEX_PAUSE = 5
_OPTION = re.compile(r"(?<![\w-])--?([a-z][a-z-]*)(?: [A-Z]{2,})?(?![\w-])")


def add_errors(app: FastAPI) -> None:
    """Have every failure answered so."""

    def answering(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(_: Request, error: Exception) -> Response:
            # Which error it was, for programs that speak our language.
            headers = {ERROR_HEADER: type(error).__name__}
            if isinstance(error, Busy):
                headers["Retry-After"] = str(error.seconds)
            elif isinstance(error, IndexNotFoundError):
                headers["Retry-After"] = str(_INDEX_PAUSE)
            message = " ".join(valid_text(str(error)).split()) or type(error).__name__
            return JSONResponse({"error": in_api_words(message)}, status, headers)

        return answer

    for kind, status in _STATUS:
        app.add_exception_handler(kind, answering(status))

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"error": first_finding(error.errors())}, 422)

    @app.exception_handler(HTTPException)
    async def _plain(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": valid_text(str(error.detail))}, error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, __: Exception) -> Response:
        # What it was is in the server's own log, whose reader can do something about it.
        return JSONResponse({"error": "something went wrong in the server; its log says what"}, 500)


def in_api_words(message: str) -> str:
    """A message that speaks of the command's options, with the names of the API's fields instead."""
    return _OPTION.sub(lambda match: match.group(1).replace("-", "_"), message)


def first_finding(errors: Sequence[Any]) -> str:
    """The first of pydantic's findings, in one sentence."""
    error = errors[0]
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path"))
    return valid_text(f"{where}: {error['msg']}" if where else str(error["msg"]))

"""The OpenAPI document, with what FastAPI cannot see: bodies that are JSON or a form, the token, and what the guard answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from server.access import OPEN
from server.models import ErrorResponse, SearchForm, SearchRequest, SelectionRequest, UploadForm

_REF = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _error(description: str, *headers: str) -> dict[str, Any]:
    named = {name: {"schema": {"type": "string"}} for name in headers}
    return {"model": ErrorResponse, "description": description, **({"headers": named} if named else {})}


ERRORS: dict[int | str, dict[str, Any]] = {
    400: _error("The request makes no sense, or comes from a page of another origin"),
    401: _error("The token is missing or wrong", "WWW-Authenticate"),
    404: _error("No such item, or its file is gone"),
    408: _error("The request did not arrive in time"),
    409: _error("The index has changed since the cursor was given"),
    413: _error("The request is too large"),
    422: _error("A field is not as it should be"),
    503: _error("Not now, and then `Retry-After` says when; or not with this model", "Retry-After"),
}
_SAME = {"description": "As the client has it"}


def binary(kind: str, description: str) -> dict[int | str, dict[str, Any]]:
    """The answers of a route that gives a file of this media type."""
    return {200: {"content": {kind: _BINARY}, "description": description}, 304: _SAME, **ERRORS}


FILE: dict[int | str, dict[str, Any]] = {
    **binary("*/*", "The file"),
    206: {"content": {"*/*": _BINARY}, "description": "The part of the file that the Range header names"},
    416: _error("No byte of the file is in that range", "Content-Range"),
}
PLAIN: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus's text format"},
    **ERRORS,
}
SELECTION: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/zip": _BINARY,
            "text/csv": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}},
            "text/html": {"schema": {"type": "string"}},
            "text/plain": {"schema": {"type": "string"}},
        },
        "description": "The file, by the form that the path names",
    },
    **ERRORS,
}
SELECTION_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": _REF.format(model="SelectionRequest")}},
        "application/x-www-form-urlencoded": {"schema": {"$ref": _REF.format(model="SelectionRequest")}},
    },
}
SEARCH_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": _REF.format(model="SearchRequest")}},
        "multipart/form-data": {"schema": {"$ref": _REF.format(model="SearchForm")}},
    },
}
UPLOAD_BODY = {
    "required": True,
    "content": {"multipart/form-data": {"schema": {"$ref": _REF.format(model="UploadForm")}}},
}


def complete(app: FastAPI, *, cookie: str, token: bool) -> None:
    """Add to `app.openapi()` what FastAPI cannot derive."""
    plain = app.openapi

    def whole() -> dict[str, Any]:
        document = plain()
        parts = document.setdefault("components", {})
        if "securitySchemes" in parts:
            return document
        _, made = models_json_schema(
            [(kind, "validation") for kind in (SearchRequest, SearchForm, SelectionRequest, UploadForm)],
            ref_template=_REF,
            by_alias=True,
        )
        parts.setdefault("schemas", {}).update(made["$defs"])
        parts["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "description": "The token of the server"},
            "cookie": {"type": "apiKey", "in": "cookie", "name": cookie, "description": "What signing in leaves"},
        }
        document["security"] = [{"bearer": []}, {"cookie": []}] if token else []
        for path, methods in document["paths"].items():
            if path in OPEN:
                for operation in methods.values():
                    operation["security"] = []
        return document

    app.openapi = whole  # type: ignore[method-assign]

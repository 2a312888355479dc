"""Who may ask, and for what: host names, origins, the token, sizes and times of bodies, and the headers that keep a page to
itself."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.access import Access
from server.logs import AccessLog
from server.metrics import Metrics

EVERYWHERE = frozenset(("0.0.0.0", "::"))
MOST_BYTES = 20 * 1024 * 1024
# What another site may link to. All else is data.
PAGES = frozenset(("/", "/docs"))
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def policy(nonce: str) -> str:
    """The Content-Security-Policy of a page without scripts: nothing from elsewhere, and no style without the nonce."""
    return f"{_POLICY}; style-src 'nonce-{nonce}'"


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(host: str, more: Iterable[str]) -> frozenset[str]:
    """The names by which a served host may be called."""
    names = {host.lower(), *(name.lower() for name in more)}
    if is_loopback(host):
        names |= {"localhost", "127.0.0.1", "::1"}
    return frozenset(names)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a body may take: between two parts of it, and in all; in seconds."""

    pause: float = 20.0
    body: float = 300.0


class Guard:
    """ASGI middleware around everything: nothing behind it sees a request that it refuses.

    A page of another name that resolves here (DNS rebinding), or of another origin, is refused by its headers. With `access`,
    every route but `/healthz` asks for the token. `HEAD` is answered wherever `GET` is. Every request is a line of `log`.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: frozenset[str],
        access: Access | None,
        metrics: Metrics,
        routes: Sequence[str],
        patience: Patience,
        log: AccessLog | None = None,
    ) -> None:
        self._log = log
        self._app, self._hosts, self._metrics, self._routes = app, hosts, metrics, tuple(routes)
        self._access, self._patience = access, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, size = time.perf_counter(), 500, 0
        head = scope["method"] == "HEAD"

        async def answer(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(name, value) for name, value in _HEADERS if name not in present]
                if b"content-security-policy" not in present:
                    extra.append((b"content-security-policy", _POLICY.encode()))
                message = {**message, "headers": [*message["headers"], *extra]}
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            size += len(message.get("body", b""))
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refusal(scope, headers)
        try:
            if refused is not None:
                await refused(scope, receive, answer)
            else:
                inner = {**scope, "method": "GET", "mmsearch.head": True} if head else scope
                await self._app(inner, self._bounded(receive), answer)
        finally:
            seconds = time.perf_counter() - began
            self._metrics.request(self._route(scope["path"]), status, seconds)
            if self._log is not None:
                self._log.request(scope["method"], scope["path"], status, seconds, size)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if not self._is_named(_name(headers.get("host", ""))):
            return _error(400, "this server is not known by that name; start it with --allow-host NAME")
        if _is_foreign(scope, headers):
            return _error(400, "requests from pages of other origins are refused")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > MOST_BYTES:
            return _error(413, _TOO_LARGE, close=True)
        return self._access.response(scope, headers) if self._access is not None else None

    def _is_named(self, name: str) -> bool:
        """Whether `name` is one of the server's. One that listens everywhere accepts every address, since
        only names can be rebound."""
        return name in self._hosts or (bool(self._hosts & EVERYWHERE) and _is_address(name))

    def _bounded(self, receive: Receive) -> Receive:
        """The body within its bounds. Raises `HTTPException` 413 and 408."""
        received = 0
        whole = False
        end = time.monotonic() + self._patience.body

        async def bounded() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()
            left = min(self._patience.pause, end - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), max(0.001, left))
            except TimeoutError as error:
                raise HTTPException(408, "the request did not arrive in time", {"Connection": "close"}) from error
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if received > MOST_BYTES:
                    raise HTTPException(413, _TOO_LARGE, {"Connection": "close"})
            return message

        return bounded

    def _route(self, path: str) -> str:
        """The route to count a request under; `other` for any path that has none."""
        return max(
            (route for route in self._routes if path == route or path.startswith(route + "/")), key=len, default="other"
        )


_TOO_LARGE = f"a request may have {MOST_BYTES // 1_048_576} MB at most"


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    """Whether a page of another origin asks for data. That a person follows its link to a page is no such request."""
    origin = headers.get("origin")
    site = headers.get("sec-fetch-site", "none")
    reads = scope["method"] in ("GET", "HEAD")
    # A form's navigation has the origin `null` where the page before it said no referrer, as ours do.
    foreign = (origin not in (None, "null") and urlsplit(str(origin)).netloc != headers.get("host")) or (
        origin == "null" and site != "same-origin"
    )
    if not foreign and site in ("none", "same-origin"):
        return False
    navigates = headers.get("sec-fetch-mode", "navigate") == "navigate"
    top = headers.get("sec-fetch-dest", "document") == "document"
    return not (reads and navigates and top and scope["path"] in PAGES)


def _error(status: int, message: str, *, close: bool = False) -> Response:
    return JSONResponse({"error": message}, status, {"Connection": "close"} if close else None)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""

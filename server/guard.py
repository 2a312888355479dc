"""Who may ask, and for what: host names, the token, sizes of bodies, and the headers that keep a page to itself."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import time
from collections.abc import Iterable, Sequence
from http.cookies import SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.metrics import Metrics

COOKIE = "mmsearch_token"
EVERYWHERE = frozenset(("0.0.0.0", "::"))
MOST_BYTES = 20 * 1024 * 1024
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


def policy(nonce: str) -> str:
    """The Content-Security-Policy of the page: nothing from elsewhere, and no script without the nonce."""
    return (
        f"{_POLICY}; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' blob: data:; media-src 'self'; "
        "connect-src 'self'"
    )


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
    names = {host.lower(), *(one.lower() for one in more)}
    if is_loopback(host):
        names |= {"localhost", "127.0.0.1", "::1"}
    return frozenset(names)


class Guard:
    """ASGI middleware around everything: nothing behind it sees a request that it refuses.

    A page of another name that resolves here (DNS rebinding), or of another origin, is refused by its headers. With a token,
    every route asks for it: as `Authorization: Bearer`, or once as `?token=`, which leaves a cookie that no script reads.
    """

    def __init__(
        self, app: ASGIApp, hosts: frozenset[str], token: str | None, metrics: Metrics, routes: Sequence[str]
    ) -> None:
        self._app, self._hosts, self._metrics, self._routes = app, hosts, metrics, tuple(routes)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(name, value) for name, value in _HEADERS if name not in present]
                if b"content-security-policy" not in present:
                    extra.append((b"content-security-policy", _POLICY.encode()))
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refused = self._refusal(scope, headers)
        try:
            if refused is not None:
                await refused(scope, receive, answer)
                return
            await self._app(scope, self._bounded(receive), answer)
        except _TooLarge:
            await _error(413, f"a request may have {MOST_BYTES // 1_048_576} MB at most")(scope, receive, answer)
        finally:
            self._metrics.request(self._route(scope["path"]), status, time.perf_counter() - began)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> ASGIApp | None:
        if not self._known(_name(headers.get("host", ""))):
            return _error(400, "this server is not known by that name; start it with --allow-host NAME")
        origin = headers.get("origin")
        if origin is not None and origin != "null" and urlsplit(origin).netloc != headers.get("host"):
            return _error(400, "requests from pages of other origins are refused")
        elsewhere = origin == "null" or headers.get("sec-fetch-site") == "cross-site"
        # A link from elsewhere may open the page; nothing more.
        if elsewhere and (scope["method"] not in ("GET", "HEAD") or scope["path"] != "/"):
            return _error(400, "requests from pages of other origins are refused")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > MOST_BYTES:
            return _error(413, f"a request may have {MOST_BYTES // 1_048_576} MB at most")
        return self._without_token(scope, headers)

    def _known(self, name: str) -> bool:
        """Whether the server is called so. One that listens everywhere answers to every address: only names can be rebound."""
        return name in self._hosts or (bool(self._hosts & EVERYWHERE) and _is_address(name))

    def _without_token(self, scope: Scope, headers: dict[str, str]) -> ASGIApp | None:
        if self._token is None:
            return None
        asked = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(asked).get("token")
        if given is not None and self._right(given) and scope["method"] == "GET":
            rest = urlencode([(name, value) for name, value in asked if name != "token"])
            reply = RedirectResponse(scope["path"].replace("//", "/") + (f"?{rest}" if rest else ""), 303)
            reply.set_cookie(COOKIE, given, httponly=True, samesite="strict", max_age=30 * 86_400)
            return reply
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        if (kind.lower() == "bearer" and self._right(bearer.strip())) or (
            cookie is not None and self._right(cookie.value)
        ):
            return None
        return _error(
            401, "this server asks for its token: Authorization: Bearer TOKEN, or ?token=TOKEN once in a browser"
        )

    def _right(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def _bounded(self, receive: Receive) -> Receive:
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > MOST_BYTES:
                    raise _TooLarge
            return message

        return bounded

    def _route(self, path: str) -> str:
        """The route for the counts: never what a client made up."""
        return max((one for one in self._routes if path == one or path.startswith(one + "/")), key=len, default="other")


class _TooLarge(Exception):
    """A body went on for longer than it may."""


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def _error(status: int, message: str) -> ASGIApp:
    return JSONResponse({"error": message}, status)


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

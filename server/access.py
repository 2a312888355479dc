"""The token: asked for once, then a cookie that is derived from it, named by the port, and readable by no script."""

from __future__ import annotations

import hashlib
import hmac
import html
import secrets
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import Scope

from retrieval.errors import QueryError

SHORTEST = 8
SIGN_IN = "/sign-in"
# Open to monitors, which cannot sign in; the answer tells nothing about the index.
OPEN = frozenset(("/healthz", SIGN_IN))
_MONTH = 30 * 86_400
_LARGEST_FORM = 10_000
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; display: grid; place-content: center; min-height: 90vh; margin: 0; padding: 1rem; }
input, button { font: inherit; padding: .5rem .8rem; border: 1px solid; border-radius: .5rem; margin-top: .5rem; }
"""


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(24)


def check_token(token: str) -> None:
    """Raises `QueryError` for one that is too short, or that not every client can send."""
    if len(token) < SHORTEST:
        raise QueryError(f"--token: use at least {SHORTEST} characters")
    if not all(33 <= ord(char) <= 126 for char in token):
        raise QueryError("--token: use letters, digits and signs of ASCII alone, without spaces")


class Access:
    """Passes requests that carry the token or its cookie, and sets the cookie for those that bring the token."""

    def __init__(self, token: str) -> None:
        check_token(token)
        self._token = token
        self._derived = hmac.new(token.encode(), b"mmsearch cookie", hashlib.sha256).hexdigest()

    def response(self, scope: Scope, headers: Headers) -> Response | None:
        """What to answer instead of the request; None where it may pass."""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(pairs).get("token")
        if given is not None and scope["method"] in ("GET", "HEAD") and self._is_right(given):
            rest = urlencode([(name, value) for name, value in pairs if name != "token"])
            return self._signed_in(scope, _local(scope["path"]) + (f"?{rest}" if rest else ""))
        if scope["path"] in OPEN:
            return None
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_right(bearer.strip()):
            return None
        cookie = cookie_parser(headers.get("cookie", "")).get(cookie_name(scope))
        if cookie is not None and hmac.compare_digest(cookie.encode("utf-8", "replace"), self._derived.encode()):
            return None
        if scope["method"] in ("GET", "HEAD") and "text/html" in headers.get("accept", ""):
            return _form(_local(scope["path"]) + (f"?{urlencode(pairs)}" if pairs else ""), wrong=given is not None)
        return JSONResponse(
            {"error": "this server asks for its token: Authorization: Bearer TOKEN, or ?token=TOKEN once in a browser"},
            401,
            {"WWW-Authenticate": 'Bearer realm="mmsearch"', "Cache-Control": "no-store"},
        )

    async def sign_in(self, request: Request) -> Response:
        """Answer the form of the sign-in page."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_FORM:
                return JSONResponse({"error": "that is no token"}, 413)
        fields = dict(parse_qsl(body.decode("latin-1"), keep_blank_values=True))
        path, _, query = fields.get("next", "/").partition("?")
        there = _local(path) + (f"?{urlencode(parse_qsl(query))}" if query else "")
        if self._is_right(fields.get("token", "").strip()):
            return self._signed_in(request.scope, there)
        return _form(there, wrong=True)

    def _signed_in(self, scope: Scope, there: str) -> Response:
        reply = RedirectResponse(there, 303, {"Cache-Control": "no-store"})
        # Lax: a link in a chat or a mail is followed by a redirect, which is then a navigation from another site as well.
        reply.set_cookie(
            cookie_name(scope),
            self._derived,
            httponly=True,
            samesite="lax",
            secure=scope.get("scheme") == "https",
            max_age=_MONTH,
        )
        return reply

    def _is_right(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def cookie_name(scope: Scope) -> str:
    """Cookies do not know ports: two servers of one host have names of their own."""
    server = scope.get("server") or ("", 0)
    return f"mmsearch_{server[1] or 0}"


def _local(path: str) -> str:
    """A path of this server, whatever it began with: `//name` and `/\\name` would lead elsewhere."""
    return quote("/" + path.lstrip("/\\"))


def _form(there: str, *, wrong: bool) -> Response:
    nonce = secrets.token_urlsafe(16)
    note = "<p role=alert>That is not the token.</p>" if wrong else ""
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>Sign in – mmsearch</title><style nonce="{nonce}">{_STYLE}</style><main><h1>mmsearch</h1>{note}'
        f'<form method="post" action="{SIGN_IN}"><input type="hidden" name="next" value="{html.escape(there)}">'
        '<label for="token">The token that the server printed when it started</label><br>'
        '<input id="token" name="token" type="password" autocomplete="current-password" required autofocus> '
        "<button>Sign in</button></form></main></html>"
    )
    rules = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    headers = {
        "WWW-Authenticate": 'Bearer realm="mmsearch"',
        "Content-Security-Policy": rules,
        # Without a referrer a browser would call the form's origin `null`.
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    return HTMLResponse(page, 401, headers)

"""Where a server listens, by which names it is called, and which token it asks for: the same for each command that serves."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Annotated, Optional

import typer

from retrieval.errors import MmsearchError, QueryError

TokenOption = Annotated[
    Optional[str],
    typer.Option(
        metavar="TOKEN", envvar="MMSEARCH_TOKEN", help="Ask every request for this token.", show_default=False
    ),
]
AllowHostOption = Annotated[
    Optional[list[str]],
    typer.Option(metavar="NAME", help="Another name by which the server may be called; may be repeated."),
]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `MmsearchError`, which says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise MmsearchError(f"cannot listen on {host}:{port}: {error.strerror}; take another with --port") from error


def names(host: str, more: Iterable[str]) -> frozenset[str]:
    """The names by which a server that listens on `host` may be called."""
    from server.guard import EVERYWHERE, host_names

    return host_names(host, [*more, *([socket.gethostname(), "localhost"] if host in EVERYWHERE else [])])


def token_of(host: str, given: str | None) -> str | None:
    """The token to ask for: the one that is given, or where others than this machine can ask, one that is made; else None.
    Raises `QueryError` for one that cannot be used."""
    from server.access import check_token, new_token
    from server.guard import is_loopback

    if given is not None:
        check_token(given)
        return given
    return None if is_loopback(host) else new_token()


def split_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, `[HOST]:PORT` for IPv6. Raises `QueryError`."""
    host, mark, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not mark or not host or not port.isdecimal() or int(port) > 65535 or (":" in host and text[0] != "["):
        raise QueryError(f"--http {text[:64]!r} is not HOST:PORT, as in 127.0.0.1:8001 or [::1]:8001")
    return host, int(port)

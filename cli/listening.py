"""Where a server listens, by which names it is called, and which token it asks for: the same for each command that serves."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path
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
RootOption = Annotated[
    Optional[list[Path]],
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="A folder to serve files from, beside those that are indexed; may be repeated.",
    ),
]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `MmsearchError`, which says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise MmsearchError(f"cannot listen on {host}:{port}: {error.strerror}; take another with --port") from error


def reachable(host: str) -> list[str]:
    """The hosts, as an address has them, by which a server that listens on `host` is reached: of one that listens everywhere
    those of the network, the one that leads out of this machine first; its own where there is no network."""
    from server.guard import EVERYWHERE

    if host not in EVERYWHERE:
        return [_in_address(host)]
    families = [socket.AF_INET] if host == "0.0.0.0" else [socket.AF_INET, socket.AF_INET6]
    found = [address for family in families for address in _own_addresses(family)]
    return [_in_address(address) for address in dict.fromkeys(found)] or ["127.0.0.1"]


def qr_code(link: str) -> str:
    """A link as a QR code for a terminal, which a phone's camera reads."""
    import segno

    out = io.StringIO()
    segno.make(link, error="l", micro=False).terminal(out=out, border=2, compact=True)
    # In colours of its own: on a light terminal it would be a negative, which not every camera reads.
    return "\n".join(f"\x1b[97;40m{line}\x1b[0m" for line in out.getvalue().splitlines())


def _own_addresses(family: socket.AddressFamily) -> list[str]:
    """This machine's addresses in the network."""
    found: list[str] = []
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this asks the system only which way a packet would take. No machine has that address.
        probe.connect(("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9))
        found.append(str(probe.getsockname()[0]))
    with contextlib.suppress(OSError):
        found += [str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None, family)]
    return [address for address in found if _is_of_network(address)]


def _is_of_network(address: str) -> bool:
    """Whether other machines can open it: a link-local one needs the name of an interface, which browsers do not take."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified)


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


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

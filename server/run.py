"""The HTTP server around the application."""

from __future__ import annotations

import asyncio

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_SECONDS = 20.0
_KEEP_ALIVE_SECONDS = 15
_LAST_SECONDS = 10


class _TimedProtocol(HttpToolsProtocol):
    """Closes connections whose request line and headers do not arrive: uvicorn would keep them for ever."""

    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._set_alarm()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._set_alarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm()
        super().connection_lost(exc)

    def _set_alarm(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._calm()
        elif self._alarm is None:
            self._alarm = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def _calm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _give_up(self) -> None:
        self._alarm = None
        if not self.transport.is_closing():
            self.transport.close()


def http_server(app: ASGIApp, log_level: str = "warning") -> uvicorn.Server:
    """A server for the application; `run(sockets=[…])` serves until it is told to end. It says on standard error what is of
    `log_level` or above."""
    config = uvicorn.Config(
        app,
        http=_TimedProtocol,
        ws="none",
        log_level=log_level,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
    return uvicorn.Server(config)

"""Cancellation of work: the waiting thread asks for it, and the work stops at its next step."""

from __future__ import annotations

import threading

from retrieval.errors import MmsearchError


class Cancelled(MmsearchError):
    """The work was called off before its end."""


class Cancellation:
    """Shared by the thread that waits and the thread that works; any thread may call it."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether the work was called off."""
        return self._event.is_set()

    def check(self) -> None:
        """To be called between two steps. Raises `Cancelled` where nobody waits any more."""
        if self._event.is_set():
            raise Cancelled("nobody waits for the answer any more")

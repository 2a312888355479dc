"""Lanes: threads for one kind of work behind a queue with a bound, so that a burst of one kind starves no other.

What waits in a queue is dropped when its client has gone, and running work sees it by its `Cancellation`.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from starlette.requests import Request

from retrieval.cancellation import Cancellation
from retrieval.errors import MmsearchError
from server.metrics import Metrics

Result = TypeVar("Result")
Work = Callable[[Cancellation], Result]
_LONGEST_WAIT = 60


class Busy(MmsearchError):
    """Too much waits already; `seconds` says when to come back."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class ClientGone(MmsearchError):
    """The client closed its connection: nobody will read an answer."""


@dataclass(frozen=True)
class _Job(Generic[Result]):
    work: Work[Result]
    future: Future[Result] = field(default_factory=Future)
    cancellation: Cancellation = field(default_factory=Cancellation)


class Lane:
    """`threads` threads for one kind of work; at most `bound` jobs wait, and none of them longer than `seconds`."""

    def __init__(self, name: str, metrics: Metrics, *, threads: int, bound: int, seconds: float) -> None:
        self._name, self._metrics, self._bound, self._seconds = name, metrics, bound, seconds
        self._waiting: deque[_Job[object]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._pace = 0.05
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work[Result]) -> _Job[Result]:
        """Have `work` done. Raises `Busy` where too much waits."""
        job = _Job(work)
        with self._changed:
            if len(self._waiting) >= self._bound:
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.future.cancelled())
            if len(self._waiting) >= self._bound or self._closed:
                raise Busy("too many requests are waiting; try again in a moment", self._pause())
            self._waiting.append(job)  # type: ignore[arg-type]
            self._metrics.queue(self._name, len(self._waiting))
            self._changed.notify()
        return job

    def do(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the lane and wait for its result: for a program's start."""
        return self.submit(lambda _: work()).future.result()

    async def run(self, work: Work[Result], request: Request | None = None) -> Result:
        """The same for the client of a request.

        Raises what `work` raises, `ClientGone` as soon as the client has gone, and `Busy` where too much waits or the work
        takes longer than it may.
        """
        job = self.submit(work)
        answer = asyncio.wrap_future(job.future)
        waited: set[asyncio.Future[Result] | asyncio.Task[None]] = {answer}
        gone = asyncio.create_task(_disconnected(request)) if request is not None else None
        if gone is not None:
            waited.add(gone)
        try:
            await asyncio.wait(waited, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if gone is not None and gone.done():
                raise ClientGone("the client has gone")
            raise Busy("this took too long; try again in a moment", self._pause())
        finally:
            if gone is not None:
                gone.cancel()
            if not answer.done():
                job.cancellation.cancel()
                answer.cancel()

    def close(self) -> None:
        """Finish what runs, and drop what waits."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                job.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _pause(self) -> int:
        """Seconds after which what waits now should be done."""
        expected = self._pace * (len(self._waiting) + 1) / len(self._threads)
        return max(1, min(_LONGEST_WAIT, math.ceil(expected)))

    def _work(self) -> None:
        while (job := self._next()) is not None:
            began = time.monotonic()
            try:
                job.future.set_result(job.work(job.cancellation))
            except BaseException as error:  # Every failure belongs to the request that asked
                job.future.set_exception(error)
            self._pace = 0.8 * self._pace + 0.2 * (time.monotonic() - began)
            # A job holds its result, which must not live until the next one comes.
            del job

    def _next(self) -> _Job[object] | None:
        """The next job that somebody waits for; None at the end."""
        with self._changed:
            while True:
                while self._waiting:
                    job = self._waiting.popleft()
                    self._metrics.queue(self._name, len(self._waiting))
                    if job.future.set_running_or_notify_cancel():
                        return job
                if self._closed:
                    return None
                self._changed.wait()


async def _disconnected(request: Request) -> None:
    """Ends when the client of a request, whose body was read, has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

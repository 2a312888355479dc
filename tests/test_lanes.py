"""Lanes: what waits for somebody who has gone is dropped, what runs is told, and a burst of one kind starves no other."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from media.reader import ImageReader
from media.types import Place
from retrieval.cancellation import Cancellation, Cancelled
from server.lanes import Busy, Lane
from server.metrics import Metrics

WAIT = 60.0


@pytest.fixture
def lane() -> Iterator[Lane]:
    opened = Lane("test", Metrics(), threads=1, bound=3, seconds=WAIT)
    yield opened
    opened.close()


class Gone:
    """A request whose client closes the connection when it is told to."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def receive(self) -> dict[str, str]:
        await self.closed.wait()
        return {"type": "http.disconnect"}


def test_what_waits_for_a_client_that_has_gone_is_never_begun(lane: Lane) -> None:
    release, begun = threading.Event(), []

    async def scenario() -> None:
        held = lane.submit(lambda _: release.wait(WAIT))
        client = Gone()
        waiting = asyncio.create_task(lane.run(lambda _: begun.append(1), client))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        client.closed.set()
        with pytest.raises(Exception, match="has gone"):
            await waiting
        release.set()
        assert await asyncio.wrap_future(held.future)
        await lane.run(lambda _: None)

    asyncio.run(scenario())
    assert begun == []


def test_running_work_is_told_that_nobody_waits(lane: Lane) -> None:
    ended = threading.Event()

    def work(cancellation: Cancellation) -> None:
        try:
            while True:
                time.sleep(0.01)
                cancellation.check()
        except Cancelled:
            ended.set()
            raise

    async def scenario() -> None:
        client = Gone()
        running = asyncio.create_task(lane.run(work, client))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        client.closed.set()
        with pytest.raises(Exception, match="has gone"):
            await running

    asyncio.run(scenario())
    assert ended.wait(WAIT)


def test_a_full_lane_says_when_to_come_back_and_forgets_who_has_gone(lane: Lane) -> None:
    release, running = threading.Event(), threading.Event()

    def hold(_: Cancellation) -> None:
        running.set()
        release.wait(WAIT)

    lane.submit(hold)
    assert running.wait(WAIT)
    waiting = [lane.submit(lambda _: None) for _ in range(3)]
    with pytest.raises(Busy) as busy:
        lane.submit(lambda _: None)
    assert busy.value.seconds >= 1
    waiting[1].future.cancel()
    after = lane.submit(lambda _: 7)
    release.set()
    assert after.future.result(WAIT) == 7


def test_work_that_takes_longer_than_it_may_ends_with_busy() -> None:
    lane = Lane("slow", Metrics(), threads=1, bound=3, seconds=0.2)
    told = threading.Event()

    def work(cancellation: Cancellation) -> None:
        while not cancellation.cancelled:
            time.sleep(0.01)
        told.set()

    with pytest.raises(Busy, match="too long"):
        asyncio.run(lane.run(work))
    assert told.wait(WAIT)
    lane.close()


def slow_pictures(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[str]:
    """Let every picture that re-ranking reads take a while; the list holds those that were read."""
    read: list[str] = []
    plain = ImageReader.image

    def image(self: ImageReader, place: Place) -> Any:
        read.append(place.path)
        time.sleep(seconds)
        return plain(self, place)

    monkeypatch.setattr(ImageReader, "image", image)
    return read


def abandon(address: str, count: int, seconds: float) -> None:
    """Ask for re-rankings and close the connections soon after."""
    where = ("127.0.0.1", urlsplit(address).port or 0)
    opened = []
    for number in range(count):
        body = f'{{"text": "something {number}", "rerank": true, "k": 20}}'.encode()
        head = f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1:{where[1]}\r\nContent-Type: application/json\r\n"
        connection = socket.create_connection(where, WAIT)
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        opened.append(connection)
    time.sleep(seconds)
    for connection in opened:
        connection.close()


def test_abandoned_re_rankings_keep_nobody_waiting(
    web: httpx.Client, address: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    cat = web.post("/api/search", json={"text": "a cat", "k": 1}).json()["hits"][0]
    web.post("/api/describe", json={"id": cat["id"]})
    monkeypatch.setattr("retrieval.crossmodal.rerank.TokenCache.get", lambda *_: None)
    read = slow_pictures(monkeypatch, 0.25)
    abandon(address, 20, 0.5)
    caption = web.post("/api/describe", json={"id": cat["id"]})
    assert caption.status_code == 200
    # One re-ranking reads fifty pictures; the one that ran stopped early, and of the others none began.
    assert len(read) < 60, len(read)


def test_a_burst_of_one_kind_does_not_starve_another(
    web: httpx.Client, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the reading lane is held, searches, thumbnails and items are answered, and what is too much for it is told."""
    cat = web.post("/api/search", json={"text": "a cat", "k": 1}).json()["hits"][0]
    release = threading.Event()
    monkeypatch.setattr("retrieval.engine.Engine.describe", lambda *_: release.wait(WAIT) and None)

    def describe(_: int) -> httpx.Response:
        return httpx.post(f"{address}/api/describe", json={"id": cat["id"]}, timeout=2 * WAIT)

    with ThreadPoolExecutor(48) as pool:
        waiting = [pool.submit(describe, number) for number in range(48)]
        try:
            refused = next(done for done in _as_done(waiting) if done.status_code == 503)
            assert int(refused.headers["retry-after"]) >= 1 and "waiting" in refused.json()["error"]
            for path in (cat["thumb_url"], f"/thumb/{cat['id']}?size=512", f"/api/items/{cat['id']}", "/api/status"):
                assert web.get(path).status_code == 200, path
            assert web.post("/api/search", json={"text": "a dog"}).status_code == 200
        finally:
            release.set()
        statuses = {one.result().status_code for one in waiting}
    assert statuses <= {404, 503}, "a picture that was not described, or told to come back"


def _as_done(waiting: list[Any]) -> Iterator[httpx.Response]:
    from concurrent.futures import as_completed

    for future in as_completed(waiting, timeout=WAIT):
        yield future.result()


def test_two_hundred_searches_at_once_are_all_answered_or_told_when(address: str) -> None:
    async def scenario() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=address, timeout=2 * WAIT, limits=limits) as web:
            asked = (web.post("/api/search", json={"text": f"colours {number}"}) for number in range(200))
            return await asyncio.gather(*asked)

    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(asyncio.run, scenario()).result()
    for reply in replies:
        assert reply.status_code == 200 or (reply.status_code == 503 and "retry-after" in reply.headers), reply.text
    assert sum(reply.status_code == 200 for reply in replies) >= 100


def test_uploads_that_break_off_are_no_error_of_the_server(web: httpx.Client, address: str) -> None:
    where = ("127.0.0.1", urlsplit(address).port or 0)
    head = (
        f"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1:{where[1]}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    )
    part = '--x\r\nContent-Disposition: form-data; name="image"; filename="q.png"\r\n\r\n'
    before = failures(web)
    for _ in range(30):
        with socket.create_connection(where, WAIT) as half:
            half.sendall(f"{head}Content-Length: 500000\r\n\r\n{part}".encode() + b"x" * 1000)
    assert web.post("/api/search", json={"text": "a cat"}).status_code == 200
    assert failures(web) == before


def failures(web: httpx.Client) -> list[str]:
    return [line for line in web.get("/metrics").text.splitlines() if 'status="500"' in line]

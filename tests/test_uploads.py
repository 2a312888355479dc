"""Pictures that clients send: decoded apart, a few at a time, within bounds, and named by their hash afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from retrieval.errors import QueryError
from server.decoding import MEMORY_BYTES
from server.metrics import Metrics
from server.uploads import ImageNotFoundError, Uploads
from tests.conftest import picture


def png(seed: int, width: int = 320, height: int = 240) -> bytes:
    out = io.BytesIO()
    picture(seed, width, height).save(out, "PNG")
    return out.getvalue()


def bomb(side: int, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (side, side), 1).save(out, "PNG", compress_level=1)
    return out.getvalue()


def take(uploads: Uploads, data: bytes) -> str:
    # On a thread: another test's browser may have left a loop running on this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, uploads.take(io.BytesIO(data))).result()


def test_a_picture_is_sent_once_and_found_by_its_hash_from_then_on(web: httpx.Client) -> None:
    data = png(7)
    name = hashlib.sha256(data).hexdigest()
    assert web.post("/api/upload", files={"image": ("q.png", data)}).json() == {"picture": name}
    page = web.post("/api/search", json={"picture": name, "k": 5}).json()
    whole = web.post("/api/search", files={"image": ("q.png", data)}, data={"k": "10"}).json()
    assert page["hits"][0]["path"].endswith("photo0007.jpg") and page["picture"] == whole["picture"] == name
    following = web.post("/api/search", json={"picture": name, "k": 5, "cursor": page["next"]}).json()
    ids = [hit["id"] for hit in (*page["hits"], *following["hits"])]
    assert ids == [hit["id"] for hit in whole["hits"]]
    preview = web.get(f"/upload/{name}")
    assert max(Image.open(io.BytesIO(preview.content)).size) == 128 and "immutable" in preview.headers["cache-control"]


def test_a_picture_that_is_not_kept_here_is_asked_for_again(web: httpx.Client) -> None:
    for reply in (web.post("/api/search", json={"picture": "0" * 64}), web.get(f"/upload/{'0' * 64}")):
        assert reply.status_code == 404 and "send it again" in reply.json()["error"]
    for form in ({"image": "no file"}, {}):
        assert web.post("/api/upload", data=form).status_code == 422
    assert web.post("/api/upload", files={"image": ("a", png(1)), "more": ("b", b"x")}).status_code in (400, 422)


def test_a_picture_beyond_the_bound_fails_alone(web: httpx.Client) -> None:
    """Neither what its header promises nor what it unpacks to is the server's: the child says no, and the next is decoded."""
    reply = web.post("/api/search", files={"image": ("q.png", bomb(10_900, "RGBA"))})
    assert reply.status_code == 400 and reply.json()["error"].startswith("the image cannot be read")
    assert web.post("/api/search", files={"image": ("q.png", bomb(60_000, "1"))}).status_code == 400
    assert web.post("/api/search", files={"image": ("q.png", png(3))}).status_code == 200


def test_what_unpacks_large_takes_no_memory_of_the_server_and_the_rest_is_told_to_come_back(
    address: str, web: httpx.Client
) -> None:
    """Sixteen pictures of 119 million pixels at once: the server stays as it is, and a thumbnail does not wait for them."""
    hit = web.post("/api/search", json={"text": "a cat", "k": 1}).json()["hits"][0]
    thumb = web.get(hit["thumb_url"]).content
    web.post("/api/search", files={"image": ("q.png", png(3))})
    packed = bomb(10_900)
    before = resident()

    def send(number: int) -> httpx.Response:
        # Unlike the others, so that none is known already.
        data = packed + bytes([number])
        return httpx.post(f"{address}/api/search", files={"image": ("q.png", data)}, timeout=300)

    with ThreadPoolExecutor(16) as pool:
        waiting = [pool.submit(send, number) for number in range(16)]
        most = 0
        while not all(one.done() for one in waiting):
            assert web.get(hit["thumb_url"]).content == thumb
            most = max(most, resident())
            time.sleep(0.05)
        replies = [one.result() for one in waiting]
    assert {reply.status_code for reply in replies} <= {200, 503}
    assert any(reply.status_code == 200 for reply in replies)
    for reply in replies:
        assert reply.status_code == 200 or int(reply.headers["retry-after"]) >= 1
    # In this process one such picture alone would be half a gigabyte.
    assert most - before < 400 * 1024**2 and resident() - before < 200 * 1024**2


def resident() -> int:
    """Bytes of this process, which is the server as well."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_decoding_process_is_bounded_and_replaced_when_it_dies() -> None:
    uploads = Uploads(Metrics())
    try:
        name = take(uploads, png(1))
        assert uploads.image(name).size == (320, 240)
        for _ in range(2):
            decoder = uploads._decoders.get()
            if decoder._child._process is not None:
                limits = Path(f"/proc/{decoder._child._process.pid}/limits").read_text()
                assert str(MEMORY_BYTES) in next(line for line in limits.splitlines() if "address space" in line)
                decoder._child._process.kill()
                decoder._child._process.wait()
            uploads._decoders.put(decoder)
        assert uploads.image(take(uploads, png(2))).size == (320, 240)
        with pytest.raises(QueryError, match="cannot be read"):
            take(uploads, b"no picture")
        strip = uploads.image(take(uploads, png(4, 6000, 20)))
        assert strip.width <= 4096
    finally:
        uploads.close()


def test_what_is_kept_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.uploads._KEPT_BYTES", 3 * 4 * 320 * 240)
    uploads = Uploads(Metrics())
    try:
        names = [take(uploads, png(seed)) for seed in range(3)]
        uploads.image(names[0])
        take(uploads, png(9))
        assert uploads.image(names[0]).width == 320, "what was used last stays"
        with pytest.raises(ImageNotFoundError):
            uploads.image(names[1])
    finally:
        uploads.close()

"""What browsers, proxies and clients expect of HTTP: HEAD, validators, ranges, compression, errors in one form, time limits."""

from __future__ import annotations

import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from retrieval.models.encoder import Encoder
from server.app import ServeConfig
from server.errors import in_api_words
from server.guard import Patience, host_names
from server.http import parse_range
from tests.conftest import build, write_photos
from tests.servers import serving


def first(web: httpx.Client, **asked: object) -> dict[str, Any]:
    hit: dict[str, Any] = web.post("/api/search", json={"text": "a cat", "k": 1, **asked}).json()["hits"][0]
    return hit


def addresses(web: httpx.Client) -> list[str]:
    cat = first(web)
    return [cat["media_url"], f"{cat['thumb_url']}?size=256", "/", f"/api/explain?id={cat['id']}&text=cat", script(web)]


def script(web: httpx.Client) -> str:
    return web.get("/").text.split('<script type="module" src="')[1].split('"')[0]


def test_head_is_answered_wherever_get_is(web: httpx.Client) -> None:
    cat = first(web)
    for path in [
        *addresses(web),
        "/api/status",
        "/healthz",
        "/metrics",
        "/docs",
        "/openapi.json",
        f"/api/items/{cat['id']}",
    ]:
        whole, head = web.get(path), web.head(path)
        assert head.status_code == whole.status_code == 200 and not head.content, path
        assert head.headers["content-type"] == whole.headers["content-type"]
    size = web.head(cat["media_url"]).headers["content-length"]
    assert int(size) == len(web.get(cat["media_url"]).content)
    assert web.head("/media/nope").status_code == 404


def test_what_a_client_has_is_not_sent_again(web: httpx.Client) -> None:
    for path in addresses(web):
        whole = web.get(path)
        tag = whole.headers["etag"]
        for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            same = web.get(path, headers={"If-None-Match": given})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag), path
        assert web.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    media = web.get(first(web)["media_url"])
    since = {"If-Modified-Since": media.headers["last-modified"]}
    assert web.get(first(web)["media_url"], headers=since).status_code == 304
    for old in ("Sat, 01 Jan 2000 00:00:00 GMT", "not a date"):
        assert web.get(first(web)["media_url"], headers={"If-Modified-Since": old}).status_code == 200
    assert web.get(first(web)["media_url"], headers={**since, "If-None-Match": '"other"'}).status_code == 200


def test_what_never_changes_is_kept_for_ever_and_all_else_is_asked_for_again(web: httpx.Client) -> None:
    cat = first(web)
    assert "immutable" in web.get(cat["thumb_url"]).headers["cache-control"]
    assert "immutable" in web.get(script(web)).headers["cache-control"]
    for path in ("/", cat["media_url"], f"/thumb/{cat['id']}", f"/thumb/{cat['id']}/old"):
        assert web.get(path).headers["cache-control"] == "private, no-cache", path
    assert web.get("/page/0123456789abcdef/main.js").status_code == 404


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=10-19", slice(10, 20)),
        ("bytes=-100", slice(-100, None)),
        ("bytes=5-", slice(5, None)),
        ("Bytes = 0-0", slice(0, 1)),
    ],
)
def test_ranges_give_the_bytes_that_they_name(web: httpx.Client, header: str, part: slice) -> None:
    cat = first(web)
    whole = web.get(cat["media_url"]).content
    reply = web.get(cat["media_url"], headers={"Range": header})
    assert (reply.status_code, reply.content) == (206, whole[part])
    changed = web.get(cat["media_url"], headers={"Range": header, "If-Range": '"other"'})
    assert (changed.status_code, len(changed.content)) == (200, len(whole))


@pytest.mark.parametrize(
    "header", ["items=0-5", "bytes=5-2", "bytes=a-b", "bytes=", "bytes", "bytes=0-1,5-6", "=", "bytes=--5"]
)
def test_a_range_that_says_nothing_is_ignored(web: httpx.Client, header: str) -> None:
    cat = first(web)
    reply = web.get(cat["media_url"], headers={"Range": header})
    assert reply.status_code == 200 and len(reply.content) == int(web.head(cat["media_url"]).headers["content-length"])


def test_a_range_beyond_the_end_says_so_in_json(web: httpx.Client) -> None:
    cat = first(web)
    size = int(web.head(cat["media_url"]).headers["content-length"])
    for header in (f"bytes={size}-", "bytes=-0"):
        reply = web.get(cat["media_url"], headers={"Range": header})
        assert reply.status_code == 416 and reply.headers["content-range"] == f"bytes */{size}"
        assert list(reply.json()) == ["error"]
    assert parse_range("bytes=0-999", 10) == (0, 10) and parse_range("bytes=-20", 10) == (0, 10)


def test_json_and_the_page_are_compressed_and_pictures_are_not(web: httpx.Client) -> None:
    for method, path in (("POST", "/api/search"), ("GET", "/"), ("GET", script(web)), ("GET", "/openapi.json")):
        with web.stream(
            method, path, json={"text": "a cat"} if method == "POST" else None, headers={"Accept-Encoding": "gzip"}
        ) as reply:
            raw = b"".join(reply.iter_raw())
        assert reply.headers["content-encoding"] == "gzip" and len(gzip.decompress(raw)) > len(raw), path
    plain = web.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and json.loads(plain.content)
    cat = first(web)
    for path in (cat["media_url"], cat["thumb_url"]):
        assert "content-encoding" not in web.get(path, headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize(
    ("form", "names"),
    [
        ({"text": "a", "sise": "3"}, "sise"),
        ({"text": ["a", "b"]}, "text"),
        ({"text": "a", "k": "many"}, "k"),
        ({"text": "a", "kind": "sound"}, "kind"),
        ({"image": "http://example.com/a.png"}, "image"),
    ],
)
def test_a_form_is_read_as_strictly_as_json(web: httpx.Client, form: dict[str, Any], names: str) -> None:
    parts = [
        (name, (None, value))
        for name, given in form.items()
        for value in (given if isinstance(given, list) else [given])
    ]
    reply = web.post("/api/search", files=parts)
    assert reply.status_code == 422 and reply.json()["error"].startswith(f"{names}: "), reply.text


def test_errors_speak_of_fields_never_of_the_commands_options(web: httpx.Client) -> None:
    empty = web.post("/api/search", json={"text": "a", "not": ["", " "]})
    assert (empty.status_code, empty.json()) == (400, {"error": "not: every entry needs some words"})
    assert in_api_words("--min-relevance must be in 0..1") == "min_relevance must be in 0..1"
    assert in_api_words("give some words or --image FILE") == "give some words or image"
    assert in_api_words("-k must be at least 1, not 0") == "k must be at least 1, not 0"
    assert in_api_words("ViT-B-32 is at 2024-01-02, well-known") == "ViT-B-32 is at 2024-01-02, well-known"


def test_words_beyond_what_the_model_reads_are_told(web: httpx.Client) -> None:
    assert web.post("/api/search", json={"text": "a cat"}).json()["truncated"] is False
    assert web.post("/api/search", json={"text": "a cat and a dog " * 60}).json()["truncated"] is True


def test_an_index_that_is_gone_is_no_index_without_failures(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 2)
    build(tmp_path, mini)
    manifest = tmp_path / ".mmsearch" / "manifest.json"
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        assert web.get("/api/status").json()["images"] == 2
        manifest.rename(manifest.with_suffix(".away"))
        for path in ("/api/status", "/healthz"):
            reply = web.get(path)
            assert (reply.status_code == 503 and "no index" in reply.json()["error"]) or "is gone" in reply.json()[
                "error"
            ]
            assert int(reply.headers["retry-after"]) > 0
        manifest.with_suffix(".away").rename(manifest)
        assert web.get("/api/status").json()["images"] == 2


def test_requests_that_never_end_are_ended(tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body is answered with 408, half of the headers with an end of the connection; neither is kept for ever."""
    monkeypatch.setattr("server.run.HEADER_SECONDS", 1.5)
    write_photos(tmp_path, 2)
    build(tmp_path, mini)
    config = ServeConfig(
        folder=tmp_path / ".mmsearch",
        hosts=host_names("127.0.0.1", []),
        device="cpu",
        patience=Patience(pause=1.0, body=3.0),
    )
    with serving(tmp_path / ".mmsearch", config=config) as address:
        where = ("127.0.0.1", urlsplit(address).port or 0)
        host = f"Host: 127.0.0.1:{where[1]}\r\n"
        body = f"POST /api/search HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 900\r\n\r\n{{"
        with socket.create_connection(where, 60) as half:
            half.sendall(body.encode())
            reply = b""
            while part := half.recv(65536):
                reply += part
            assert reply.startswith(b"HTTP/1.1 408") and b'{"error"' in reply, "and the connection ends"
        with socket.create_connection(where, 60) as drip:
            drip.sendall(body.encode())
            began = time.monotonic()
            drip.settimeout(0.4)
            reply = b""
            while not reply and time.monotonic() - began < 60:
                try:
                    reply = drip.recv(65536)
                except TimeoutError:
                    drip.sendall(b" ")
            assert reply.startswith(b"HTTP/1.1 408"), "a byte now and then is no body either"
        for head in (b"", b"GET / HTTP/1.1\r\nHost:"):
            with socket.create_connection(where, 60) as silent:
                silent.sendall(head)
                assert silent.recv(65536) == b""


def test_an_unexpected_failure_is_json_as_well(web: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr("server.service.SearchService.status", broken)
    reply = web.get("/api/status")
    assert reply.status_code == 500 and list(reply.json()) == ["error"] and "secret" not in reply.text

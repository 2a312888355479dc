"""The API as other programs use it, and as those who mean harm do."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from server.media import media_type
from tests.conftest import ROOT, build, picture, write_photos
from tests.films import film
from tests.servers import serving


def search(web: httpx.Client, **asked: object) -> list[dict[str, Any]]:
    reply = web.post("/api/search", json=asked)
    assert reply.status_code == 200, reply.text
    hits: list[dict[str, Any]] = reply.json()["hits"]
    return hits


def png(seed: int) -> bytes:
    out = io.BytesIO()
    picture(seed, 320, 240).save(out, "PNG")
    return out.getvalue()


def test_words_find_pictures(web: httpx.Client) -> None:
    value = web.post("/api/search", json={"text": "a cat", "k": 5}).json()
    assert value["hits"][0]["path"].endswith("chelsea.png") and value["model"] == "mini"
    first = value["hits"][0]
    assert {"media_url", "thumb_url", "relevance", "rank", "score", "id", "start"} <= set(first)
    assert [hit["rank"] for hit in value["hits"]] == [1, 2, 3, 4, 5]
    assert 0 <= first["relevance"] <= 1 and value["milliseconds"] > 0


def test_pages_follow_each_other_without_gap_or_repeat(web: httpx.Client) -> None:
    whole = [hit["id"] for hit in search(web, text="colours", k=60)]
    found: list[str] = []
    cursor = None
    while True:
        value = web.post("/api/search", json={"text": "colours", "k": 25, "cursor": cursor}).json()
        found += [hit["id"] for hit in value["hits"]]
        cursor = value["next"]
        if cursor is None:
            break
    assert found[:60] == whole and len(set(found)) == len(found)
    assert len(found) > 80, "every picture and the film once"


def test_a_picture_of_the_index_and_one_from_outside(web: httpx.Client) -> None:
    cat = search(web, text="a cat", k=1)[0]
    assert search(web, image_id=cat["id"], k=1)[0]["id"] == cat["id"]
    less = search(web, text="a cat", unlike_id=cat["id"], k=80)
    assert less[0]["id"] != cat["id"]
    reply = web.post("/api/search", files={"image": ("q.png", png(56))}, data={"kind": "video", "k": "3"})
    hit = reply.json()["hits"][0]
    assert hit["kind"] == "video" and (hit["start"], hit["end"]) == (
        pytest.approx(2, abs=0.2),
        pytest.approx(4, abs=0.2),
    )
    assert len(hit["moments"]) == 3
    mixed = web.post("/api/search", files={"image": ("q.png", png(5))}, data={"text": "a cat", "not": ["dogs", "cars"]})
    assert mixed.status_code == 200


def test_texts_re_ranking_and_relevance(web: httpx.Client) -> None:
    texts = search(web, text="a cat", kind="text", k=3)
    assert all(hit["kind"] == "text" and hit["text"] for hit in texts)
    again = search(web, text="a cat", rerank=True, k=5)
    assert all(hit["rerank_score"] is not None for hit in again)
    sure = search(web, text="a cat", min_relevance=0.5, k=50)
    assert all(float(str(hit["relevance"])) >= 0.5 for hit in sure)


def test_items_files_and_thumbnails(web: httpx.Client, site: Path) -> None:
    cat = search(web, text="a cat", k=1)[0]
    item = web.get(f"/api/items/{cat['id']}").json()
    assert (item["width"], item["path"]) == (cat["width"], cat["path"])
    assert (item["date_source"], item["rating"], item["words"], item["place"]) == ("exif", None, None, cat["place"])
    whole = web.get(str(cat["media_url"]))
    assert whole.content == (site / "chelsea.png").read_bytes() and whole.headers["content-type"] == "image/png"
    part = web.get(str(cat["media_url"]), headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    for size, side in ((64, 128), (256, 256), (300, 384)):
        thumb = web.get(str(cat["thumb_url"]), params={"size": size})
        assert max(Image.open(io.BytesIO(thumb.content)).size) == side
        assert thumb.headers["content-type"] == "image/jpeg"
    moment = search(web, text="colours", kind="video", k=1)[0]
    assert web.get(str(moment["thumb_url"])).status_code == 200
    seek = web.get(str(moment["media_url"]), headers={"Range": "bytes=-100"})
    assert seek.status_code == 206 and seek.headers["content-type"] == "video/mp4"


def test_describe_ask_and_explain(web: httpx.Client) -> None:
    cat = search(web, text="a cat", k=1)[0]
    told = web.post("/api/describe", json={"id": cat["id"]}).json()
    assert told["caption"] and told["log_probability"] < 0
    value = web.post("/api/ask", json={"question": "what is the cat doing?", "k": 2}).json()
    assert list(value) == ["question", "answer", "evidence"]
    why = web.get("/api/explain", params={"id": cat["id"], "text": "a ginger cat"})
    assert Image.open(io.BytesIO(why.content)).format == "PNG"
    text = search(web, text="a cat", kind="text", k=1)[0]
    assert web.post("/api/describe", json={"id": text["id"]}).status_code == 400


def test_status_health_metrics_and_documents(web: httpx.Client) -> None:
    status = web.get("/api/status").json()
    assert status["videos"] == 1 and status["reader"] == "auto" and status["watch"] is None
    search(web, text="a cat", k=1)
    assert web.get("/healthz").json() == {"status": "ok"}
    metrics = web.get("/metrics").text
    assert 'mmsearch_requests_total{route="/api/search",status="200"}' in metrics
    assert (
        "mmsearch_stage_seconds_bucket" in metrics
        and "process_resident_memory_bytes" in metrics
        and "process_open_fds" in metrics
    )
    page = web.get("/docs").text
    assert "/api/search" in page and "http://" not in page.replace("http://127.0.0.1", "")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/api/search", {}, 400),
        ("POST", "/api/search", {"text": "   "}, 400),
        ("POST", "/api/search", {"text": "a", "k": 0}, 422),
        ("POST", "/api/search", {"text": "a", "k": 10_000}, 422),
        ("POST", "/api/search", {"text": "a", "kind": "sound"}, 422),
        ("POST", "/api/search", {"text": "a", "cursor": "zz"}, 422),
        ("POST", "/api/search", {"words": "a"}, 422),
        ("POST", "/api/search", {"image_id": "nope"}, 404),
        ("POST", "/api/search", {"text": "x" * 3000}, 422),
        ("POST", "/api/describe", {"id": "nope"}, 404),
        ("POST", "/api/ask", {"question": "  "}, 400),
        ("GET", "/api/items/nope", None, 404),
        ("GET", "/media/nope", None, 404),
        ("GET", "/thumb/nope", None, 404),
        ("GET", "/api/explain?id=nope&text=x", None, 404),
        ("GET", "/api/explain", None, 422),
        ("GET", "/nothing", None, 404),
        ("PUT", "/api/search", None, 405),
    ],
)
def test_every_error_is_one_sentence(web: httpx.Client, method: str, path: str, body: object, status: int) -> None:
    reply = web.request(method, path, json=body) if body is not None else web.request(method, path)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"] and "\n" not in reply.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "C:%5cwindows%5cwin.ini",
    ],
)
@pytest.mark.parametrize("route", ["media", "thumb", "api/items"])
def test_no_path_reaches_the_file_system(web: httpx.Client, route: str, path: str) -> None:
    reply = web.get(f"/{route}/{path}")
    assert reply.status_code in (404, 405) and "root:" not in reply.text


def test_a_link_out_of_the_tree_is_not_followed(web: httpx.Client) -> None:
    hits = search(web, text="colours", kind="image", k=100)
    link = next(hit for hit in hits if str(hit["path"]).endswith("link.jpg"))
    for url in (link["media_url"], link["thumb_url"]):
        assert web.get(str(url)).json() == {
            "error": "the file is a link that leads out of the indexed folders, and those alone are served"
        }
    assert web.post("/api/describe", json={"id": link["id"]}).status_code == 404


def test_a_file_that_vanished_says_so(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 2)
    build(tmp_path, mini)
    (tmp_path / "photo0001.jpg").unlink()
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address) as web:
        gone = next(hit for hit in search(web, text="x") if str(hit["path"]).endswith("0001.jpg"))
        assert web.get(str(gone["media_url"])).json() == {"error": "the file is gone"}
        assert web.get(str(gone["thumb_url"])).status_code == 404


def test_hostile_uploads_are_refused(web: httpx.Client) -> None:
    def upload(content: bytes) -> httpx.Response:
        return web.post("/api/search", files={"image": ("q.png", content)})

    assert upload(b"not a picture").json()["error"].startswith("the image cannot be read")
    bomb = io.BytesIO()
    Image.new("1", (60_000, 60_000)).save(bomb, "PNG")
    assert upload(bomb.getvalue()).status_code == 400
    assert upload(b"x" * (21 * 1024 * 1024)).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 1024 * 1024

    streamed = web.post("/api/search", content=endless(), headers={"Content-Type": "application/json"})
    assert streamed.status_code == 413
    assert web.post("/api/search", content=b"{", headers={"Content-Type": "application/json"}).status_code == 422
    assert web.post("/api/search", content=b"a=b", headers={"Content-Type": "text/plain"}).status_code == 422
    assert web.post("/api/search", data={"image": "http://example.com/a.png"}).status_code in (400, 422)


def test_headers_keep_everything_to_itself(web: httpx.Client) -> None:
    page = web.get("/")
    rules = page.headers["content-security-policy"]
    assert "script-src 'self';" in rules and "require-trusted-types-for 'script'" in rules
    assert "unsafe" not in rules and "default-src 'none'" in rules and "frame-ancestors 'none'" in rules
    assert "<style" not in page.text and re.findall(r"<script(?! type=\"module\" src=\"/page/)", page.text) == []
    other = web.get("/api/status")
    assert (
        other.headers["x-content-type-options"] == "nosniff"
        and "default-src 'none'" in other.headers["content-security-policy"]
    )
    cat = search(web, text="a cat", k=1)[0]
    alone = web.get(str(cat["media_url"])).headers["content-security-policy"]
    assert "sandbox" in alone and "script" not in alone and "default-src 'none'" in alone
    assert media_type("a.WebP") == ("image/webp", True) and media_type("a.mkv") == ("video/x-matroska", True)
    assert media_type("a.svg") == ("application/octet-stream", False) and media_type("a.html")[1] is False


def test_a_new_state_is_seen_without_dropping_requests(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 3)
    build(tmp_path, mini)

    async def ask(address: str) -> list[int]:
        async with httpx.AsyncClient(base_url=address, timeout=60) as web:
            counts: list[int] = []

            async def one() -> None:
                reply = await web.post("/api/search", json={"text": "colours", "k": 50})
                assert reply.status_code == 200, reply.text
                counts.append(len(reply.json()["hits"]))

            await asyncio.gather(*(one() for _ in range(8)))
            write_photos(tmp_path, 3, start=10)
            work = asyncio.to_thread(build, tmp_path, mini)
            await asyncio.gather(work, *(one() for _ in range(8)))
            await one()
            return counts

    # On a thread: another test's browser may have left a loop running on this one.
    with serving(tmp_path / ".mmsearch") as address, ThreadPoolExecutor(1) as pool:
        counts = pool.submit(asyncio.run, ask(address)).result()
    assert counts[:8] == [3] * 8 and set(counts) <= {3, 6} and counts[-1] == 6


def test_the_real_command_serves_and_ends(site: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-m", "mmsearch", "serve", "--index", str(site), "--port", "0"]
    process = subprocess.Popen(run, stderr=subprocess.PIPE, text=True, env=env)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        assert httpx.get(f"{found.group(0)}healthz", timeout=30).json() == {"status": "ok"}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0 or process.returncode in (-2, 130)
        if process.stderr is not None:
            process.stderr.close()
    other = subprocess.run(
        [*run[:4], "--index", str(site), "--host", "203.0.113.7"], capture_output=True, text=True, env=env, check=False
    )
    assert other.returncode == 1 and other.stderr.startswith("error: cannot listen on 203.0.113.7")


def test_status_is_counted_once_for_each_state_and_never_on_the_search_lane(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    plain = Engine.status

    def counted(self: Engine) -> dict[str, object]:
        threads.append(threading.current_thread().name)
        return plain(self)

    monkeypatch.setattr(Engine, "status", counted)
    write_photos(tmp_path, 3)
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        for _ in range(20):
            assert web.get("/api/status").json()["images"] == 3
        assert threads == ["lookup-0"]
        write_photos(tmp_path, 1, start=9)
        build(tmp_path, mini)
        assert web.get("/api/status").json()["images"] == 4
        assert len(threads) == 2


def test_a_text_shows_what_it_is_about_or_nothing_at_once(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cue shows its moment, a caption its picture; a document has no picture, and no video is read to find that out."""
    film(tmp_path / "film.mp4", (50, 56, 51))
    (tmp_path / "film.srt").write_text("1\n00:00:02,500 --> 00:00:03,500\na boat on the sea\n")
    picture(5, 80, 40).save(tmp_path / "photo.jpg")
    (tmp_path / "photo.txt").write_text("a caption of the photo")
    (tmp_path / "note.md").write_text("a note about nothing")
    (tmp_path / "lonely.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nwords without a video\n")
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        texts = {hit["text"]: hit for hit in search(web, text="words", kind="text", k=20)}
        cue = Image.open(io.BytesIO(web.get(texts["a boat on the sea"]["thumb_url"]).content))
        shown = np.asarray(cue.resize((8, 6)), np.float32) - np.asarray(
            picture(56, 320, 240).resize((8, 6)), np.float32
        )
        assert abs(shown).mean() < 20, "the frame in the middle of the cue"
        caption = web.get(texts["a caption of the photo"]["thumb_url"])
        assert Image.open(io.BytesIO(caption.content)).size == (80, 40)
        monkeypatch.setattr("media.reader.ImageReader.image", lambda *_: pytest.fail("nothing is to be read"))
        for text in ("a note about nothing", "words without a video"):
            assert web.get(texts[text]["thumb_url"]).json() == {"error": "a text has no picture"}


def test_the_application_as_a_library_leaves_the_collector_alone(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path, 1)
    build(tmp_path, mini)
    frozen: list[bool] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    with serving(tmp_path / ".mmsearch") as address:
        assert httpx.get(f"{address}/healthz").status_code == 200
    assert not frozen


def test_equal_words_give_equal_answers_whatever_waits_beside_them(address: str, web: httpx.Client) -> None:
    """Words are not encoded in one batch: with 8-bit weights that would change their embeddings by what else is in it."""
    alone = [(hit["id"], hit["score"]) for hit in search(web, text="a red car in the snow", k=10)]

    def ask(number: int) -> list[tuple[str, float]]:
        text = "a red car in the snow" if number % 3 == 0 else f"something else {number}"
        hits = httpx.post(f"{address}/api/search", json={"text": text, "k": 10}, timeout=120).json()["hits"]
        return [(hit["id"], hit["score"]) for hit in hits] if number % 3 == 0 else alone

    with ThreadPoolExecutor(16) as pool:
        assert all(answer == alone for answer in pool.map(ask, range(32)))


def test_the_document_tells_the_whole_truth(web: httpx.Client, site: Path) -> None:
    document = web.get("/openapi.json").json()
    content = document["paths"]["/api/search"]["post"]["requestBody"]["content"]
    schemas = document["components"]["schemas"]
    form, plain = (
        set(schemas[content[kind]["schema"]["$ref"].rsplit("/", 1)[1]]["properties"])
        for kind in ("multipart/form-data", "application/json")
    )
    assert form == plain | {"image"} and "not" in plain and "negatives" not in plain
    assert {"/metrics", "/healthz", "/api/upload", "/thumb/{identity}/{wanted}"} <= set(document["paths"])
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer" and document["security"] == []
    assert "/metrics" in web.get("/docs").text
    with serving(site / ".mmsearch", token="a-long-secret") as locked:
        headers = {"Authorization": "Bearer a-long-secret"}
        document = httpx.get(f"{locked}/openapi.json", headers=headers, timeout=60).json()
    assert document["security"] == [{"bearer": []}, {"cookie": []}]
    assert document["paths"]["/healthz"]["get"]["security"] == []
    cookie = document["components"]["securitySchemes"]["cookie"]["name"]
    assert cookie == f"mmsearch_{locked.rsplit(':', 1)[1]}"


def test_the_document_describes_what_is_answered(address: str) -> None:
    """Schemathesis over the OpenAPI document: made-up requests, valid and not, and answers as the document says."""
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.core.result import Err
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    counts = 0
    for result in schema.get_all_operations():
        if isinstance(result, Err):
            raise result.err()
        operation = result.ok()

        @settings(
            max_examples=15, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy())
        def probe(case: schemathesis.Case[Any]) -> None:
            # What a schema allows may still make no sense, such as nothing to look for: that is a 400.
            case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=180)

        probe()
        counts += 1
    assert counts >= 9
    assert json.loads(httpx.get(f"{address}/openapi.json").text)["info"]["title"] == "mmsearch"

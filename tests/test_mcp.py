"""`mmsearch mcp` by the official SDK's own client: over standard input and output, and over HTTP."""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from PIL import Image

from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.types import Query
from server.mcp import IMAGE_BYTES, MOST_HITS, Tools, bounded_jpeg, tool_server
from tests.conftest import ROOT, Command, build, picture, write_photos

mcp = pytest.importorskip("mcp")
Result = TypeVar("Result")
TOOLS = {"search", "similar", "facets", "describe", "ask", "get_image"}
RUN = [sys.executable, "-m", "mmsearch", "mcp"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def asked(work: Callable[[Any], Awaitable[Result]], server: Any) -> Result:
    """What a client of a server gets, on a thread: another test's browser may have left a loop running on this one."""

    async def run() -> Result:
        async with mcp.Client(server) as client:
            return await work(client)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


def over_stdio(folder: Path) -> Any:
    from mcp.client.stdio import StdioServerParameters, stdio_client

    words = [*RUN[1:], "--index", str(folder)]
    return stdio_client(StdioServerParameters(command=RUN[0], args=words, env=environment()))


@pytest.fixture(scope="module")
def tools(site: Path) -> Iterator[Tools]:
    opened = Tools(site / ".mmsearch", "cpu")
    opened.warm()
    yield opened
    opened.close()


def call(tools: Tools, name: str, **arguments: object) -> Any:
    """The result of one call, in this process."""
    return asked(lambda client: client.call_tool(name, arguments), tool_server(tools))


def refusal(tools: Tools, name: str, **arguments: object) -> str:
    result = call(tools, name, **arguments)
    assert result.is_error
    return str(result.content[0].text)


def test_an_agent_finds_looks_at_and_describes_a_photo_over_standard_input_and_output(site: Path) -> None:
    async def work(client: Any) -> None:
        listed = (await client.list_tools()).tools
        assert {tool.name for tool in listed} == TOOLS
        for tool in listed:
            assert tool.annotations.read_only_hint is True and tool.annotations.destructive_hint is False
            assert tool.description and len(tool.description) < 400
        found = await client.call_tool("search", {"query": "a cat", "k": 3})
        cat = found.structured_content["hits"][0]
        assert cat["path"].endswith("chelsea.png") and not found.is_error
        shown = await client.call_tool("get_image", {"id": cat["id"], "size": 128})
        assert max(Image.open(io.BytesIO(base64.b64decode(shown.content[1].data))).size) == 128
        assert shown.content[1].mime_type == "image/jpeg"
        told = await client.call_tool("describe", {"id": cat["id"]})
        assert told.structured_content["caption"] and told.structured_content["path"] == cat["path"]
        wrong = await client.call_tool("describe", {"id": "nothing"})
        assert wrong.is_error and "ids come from search" in wrong.content[0].text

    asked(work, over_stdio(site))


def test_hits_are_those_of_the_engine_page_by_page(tools: Tools, site: Path) -> None:
    with Engine.open(site, device="cpu") as engine:
        wanted = [hit.item.id for hit in engine.search(Query(text="colours", k=12))]
    first = call(tools, "search", query="colours", k=6).structured_content
    second = call(tools, "search", query="colours", k=6, cursor=first["next"]).structured_content
    assert [hit["id"] for hit in (*first["hits"], *second["hits"])] == wanted
    like = call(tools, "similar", id=wanted[3], k=1).structured_content["hits"]
    assert like[0]["id"] == wanted[3]
    videos = call(tools, "search", query="colours", kind="video").structured_content["hits"]
    assert {hit["kind"] for hit in videos} == {"video"} and videos[0]["end"] > videos[0]["start"]
    assert 1 < len(videos[0]["moments"]) <= 5


def test_facets_and_answers(tools: Tools, site: Path) -> None:
    with Engine.open(site, device="cpu") as engine:
        kinds = engine.facets(Query.parse("name:photo").filter).kinds
    counts = call(tools, "facets", query="name:photo").structured_content
    assert counts["kinds"] == dict(kinds) and counts["folders"]["more"] == 60
    told = call(tools, "ask", question="what is the cat doing?", k=2).structured_content
    assert set(told) == {"answer", "evidence"}
    assert all(f"[{number}]" in told["answer"] for number in range(1, len(told["evidence"]) + 1))


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("search", {"query": "a", "k": MOST_HITS + 1}, "k: "),
        ("search", {"query": "a" * 2001}, "query: "),
        ("search", {"query": "after:sunday dogs"}, "is no date"),
        ("search", {"query": ""}, "give some words"),
        ("search", {"query": "a", "kinds": "image"}, "search takes no 'kinds'; it takes query, kind, k"),
        ("search", {"query": "a", "cursor": "0123.5"}, "search again"),
        ("similar", {"id": "nothing"}, "ids come from search"),
        ("get_image", {"id": "nothing", "size": 4096}, "size: "),
        ("ask", {"question": " "}, "the question is empty"),
        ("remove", {}, "there is no tool 'remove'; the tools are search"),
    ],
)
def test_an_error_says_what_and_what_to_do(tools: Tools, name: str, arguments: dict[str, object], says: str) -> None:
    said = refusal(tools, name, **arguments)
    assert says in said and "\n" not in said and "--" not in said, said


def test_a_text_has_no_picture_unless_it_is_about_one(tools: Tools) -> None:
    hits = call(tools, "search", query="a strange caption", kind="text", k=1).structured_content["hits"]
    assert "<script>" in hits[0]["text"], "words of others stay words"
    assert call(tools, "get_image", id=hits[0]["id"]).content[1].type == "image"
    assert "text needs no description" in refusal(tools, "describe", id=hits[0]["id"])


def test_pictures_and_texts_are_bounded(tmp_path: Path, mini: Encoder) -> None:
    noise = Image.effect_noise((2000, 1500), 200).convert("RGB")
    noise.save(tmp_path / "noise.png")
    (tmp_path / "noise.txt").write_text("long words " * 400)
    build(tmp_path, mini)
    opened = Tools(tmp_path / ".mmsearch", "cpu")
    try:
        (hit,) = call(opened, "search", query="noise").structured_content["hits"]
        shown = call(opened, "get_image", id=hit["id"], size=1024)
        assert len(base64.b64decode(shown.content[1].data)) <= IMAGE_BYTES
        texts = call(opened, "search", query="long words", kind="text").structured_content["hits"]
        assert texts and all(len(text["text"]) <= 1001 for text in texts)
    finally:
        opened.close()
    out = io.BytesIO()
    noise.save(out, "JPEG", quality=100)
    small = bounded_jpeg(out.getvalue(), 1000)
    assert len(small) <= IMAGE_BYTES and max(Image.open(io.BytesIO(small)).size) <= 1000
    whole = io.BytesIO()
    picture(5).save(whole, "JPEG")
    assert bounded_jpeg(whole.getvalue(), 512) is whole.getvalue() or max(
        Image.open(io.BytesIO(bounded_jpeg(whole.getvalue(), 512))).size
    ) == max(picture(5).size)


def test_what_is_new_in_the_index_is_found_while_the_tools_run(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 3)
    build(tmp_path, mini)
    opened = Tools(tmp_path / ".mmsearch", "cpu")
    try:
        assert len(call(opened, "search", query="colours", k=20).structured_content["hits"]) == 3
        write_photos(tmp_path, 2, start=40)
        build(tmp_path, mini)
        assert len(call(opened, "search", query="colours", k=20).structured_content["hits"]) == 5
    finally:
        opened.close()


def test_a_model_that_loads_does_not_keep_others_waiting(
    site: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first search waits for its model, the client can still list the tools."""
    release = threading.Event()
    plain = Engine.answer

    def slow(self: Engine, query: Query) -> Any:
        release.wait(60)
        return plain(self, query)

    monkeypatch.setattr(Engine, "answer", slow)
    opened = Tools(site / ".mmsearch", "cpu")

    async def work(client: Any) -> float:
        waiting = asyncio.create_task(client.call_tool("search", {"query": "a cat"}))
        await asyncio.sleep(0.1)
        began = time.monotonic()
        assert len((await client.list_tools(cache_mode="bypass")).tools) == len(TOOLS)
        took = time.monotonic() - began
        assert not waiting.done()
        release.set()
        assert not (await waiting).is_error
        return took

    try:
        assert asked(work, tool_server(opened)) < 10
    finally:
        release.set()
        opened.close()


@pytest.fixture(scope="module")
def over_http(site: Path) -> Iterator[tuple[str, str]]:
    """The address of the real command over HTTP, and its token."""
    words = [*RUN, "--index", str(site), "--http", "127.0.0.1:0", "--token", "a-long-secret"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/mcp", line)
            assert found, line
            yield found.group(0), "a-long-secret"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def test_the_same_over_http_for_those_who_have_the_token(over_http: tuple[str, str], site: Path) -> None:
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    address, token = over_http

    async def work(client: Any) -> list[str]:
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        found = await client.call_tool("search", {"query": "a cat", "k": 5})
        return [hit["id"] for hit in found.structured_content["hits"]]

    async def run() -> list[str]:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=120) as web,
            mcp.Client(streamable_http_client(address, http_client=web)) as client,
        ):
            return await work(client)

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(asyncio.run, run()).result()
    with Engine.open(site, device="cpu") as engine:
        assert found == [hit.item.id for hit in engine.search(Query(text="a cat", k=5))]


def test_over_http_the_guard_is_that_of_serve(over_http: tuple[str, str]) -> None:
    address, token = over_http
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    bearer = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    assert httpx.post(address, json=body).status_code == 401
    assert httpx.post(address, json=body, headers={**bearer, "Authorization": "Bearer wrong"}).status_code == 401
    assert httpx.post(address, json=body, headers={**bearer, "Host": "evil.example"}).status_code == 400
    assert httpx.post(address, json=body, headers={**bearer, "Origin": "http://evil.example"}).status_code == 400
    assert httpx.post(address, json=body, headers=bearer, timeout=60).status_code == 200
    large = httpx.post(address, content=b"x" * (21 * 1024 * 1024), headers=bearer, timeout=60)
    assert large.status_code == 413


def test_what_cannot_be_served_is_told_in_one_line(tmp_path: Path, command: Command, site: Path) -> None:
    none = command("mcp", "--index", str(tmp_path))
    assert none.returncode == 1 and none.stderr.startswith("error: no index") and none.stderr.count("\n") == 1
    for wrong in ("8000", "localhost", "::1:80", "a:b", "host:99999"):
        odd = command("mcp", "--index", str(site), "--http", wrong)
        assert odd.returncode == 2 and "HOST:PORT" in odd.stderr, odd.stderr
    (tmp_path / "mcp").mkdir()
    (tmp_path / "mcp" / "__init__.py").write_text("raise ImportError('not here')")
    home = os.pathsep.join([str(tmp_path), str(ROOT)])
    missing = command("mcp", "--index", str(site), env={"PYTHONPATH": home, "PYTHONINSPECT": ""})
    assert missing.returncode == 1 and missing.stderr == (
        "error: the tools for agents need the MCP SDK; install it with: pip install mcp\n"
    )

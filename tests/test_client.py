"""`mmsearch.connect`: what a server's index gives equals what the engine gives where the index is."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import mmsearch
from media.reader import ImageReader
from mmsearch import Client, Engine, Filter, Hit, Near, Query, Rerank, Term
from retrieval.errors import ItemNotFoundError, MediaError, MmsearchError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.results import Caption
from server.app import ServeConfig
from server.guard import host_names
from tests.conftest import build, picture, write_photos
from tests.servers import serving

TOKEN = "a-long-secret"


@pytest.fixture(scope="module")
def client(site: Path) -> Iterator[Client]:
    with serving(site / ".mmsearch", token=TOKEN) as address, mmsearch.connect(address, token=TOKEN) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine(site: Path) -> Iterator[Engine]:
    # It reads pictures for re-ranking and captions as large as the server does.
    with Engine.open(site, device="cpu", images=ImageReader(1024)) as opened:
        yield opened


LINES = [
    "a cat",
    "colours name:photo",
    "kind:text a strange caption",
    "kind:video",
    "in:more after:1990",
    '"strange caption" a picture',
    "2:red + blue - dark -people",
    "before:1990",
    r"\in:nowhere 16:9 \-x",
]


@pytest.mark.parametrize("line", LINES)
def test_a_line_finds_the_same(client: Client, engine: Engine, line: str) -> None:
    query = replace(Query.parse(line), k=30)
    assert client.answer(query) == engine.answer(query)


def queries(engine: Engine) -> list[Query]:
    """Queries of every field."""
    first, second, third = (hit.item.id for hit in engine.search(Query(text="colours", k=3)))
    shown = picture(5, 320, 240)
    return [
        Query(text="a cat", k=1),
        Query(text="colours", kind="video", group=False),
        Query(text="colours", kind="video", k=3),
        Query(text="colours", copies=True, k=64),
        Query(text="phot", prefix=True, match="words"),
        Query(text="a cat", match="meaning", min_relevance=0.5),
        Query(text="a cat", negatives=("dogs", "two words"), sort="oldest"),
        Query(terms=(Term(text="a cat", weight=1.5), Term(text="grass", weight=-0.5)), kind="text"),
        Query(images=(shown,)),
        Query(images=(shown, picture(9, 640, 480)), text="colours"),
        Query(images=(shown,), region=(0.25, 0.25, 0.5, 0.5)),
        Query(images=(shown,), kind="text"),
        Query(like=(first,)),
        Query(like=(first, second), unlike=(third,), text="a cat"),
        Query(like=(second,), region=(0, 0, 0.5, 1)),
        Query(text="colours", filter=Filter(names=("photo*",), after="1990-01-02T03:04:05"), k=40),  # type: ignore[arg-type]
        Query(filter=Filter(near=Near(latitude=48.5, longitude=2.25, km=12.5))),
        Query(text="a cat", rerank=Rerank(candidates=5)),
        Query(text="a cat", rerank=Rerank(candidates=8, fusion="attention"), k=12),
    ]


@pytest.mark.parametrize("number", range(17))
def test_every_field_of_a_query_reaches_the_server(client: Client, engine: Engine, number: int) -> None:
    query = queries(engine)[number]
    assert client.answer(query) == engine.answer(query)


def rounded(hit: Hit) -> Hit:
    """A hit with five digits of its scores: words are embedded by another form of the model where all of it is loaded, as
    re-ranking and captions do, and the last digits are that form's own."""
    second = None if hit.rerank_score is None else round(hit.rerank_score, 4)
    sure = None if hit.relevance is None else round(hit.relevance, 4)
    return replace(
        hit,
        score=round(hit.score, 5),
        first_stage_score=round(hit.first_stage_score, 5),
        rerank_score=second,
        relevance=sure,
        moments=tuple(map(rounded, hit.moments)),
    )


def of_evidence(evidence: Sequence[tuple[Hit, Caption]]) -> list[tuple[Hit, str, tuple[int, ...], float]]:
    return [(rounded(hit), caption.text, caption.ids, round(caption.log_probability, 3)) for hit, caption in evidence]


@pytest.mark.parametrize("number", [17, 18])
def test_what_is_read_again_is_the_same_up_to_rounding(client: Client, engine: Engine, number: int) -> None:
    query = queries(engine)[number]
    here, there = engine.answer(query), client.answer(query)
    assert replace(there, hits=()) == replace(here, hits=()) and here.seen == (5, 8)[number - 17]
    assert list(map(rounded, there.hits)) == list(map(rounded, here.hits))


def test_more_hits_than_a_page_has(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 230)
    build(tmp_path, mini)
    query = Query(text="colours", k=225)
    with (
        serving(tmp_path / ".mmsearch") as address,
        mmsearch.connect(address) as client,
        mmsearch.open(tmp_path, device="cpu") as engine,
    ):
        assert client.search(query) == engine.search(query)
        assert client.search(replace(query, k=500)) == engine.search(replace(query, k=500))
    config = ServeConfig(folder=tmp_path / ".mmsearch", hosts=host_names("127.0.0.1", []), device="cpu", deepest=210)
    with (
        serving(tmp_path / ".mmsearch", config=config) as address,
        mmsearch.connect(address) as client,
        pytest.raises(QueryError, match="gives 200 hits of a search at most"),
    ):
        client.search(query)


def test_facets_items_status_failures_and_copies(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 3)
    (tmp_path / "copy.jpg").write_bytes((tmp_path / "photo0001.jpg").read_bytes())
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 nothing")
    # A name that is no UTF-8, where the file system takes one.
    odd = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    picture(8).save(odd, "JPEG")
    build(tmp_path, mini)
    with (
        serving(tmp_path / ".mmsearch") as address,
        mmsearch.connect(f"{address}/") as client,
        mmsearch.open(tmp_path, device="cpu") as engine,
    ):
        assert client.url == address
        for wanted in (Filter(), Filter(names=("photo",)), Filter(kinds=("image", "video"))):
            assert client.facets(wanted) == engine.facets(wanted)
        assert client.failures() == engine.failures() != []
        assert client.duplicates() == list(engine.duplicates()) != []
        assert engine.status().items() <= client.status().items()
        hits = client.search(Query(text="colours"))
        assert str(odd) in {hit.item.path for hit in hits} and any(hit.copies for hit in hits)
        assert hits == engine.search(Query(text="colours"))
        for hit in hits:
            assert client.item(hit.item.id) == engine.item(hit.item.id)
            assert client.media(hit.item) == Path(hit.item.path).read_bytes()
            assert max(Image.open(io.BytesIO(client.thumbnail(hit.item.id, 128))).size) <= 128
        target = tmp_path / "saved.bin"
        client.download(hits[0].item, target)
        assert target.read_bytes() == Path(hits[0].item.path).read_bytes()
        with pytest.raises(MmsearchError, match="cannot write"):
            client.download(hits[0].item, tmp_path / "nowhere" / "x.jpg")


def test_captions_and_evidence_are_the_engines(client: Client, engine: Engine) -> None:
    cat = engine.search(Query(text="a cat", k=1))[0].item
    assert client.describe(cat) == client.describe(cat.id) == engine.describe(cat)
    question = "what is the cat doing?"
    told = client.ask(question, 2, min_relevance=0.1, candidates=10)
    assert told.question == question and told.answer
    local = engine.evidence(question, 2, min_relevance=0.1, candidates=10)
    assert local and of_evidence(told.evidence) == of_evidence(local)
    assert of_evidence(client.evidence(question, 2, min_relevance=0.1, candidates=10)) == of_evidence(local)


def test_errors_are_our_own_with_the_servers_words(client: Client, site: Path) -> None:
    for identity in ("nothing", "../status", "a/b", "", "é"):
        with pytest.raises(ItemNotFoundError, match="the index has no item"):
            client.item(identity)
        with pytest.raises(ItemNotFoundError):
            client.thumbnail(identity)
    with pytest.raises(ItemNotFoundError):
        client.search(Query(like=("nothing",)))
    with pytest.raises(QueryError, match="give some words"):
        client.search(Query())
    with pytest.raises(QueryError, match="question is empty"):
        client.ask(" ")
    with pytest.raises(QueryError, match="text: "):
        client.search(Query(text="a" * 3000))
    with pytest.raises(QueryError, match="not by a film"):
        client.search(Query(images=((picture(1), picture(2)),)))
    with pytest.raises(QueryError, match="chooses the model"):
        client.search(Query(text="a", rerank=Rerank(reranker="mini")))
    with pytest.raises(QueryError, match="takes a Query"):
        client.search("a cat")  # type: ignore[arg-type]
    outside = next(hit.item for hit in client.search(Query(text="x", k=200)) if hit.item.path.endswith("link.jpg"))
    with pytest.raises(MediaError, match="leads out"):
        client.media(outside)
    assert client.describe(outside) is None


def test_who_cannot_be_reached_or_refuses_is_told(site: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with mmsearch.connect(f"http://127.0.0.1:{free}") as nobody:
        with pytest.raises(MmsearchError, match=r"cannot be reached: .*is mmsearch serve running there\?"):
            nobody.status()
        with pytest.raises(MmsearchError, match="cannot be reached"):
            nobody.download("x", tmp_path / "x")
    for wrong in ("127.0.0.1:8000", "ftp://x", "http://", "http://x:port", "http://x/?token=y", ""):
        with pytest.raises(QueryError, match="no address of a server"):
            mmsearch.connect(wrong)
        with pytest.raises(QueryError):
            mmsearch.connect_async(wrong)
    with (
        serving(site / ".mmsearch", token=TOKEN) as address,
        mmsearch.connect(address, token="wrong-one") as stranger,
        pytest.raises(MmsearchError, match="asks for its token"),
    ):
        stranger.status()


def test_an_asynchronous_program_gets_the_same(client: Client, engine: Engine, tmp_path: Path) -> None:
    async def run() -> None:
        async with mmsearch.connect_async(client.url, token=TOKEN) as web:
            assert web.url == client.url
            several = [Query(text=text, k=5) for text in ("a cat", "colours", "night")]
            answers = await asyncio.gather(*(web.answer(query) for query in several))
            assert answers == [engine.answer(query) for query in several]
            shown = Query(images=(picture(5, 320, 240),))
            assert await web.search(shown) == engine.search(shown)
            assert await web.facets(Filter()) == engine.facets(Filter())
            assert await web.failures() == engine.failures()
            assert await web.duplicates() == list(engine.duplicates())
            assert engine.status().items() <= (await web.status()).items()
            cat = answers[0].hits[0].item
            assert await web.item(cat.id) == cat and await web.describe(cat) == engine.describe(cat)
            assert await web.thumbnail(cat) == client.thumbnail(cat)
            assert await web.media(cat) == Path(cat.path).read_bytes()
            await web.download(cat, tmp_path / "cat.png")
            assert (tmp_path / "cat.png").read_bytes() == Path(cat.path).read_bytes()
            local = engine.evidence("a cat?", 1, min_relevance=0.1, candidates=4)
            told = await web.evidence("a cat?", 1, min_relevance=0.1, candidates=4)
            assert of_evidence(told) == of_evidence(local) != []
            with pytest.raises(ItemNotFoundError):
                await web.item("nothing")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, run()).result()


def test_an_index_that_changes_between_two_pages_is_searched_anew(tmp_path: Path, mini: Encoder) -> None:
    from client.wire import Call, Reply, searching

    def reply(status: int, **value: object) -> Reply:
        whole = {
            "hits": [], "next": None, "more": False, "notes": [], "seen": 0, "unreadable": [], "out_of_time": False,
            "text_cut": False, "unindexed": 0, **value,
        }  # fmt: skip
        return Reply(status=status, content=json.dumps(whole).encode())

    talk = searching(Query(text="x", k=300))
    calls: list[Call] = [next(talk), talk.send(reply(200, next="s.c8", more=True))]
    assert calls[1].body is not None and calls[1].body["cursor"] == "s.c8"
    again = talk.send(reply(409))
    assert again.body is not None and again.body["cursor"] is None
    for _ in range(2):
        talk.send(reply(200, next="s.c8", more=True))
        try:
            talk.send(reply(409))
        except MmsearchError as error:
            assert "changes faster" in str(error)
            return
    raise AssertionError("it went on for ever")

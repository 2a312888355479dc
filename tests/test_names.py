"""A name that is no UTF-8 is valid text wherever it leaves the file system: JSON, tables, pages and the API."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import mmsearch
from media.names import base64_name, join_name, printable, split_name, valid_json, valid_text
from tests.conftest import Command, build, picture
from tests.films import film
from tests.servers import serving

if TYPE_CHECKING:
    from retrieval.models.encoder import Encoder

RAW = b"caf\xe9.jpg"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """An index of files whose names are Latin-1: a photo, its caption, a film, and a damaged photo."""
    folder = tmp_path_factory.mktemp("odd")
    home = os.fsencode(folder)
    picture(1).save(folder / "a.jpg")
    os.rename(folder / "a.jpg", home + b"/" + RAW)
    with open(home + b"/caf\xe9.txt", "wb") as out:
        out.write(b"a coffee house")
    film(folder / "film.mp4", (5, 6))
    os.rename(folder / "film.mp4", home + b"/f\xefte.mp4")
    with open(home + b"/br\xf6ken.png", "wb") as out:
        out.write(b"nothing")
    build(folder, mini)
    return folder


@pytest.fixture(scope="module")
def client(odd: Path) -> Iterator[httpx.Client]:
    with serving(odd / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as opened:
        yield opened


def test_json_of_every_command_is_json_with_a_name_that_is_no_utf8(odd: Path, command: Command) -> None:
    """It held bytes that no parser takes."""
    done = command("search", "a house", "--index", str(odd), "--json", "-k", "9")
    text = os.fsencode(done.stdout).decode("utf-8", "strict")
    hits = {os.path.basename(hit["path"]): hit for hit in map(json.loads, text.splitlines())}
    assert set(hits) == {"caf\ufffd.jpg", "f\ufffdte.mp4"}
    assert base64.b64decode(hits["caf\ufffd.jpg"]["path_raw"]) == os.fsencode(odd) + b"/" + RAW
    failures = [json.loads(line) for line in command("failures", "--index", str(odd), "--json").stdout.splitlines()]
    assert [os.path.basename(failure["path"]) for failure in failures] == ["br\ufffdken.png"]
    assert base64.b64decode(failures[0]["path_raw"]).endswith(b"/br\xf6ken.png")


def test_tables_and_sheets_show_a_name_that_is_no_utf8(odd: Path, command: Command, tmp_path: Path) -> None:
    table = os.fsencode(command("search", "a house", "--index", str(odd)).stdout).decode("utf-8", "strict")
    assert "caf\ufffd.jpg" in table
    assert "br\ufffdken.png" in command("failures", "--index", str(odd)).stdout
    sheet = tmp_path / "sheet.html"
    done = command("search", "a house", "--index", str(odd), "--html", str(sheet), "--kind", "image")
    assert done.returncode == 0, done.stderr
    page = sheet.read_text("utf-8")
    assert "caf\ufffd.jpg" in page and "caf%E9.jpg" in page and "data:image/jpeg" in page
    clips = tmp_path / "clips"
    done = command("search", "a house", "--index", str(odd), "--kind", "video", "--clip", str(clips))
    assert done.returncode == 0, done.stderr
    assert any(b"f\xefte" in name for name in os.listdir(os.fsencode(clips)))
    errors = command("describe", os.fsdecode(os.fsencode(odd) + b"/br\xf6ken.png"), "--model", "mini").stderr
    assert "br\ufffdken.png" in errors


def test_the_api_serves_a_name_that_is_no_utf8(odd: Path, client: httpx.Client) -> None:
    """Every page of results that held it was a 500."""
    reply = client.post("/api/search", json={"text": "a house", "k": 9})
    assert reply.status_code == 200
    hits = {os.path.basename(hit["path"]): hit for hit in reply.json()["hits"]}
    photo = hits["caf\ufffd.jpg"]
    assert base64.b64decode(photo["path_raw"]) == os.fsencode(odd) + b"/" + RAW
    for hit in hits.values():
        item = client.get(f"/api/items/{hit['id']}")
        assert item.json()["path"] == hit["path"] and item.json()["path_raw"] == hit["path_raw"]
        assert client.get(hit["media_url"]).status_code == 200
        assert client.get(hit["thumb_url"]).headers["content-type"] == "image/jpeg"
        assert client.post("/api/describe", json={"id": hit["id"]}).status_code == 200
    assert client.get(photo["media_url"]).content == Path(os.fsdecode(os.fsencode(odd) + b"/" + RAW)).read_bytes()
    answer = client.post("/api/ask", json={"question": "what is there?"})
    assert answer.status_code == 200
    texts = client.post("/api/search", json={"text": "a coffee house", "kind": "text"}).json()["hits"]
    assert [os.path.basename(hit["path"]) for hit in texts] == ["caf\ufffd.jpg"]


def test_a_file_that_is_gone_is_json_whatever_its_name(odd: Path, client: httpx.Client) -> None:
    hits = client.post("/api/search", json={"text": "a house", "kind": "image"}).json()["hits"]
    place = os.fsencode(odd) + b"/" + RAW
    os.rename(place, place + b".away")
    try:
        reply = client.get(hits[0]["media_url"])
        assert reply.status_code == 404 and list(reply.json()) == ["error"]
    finally:
        os.rename(place + b".away", place)


def test_python_gets_the_name_that_opens_the_file(odd: Path) -> None:
    with mmsearch.open(odd) as engine:
        hit = engine.search(mmsearch.Query(text="a house", kind="image"))[0]
    assert os.fsencode(hit.item.path) == os.fsencode(odd) + b"/" + RAW
    assert mmsearch.open_image(hit.item.path).size == (64, 48)


def test_names_as_text_and_back() -> None:
    for raw in (b"plain", "caf\u00e9".encode(), b"caf\xe9", b"\xff\n\xfe", "\U0001f600".encode()):
        name = os.fsdecode(raw)
        text, bytes_of_name = split_name(name)
        assert text.encode("utf-8") and join_name(text, bytes_of_name) == name
        assert base64_name(name) is None or base64.b64decode(base64_name(name) or "") == raw
    assert valid_text("lone \ud800 half").isprintable()
    assert printable(os.fsdecode(b"a\xff\nb")) == "a\ufffd\\nb"
    odd = os.fsdecode(RAW)
    assert valid_json({"path": odd, "k": 1, "all": ["x", odd], "in": [{"path": odd}]}) == {
        "path": "caf\ufffd.jpg",
        "path_raw": "Y2Fm6S5qcGc=",
        "k": 1,
        "all": ["x", "caf\ufffd.jpg"],
        "all_raw": [None, "Y2Fm6S5qcGc="],
        "in": [{"path": "caf\ufffd.jpg", "path_raw": "Y2Fm6S5qcGc="}],
    }

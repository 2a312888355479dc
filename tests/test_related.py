"""What belongs to the file of an item, and which parts of a picture words rest on, through the API and from Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import mmsearch
from retrieval.models.encoder import Encoder
from tests.servers import serving
from tests.shelves import CUES, make_shelf


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"), mini)


@pytest.fixture(scope="module")
def web(shelf: Path) -> Iterator[httpx.Client]:
    with serving(shelf / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


def first(web: httpx.Client, **asked: object) -> dict[str, Any]:
    hit: dict[str, Any] = web.post("/api/search", json={"k": 1, **asked}).json()["hits"][0]
    return hit


def file_of(web: httpx.Client, hit: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = web.get(f"/api/items/{hit['id']}/file").json()
    return answer


def test_a_video_has_its_moments_and_its_subtitles_in_the_order_of_time(web: httpx.Client) -> None:
    moment, cue = first(web, text="name:talk.mp4 kind:video"), first(web, text="coffee harbour", kind="text")
    held = file_of(web, moment)
    assert (held["kind"], held["place"], held["folder"]) == ("video", "films/talk.mp4", "films")
    assert [(one["start"], one["end"]) for one in held["moments"]] == [(0, 2), (2, 4), (4, 6), (6, 8)]
    assert [(one["text_kind"], one["start"], one["end"], one["text"]) for one in held["texts"]] == [
        ("subtitle", *each) for each in CUES
    ]
    assert all(web.get(f"{one['thumb_url']}?size=64").status_code == 200 for one in held["moments"])
    assert file_of(web, cue) == held, "a subtitle leads to the same"


def test_a_picture_has_its_caption_and_a_document_itself_alone(web: httpx.Client) -> None:
    held = file_of(web, first(web, text="name:cat.jpg", kind="image"))
    assert (held["kind"], held["place"], held["folder"]) == ("image", "trip/paris/cat.jpg", "trip/paris")
    assert [(one["text_kind"], one["text"]) for one in held["texts"]] == [
        ("caption", "the tired animal of our neighbours")
    ]
    assert held["moments"] == []
    note = file_of(web, first(web, text="boats in the evening", kind="text"))
    assert (note["kind"], note["place"], [one["text_kind"] for one in note["texts"]]) == (
        "text",
        "notes.txt",
        ["passage"],
    )
    assert web.get("/api/items/nope/file").status_code == 404


def test_what_was_removed_since_belongs_to_no_file(tmp_path: Path, mini: Encoder) -> None:
    from tests.conftest import build

    make_shelf(tmp_path, mini)
    (tmp_path / "films" / "talk.srt").unlink()
    build(tmp_path, mini)
    with mmsearch.open(tmp_path) as engine:
        moment = engine.search(mmsearch.Query.parse("name:talk.mp4 kind:video"))[0].item
        assert [(item.kind, item.start) for item in engine.same_file(moment.id)] == [("video", s) for s in (0, 2, 4, 6)]
        with pytest.raises(mmsearch.MmsearchError):
            engine.same_file("nope")


def test_words_that_say_nothing_have_no_map_and_filters_are_no_words(web: httpx.Client) -> None:
    cat = first(web, text="name:cat.jpg", kind="image")
    asked = {"id": cat["id"], "text": "a cat on the table in:trip -dog"}
    maps = web.get("/api/explain/words", params=asked).json()
    assert [one["word"] for one in maps["words"]] == ["cat", "table"] and len(maps["region"]) == 4
    for grid in (maps["whole"], *(one["relevance"] for one in maps["words"])):
        assert len(grid) == len(grid[0]) and max(map(max, grid)) == 1 and min(map(min, grid)) >= 0
    left, top, width, height = maps["region"]
    assert 0 <= left < left + width <= 1 and 0 <= top < top + height <= 1
    only = web.get("/api/explain/words", params={"id": cat["id"], "text": "the"}).json()
    assert [one["word"] for one in only["words"]] == ["the"], "where nothing else was said"
    for wrong in ({"id": cat["id"], "text": "in:trip"}, {"id": cat["id"], "text": " "}):
        assert web.get("/api/explain/words", params=wrong).status_code == 400
    assert web.get("/api/explain/words", params={"id": "nope", "text": "x"}).status_code == 404

"""Lists by pages that begin anywhere, clusters of places, and groups of copies, against counting item by item."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from retrieval.engine import Engine
from retrieval.errors import QueryError
from retrieval.filter import Filter
from retrieval.models.encoder import Encoder
from retrieval.types import Query
from tests.albums import photo
from tests.conftest import build, write_photos
from tests.servers import serving

PLACES = [(48.8584, 2.2945), (48.8600, 2.2950), (52.5163, 13.3777), (-33.8568, 151.2153)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """Twenty-four photos of as many days, newest last; of the first, three copies in all."""
    folder = tmp_path_factory.mktemp("lists")
    for number in range(24):
        photo(
            folder / f"p{number:02}.jpg",
            200 + number,
            f"2024-01-{1 + number:02}",
            PLACES[number % 5] if number % 5 < 4 else None,
        )
    shutil.copyfile(folder / "p00.jpg", folder / "same.jpg")
    photo(folder / "worse.jpg", 200, "2024-01-01", PLACES[0], quality=60)
    build(folder, mini)
    return folder


@pytest.fixture(scope="module")
def lists(folder: Path) -> Iterator[httpx.Client]:
    with serving(folder / ".mmsearch") as home, httpx.Client(base_url=home, timeout=60) as client:
        yield client


def listed(client: httpx.Client, **asked: object) -> dict[str, object]:
    answer = client.post("/api/search", json={"sort": "newest", **asked})
    assert answer.status_code == 200, answer.text
    value: dict[str, object] = answer.json()
    return value


def names(value: dict[str, object]) -> list[str]:
    hits = value["hits"]
    assert isinstance(hits, list)
    return [Path(hit["path"]).name for hit in hits]


def test_a_list_has_its_pages_from_anywhere(lists: httpx.Client) -> None:
    whole = listed(lists, k=100)
    every = names(whole)
    assert every[:23] == [f"p{number:02}.jpg" for number in reversed(range(1, 24))]
    assert len(every) == 24 and whole["total"] == 24 and whole["next"] is None and not whole["more"]
    first = listed(lists, k=5)
    assert names(first) == every[:5] and first["total"] == 24
    for offset in (0, 1, 7, 20, 23, 24, 90):
        page = listed(lists, k=5, cursor=first["next"], offset=offset)
        assert names(page) == every[offset : offset + 5]
        assert page["total"] == 24 and page["more"] == (offset + 5 < 24)
        hits = page["hits"]
        assert isinstance(hits, list)
        assert [hit["rank"] for hit in hits] == list(range(offset + 1, offset + 1 + len(hits)))
    oldest = listed(lists, k=4, sort="oldest", offset=3)
    assert names(oldest) == every[::-1][3:7]
    texts = listed(lists, k=5, copies=True)
    assert texts["total"] == 26, "each copy is a hit of its own"


def test_a_search_by_words_has_no_total_and_an_end_of_depth(lists: httpx.Client) -> None:
    first = listed(lists, text="colours", k=5)
    assert first["total"] is None
    every = names(listed(lists, text="colours", k=24))
    assert names(listed(lists, text="colours", k=5, offset=10)) == every[10:15]
    deep = lists.post("/api/search", json={"text": "colours", "offset": 2001})
    assert deep.status_code == 422 and "2,000 hits deep" in deep.json()["error"]
    assert listed(lists, offset=99_999)["hits"] == []


def test_only_a_list_skips(folder: Path) -> None:
    with pytest.raises(QueryError, match="only a list"):
        Query(text="a", skip=3)
    with pytest.raises(QueryError, match="skip must be"):
        Query(sort="newest", skip=-1)
    with Engine.open(folder) as engine:
        whole = engine.search(Query(sort="newest", k=24))
        assert engine.search(Query(sort="newest", skip=9, k=6)) == whole[9:15]


def test_points_are_clusters_of_what_passes(lists: httpx.Client) -> None:
    def points(**asked: str) -> list[tuple[float, float, int]]:
        value = lists.get("/api/points", params=asked).raise_for_status().json()["points"]
        return [(point["latitude"], point["longitude"], point["count"]) for point in value]

    of_all = points()
    # On a map of the world the two places in Paris are one.
    assert [count for _, _, count in of_all] == [12, 5, 5]
    assert of_all[0][:2] == pytest.approx((48.8591, 2.2947), abs=0.001)
    south, north = sorted(of_all[1:])
    assert south == pytest.approx((-33.8568, 151.2153, 5), abs=1e-3)
    assert north == pytest.approx((52.5163, 13.3777, 5), abs=1e-3)
    # On one of Paris they are two.
    of_paris = points(text="near:Paris")
    assert sorted(count for _, _, count in of_paris) == [5, 7]
    (found,) = points(text="on:2024-01-03")
    assert found == pytest.approx((52.5163, 13.3777, 1), abs=1e-3)
    assert points(text="before:2000") == []
    assert lists.get("/api/points", params={"text": "after:x"}).status_code == 400


def test_copies_and_groups_of_copies(lists: httpx.Client, folder: Path) -> None:
    shown = listed(lists, k=100)["hits"]
    assert isinstance(shown, list)
    (hit,) = [hit for hit in shown if hit["copies"]]
    copies = lists.get(f"/api/items/{hit['id']}/copies").raise_for_status().json()["items"]
    assert copies[0]["id"] == hit["id"]
    assert {Path(item["path"]).name for item in copies} == {"p00.jpg", "same.jpg", "worse.jpg"}
    assert [item["path"] for item in copies[1:]] == hit["copies"]
    alone = lists.get(f"/api/items/{shown[0]['id']}/copies").json()["items"]
    assert [item["id"] for item in alone] == [shown[0]["id"]]
    assert lists.get("/api/items/nothing/copies").status_code == 404
    value = lists.get("/api/duplicates").raise_for_status().json()
    assert [[item["id"] for item in group["items"]] for group in value["groups"]] == [[item["id"] for item in copies]]
    assert value["next"] is None and value["groups"][0]["kind"] == "near"
    assert lists.get("/api/duplicates", params={"cursor": "0.1"}).status_code == 409
    assert lists.get("/api/duplicates", params={"cursor": "zz"}).status_code == 422


def test_groups_of_copies_come_by_pages(tmp_path: Path, mini: Encoder) -> None:
    for file in write_photos(tmp_path, 60):
        shutil.copyfile(file, tmp_path / f"again-{file.name}")
    build(tmp_path, mini)
    with Engine.open(tmp_path) as engine:
        wanted = [[item.id for item in group.items] for group in engine.duplicates()]
    found: list[list[str]] = []
    with serving(tmp_path / ".mmsearch") as home, httpx.Client(base_url=home, timeout=60) as client:
        cursor: str | None = None
        sizes: list[int] = []
        while cursor is not None or not sizes:
            page = client.get("/api/duplicates", params={"cursor": cursor} if cursor else {}).json()
            sizes.append(len(page["groups"]))
            found += [[item["id"] for item in group["items"]] for group in page["groups"]]
            cursor = page["next"]
    assert len(wanted) == 60 and sizes == [50, 10] and found == wanted


def test_clusters_are_bounded(folder: Path) -> None:
    from retrieval.store.points import CELLS, MOST

    with Engine.open(folder) as engine:
        found = engine.points(Filter())
    assert sum(point.count for point in found) == 22 and len(found) <= MOST < CELLS**2

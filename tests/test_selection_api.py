"""What can be done with selected items, what lies around an item, and the lists to look through: over the real server."""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from media.suffixes import VIDEO_SUFFIXES
from retrieval.engine import Engine
from retrieval.errors import MediaError
from retrieval.models.encoder import Encoder
from retrieval.types import Item, Query
from server import archive
from server.archive import LEFT_OUT, safe_name, unique
from tests.conftest import build, picture
from tests.films import film
from tests.servers import serving

CAMERA = 0x0110
FORMULA = "=cmd|' /C calc'!A0.jpg"


def photo(file: Path, seed: int, taken: str | None = None, where: tuple[float, float] | None = None) -> None:
    exif = Image.Exif()
    exif[CAMERA] = "@SUM(1)"
    if taken is not None:
        exif.get_ifd(0x8769)[0x9003] = taken
    if where is not None:
        gps = exif.get_ifd(0x8825)
        gps[1], gps[2] = "N", (where[0], 0.0, 0.0)
        gps[3], gps[4] = "E", (where[1], 0.0, 0.0)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(file, "JPEG", exif=exif, quality=92)


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    picture(seed).save(out, "JPEG", quality=92)
    return out.getvalue()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """Photos of one day and of others, at two places and at none, names of every kind, containers, a film, and a bad file."""
    folder = tmp_path_factory.mktemp("selection")
    paris, rome = (48.85, 2.35), (41.9, 12.5)
    photo(folder / "a" / "IMG_1.jpg", 1, "2023:07:14 10:00:00", paris)
    photo(folder / "b" / "img_1.JPG", 2, "2023:07:14 11:00:00", paris)
    photo(folder / "c" / "IMG_1.jpg", 3, "2023:07:14 15:30:00", rome)
    photo(folder / "d.jpg", 4, "2023:07:14 09:30:00")
    photo(folder / "e.jpg", 5, "2023:09:01 12:00:00", paris)
    photo(folder / FORMULA, 6, "2020:01:01 12:00:00")
    (folder / f"{FORMULA[:-4]}.txt").write_text('=HYPERLINK("http://evil.example")')
    photo(folder / "x\\..\\..\\evil.jpg", 7, "2019:01:01 12:00:00")
    photo(folder / "same.jpg", 8, "2018:01:01 12:00:00")
    (folder / "z-same.jpg").write_bytes((folder / "same.jpg").read_bytes())
    film(folder / "film.mp4", (50, 56, 51))
    with tarfile.open(folder / "set.tar", "w") as opened:
        for name, seed in (("x/IMG_1.jpg", 21), ("up.jpg", 22)):
            info = tarfile.TarInfo(name)
            info.size = len(jpeg(seed))
            opened.addfile(info, io.BytesIO(jpeg(seed)))
    pq.write_table(pa.table({"image_id": ["row"], "image": [jpeg(23)]}), folder / "table.parquet")
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 not a picture")
    (folder / "notes.xyz").write_text("of no kind")
    build(folder, mini)
    return folder


@pytest.fixture(scope="module")
def web(library: Path) -> Iterator[httpx.Client]:
    with serving(library / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as client:
        yield client


def every(web: httpx.Client, **asked: object) -> dict[str, dict[str, Any]]:
    """Hits by the last parts of their paths."""
    body = {"sort": "newest", "k": 100, "copies": True, **asked}
    hits = web.post("/api/search", json=body).json()["hits"]
    return {hit["path"].rpartition("selection0/")[2]: hit for hit in hits}


def chosen(web: httpx.Client, form: str, ids: list[str]) -> httpx.Response:
    return web.post(f"/api/selection/{form}", json={"ids": ids})


def test_a_zip_has_every_file_once_by_a_name_that_leads_nowhere(web: httpx.Client, library: Path) -> None:
    ids = [hit["id"] for hit in every(web).values()]
    moments = web.post("/api/search", json={"text": "x", "kind": "video", "moments": True}).json()["hits"]
    assert len(moments) == 3
    ids += [moment["id"] for moment in moments]
    reply = chosen(web, "zip", ids)
    assert reply.headers["content-type"] == "application/zip" and "content-encoding" not in reply.headers
    assert reply.headers["content-disposition"] == 'attachment; filename="selection.zip"'
    with zipfile.ZipFile(io.BytesIO(reply.content)) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        assert len({name.casefold() for name in names}) == len(names)
        for name in names:
            assert "/" not in name and "\\" not in name and ":" not in name and not name.startswith("."), name
        content = {name: opened.read(name) for name in names}
    assert sum(name.endswith(tuple(VIDEO_SUFFIXES)) for name in names) == 1, "the film of all its moments"
    wanted = {file.read_bytes() for file in library.rglob("*") if file.suffix.lower() in (".jpg", ".mp4")}
    wanted -= {(library / "bad.jpg").read_bytes()}
    assert set(content.values()) == wanted | {jpeg(seed) for seed in (21, 22, 23)}
    assert {"up.jpg", "row.jpg", "evil.jpg", "film.mp4"} <= set(names)
    images = [name for name in names if name.lower().startswith("img_1")]
    assert len(images) == 4, "two folders, another case of letters, and a tar have it"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a/b.jpg", "b.jpg"), ("/a/..", "file"), ("/x/../../etc/passwd", "passwd"), ("/a/c:\\d\\e.png", "e.png"),
        ("/a/CON.jpg", "_CON.jpg"), ("/a/nul", "_nul"), ("/a/ .hidden ", "hidden"), ("/a/b\u202egpj.exe", "b_gpj.exe"),
        ("/a/x\ny.jpg", "x_y.jpg"), ('/a/<b>"?*.jpg', "_b____.jpg"), ("/s.tar::../../up.jpg", "up.jpg"),
        ("/a/caf\udce9.jpg", "caf\ufffd.jpg"), ("/a/" + "é" * 300 + ".jpg", "é" * 88 + ".jpg"),
    ],
)  # fmt: skip
def test_names_in_a_zip_are_safe_on_every_system(path: str, name: str) -> None:
    assert safe_name(path) == name
    taken: set[str] = set()
    assert [unique("a.jpg", taken), unique("A.JPG", taken), unique("a.jpg", taken)] == [
        "a.jpg",
        "A (2).JPG",
        "a (3).jpg",
    ]


def test_a_zip_says_what_was_left_out_and_is_bounded(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        photo(tmp_path / f"{seed}.jpg", seed)
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        ids = [hit["id"] for hit in web.post("/api/search", json={"sort": "newest"}).json()["hits"]]
        (tmp_path / "1.jpg").unlink()
        with zipfile.ZipFile(io.BytesIO(chosen(web, "zip", ids).content)) as opened:
            assert sorted(opened.namelist()) == ["0.jpg", "2.jpg", LEFT_OUT]
            assert opened.read(LEFT_OUT).decode() == f"{tmp_path / '1.jpg'}: the file is gone\n"
        outside = tmp_path.parent / "secret.jpg"
        photo(outside, 9)
        (tmp_path / "2.jpg").unlink()
        (tmp_path / "2.jpg").symlink_to(outside)
        with zipfile.ZipFile(io.BytesIO(chosen(web, "zip", ids).content)) as opened:
            assert sorted(opened.namelist()) == ["0.jpg", LEFT_OUT], "no link leads out"
        monkeypatch.setattr(archive, "MOST_BYTES", 100)
        large = chosen(web, "zip", ids)
        assert large.status_code == 400 and "select fewer" in large.json()["error"]
        (tmp_path / "0.jpg").unlink()
        none = chosen(web, "zip", ids[:1])
        assert none.status_code == 404 and list(none.json()) == ["error"]


def test_a_table_runs_nothing(web: httpx.Client) -> None:
    hits = every(web)
    texts = web.post("/api/search", json={"text": "x", "kind": "text"}).json()["hits"]
    reply = chosen(web, "csv", [hits[FORMULA]["id"], hits["film.mp4"]["id"], *(hit["id"] for hit in texts)])
    assert reply.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert rows[0]["camera"] == "'@SUM(1)" and rows[0]["taken_at"] == "2020-01-01T12:00:00"
    assert rows[1]["kind"] == "video" and float(rows[1]["end"]) > float(rows[1]["start"])
    assert rows[2]["text"] == '\'=HYPERLINK("http://evil.example")'
    for row in rows:
        assert not any(str(cell).startswith(("=", "@", "+", "\t")) for cell in row.values())


def test_json_has_the_keys_of_a_search_and_paths_are_lines(web: httpx.Client, library: Path) -> None:
    hits = every(web)
    wanted = [hits["e.jpg"]["id"], hits["film.mp4"]["id"], "gone", hits["e.jpg"]["id"]]
    listed = chosen(web, "json", wanted).json()
    with Engine.open(library, device="cpu") as engine:
        keys = list(engine.search(Query(text="x", k=1))[0].to_json())
    assert [list(entry) for entry in listed] == [keys, keys]
    assert [entry["rank"] for entry in listed] == [1, 2] and listed[0]["camera"] == "@SUM(1)"
    assert all(listed[0][name] is None for name in ("score", "first_stage_score", "rerank_score", "relevance", "text"))
    assert chosen(web, "txt", wanted).text == f"{library / 'e.jpg'}\n{library / 'film.mp4'}\n"


def test_a_contact_sheet_holds_its_pictures_and_words_stay_words(web: httpx.Client) -> None:
    hits = every(web)
    texts = web.post("/api/search", json={"text": "x", "kind": "text"}).json()["hits"]
    page = chosen(web, "html", [*(hit["id"] for hit in hits.values()), *(hit["id"] for hit in texts)])
    assert page.headers["content-type"].startswith("text/html") and "attachment" in page.headers["content-disposition"]
    assert page.text.startswith("<!doctype html>") and page.text.endswith("</html>\n")
    assert page.text.count("<li>") == len(hits) + len(texts)
    assert page.text.count('src="data:image/jpeg;base64,') == len(hits) + len(texts)
    assert "http:" not in page.text.replace("http://evil.example", "") and "<script" not in page.text


@pytest.mark.parametrize(
    ("body", "status"),
    [({"ids": []}, 422), ({}, 422), ({"ids": ["x"] * 2001}, 422), ({"ids": ["x" * 65]}, 422), ({"ids": "x"}, 422),
     ({"ids": ["x"], "path": "/etc/passwd"}, 422), ({"ids": ["../../etc/passwd"]}, 404)],
)  # fmt: skip
def test_a_selection_is_ids_alone_and_not_too_many(web: httpx.Client, body: dict[str, object], status: int) -> None:
    for form in ("zip", "csv", "json", "html", "txt"):
        reply = web.post(f"/api/selection/{form}", json=body)
        assert reply.status_code == status and list(reply.json()) == ["error"], reply.text
    assert web.post("/api/selection/exe", json={"ids": ["x"]}).status_code == 422


def test_a_form_selects_as_json_does(web: httpx.Client) -> None:
    ids = [hit["id"] for hit in every(web).values()]
    form = web.post("/api/selection/txt", data={"ids": ids})
    assert form.status_code == 200 and form.text == chosen(web, "txt", ids).text
    assert web.post("/api/selection/txt", data={"ids": ids, "more": "x"}).status_code == 422
    assert web.post("/api/selection/txt", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 422
    assert (
        web.post("/api/selection/txt", data={"ids": ids}, headers={"Origin": "http://evil.example"}).status_code == 400
    )


def around(web: httpx.Client, identity: str, **asked: object) -> list[str]:
    reply = web.get(f"/api/neighbours/{identity}", params={name: str(value) for name, value in asked.items()})
    assert reply.status_code == 200, reply.text
    hits = reply.json()["hits"]
    assert [hit["rank"] for hit in hits] == list(range(1, len(hits) + 1))
    return [hit["path"].rpartition("selection0/")[2] for hit in hits]


def test_neighbours_in_time_in_place_and_in_both(web: httpx.Client) -> None:
    hits = every(web)
    first = hits["a/IMG_1.jpg"]["id"]
    assert around(web, first) == ["d.jpg", "b/img_1.JPG", "c/IMG_1.jpg"], "the nearest in time first"
    assert around(web, first, hours=12) == around(web, first)
    assert around(web, first, hours=0.75) == ["d.jpg"]
    assert around(web, first, hours=12, km=50) == ["b/img_1.JPG"]
    assert around(web, first, km=50) == ["b/img_1.JPG", "e.jpg"]
    assert around(web, first, hours=12, k=2) == ["d.jpg", "b/img_1.JPG"]
    assert around(web, hits["same.jpg"]["id"]) == [], "a copy is no neighbour"
    nowhere = web.get(f"/api/neighbours/{hits['d.jpg']['id']}", params={"km": 5})
    assert nowhere.status_code == 400 and "where" in nowhere.json()["error"]
    for odd in ({"hours": "0"}, {"km": "nan"}, {"k": "201"}, {"hours": "inf"}):
        assert web.get(f"/api/neighbours/{first}", params=odd).status_code == 422
    assert web.get("/api/neighbours/nothing").status_code == 404


def test_the_newest_come_first_without_a_query_page_by_page(web: httpx.Client) -> None:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = web.post("/api/search", json={"sort": "newest", "k": 4, "cursor": cursor}).json()
        found += page["hits"]
        cursor = page["next"]
        if cursor is None:
            break
    dates = [hit["taken_at"] for hit in found]
    assert dates == sorted(dates, reverse=True) and len({hit["id"] for hit in found}) == len(found)
    assert len(found) == len(every(web)) - 1, "a copy is no hit of its own"


def test_failures_and_duplicates_are_listed_page_by_page(web: httpx.Client, library: Path) -> None:
    told = web.get("/api/failures").json()
    with Engine.open(library, device="cpu") as engine:
        failures, groups = engine.failures(), list(engine.duplicates())
        for start in range(len(groups) + 1):
            assert list(engine.duplicates(start)) == groups[start:]
    assert [(entry["path"], entry["stage"], entry["reason"]) for entry in told["failures"]] == [
        (failure.path, failure.stage, failure.reason) for failure in failures
    ]
    assert told["total"] == len(failures) == 1 and told["skipped"] is None and "--retry-failed" in told["advice"][0]
    (group,) = web.get("/api/duplicates").json()["groups"]
    assert [item["path"] for item in group["items"]] == [item.path for item in groups[0].items]
    size = (library / "same.jpg").stat().st_size
    assert (group["kind"], group["bytes"], group["frees"]) == ("same", 2 * size, size)
    assert web.get("/api/duplicates", params={"cursor": "x.5"}).status_code == 409
    for path in ("/api/failures", "/api/duplicates"):
        for odd in ("5", "x.-1", "x.g", "x.0"):
            assert web.get(path, params={"cursor": odd}).status_code == 422, odd


def test_long_lists_are_cut_into_pages_that_fit(tmp_path: Path, mini: Encoder) -> None:
    for seed in range(5):
        photo(tmp_path / f"{seed}.jpg", seed)
        (tmp_path / f"copy-{seed}.jpg").write_bytes((tmp_path / f"{seed}.jpg").read_bytes())
        (tmp_path / f"bad-{seed}.jpg").write_bytes(b"\xff\xd8 nothing")
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        for path, key in (("/api/failures", "failures"), ("/api/duplicates", "groups")):
            whole = web.get(path).json()[key]
            parts: list[Any] = []
            cursor = None
            while True:
                page = web.get(path, params={"k": 2} | ({"cursor": cursor} if cursor else {})).json()
                assert len(page[key]) <= 2
                parts += page[key]
                cursor = page["next"]
                if cursor is None:
                    break
            assert parts == whole and len(whole) == 5


def test_what_no_archive_can_hold_is_told(library: Path) -> None:
    from media.reader import ImageReader
    from server.media import Files

    files = Files(library / ".mmsearch", (), ImageReader(), library / "cache")
    gone = Item(id="x", path=str(library / "gone.jpg"), source=str(library / "gone.jpg"), kind="image")
    with pytest.raises(MediaError, match="the file is gone"):
        archive.contents([gone], files)

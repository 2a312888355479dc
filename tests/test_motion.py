"""The film inside of a photo: found, indexed beside the photo, shown, and never taken for another file."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

import indexer.pipeline
from indexer.config import BuildConfig
from media.cutting import cut
from media.errors import MediaError
from media.frames import frame_at
from media.motion import Film, film_in, film_of
from media.reader import ImageReader
from media.types import Place
from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.store.leases import open_state
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.shards import ShardReader
from retrieval.types import Filter, Item, Query
from tests.browsers import tab_of
from tests.conftest import Command, build, picture
from tests.films import film, same_picture, scene
from tests.libraries import run
from tests.motion_photos import KINDS, boxed, directory, google, micro_video, samsung, still, xmp
from tests.servers import serving

Make = Callable[[Image.Image, bytes], bytes]


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A film of a second of each of two pictures."""
    file = tmp_path_factory.mktemp("shot") / "shot.mp4"
    film(file, (11, 12), 1.0, draw=scene)
    return file.read_bytes()


def rows(index: Path, kind: str) -> list[Item]:
    lease = open_state(index)
    try:
        reader = ShardReader(index, lease.manifest)
        return [item for item in reader.items(*reader.living()) if item.kind == kind]
    finally:
        lease.close()


@pytest.mark.parametrize("name", KINDS)
def test_the_film_of_every_kind_of_motion_photo_is_found_to_the_byte(name: str, shot: bytes) -> None:
    data = KINDS[name](picture(3, 320, 240), shot)
    found = film_in(io.BytesIO(data))
    assert found is not None
    assert data[found.start : found.start + found.size] == shot


@pytest.mark.parametrize("name", KINDS)
def test_its_moments_stand_beside_the_photo_and_show_the_film(name: str, shot: bytes, tmp_path: Path) -> None:
    folder, index = tmp_path / "photos", tmp_path / "index"
    folder.mkdir()
    (folder / name).write_bytes(KINDS[name](picture(3, 320, 240), shot))
    report = run(index, folder)
    assert (report.indexed, report.failed, report.items) == (1, 0, 3)
    (photo,), moments = rows(index, "image"), sorted(rows(index, "video"), key=lambda item: item.start or 0)
    assert (photo.path, photo.width, photo.height, photo.start) == (str(folder / name), 320, 240, None)
    assert [(item.path, item.source, item.width, item.height) for item in moments] == [
        (photo.path, photo.path, 160, 120)
    ] * 2
    assert [(item.start, item.end) for item in moments] == [(0.0, 1.0), (1.0, 2.0)]
    images = ImageReader(120)
    for item, seed in zip(moments, (11, 12), strict=True):
        assert same_picture(images.image(item.image_place), scene(seed)) < 8
    assert same_picture(images.image(photo.image_place), picture(3, 320, 240)) < 8
    again = run(index, folder)
    assert (again.indexed, again.unchanged, again.encoded) == (0, 1, 0)
    (folder / name).unlink()
    (folder / "other.jpg").write_bytes(still(picture(4)))
    gone = run(index, folder)
    assert (gone.removed, gone.items) == (1, 1)


def test_the_facts_of_the_photo_are_those_of_its_film(shot: bytes, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[271], exif[272] = "Google", "Pixel 8"
    exif.get_ifd(0x8769)[0x9003] = "2023:12:25 18:30:00"
    out = io.BytesIO()
    picture(3, 320, 240).save(out, "JPEG", exif=exif, xmp=directory(("Primary", 0, 0), ("MotionPhoto", len(shot), 0)))
    (tmp_path / "a.jpg").write_bytes(out.getvalue() + shot)
    run(tmp_path / "index", tmp_path)
    for item in (*rows(tmp_path / "index", "image"), *rows(tmp_path / "index", "video")):
        assert (item.taken_at, item.camera, item.date_source) == ("2023-12-25T18:30:00", "Google Pixel 8", "exif")


def broken(shot: bytes) -> dict[str, tuple[bytes, str]]:
    photo = picture(3, 320, 240)
    return {
        "an offset before the file": (still(photo, xmp('GCamera:MicroVideoOffset="99999999"')), "not there"),
        "an offset into nothing": (still(photo, xmp('GCamera:MicroVideoOffset="500"')) + bytes(600), "not there"),
        "a film that was cut away": (still(photo, directory(("Primary", 0, 0), ("MotionPhoto", 9000, 0))), "not there"),
        "no film behind its first box": (google(photo, shot[:40] + bytes(5000)), "the film inside of it: "),
        "a film that is cut off early": (boxed(photo, shot)[: -len(shot) // 2], "the film inside of it: "),
        "a trailer without what it names": (samsung(photo, b"no film at all, whatever it says"), "not there"),
    }


@pytest.mark.parametrize("name", broken(b"0" * 100))
def test_a_film_that_is_not_there_or_broken_costs_the_film_alone(name: str, shot: bytes, tmp_path: Path) -> None:
    data, reason = broken(shot)[name]
    suffix = "heic" if data[4:8] == b"ftyp" else "jpg"
    folder, index = tmp_path / "photos", tmp_path / "index"
    folder.mkdir()
    (folder / f"a.{suffix}").write_bytes(data)
    report = run(index, folder)
    assert (report.indexed, report.failed, report.items) == (1, 1, 1)
    assert [item.kind for item in rows(index, "image")] == ["image"]
    (failure,) = read_failures(index, read_manifest(index))
    assert (failure.path, failure.stage) == (str(folder / f"a.{suffix}"), "decode")
    assert reason in failure.reason and "\n" not in failure.reason


@pytest.mark.parametrize("end", range(40, 2400, 97))
def test_a_motion_photo_that_ends_anywhere_is_read_or_refused_with_a_reason(end: int, shot: bytes) -> None:
    for make in (google, samsung, micro_video, boxed):
        data = make(picture(3, 64, 48), shot)
        for cut_off in (data[:end], data[: len(data) - end]):
            try:
                found = film_in(io.BytesIO(cut_off))
            except MediaError as error:
                assert error.reason
            else:
                assert found is None or found.start + found.size <= len(cut_off)


@pytest.mark.parametrize(
    "packet",
    [
        xmp('GCamera:MotionPhoto="1"'),
        xmp('GCamera:MicroVideo="0" GCamera:MicroVideoOffset="100"'),
        xmp('GCamera:MicroVideoOffset="-100"'),
        directory(("Primary", 0, 0), ("GainMap", 20, 0)),
        b"<MotionPhoto",
        b'<!DOCTYPE a [<!ENTITY b "cc">]><a>MotionPhoto&b;</a>',
    ],
)
def test_what_names_no_film_has_none(packet: bytes) -> None:
    assert film_in(io.BytesIO(still(picture(3), packet) + bytes(200))) is None


def test_a_copy_of_a_motion_photo_is_not_encoded_again(shot: bytes, tmp_path: Path) -> None:
    folder, index = tmp_path / "photos", tmp_path / "index"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(google(picture(3, 320, 240), shot))
    run(index, folder)
    before = [(item.start, item.end) for item in rows(index, "video")]
    os.rename(folder / "a.jpg", folder / "b.jpg")
    report = run(index, folder)
    assert (report.indexed, report.removed, report.encoded, report.items) == (1, 1, 0, 3)
    assert {item.path for item in rows(index, "video")} == {str(folder / "b.jpg")}
    assert [(item.start, item.end) for item in rows(index, "video")] == before


def test_an_index_without_the_films_gets_them_when_its_files_are_read_again(
    shot: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = tmp_path / "photos", tmp_path / "index"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(google(picture(3, 320, 240), shot))
    with monkeypatch.context() as older:
        older.setattr(indexer.pipeline, "film_in", lambda _: None)
        assert run(index, folder).items == 1
    assert run(index, folder).items == 1
    report = run(index, folder, config=BuildConfig(batch_size=4, workers=2, reread=True))
    assert (report.indexed, report.failed, report.items) == (1, 0, 3)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """A motion photo twice, one whose film shows something else, and a photo without a film."""
    folder = tmp_path_factory.mktemp("library")
    apart = tmp_path_factory.mktemp("films")
    film(apart / "first.mp4", (0, 1), 1.0, draw=scene)
    film(apart / "other.mp4", (3,), 1.0, draw=scene)
    first, other = ((apart / name).read_bytes() for name in ("first.mp4", "other.mp4"))
    (folder / "a.jpg").write_bytes(google(scene(0), first))
    shutil.copy(folder / "a.jpg", folder / "copy of a.jpg")
    (folder / "b.jpg").write_bytes(samsung(scene(2), other))
    (folder / "c.jpg").write_bytes(still(scene(4)))
    build(folder, mini)
    return folder


def test_photo_and_film_are_one_hit_and_the_film_is_found_alone(library: Path) -> None:
    with Engine.open(library, device="cpu") as engine:
        hits = engine.search(Query(images=(scene(3),), k=10))
        # The film in b.jpg shows it, and the photo stands for both.
        assert (hits[0].item.path, hits[0].item.kind, hits[0].copies) == (str(library / "b.jpg"), "image", ())
        assert len({hit.item.path for hit in hits}) == len(hits) == 3
        twice = next(hit for hit in hits if hit.copies)
        assert {twice.item.path, *twice.copies} == {str(library / "a.jpg"), str(library / "copy of a.jpg")}
        (alone, *_) = engine.search(Query(images=(scene(3),), filter=Filter(kinds=("video",)), k=10))
        assert (alone.item.path, alone.item.kind, alone.item.start) == (str(library / "b.jpg"), "video", 0.0)
        assert len(engine.search(Query(images=(scene(3),), k=10, copies=True))) == 7
        (group,) = engine.duplicates()
        assert (group.kind, len(group.items)) == ("same", 2)
        assert {item.kind for item in group.items} == {"image"}


def test_the_commands_count_it_once_cut_it_and_sum_it_up(library: Path, command: Command, tmp_path: Path) -> None:
    status = json.loads(command("status", str(library), "--json").stdout)
    assert (status["images"], status["videos"], status["failures"]) == (4, 3, 0)
    done = command("index", str(library), "--json")
    report = json.loads(done.stdout)
    assert (report["unchanged"], report["indexed"], report["items"]) == (4, 0, status["items"])
    found = command(
        "search", "--image", str(library / "c.jpg"), "--kind", "video", "--moments", "--index", str(library),
        "--clip", str(tmp_path / "cuts"), "--json",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert {os.path.basename(hit["path"]) for hit in hits} == {"a.jpg", "copy of a.jpg", "b.jpg"}
    clips = sorted((tmp_path / "cuts").iterdir())
    assert len(clips) == len(hits) and {clip.suffix for clip in clips} == {".mp4"}
    for clip in clips:
        with av.open(os.fspath(clip), "r") as opened:
            assert sum(1 for _ in opened.decode(video=0)) == 20
    page = tmp_path / "board.html"
    told = command("summarize", str(library / "a.jpg"), "--model", "mini", "--html", str(page), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["duration"] == pytest.approx(2.0, abs=0.1)
    assert page.read_text("utf-8").count("data:image/jpeg") >= 2
    assert command("summarize", str(library / "c.jpg"), "--model", "mini").returncode == 2
    sheet = tmp_path / "sheet.html"
    shown = command("search", "cat", "--kind", "video", "--index", str(library), "--html", str(sheet), cwd=library)
    assert shown.returncode == 0, shown.stderr
    assert "<video" not in sheet.read_text("utf-8")


def test_the_server_plays_it_from_the_photo(library: Path, tmp_path: Path) -> None:
    start, size = film_of(str(library / "b.jpg"))
    content = (library / "b.jpg").read_bytes()[start : start + size]
    with serving(library / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as web:
        found = web.post("/api/search", json={"text": "in:. kind:video name:b.jpg", "k": 5}).json()["hits"]
        hit = next(hit for hit in found if hit["path"].endswith("b.jpg"))
        whole = web.get(hit["media_url"])
        assert (whole.status_code, whole.headers["content-type"]) == (200, "video/mp4")
        assert whole.content == content
        assert whole.headers["accept-ranges"] == "bytes"
        for asked, (first, stop) in {
            "bytes=0-99": (0, 100),
            "bytes=-50": (size - 50, size),
            "bytes=70-": (70, size),
        }.items():
            part = web.get(hit["media_url"], headers={"Range": asked})
            assert (part.status_code, part.content) == (206, content[first:stop])
            assert part.headers["content-range"] == f"bytes {first}-{stop - 1}/{size}"
        assert web.get(hit["media_url"], headers={"Range": f"bytes={size}-"}).status_code == 416
        head = web.head(hit["media_url"])
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(size), b"")
        same = web.get(hit["media_url"], headers={"If-None-Match": whole.headers["etag"]})
        assert same.status_code == 304
        preview = web.get(hit["media_url"].replace("/media/", "/preview/"))
        assert preview.headers["content-type"] == "video/mp4"
        (tmp_path / "preview.mp4").write_bytes(preview.content)
        assert same_picture(frame_at(str(tmp_path / "preview.mp4"), 0.5, 120), scene(3)) < 8
        thumb = web.get(hit["thumb_url"])
        assert same_picture(Image.open(io.BytesIO(thumb.content)), scene(3)) < 8
        photo = web.post("/api/search", json={"text": "kind:image name:b.jpg", "k": 5}).json()["hits"][0]
        assert web.get(photo["media_url"]).headers["content-type"] == "image/jpeg"
        assert web.get(photo["media_url"]).content == (library / "b.jpg").read_bytes()


def test_the_page_plays_the_film_of_a_photo(library: Path, browser: Browser) -> None:
    with serving(library / ".mmsearch") as address, tab_of(browser, address) as tab:
        page = tab.open("/?q=name:b.jpg&kind=video")
        page.locator('#grid a.tile[aria-label^="b.jpg"]').first.click()
        page.wait_for_function("() => document.querySelector('#stage video')?.readyState >= 2")
        # From the photo itself where the browser plays it, else by a preview.
        assert re.search(r"/(media|preview)/", page.evaluate("document.querySelector('#stage video').currentSrc"))
        assert page.evaluate("document.querySelector('#stage video').videoWidth") == 160
        tab.wrong.clear()


def test_a_clip_of_it_has_the_frames_of_the_moment(shot: bytes, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(samsung(picture(3), shot))
    clip = cut(Place(path=str(photo), start=1.0, end=2.0), tmp_path / "cuts", 1)
    assert clip.name == "01-a-1.0-2.0.mp4"
    with av.open(os.fspath(clip), "r") as opened:
        assert sum(1 for _ in opened.decode(video=0)) == 20
    assert same_picture(frame_at(str(clip), 0.5, 120), scene(12)) < 8


def test_a_photo_without_a_film_has_no_moment(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(still(picture(3)))
    with pytest.raises(MediaError, match="without a film"):
        ImageReader(32).image(Place(path=str(photo), start=0.0, end=1.0))
    with pytest.raises(MediaError, match="No such file"):
        film_of(str(tmp_path / "gone.jpg"))


def test_a_film_in_a_tar_is_left_alone(shot: bytes, tmp_path: Path) -> None:
    import tarfile

    data = google(picture(3), shot)
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "photos.tar", "w") as out:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(data)
        out.addfile(info, io.BytesIO(data))
    report = run(tmp_path / "index", tmp_path / "tars")
    assert (report.failed, report.items) == (0, 1), read_failures(tmp_path / "index", read_manifest(tmp_path / "index"))


def test_of_a_long_film_a_bounded_number_of_frames_is_kept(tmp_path: Path) -> None:
    film(tmp_path / "long.mp4", range(20, 60), 0.6)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(google(picture(3), (tmp_path / "long.mp4").read_bytes()))
    report = run(tmp_path / "index", tmp_path / "photos")
    (failure,) = read_failures(tmp_path / "index", read_manifest(tmp_path / "index"))
    assert "it is long for a film in a photo" in failure.reason
    assert report.encoded <= 40
    moments = rows(tmp_path / "index", "video")
    assert 5 < len(moments) <= 40
    assert np.all(np.diff(sorted(item.start or 0 for item in moments)) > 0)


def test_a_range_is_all_that_is_read_of_the_file(shot: bytes, tmp_path: Path) -> None:
    """Whatever a demuxer asks for, it sees nothing of the photo before, and nothing of what follows."""
    from media.motion import _Stretch

    file = tmp_path / "a.jpg"
    file.write_bytes(b"before" + shot + b"behind")
    with open(file, "rb", buffering=0) as content:
        part = _Stretch(content, Film(6, len(shot)))
        assert part.read() == shot
        assert part.read(5) == b""
        assert part.seek(-4, io.SEEK_END) == len(shot) - 4
        assert part.read(100) == shot[-4:]
        assert part.seek(-100) == 0
        assert part.read(3) == shot[:3]
        assert part.seek(len(shot) + 50) == len(shot) + 50
        assert part.read(3) == b""

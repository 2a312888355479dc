"""Files beside photos and videos: which belongs to which, what they change, and that no photo is encoded again for them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.config import BuildConfig, BuildReport
from media.errors import MediaError
from media.reader import ImageReader
from media.sidecars import SidecarNames, takeout_facts
from retrieval.store.leases import open_state
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.shards import ShardReader
from retrieval.types import Item
from tests.films import film
from tests.libraries import jpeg, run
from tests.stores import PlainEncoder
from tests.test_metadata import tagged, xmp
from tests.test_store import as_an_older_version_wrote


def takeout(**more: Any) -> bytes:
    value = {
        "title": "photo.jpg",
        "description": "Snow at last",
        "photoTakenTime": {"timestamp": "1703525400", "formatted": "25 Dec 2023, 17:30:00 UTC"},
        "geoData": {"latitude": 48.8584, "longitude": 2.2945, "altitude": 0.0},
        "people": [{"name": "Jo March"}, {"name": "Amy"}],
    }
    return json.dumps({**value, **more}).encode()


def items_of(index: Path) -> dict[str, Item]:
    """The items of an index that have an image, by the names of their files."""
    lease = open_state(index)
    try:
        reader = ShardReader(index, lease.manifest)
        return {os.path.basename(item.path): item for item in reader.items(*reader.living()) if item.kind != "text"}
    finally:
        lease.close()


def reasons_of(index: Path) -> dict[str, str]:
    return {os.path.basename(one.path): one.reason for one in read_failures(index, read_manifest(index))}


class Album:
    """A folder, its index, and a count of what goes through the model."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index, self.encoder = folder / "media", folder / "index", PlainEncoder()
        self.folder.mkdir()

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def run(self, *names: str) -> BuildReport:
        return run(self.index, *([self.folder / name for name in names] or [self.folder]), encoder=self.encoder)

    def item(self, name: str = "photo.jpg") -> Item:
        return items_of(self.index)[name]


@pytest.fixture
def album(tmp_path: Path, cache: Path) -> Album:
    album = Album(tmp_path)
    album.write("photo.jpg", jpeg(1))
    return album


@pytest.mark.parametrize(
    ("media", "sidecar"),
    [
        ("photo.jpg", "photo.jpg.xmp"),
        ("photo.jpg", "photo.xmp"),
        ("IMG_2.JPG", "img_2.xmp"),
        ("img_2.jpg", "IMG_2.JPG.XMP"),
        ("IMG_1.jpg", "IMG_1.jpg.json"),
        ("IMG_1.jpg", "IMG_1.jpg.supplemental-metadata.json"),
        ("IMG_1.jpg", "IMG_1.jpg.supplemental-metada.json"),
        ("IMG_1.jpg", "IMG_1.jpg.s.json"),
        ("IMG_1.jpg", "IMG_1.jpg..json"),
        ("IMG_1(2).jpg", "IMG_1.jpg(2).json"),
        ("IMG_1(2).jpg", "IMG_1.jpg.supplemental-metadata(2).json"),
        ("IMG_1(2).jpg", "IMG_1.jpg.supplemental-meta(2).json"),
        ("IMG_1(2).jpg", "IMG_1(2).jpg.json"),
        ("IMG_1-edited.jpg", "IMG_1.jpg.supplemental-metadata.json"),
        ("IMG_1-bearbeitet.jpg", "IMG_1.jpg.json"),
        ("IMG_1-edited(1).jpg", "IMG_1.jpg.supplemental-metadata(1).json"),
        ("Screenshot_20231225-183000_Some long app name.jpg", "Screenshot_20231225-183000_Some long app name.json"),
        ("original_4c5f5c7c-ac5d-4ec4-9f8c-9be5b0b0ba85_P.jpg", "original_4c5f5c7c-ac5d-4ec4-9f8c-9be5b0b0ba85_.json"),
        ("FB_IMG_1703525400123_and_a_tail_0000.jpg", "FB_IMG_1703525400123_and_a_tail_0000.jpg.supple.json"),
    ],
)
def test_a_sidecar_belongs_to_its_photo(media: str, sidecar: str) -> None:
    assert SidecarNames([sidecar, "other.jpg.json", "other.xmp"]).of(media) == [sidecar]


@pytest.mark.parametrize(
    ("media", "sidecar"),
    [
        ("IMG_1.jpg", "IMG_1.jpg(2).json"),
        ("IMG_1(2).jpg", "IMG_1.jpg.json"),
        ("IMG_1(2).jpg", "IMG_1.jpg(3).json"),
        ("IMG_1.jpg", "IMG_1.json"),
        ("IMG_1.jpg", "IMG_11.jpg.json"),
        ("IMG_1.jpg", "IMG_1.jpg.metadata.json"),
        ("IMG_1.jpg", "IMG_1.png.xmp"),
        ("IMG_1.jpg", "metadata.json"),
    ],
)
def test_what_belongs_to_another_photo_is_left_alone(media: str, sidecar: str) -> None:
    assert SidecarNames([sidecar]).of(media) == []


def test_the_film_of_a_live_photo_has_the_sidecar_of_its_picture() -> None:
    names = SidecarNames(["IMG_1.HEIC.supplemental-metadata.json", "IMG_2.HEIC.json", "IMG_2.MOV.json"])
    assert names.of("IMG_1.MOV", video=True) == ["IMG_1.HEIC.supplemental-metadata.json"]
    assert names.of("IMG_2.MOV", video=True) == ["IMG_2.MOV.json"]
    assert names.of("IMG_1.jpg") == []


def test_what_google_knows_of_a_photo_is_taken_over(album: Album) -> None:
    album.write("photo.jpg.supplemental-metadata.json", takeout())
    album.run()
    item = album.item()
    assert (item.date_source, item.latitude, item.place) == ("takeout", 48.8584, "Paris, Île-de-France, France")
    assert item.taken_at is not None and item.taken_at.startswith("2023-12-2")
    assert item.words == "Snow at last\nJo March\nAmy"
    assert reasons_of(album.index) == {}


@pytest.mark.parametrize(
    "change", [{"geoData": {"latitude": 0.0, "longitude": 0.0}}, {"geoData": {"latitude": "NaN", "longitude": 1}},
               {"geoData": [1, 2]}, {"geoData": {"latitude": 1e300, "longitude": 2}}],
)  # fmt: skip
def test_a_place_that_google_does_not_know_is_none(change: dict[str, Any]) -> None:
    facts = takeout_facts(takeout(**change))
    assert (facts.latitude, facts.longitude) == (None, None)
    assert facts.words[0] == "Snow at last"


@pytest.mark.parametrize("stamp", ["0", "-2082844800", "4354819200", "9" * 400, "soon", None, 1e300, [], {}])
def test_a_time_that_google_does_not_know_is_none(stamp: object) -> None:
    assert takeout_facts(takeout(photoTakenTime={"timestamp": stamp})).taken_at is None
    assert takeout_facts(takeout(photoTakenTime=stamp)).taken_at is None


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 200_000, "not JSON"),
        (b'{"a": ' * 100_000, "not JSON"),
        (b'{"n": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b'{"label": "dog"}', "not of Google Takeout"),
        (b"[1, 2]", "not of Google Takeout"),
    ],
)
def test_json_that_is_hostile_or_something_else_is_refused(raw: bytes, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        takeout_facts(raw)


def test_a_broken_huge_or_foreign_sidecar_costs_a_line_in_the_ledger_alone(album: Album) -> None:
    for number in range(2, 7):
        album.write(f"photo{number}.jpg", jpeg(number))
    album.write("photo.xmp", b"<x:xmpmeta")
    album.write("photo2.jpg.xmp", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    album.write("photo3.jpg.json", b'{"label": "dog"}')
    album.write("photo4.jpg.json", b" " * 2_000_000)
    (album.folder / "photo5.xmp").symlink_to(album.folder / "gone.xmp")
    report = album.run()
    assert (report.indexed, report.items, report.failed) == (6, 6, 5)
    reasons = reasons_of(album.index)
    assert sorted(reasons) == ["photo.xmp", "photo2.jpg.xmp", "photo3.jpg.json", "photo4.jpg.json", "photo5.xmp"]
    assert "more than 1 MB" in reasons["photo4.jpg.json"]
    # Nothing of it is read again, and mending one mends its line.
    assert album.run().unchanged == 6
    album.write("photo.xmp", xmp())
    report = album.run()
    assert (report.indexed, report.unchanged, report.failed) == (1, 5, 4)
    assert album.encoder.encoded == 6


def test_a_changed_sidecar_changes_its_row_and_encodes_nothing(album: Album) -> None:
    album.write("other.jpg", jpeg(2))
    album.run()
    before = album.item()
    assert (before.rating, before.words, before.date_source, album.encoder.encoded) == (None, None, "file", 2)
    album.write("photo.xmp", xmp("sea", 4))
    report = album.run()
    assert (report.indexed, report.unchanged, report.encoded) == (1, 1, 0)
    item = album.item()
    assert (item.rating, item.date_source, item.taken_at) == (4, "sidecar", "2023-12-25T18:30:00")
    assert item.place == "Paris, Île-de-France, France"
    assert "sea" in (item.words or "").split("\n")
    assert item.id == before.id
    album.write("photo.xmp", xmp("mountain", 2))
    # As `serve --watch` names what changed.
    report = album.run("photo.xmp")
    assert (report.indexed, report.encoded) == (1, 0)
    assert (album.item().rating, "mountain" in (album.item().words or "")) == (2, True)
    (album.folder / "photo.xmp").unlink()
    assert album.run("photo.xmp").indexed == 1
    assert (album.item().rating, album.item().words, album.item().place, album.item().date_source) == (
        None,
        None,
        None,
        "file",
    )
    assert album.encoder.encoded == 2
    assert album.run().unchanged == 2


def test_a_changed_sidecar_of_a_film_changes_its_moments_and_encodes_nothing(album: Album) -> None:
    film(album.folder / "snow.mp4", [3], 0.6)
    album.run()
    encoded = album.encoder.encoded
    album.write("snow.xmp", xmp("snow", 5))
    report = album.run()
    assert (report.indexed, report.encoded, album.encoder.encoded) == (1, 0, encoded)
    item = album.item("snow.mp4")
    assert (item.kind, item.rating, item.date_source) == ("video", 5, "sidecar")
    album.write("snow.xmp", b"broken")
    album.run()
    assert album.item("snow.mp4").rating is None
    album.write("snow.xmp", xmp("snow", 3))
    assert album.run().encoded == 0
    assert album.item("snow.mp4").rating == 3


def test_a_photo_that_was_renamed_or_moved_away_from_its_sidecar_has_its_own_facts(album: Album) -> None:
    album.write("photo.xmp", xmp("sea", 4))
    album.run()
    (album.folder / "photo.jpg").rename(album.folder / "IMG_20190714_183000.jpg")
    album.run()
    item = album.item("IMG_20190714_183000.jpg")
    assert (item.rating, item.taken_at, item.date_source) == (None, "2019-07-14T18:30:00", "name")
    assert album.encoder.encoded == 1


def test_captions_lie_beside_their_picture_in_every_spelling(album: Album) -> None:
    album.write("IMG_2.JPG", jpeg(2))
    album.write("img_2.txt", b"about two\n")
    album.write("IMG_3.jpg", jpeg(3))
    album.write("IMG_3.jpg.txt", b"about three\n")
    album.write("IMG_3.xmp", xmp("sea", 4))
    album.write("notes.txt", b"about nothing\n")
    album.run()
    lease = open_state(album.index)
    reader = ShardReader(album.index, lease.manifest)
    texts = {item.text: item for item in reader.items(*reader.living()) if item.kind == "text"}
    lease.close()
    about = {text: os.path.basename(item.path) for text, item in texts.items()}
    assert about == {"about two": "IMG_2.JPG", "about three": "IMG_3.jpg", "about nothing": "notes.txt"}
    # A text carries the facts of what it is about.
    assert (texts["about three"].rating, texts["about three"].taken_at) == (4, "2023-12-25T18:30:00")
    (album.folder / "img_2.txt").write_text("another\n")
    assert album.run("img_2.txt").indexed == 1
    assert album.run().unchanged == 6


def test_moments_of_a_film_carry_what_the_phone_wrote(album: Album) -> None:
    film(album.folder / "plain.mp4", [3, 4], 1.0)
    tags = {"location": "+48.8584+002.2945/", "title": "Snow"}
    tagged(album.folder / "plain.mp4", album.folder / "VID_20231225_183000.mp4", tags)
    (album.folder / "plain.mp4").unlink()
    album.write("VID_20231225_183000.srt", b"1\n00:00:00,000 --> 00:00:01,000\nhello\n")
    album.run()
    lease = open_state(album.index)
    reader = ShardReader(album.index, lease.manifest)
    rows = [item for item in reader.items(*reader.living()) if item.path.endswith(".mp4")]
    lease.close()
    assert {item.kind for item in rows} == {"video", "text"}
    assert {(item.taken_at, item.date_source) for item in rows} == {("2023-12-25T18:30:00", "name")}
    moments = [item for item in rows if item.kind == "video"]
    assert {(item.place, item.words) for item in moments} == {("Paris, Île-de-France, France", "Snow")}


def test_facts_that_an_older_version_did_not_read_come_with_reread_and_encode_nothing(album: Album) -> None:
    album.write("photo.xmp", xmp("sea", 4))
    film(album.folder / "snow.mp4", [3], 0.6)
    album.run()
    encoded = album.encoder.encoded
    as_an_older_version_wrote(album.index)
    assert (album.item().rating, album.item("snow.mp4").date_source) == (None, None)
    config = BuildConfig(batch_size=4, workers=2, reread=True)
    report = run(album.index, album.folder, encoder=album.encoder, config=config)
    assert (report.indexed, report.encoded, album.encoder.encoded) == (2, 0, encoded)
    assert (album.item().rating, album.item("snow.mp4").date_source) == (4, "file")
    assert album.run().unchanged == 2


def add_member(out: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    out.addfile(info, io.BytesIO(data))


def test_the_json_of_a_webdataset_gives_captions(album: Album) -> None:
    with tarfile.open(album.folder / "set.tar", "w") as out:
        add_member(out, "1.jpg", jpeg(1))
        add_member(out, "1.json", json.dumps({"caption": "a dog", "width": 64, "url": "x"}).encode())
        add_member(out, "1.txt", b"a dog\n")
        add_member(out, "2.jpg", jpeg(2))
        add_member(out, "2.json", json.dumps({"Text": ["a cat", "a cat", " "], "title": 7}).encode())
        add_member(out, "3.jpg", jpeg(3))
        add_member(out, "3.json", b"[" * 100_000)
        add_member(out, "index.json", b'{"caption": "of no picture"}')
    report = album.run("set.tar")
    lease = open_state(album.index)
    reader = ShardReader(album.index, lease.manifest)
    texts = sorted((item.text, item.path.partition("::")[2]) for item in reader.items(*reader.living()) if item.text)
    lease.close()
    assert texts == [("a cat", "2.jpg"), ("a dog", "1.jpg")]
    assert report.failed == 1


@pytest.mark.parametrize("names", ["path", "null", "none"])
def test_tables_as_hugging_face_writes_them_are_read(album: Album, names: str) -> None:
    images: list[dict[str, Any]] = [{"bytes": jpeg(n), "path": f"d/{n // 2}.jpg"} for n in range(4)]
    if names == "null":
        images = [{**image, "path": None} for image in images]
    elif names == "none":
        images = [{"bytes": image["bytes"]} for image in images]
    table = pa.table(
        {"image": images, "text": ["zero", "one", None, "three"], "captions": ["", "also one", "two", "three"]}
    )
    pq.write_table(table, album.folder / "set.parquet", row_group_size=3)
    album.run("set.parquet")
    found = items_of(album.index)
    wanted = ["0.jpg", "0.jpg#2", "1.jpg", "1.jpg#2"] if names == "path" else [f"row{n:08d}" for n in range(4)]
    assert sorted(name.partition("::")[2] for name in found) == wanted
    reader = ImageReader(32)
    for item in found.values():
        assert reader.image(item.image_place).size == (64, 48)
    lease = open_state(album.index)
    rows = ShardReader(album.index, lease.manifest)
    texts = sorted(item.text for item in rows.items(*rows.living()) if item.text)
    lease.close()
    assert texts == ["also one", "one", "three", "two", "zero"]

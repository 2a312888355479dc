"""Facts of files: what EXIF, XMP, IPTC, containers and names say, and what of it is no fact."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, PngImagePlugin

from media.errors import MediaError
from media.facts import (
    NO_FACTS,
    Facts,
    completed,
    date_in_name,
    iso6709,
    joined,
    phrases,
    position,
    rated,
    written_date,
)
from media.metadata import container_facts, image_facts, xmp_facts
from media.video import VideoDecoder
from tests.conftest import picture
from tests.films import film

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmp:Rating="{rating}" exif:GPSLatitude="48,51.504N">
<exif:GPSLongitude>2,17,40.2E</exif:GPSLongitude><exif:DateTimeOriginal>2023-12-25T18:30:00.25+01:00</exif:DateTimeOriginal>
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">Grandmother's roof</rdf:li></rdf:Alt></dc:title>
<dc:subject><rdf:Bag><rdf:li>{keyword}</rdf:li><rdf:li>winter</rdf:li></rdf:Bag></dc:subject>
<lr:hierarchicalSubject><rdf:Bag><rdf:li>Family|Ann</rdf:li></rdf:Bag></lr:hierarchicalSubject>
<e:PersonInImage><rdf:Bag><rdf:li>Jo March</rdf:li></rdf:Bag></e:PersonInImage>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def xmp(keyword: str = "sea", rating: int = 4) -> bytes:
    return XMP.format(keyword=keyword, rating=rating).encode()


@pytest.fixture
def paris() -> Iterator[None]:
    """A machine in Paris."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Paris"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def encoded(form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture(4).save(out, form, **options)
    return out.getvalue()


def exif_of(date: str = "2019:07:14 18:30:05", north: float = 33.0, east: float = 151.0) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make], exif[ExifTags.Base.Model] = "Canon", "Canon EOS\x07\x1b 5D\0\0"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = date
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    gps[ExifTags.GPS.GPSLatitudeRef], gps[ExifTags.GPS.GPSLatitude] = "S", (north, 51.0, 30.0)
    gps[ExifTags.GPS.GPSLongitudeRef], gps[ExifTags.GPS.GPSLongitude] = "E", (east, 12.0, 36.0)
    return exif


def test_what_the_camera_wrote_is_kept_without_control_characters() -> None:
    exif = exif_of()
    exif[ExifTags.Base.ImageDescription] = "café by the sea".encode()
    exif[0x4746] = 5
    facts = image_facts(encoded("JPEG", exif=exif))
    assert (facts.camera, facts.taken_at, facts.date_source) == ("Canon EOS 5D", "2019-07-14T18:30:05", "exif")
    assert facts.latitude == pytest.approx(-33.8583333)
    assert facts.longitude == pytest.approx(151.21)
    assert (facts.rating, facts.words) == (5, ("café by the sea",))


@pytest.mark.parametrize(
    "date", ["0000:00:00 00:00:00", "1904:01:01 00:00:00", "2107:12:31 23:59:58", "1970:01:01 00:00:00", "2023:13:40 25:61:00",
             "    :  :     :  :  ", "", "yesterday"],
)  # fmt: skip
def test_a_date_that_cannot_be_true_is_no_fact(date: str) -> None:
    facts = image_facts(encoded("JPEG", exif=exif_of(date)))
    assert (facts.taken_at, facts.date_source, facts.camera) == (None, None, "Canon EOS 5D")


@pytest.mark.parametrize(
    ("latitude", "longitude"),
    [(0, 0), (float("nan"), 2), (91, 0), (48, 181), (float("inf"), 1), (None, None), ("x", "y"), (True, False)],
)
def test_a_position_that_cannot_be_true_is_no_fact(latitude: object, longitude: object) -> None:
    assert position(latitude, longitude) == (None, None)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_embedded_xmp_is_read_from_every_format_that_holds_it(form: str) -> None:
    if form == "TIFF":
        data = encoded(form, tiffinfo={700: xmp()})
    elif form == "PNG":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", xmp().decode())
        data = encoded(form, pnginfo=chunks)
    else:
        data = encoded(form, xmp=xmp())
    facts = image_facts(data)
    assert facts.words == ("Grandmother's roof", "sea", "winter", "Jo March", "Family", "Ann")
    # The camera's local time: a zone tells what the clock showed.
    assert (facts.rating, facts.taken_at, facts.date_source) == (4, "2023-12-25T18:30:00", "exif")
    assert facts.latitude == pytest.approx(48.8584)
    assert facts.longitude == pytest.approx(2.2945)


@pytest.mark.parametrize(
    "raw",
    [
        b'<!DOCTYPE a [<!ENTITY b "cccc">]><a>&b;</a>',
        b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><x:xmpmeta xmlns:x="adobe:ns:meta/">&x;</x:xmpmeta>',
        b"<a><b></a>",
        b"\xff\xfe\0\0 nothing",
        b"<html><body>a page</body></html>",
        b"<?xml version='1.0' encoding='no-such'?><a/>",
        b" " * (9 * 1024 * 1024),
    ],
)
def test_xml_that_is_hostile_or_something_else_is_refused(raw: bytes) -> None:
    with pytest.raises(MediaError):
        xmp_facts(raw, "sidecar")
    # In a picture it costs that part alone.
    assert image_facts(encoded("JPEG", exif=exif_of(), xmp=raw[:60_000])).camera == "Canon EOS 5D"


def iptc_block(records: list[tuple[int, int, bytes]]) -> bytes:
    """IPTC records in an APP13 segment, as Photoshop writes it."""
    data = b"".join(b"\x1c" + bytes((a, b)) + len(value).to_bytes(2, "big") + value for a, b, value in records)
    block = b"8BIM\x04\x04\0\0" + len(data).to_bytes(4, "big") + data + b"\0" * (len(data) % 2)
    body = b"Photoshop 3.0\0" + block
    return b"\xff\xed" + (len(body) + 2).to_bytes(2, "big") + body


def test_iptc_is_read_in_utf_8_and_in_the_code_of_old_programs() -> None:
    plain = encoded("JPEG")
    latin = iptc_block([(2, 25, b"b\xe9b\xe9"), (2, 25, b"beach"), (2, 120, b"on the beach"), (2, 55, b"20190714")])
    facts = image_facts(plain[:2] + latin + plain[2:])
    assert facts.words == ("on the beach", "bébé", "beach")
    assert facts.taken_at == "2019-07-14T00:00:00"
    utf8 = iptc_block([(1, 90, b"\x1b%G"), (2, 5, "Łódź".encode())])
    assert image_facts(plain[:2] + utf8 + plain[2:]).words == ("Łódź",)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("IMG_20231225_183000", "2023-12-25T18:30:00"),
        ("VID_20231225_183000", "2023-12-25T18:30:00"),
        ("IMG_20231225_183000_BURST001_COVER", "2023-12-25T18:30:00"),
        ("20231225183000", "2023-12-25T18:30:00"),
        ("Screenshot_2023-12-25-18-30-00", "2023-12-25T18:30:00"),
        ("Screenshot_20231225-183000_Chrome", "2023-12-25T18:30:00"),
        ("Screenshot 2023-12-25 at 6.30.00\u202fPM", "2023-12-25T18:30:00"),
        ("Screen Shot 2023-12-25 at 12.05.00 AM", "2023-12-25T00:05:00"),
        ("2023-12-25 18.30.00", "2023-12-25T18:30:00"),
        ("WhatsApp Image 2023-12-25 at 18.30.00", "2023-12-25T18:30:00"),
        ("signal-2023-12-25-183000", "2023-12-25T18:30:00"),
        ("IMG-20231225-WA0001", "2023-12-25T00:00:00"),
        ("20231225_0001", "2023-12-25T00:00:00"),
        ("1987-06-01 Hochzeit", "1987-06-01T00:00:00"),
        ("19870601", None),  # Before there were phones this is a number
        ("IMG_20231325_183000", None),
        ("IMG_21071225_183000", None),
        ("DSC01234", None),
        ("120231225183000123", None),
        ("part 12345678", None),
        ("", None),
    ],
)
def test_a_name_may_carry_a_date(name: str, taken: str | None) -> None:
    assert date_in_name(name) == taken


def test_names_in_utc_are_told_in_local_time(paris: None) -> None:
    assert date_in_name("PXL_20231225_173000123") == "2023-12-25T18:30:00"
    assert date_in_name("mmexport1703525400000") == "2023-12-25T18:30:00"


@given(st.text(max_size=80))
def test_no_name_is_too_odd(name: str) -> None:
    taken = date_in_name(name)
    assert taken is None or len(taken) == 19


def test_a_file_without_a_date_has_that_of_its_name_or_its_last_change(paris: None) -> None:
    exif = Facts(taken_at="2020-01-01T10:00:00", date_source="exif")
    assert completed(exif, "/a/IMG_20231225_183000.jpg", 0) == exif
    named = completed(NO_FACTS, "/a/IMG_20231225_183000.jpg", 0)
    assert (named.taken_at, named.date_source) == ("2023-12-25T18:30:00", "name")
    changed = completed(NO_FACTS, "/2001-02-03/photo.jpg", 1_703_525_400_000_000_000)
    assert (changed.taken_at, changed.date_source) == ("2023-12-25T18:30:00", "file")
    for impossible in (0, -(2**62), 2**62, 4_354_819_200_000_000_000):
        assert completed(NO_FACTS, "/a/photo.jpg", impossible) == NO_FACTS


def test_of_a_moment_in_utc_the_name_tells_the_local_time(paris: None) -> None:
    """A film of New York, indexed in Paris: QuickTime's own clock is UTC, the phone named the file by its own."""
    utc = container_facts({"creation_time": "2023-12-25T23:30:00.000000Z"})
    assert (utc.taken_at, utc.date_source, utc.from_utc) == ("2023-12-26T00:30:00", "container", True)
    assert completed(utc, "VID_20231225_183000.mp4", 1).taken_at == "2023-12-25T18:30:00"
    # Another day in the name is another moment.
    assert completed(utc, "VID_20200101_183000.mp4", 1).taken_at == "2023-12-26T00:30:00"


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({"creation_time": "2023-12-25T17:30:00Z", "com.apple.quicktime.creationdate": "2023-12-25T18:30:00+0100"},
         "2023-12-25T18:30:00"),
        ({"com.apple.quicktime.creationdate": "2023-07-01T08:05:00-0700"}, "2023-07-01T08:05:00"),
        ({"DATE_RECORDED": "2023-07-01 08:05:00"}, "2023-07-01T08:05:00"),
        ({"date": "Sat Jul  1 08:05:00 2023"}, "2023-07-01T08:05:00"),
        ({"date": "2023"}, None),
        ({"creation_time": "1904-01-01T00:00:00.000000Z"}, None),
        ({"creation_time": "1970-01-01T00:00:00.000000Z"}, None),
        ({"creation_time": "9999-99-99T00:00:00Z"}, None),
        ({"creation_time": "junk"}, None),
    ],
)  # fmt: skip
def test_the_date_of_a_video_has_the_zone_of_its_camera(tags: dict[str, str], taken: str | None) -> None:
    assert container_facts(tags).taken_at == taken


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("+48.8584+002.2945+035.123/", (48.8584, 2.2945)),
        ("-33.8568+151.2153/", (-33.8568, 151.2153)),
        ("+4851.504+00217.670/", (48.8584, 2.2945)),
        ("+485130.24-0021740.2/", (48.8584, -2.2945)),
        ("+00.0000+000.0000/", (None, None)),
        ("+95.0+002.0/", (None, None)),
        ("nowhere", (None, None)),
    ],
)
def test_positions_in_every_form_of_iso_6709(text: str, place: tuple[float | None, float | None]) -> None:
    latitude, longitude = iso6709(text)
    assert latitude == (None if place[0] is None else pytest.approx(place[0], abs=1e-4))
    assert longitude == (None if place[1] is None else pytest.approx(place[1], abs=1e-4))


def tagged(file: Path, target: Path, tags: dict[str, str], **options: str) -> None:
    """A copy of a video with tags."""
    with av.open(os.fspath(file)) as source, av.open(os.fspath(target), "w", options=options) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        out.metadata.update(tags)
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def test_what_a_phone_writes_into_its_films_is_read_apart(tmp_path: Path) -> None:
    film(tmp_path / "plain.mp4", [1], 0.5)
    apple = {
        "com.apple.quicktime.creationdate": "2023-12-25T18:30:00+0100",
        "com.apple.quicktime.location.ISO6709": "+48.8584+002.2945+035/",
        "com.apple.quicktime.make": "Apple",
        "com.apple.quicktime.model": "iPhone 15 Pro\x07",
        "creation_time": "2023-12-25T17:30:00Z",
    }
    tagged(tmp_path / "plain.mp4", tmp_path / "apple.mov", apple, movflags="use_metadata_tags")
    tagged(tmp_path / "plain.mp4", tmp_path / "android.mp4", {"location": "+48.8584+002.2945/", "title": "Snow"})
    tagged(tmp_path / "plain.mp4", tmp_path / "talk.mkv", {"creation_time": "2023-12-25T17:30:00Z"})
    with VideoDecoder() as decoder:
        facts = decoder.facts(os.fspath(tmp_path / "apple.mov"))
        assert (facts.taken_at, facts.date_source, facts.camera) == (
            "2023-12-25T18:30:00", "container", "Apple iPhone 15 Pro",
        )  # fmt: skip
        assert (facts.latitude, facts.longitude) == (48.8584, 2.2945)
        android = decoder.facts(os.fspath(tmp_path / "android.mp4"))
        assert (android.latitude, android.longitude, android.words) == (48.8584, 2.2945, ("Snow",))
        assert decoder.facts(os.fspath(tmp_path / "talk.mkv")).from_utc
        (tmp_path / "broken.mp4").write_bytes(b"\0\0\0\x20ftypisom" + b"\xff" * 500)
        assert decoder.facts(os.fspath(tmp_path / "broken.mp4")) == NO_FACTS


def test_the_first_source_of_a_fact_holds_and_words_join() -> None:
    first = Facts(taken_at="2020-01-01T00:00:00", date_source="exif", words=("Sea",))
    second = Facts(taken_at="2021-01-01T00:00:00", date_source="takeout", from_utc=True, rating=3, words=("sea", "Ann"))
    both = joined(first, second)
    assert (both.taken_at, both.date_source, both.from_utc, both.rating) == ("2020-01-01T00:00:00", "exif", False, 3)
    assert both.text == "Sea\nAnn"


def test_words_are_bounded_and_printable() -> None:
    assert phrases(["a\x07b\n c", None, "", "...", "OLYMPUS DIGITAL CAMERA", "A\x07B C"]) == ("ab c",)
    assert len(Facts(words=phrases("word" * 50 + str(n) for n in range(10_000))).text or "") <= 16_000
    assert [rated(value) for value in (0, "0", -1, 6, "x", None, float("nan"), "4", 5.0)] == [None] * 7 + [4, 5]


@given(st.text(max_size=40))
def test_no_written_date_is_too_odd(text: str) -> None:
    taken, _ = written_date(text)
    assert taken is None or len(taken) == 19

"""Facts that a file holds: EXIF, XMP and IPTC of a picture, and the tags of a video's container."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from PIL import ExifTags, Image

from media import storage
from media.errors import MediaError
from media.facts import (
    NO_FACTS,
    DateSource,
    Facts,
    camera_name,
    iso6709,
    joined,
    phrases,
    position,
    rated,
    written_date,
)
from media.opening import open_image, without_pixels
from media.raw import raw_head
from media.suffixes import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from av.container import InputContainer

MAX_XMP = 8 * 1024 * 1024
_TIFF_XMP = 700
_TIFFS, _MOST_TIFF = (b"II*\0", b"MM\0*"), 4 << 20
_LIST_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_SPACES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/lightroom/1.0/": "lr",
    "http://www.digikam.org/ns/1.0/": "digiKam",
    "http://ns.microsoft.com/photo/1.0/": "MicrosoftPhoto",
    "http://ns.microsoft.com/photo/1.0": "MicrosoftPhoto",
    "http://ns.microsoft.com/photo/1.2/t/Region#": "MPReg",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://www.metadataworkinggroup.com/schemas/regions/": "mwg-rs",
}
_XMP_WORDS = (
    "dc:title", "dc:description", "photoshop:Headline", "dc:subject", "Iptc4xmpExt:PersonInImage", "mwg-rs:Name",
    "MPReg:PersonDisplayName", "MicrosoftPhoto:LastKeywordXMP", "Iptc4xmpCore:Location", "photoshop:City", "photoshop:State",
    "photoshop:Country",
)  # fmt: skip
# Keywords with the ones above them: `Places|France|Paris`, or with slashes.
_XMP_PATHS = {"lr:hierarchicalSubject": "|", "digiKam:TagsList": "/"}
_XMP_DATES = ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate", "exif:DateTimeDigitized")
_IPTC_WORDS = ((2, 5), (2, 120), (2, 105), (2, 25), (2, 92), (2, 90), (2, 95), (2, 101))
_IPTC_DATE, _IPTC_CHARSET = (2, 55), (1, 90)
_XP_WORDS = (0x9C9B, 0x9C9C, 0x9C9E, 0x9C9F)
_EXIF_RATING = 0x4746
_PNG_WORDS = ("Title", "Description", "Comment", "Keywords")
_TAG_WORDS = ("title", "description", "comment", "synopsis", "keywords", "com.apple.quicktime.title",
              "com.apple.quicktime.description", "com.apple.quicktime.keywords", "com.apple.quicktime.comment")  # fmt: skip
_TAG_POSITIONS = ("com.apple.quicktime.location.iso6709", "location", "location-eng", "xyz", "©xyz")
_TAG_LOCAL_DATES = ("com.apple.quicktime.creationdate", "date_recorded", "date", "date_digitized")
_TAG_MAKES = ("com.apple.quicktime.make", "com.android.manufacturer", "make", "manufacturer")
_TAG_MODELS = ("com.apple.quicktime.model", "com.android.model", "model", "encoded_by_device")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def image_facts(content: bytes | IO[bytes]) -> Facts:
    """What a picture says of itself; nothing of one that cannot be opened. No pixel is decoded."""
    try:
        opened = raw_head(io.BytesIO(content) if isinstance(content, bytes) else content)
        head = opened.read(4)
        opened.seek(0)
        try:
            with open_image(without_pixels(opened)) as image:
                return facts_of(image)
        except SyntaxError:
            if head not in _TIFFS:
                return NO_FACTS
        # Sensors' values are no picture to Pillow, but their directory is as good as any.
        opened.seek(0)
        exif = Image.Exif()
        exif.load(b"Exif\0\0" + opened.read(_MOST_TIFF))
        return _facts_in(exif)
    except Exception:  # Plugins raise what a damaged file makes them raise; decoding it says what is wrong
        return NO_FACTS


def file_facts(path: str) -> Facts:
    """What the picture at `path` says of itself: of a file that is none, nothing."""
    if os.path.splitext(path)[1].lower() not in IMAGE_SUFFIXES:
        return NO_FACTS
    try:
        with storage.open_file(path) as content:
            return image_facts(content)
    except OSError:
        return NO_FACTS


def facts_of(image: Image.Image) -> Facts:
    """The facts of an opened picture: a part that is broken costs that part alone."""
    parts = [
        _part(_exif_facts, image),
        _part(_embedded_xmp, image),
        _part(_iptc_facts, image),
        _part(_png_facts, image),
    ]
    return joined(*parts)


def _part(read: object, image: Image.Image) -> Facts:
    try:
        facts = read(image) if callable(read) else NO_FACTS
    except Exception:  # Malformed blocks raise struct, key, value and type errors alike
        return NO_FACTS
    return facts if isinstance(facts, Facts) else NO_FACTS


def _exif_facts(image: Image.Image) -> Facts:
    # Pillow would decode the pixels of a PNG for it.
    return _facts_in(Image.Image.getexif(image) if image.format == "PNG" else image.getexif())


def _facts_in(exif: Image.Exif) -> Facts:
    inner = exif.get_ifd(ExifTags.IFD.Exif)
    times = (inner.get(ExifTags.Base.DateTimeOriginal), inner.get(ExifTags.Base.DateTimeDigitized))
    taken = next((date for date, _ in map(written_date, (*times, exif.get(ExifTags.Base.DateTime))) if date), None)
    latitude, longitude = _exif_position(exif)
    xp = (exif.get(tag) for tag in _XP_WORDS)
    words = [exif.get(ExifTags.Base.ImageDescription), _comment(inner.get(ExifTags.Base.UserComment))]
    for value in xp:
        raw = bytes(value) if isinstance(value, (bytes, tuple)) else b""
        words += raw.decode("utf-16-le", "ignore").split(";")
    return Facts(
        taken_at=taken,
        date_source="exif" if taken else None,
        camera=camera_name(_text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model))),
        latitude=latitude,
        longitude=longitude,
        rating=rated(exif.get(_EXIF_RATING)),
        words=phrases(_text(word) for word in words),
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = _decoded(value)
    text = str(value if value is not None else "").replace("\0", " ")
    if text.isascii():
        return text
    try:
        # Pillow reads EXIF as Latin-1; most programs write UTF-8.
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _comment(value: object) -> str | None:
    """A user comment, after the eight bytes that name its characters."""
    if not isinstance(value, bytes) or len(value) <= 8:
        return None
    mark, body = value[:8], value[8:]
    if mark.startswith(b"UNICODE"):
        return body.decode("utf-16-be" if body[:1] == b"\0" else "utf-16-le", "ignore")
    return _decoded(body).replace("\0", " ") if mark.startswith((b"ASCII", b"\0\0")) else None


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252", "ignore")


def _exif_position(exif: Image.Exif) -> tuple[float | None, float | None]:
    try:
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(gps[ExifTags.GPS.GPSLatitude], gps.get(ExifTags.GPS.GPSLatitudeRef), "S")
        longitude = _degrees(gps[ExifTags.GPS.GPSLongitude], gps.get(ExifTags.GPS.GPSLongitudeRef), "W")
    except Exception:  # Of a malformed block the other facts are kept
        return None, None
    return position(latitude, longitude)


def _degrees(parts: tuple[float, float, float], reference: object, negative: str) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    text = reference.decode("ascii") if isinstance(reference, bytes) else str(reference)
    return -value if text.strip("\0 ").upper() == negative else value


def _embedded_xmp(image: Image.Image) -> Facts:
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if packet is None:
        packet = getattr(image, "tag_v2", {}).get(_TIFF_XMP)
    raw = packet.encode() if isinstance(packet, str) else bytes(packet or b"")
    return xmp_facts(raw, "exif") if raw else NO_FACTS


def xmp_facts(raw: bytes, source: DateSource) -> Facts:
    """The facts in an XMP packet or file. Raises `MediaError("decode", reason)` for what is none, or would be a bomb."""
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    if len(raw) > MAX_XMP:
        raise MediaError("decode", f"XMP of {len(raw) / 1e6:.0f} MB is more than {MAX_XMP // 1_048_576} MB")
    try:
        root = fromstring(raw.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except DefusedXmlException as error:
        raise MediaError("decode", "XMP with a document type or entities, which are not read") from error
    except (ParseError, ValueError, LookupError) as error:
        raise MediaError("decode", f"not XMP: {' '.join(str(error).split())[:150]}") from error
    values: dict[str, list[str]] = {}
    for name, text in _properties(root):
        values.setdefault(name, []).append(text)
    if not values and b"adobe:ns:meta" not in raw[:4096] and b"rdf-syntax-ns" not in raw[:65536]:
        raise MediaError("decode", "XML, but not XMP")
    first = {name: texts[0] for name, texts in values.items()}
    dates = [written_date(first[name]) for name in _XMP_DATES if name in first]
    taken, utc = next(((date, utc) for date, utc in dates if date is not None), (None, False))
    latitude, longitude = position(
        _xmp_degrees(first.get("exif:GPSLatitude")), _xmp_degrees(first.get("exif:GPSLongitude"))
    )
    stars = rated(first.get("xmp:Rating"))
    if stars is None and "MicrosoftPhoto:Rating" in first:
        # In hundredths: 1, 25, 50, 75 and 99.
        stars = {1: 1, 25: 2, 50: 3, 75: 4, 99: 5}.get(int(first["MicrosoftPhoto:Rating"] or 0))
    words = [text for name in _XMP_WORDS for text in values.get(name, [])]
    words += [part for name, mark in _XMP_PATHS.items() for text in values.get(name, []) for part in text.split(mark)]
    return Facts(
        taken_at=taken,
        date_source=source if taken else None,
        from_utc=utc,
        camera=camera_name(first.get("tiff:Make"), first.get("tiff:Model")),
        latitude=latitude,
        longitude=longitude,
        rating=stars,
        words=phrases(words),
    )


def _properties(root: Element) -> Iterator[tuple[str, str]]:
    """Properties of XMP, in either form: as attributes or as elements, whose value may be a list."""
    for element in root.iter():
        name = _qualified(element.tag)
        if name is not None:
            texts = [item.text for item in element.iter(_LIST_ITEM)] or [element.text]
            yield from ((name, text.strip()) for text in texts if text and text.strip())
        for key, value in element.attrib.items():
            name = _qualified(key)
            if name is not None and value.strip():
                yield name, value.strip()


def _qualified(tag: object) -> str | None:
    space, _, local = str(tag).removeprefix("{").partition("}")
    prefix = _SPACES.get(space)
    return f"{prefix}:{local}" if prefix is not None else None


def _xmp_degrees(text: str | None) -> float | None:
    """`48,51.504N`, `48,51,30N`, or decimal degrees."""
    match = re.fullmatch(r"\s*([+-]?[\d.]+)(?:,([\d.]+))?(?:,([\d.]+))?\s*([NSEW]?)\s*", text or "", re.IGNORECASE)
    if match is None:
        return None
    try:
        value = float(match[1]) + float(match[2] or 0) / 60 + float(match[3] or 0) / 3600
    except ValueError:
        return None
    return -value if match[4].upper() in ("S", "W") else value


def _iptc_facts(image: Image.Image) -> Facts:
    from PIL.IptcImagePlugin import getiptcinfo

    records = getiptcinfo(image) if image.format in ("JPEG", "MPO", "TIFF") else None  # type: ignore[arg-type]
    if not records:
        return NO_FACTS
    utf8 = records.get(_IPTC_CHARSET) == b"\x1b%G"

    def texts(key: tuple[int, int]) -> list[str]:
        value = records.get(key, [])
        several = value if isinstance(value, list) else [value]
        return [raw.decode("utf-8", "ignore") if utf8 else _decoded(raw) for raw in several]

    date = "".join(texts(_IPTC_DATE))[:8]
    taken, _ = written_date(f"{date[:4]}-{date[4:6]}-{date[6:8]}") if len(date) == 8 else (None, False)
    words = phrases(text for key in _IPTC_WORDS for text in texts(key))
    return Facts(taken_at=taken, date_source="exif" if taken else None, words=words)


def _png_facts(image: Image.Image) -> Facts:
    if image.format != "PNG":
        return NO_FACTS
    return Facts(words=phrases(image.info.get(name) for name in _PNG_WORDS if isinstance(image.info.get(name), str)))


def video_facts(path: str) -> Facts:
    """What a video, or an animated image, says of itself; nothing of one that cannot be opened. Runs FFmpeg's demuxers, which a
    hostile file may crash: see `media.video`."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return file_facts(path)
    import av

    try:
        with av.open(storage.source(path), "r", metadata_errors="ignore") as opened:
            return opened_facts(opened)
    except (av.error.FFmpegError, ValueError, OverflowError, OSError):
        return NO_FACTS


def opened_facts(opened: InputContainer) -> Facts:
    """The facts in the tags of an opened video, and of its first stream what those do not say."""
    streams = [container_facts(stream.metadata) for stream in opened.streams.video[:1]]
    return joined(container_facts(opened.metadata), *(replace(facts, words=()) for facts in streams))


def container_facts(tags: Mapping[str, str]) -> Facts:
    """The facts in the tags of a video, as FFmpeg names them."""
    lower = {key.lower(): value for key, value in tags.items()}
    # Apple's own date has the zone of the camera; what every container has, only UTC.
    local_dates = (written_date(_rfc_date(lower[name])) for name in _TAG_LOCAL_DATES if name in lower)
    taken, utc = next(((date, utc) for date, utc in local_dates if date is not None and not date.endswith("-01-01T00:00:00")),
                      (None, False))  # fmt: skip
    if taken is None and "creation_time" in lower:
        stamp = lower["creation_time"]
        taken, utc = written_date(stamp if stamp.endswith("Z") else f"{stamp.strip()}Z")
    places = (iso6709(lower[name]) for name in _TAG_POSITIONS if name in lower)
    latitude, longitude = next((place for place in places if place[0] is not None), (None, None))
    make = next((lower[name] for name in _TAG_MAKES if name in lower), None)
    model = next((lower[name] for name in _TAG_MODELS if name in lower), None)
    return Facts(
        taken_at=taken,
        date_source="container" if taken else None,
        from_utc=utc,
        camera=camera_name(make, model),
        latitude=latitude,
        longitude=longitude,
        rating=rated(lower.get("com.apple.quicktime.rating.user", lower.get("rating"))),
        words=phrases(lower[name] for name in _TAG_WORDS if name in lower),
    )


def _rfc_date(text: str) -> str:
    """`Mon Dec 25 18:30:00 2023`, as AVI has it, as ISO 8601; other forms as they are."""
    match = re.match(r"\s*[a-z]{3}\s+([a-z]{3})\s+(\d\d?)\s+(\d\d:\d\d:\d\d)\s+(\d{4})", text, re.IGNORECASE)
    if match is None or match[1].lower() not in _MONTHS:
        return text
    return f"{match[4]}-{_MONTHS.index(match[1].lower()) + 1:02d}-{int(match[2]):02d}T{match[3]}"

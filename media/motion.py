"""The film inside of a photo: motion photos of Google's kind (XMP), of Samsung's (a trailer), and those in HEIF and AVIF files
(a box). Where it lies is read from the file; of the film itself nothing is read here.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, BinaryIO, NamedTuple

from media import storage
from media.errors import MediaError
from media.suffixes import ANIMATED_SUFFIXES, IMAGE_SUFFIXES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from av.container import InputContainer

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_CAMERA = "{http://ns.google.com/photos/1.0/camera/}"
_ITEM = "{http://ns.google.com/photos/1.0/container/item/}"
# Samsung's trailer: blocks of data, and at the very end a table that says how far before the table each begins.
_TABLE, _TABLE_END = b"SEFH", b"SEFT"
_FILM_BLOCK = b"MotionPhoto_Data"
_MOST_TABLE, _MOST_PARTS = 64 * 1024, 1024
_SCAN, _END = 0xDA, 0xD9


class Film(NamedTuple):
    """Where a film lies in the file of its photo, in bytes."""

    start: int
    size: int


def may_hold_film(path: str) -> bool:
    """Whether a file of this name is a photo: its moments, if it has any, are those of a film inside of it."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in IMAGE_SUFFIXES and suffix not in ANIMATED_SUFFIXES


def film_in(content: IO[bytes]) -> Film | None:
    """Where the film is in an opened photo, None in one that names none.

    Raises `MediaError("decode", reason)` where none lies at the places that the photo names.
    """
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    head = content.read(12)
    if head[:3] == b"\xff\xd8\xff":
        named = [*_by_xmp(_xmp(content), size), *_by_trailer(content, size)]
    elif head[4:8] == b"ftyp":
        named = [*_by_box(content, size), *_by_trailer(content, size)]
    else:
        return None
    for film in named:
        if film.start > 0 and film.size > 8 and _begins_at(content, film.start):
            return Film(film.start, min(film.size, size - film.start))
    if named:
        raise MediaError("decode", "names a film inside of it that is not there")
    return None


def film_of(path: str) -> Film:
    """The film in the photo at `path`. Raises `MediaError` where there is none, or no file."""
    try:
        with storage.open_file(path) as content:
            film = film_in(content)
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error
    if film is None:
        raise MediaError("decode", "a photo without a film inside of it")
    return film


def holds_film(path: str) -> bool:
    """Whether there is a film in the file at `path`."""
    try:
        return may_hold_film(path) and film_of(path).size > 0
    except MediaError:
        return False


@contextlib.contextmanager
def open_video(path: str) -> Iterator[InputContainer]:
    """FFmpeg's container over a video, or over the film in a photo, of which only what is asked for is read.

    Raises what PyAV raises, `OSError`, and `MediaError` for a photo without a film.
    """
    import av

    if not may_hold_film(path):
        with av.open(storage.source(path), "r", metadata_errors="ignore") as opened:
            yield opened
        return
    film = film_of(path)
    with (
        storage.open_file(path) as content,
        av.open(_Stretch(content, film), "r", metadata_errors="ignore") as opened,
    ):
        yield opened


class _Stretch(io.RawIOBase):
    """A stretch of an opened file as a file of its own."""

    def __init__(self, content: BinaryIO, film: Film) -> None:
        self._content, self._film, self._at = content, film, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._film.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._film.size - self._at)
        self._content.seek(self._film.start + self._at)
        data = self._content.read(left if size < 0 else min(size, left)) or b""
        self._at += len(data)
        return data


def _begins_at(content: IO[bytes], place: int) -> bool:
    content.seek(place + 4)
    return content.read(4) == b"ftyp"


def _xmp(content: IO[bytes]) -> bytes:
    """The XMP packet of a JPEG where it speaks of a film, from the segments before its first scan."""
    place = 2
    for _ in range(_MOST_PARTS):
        content.seek(place)
        head = content.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (_SCAN, _END):
            break
        length = int.from_bytes(head[2:], "big")
        if head[1] == 0xE1:
            body = content.read(max(0, length - 2))
            if body.startswith(_XMP) and (b"MicroVideo" in body or b"MotionPhoto" in body):
                return body[len(_XMP) :]
        place += 2 + max(2, length)
    return b""


def _by_xmp(packet: bytes, size: int) -> list[Film]:
    """Where Google's two ways of saying it place the film in a file of `size` bytes: each counts from the end."""
    root = _parsed(packet) if packet else None
    if root is None:
        return []
    elements = [_properties(element) for element in root.iter()]
    films = []
    items = [values for values in elements if f"{_ITEM}Semantic" in values]
    for number, values in enumerate(items):
        if values[f"{_ITEM}Semantic"] == "MotionPhoto":
            length = _number(values.get(f"{_ITEM}Length"))
            behind = sum(_number(other.get(f"{_ITEM}Length")) for other in items[number + 1 :])
            paddings = sum(_number(other.get(f"{_ITEM}Padding")) for other in items[number:])
            films += [Film(size - behind - paddings - length, length), Film(size - behind - length, length)]
    for values in elements:
        if _number(values.get(f"{_CAMERA}MicroVideoOffset")) and values.get(f"{_CAMERA}MicroVideo", "1") == "1":
            offset = _number(values[f"{_CAMERA}MicroVideoOffset"])
            films.append(Film(size - offset, offset))
    return films


def _parsed(packet: bytes) -> Element | None:
    from xml.etree.ElementTree import ParseError

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(packet.strip(b"\0 \r\n\t"), forbid_dtd=True)
    except (DefusedXmlException, ParseError, ValueError, LookupError):
        # Whoever reads the facts in it says what is wrong.
        return None
    return root


def _properties(element: Element) -> dict[str, str]:
    """What XMP says of one thing: it may write each property as an attribute or as an element."""
    return {**element.attrib, **{child.tag: (child.text or "").strip() for child in element if not len(child)}}


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else 0


def _by_trailer(content: IO[bytes], size: int) -> list[Film]:
    """Where Samsung's table says that the film is."""
    content.seek(max(0, size - 8))
    tail = content.read(8)
    length = int.from_bytes(tail[:4], "little")
    table = size - 8 - length
    if tail[4:] != _TABLE_END or not 12 <= length <= _MOST_TABLE or table < 0:
        return []
    content.seek(table)
    entries = content.read(length)
    if not entries.startswith(_TABLE):
        return []
    films = []
    for number in range(min(int.from_bytes(entries[8:12], "little"), (length - 12) // 12)):
        back, block = struct.unpack_from("<II", entries, 12 + 12 * number + 4)
        start = table - back
        content.seek(max(0, start))
        head = content.read(8 + len(_FILM_BLOCK))
        if start >= 0 and head[8:] == _FILM_BLOCK:
            films.append(Film(start + len(head), block - len(head)))
    return films


def _by_box(content: IO[bytes], size: int) -> list[Film]:
    """Where a HEIF or AVIF file holds the box of a film."""
    place = 0
    for _ in range(_MOST_PARTS):
        content.seek(place)
        head = content.read(16)
        if len(head) < 8:
            break
        length, header = int.from_bytes(head[:4], "big"), 8
        if length == 1 and len(head) == 16:
            length, header = int.from_bytes(head[8:], "big"), 16
        length = length or size - place
        if length < header:
            break
        if head[4:8] == b"mpvd":
            return [Film(place + header, length - header)]
        place += length
    return []

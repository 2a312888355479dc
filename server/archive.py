"""A zip of the files of items, written while it is sent: names that any system takes, none twice and none that leads out of the
folder where it is unpacked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from media.names import valid_text
from media.types import MEMBER
from media.walk import source_kind
from retrieval.errors import MediaError, QueryError
from retrieval.types import Item
from server.media import Files

MOST_BYTES = 8 * 1000**3
LEFT_OUT = "left out.txt"
_LONGEST = 180
# What Windows refuses in a name, and the names of its devices.
_ODD = re.compile(r'[\\/:*?"<>|]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_MAGIC = (
    (b"\xff\xd8", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"GIF8", ".gif"),
    (b"RIFF", ".webp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of the archive: its name in it, and the file on disk, or the item of a container that it is a member of."""

    name: str
    place: str
    member: Item | None


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What an archive will hold, its bytes, and a line for each item whose file is not there."""

    entries: tuple[Entry, ...]
    size: int
    left_out: tuple[str, ...]


def contents(items: Sequence[Item], files: Files) -> Contents:
    """The files of items, each once: of several moments their film, of a text the picture or document that it is about. Raises
    `QueryError` where they are too large together, and `MediaError` where none is there."""
    entries: list[Entry] = []
    left_out: list[str] = []
    taken: set[str] = {LEFT_OUT}
    seen: set[str] = set()
    size = 0
    for item in items:
        if item.path in seen:
            continue
        seen.add(item.path)
        member = MEMBER in item.path and not os.path.isfile(item.path)
        try:
            place = files.place(item)
            name = _member_name(item, files) if member else item.path
            size += item.size if member else os.stat(place).st_size
        except (MediaError, OSError) as error:
            left_out.append(f"{valid_text(item.path)}: {error}")
            continue
        entries.append(Entry(name=unique(safe_name(name), taken), place=place, member=item if member else None))
        if size > MOST_BYTES:
            raise QueryError(f"an archive may have {MOST_BYTES // 1000**3} GB at most; select fewer files")
    if not entries:
        raise MediaError("read", left_out[0].rpartition(": ")[2] if left_out else "nothing of this has a file")
    return Contents(entries=tuple(entries), size=size, left_out=tuple(left_out))


def archive(found: Contents, files: Files) -> Iterator[bytes]:
    """The archive in parts, each file read when its turn comes. Raises `OSError` and `MediaError` where one has gone since."""
    from zipstream import ZipStream

    def of_member(item: Item) -> Iterator[bytes]:
        yield files.content(item) or b""

    made = ZipStream()
    for entry in found.entries:
        if entry.member is None:
            made.add_path(entry.place, entry.name, recurse=False)
        else:
            made.add(of_member(entry.member), entry.name)
    if found.left_out:
        made.add("\n".join(found.left_out).encode() + b"\n", LEFT_OUT)
    yield from made


def safe_name(path: str) -> str:
    """The last name of a path as every file system takes it: a name alone, short, and without signs that mean something."""
    name = PurePosixPath(valid_text(path).replace("\\", "/").replace(MEMBER, "/")).name
    name = "".join(char if char.isprintable() else "_" for char in _ODD.sub("_", name)).strip(" .") or "file"
    stem, suffix = os.path.splitext(name)
    suffix = suffix[:16]
    while len((stem + suffix).encode()) > _LONGEST:
        stem = stem[:-1]
    return f"_{stem}{suffix}" if _DEVICE.fullmatch(stem + suffix) else stem + suffix


def unique(name: str, taken: set[str]) -> str:
    """`name`, with a number where it is taken already, as systems compare names that do not know upper from lower case."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        number += 1
        name = f"{stem} ({number}){suffix}"
    taken.add(name.casefold())
    return name


def _member_name(item: Item, files: Files) -> str:
    """The name of a member. A row of a table has a name without a suffix: its first bytes tell what it is."""
    if source_kind(item.path) is not None:
        return item.path
    head = (files.content(item) or b"")[:8]
    return item.path + next((suffix for magic, suffix in _MAGIC if head.startswith(magic)), ".bin")

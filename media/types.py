"""The plain values of media: files, their records, and places of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from media.errors import MediaError

# A caption describes a picture, and a passage is part of a document; the next three are said in a video or sound file, and the
# last was recognised in a picture.
TextKind = Literal["caption", "passage", "subtitle", "chapter", "speech", "ocr"]
SourceKind = Literal[
    "image", "pages", "video", "sound", "document", "sidecar", "subtitles", "captions", "tar", "parquet"
]
MEMBER = "::"
# A decoded image may take this many pixels, if nobody says otherwise. JPEG is decoded at a fraction of its size, so its own
# bound is wider.
MAX_PIXELS = 300_000_000
# Sources whose records may be many, so that a killed run may leave them half done.
CONTAINERS: frozenset[SourceKind] = frozenset(("captions", "pages", "tar", "parquet"))


class Sidecar(NamedTuple):
    """A file beside a photo or video that holds facts of it, as it was when it was listed."""

    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file on disk. `about` is the image that a sidecar text describes, or the video that subtitles belong to. `sidecars`
    are the files of metadata beside a photo or video."""

    path: str
    kind: SourceKind
    size: int
    mtime_ns: int
    about: str | None = None
    sidecars: tuple[Sidecar, ...] = ()

    @property
    def sidecar_state(self) -> bytes:
        """The state of the sidecars in eight bytes: another one means that what they say has to be read again. Empty where
        there are none."""
        if not self.sidecars:
            return b""
        states = (f"{os.path.basename(path)}\0{size}\0{mtime}" for path, size, mtime in self.sidecars)
        return hashlib.blake2b("\0".join(states).encode("utf-8", "surrogateescape"), digest_size=8).digest()


class Passage(NamedTuple):
    """A text, what kind it is, and the media that it is about; `start` and `end` in seconds where it is said in a video."""

    path: str
    text: str
    kind: TextKind
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image or text to encode. `data` is there for members of a container and None for a file of its own.

    `texts` holds passages or captions that need no decoding. `page` is the number of a page of a PDF, from 1, and `digest` what
    tells its content from any other.
    """

    path: str
    source: Source
    data: bytes | None = None
    texts: tuple[Passage, ...] = ()
    failure: MediaError | None = None
    page: int = 0
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an image is: a file, a member of a container (`file::member`), or, with `start` and `end` in
    seconds, the middle of a stretch of a video."""

    path: str
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """A file or folder that could not be looked at. With `keep`, nothing at or below `path` counts as gone, since it may only
    be out of reach. Without, it is not a source, and its rows are removed."""

    path: str
    reason: str
    keep: bool = True


@dataclass(frozen=True)
class Unchanged:
    """The files of a folder are just those that a snapshot has of it. What its folders hold follows."""

    path: str


def below(path: str, folder: str) -> bool:
    """Whether the absolute `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def below_any(path: str, folders: Iterable[str]) -> bool:
    """Whether the absolute `path` is one of these folders or lies in one."""
    return any(below(path, folder) for folder in folders)

"""What there is to index below some paths: files by their kinds, as a stream.

`walk` lists and stats but opens nothing (except a `.ts`, which may be a program), so an unchanged folder costs only its
listing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence

from media.image import IMAGE_SUFFIXES
from media.sound import SOUND_SUFFIXES
from media.subtitles import SUBTITLE_SUFFIXES
from media.text import TABLE_SUFFIXES, TEXT_SUFFIXES
from media.types import Source, SourceKind, Unreadable
from media.video import ANIMATED_SUFFIXES, SHARED_SUFFIXES, VIDEO_SUFFIXES, is_animated, is_transport_stream


def walk(paths: Sequence[str], *, sound: bool = False, roots: Sequence[str] = ()) -> Iterator[Source | Unreadable]:
    """Everything indexable under `paths` (absolute), in name order, one after the other; sound files only
    where they are asked for, since nothing but a transcript can be found of them.

    Hidden files and folders, `.mmsearch` among them, are left out; a folder reached twice, by whatever links, is
    walked once. A link that leads out of `roots` and `paths` is not followed, and said to be `Unreadable`.
    """
    visited: set[tuple[int, int]] = set()
    inside = [os.path.realpath(path) for path in (*paths, *roots)]
    given = set(paths)
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, given, visited, sound, inside)
            continue
        kind = source_kind(path)
        try:
            stat = os.stat(path)
        except OSError as error:
            yield Unreadable(path=path, reason=error.strerror or str(error))
            continue
        if kind == "video" and not _is_film(path):
            kind = None
        if kind is not None and (sound or kind != "sound"):
            yield Source(path=path, kind=kind, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path (real, absolute) is one of these folders or lies in one."""
    return any(path == folder or path.startswith(folder.rstrip(os.sep) + os.sep) for folder in folders)


def source_kind(name: str) -> SourceKind | None:
    """What a file is, by its name; None for what is not indexed."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    suffix = suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in SOUND_SUFFIXES:
        return "sound"
    if suffix in SUBTITLE_SUFFIXES:
        return "subtitles"
    if suffix in TEXT_SUFFIXES:
        return "document"
    if suffix in TABLE_SUFFIXES and stem.lower() == "captions":
        return "captions"
    if suffix == ".tar":
        return "tar"
    if suffix == ".parquet":
        return "parquet"
    return None


def moving(path: str, kind: SourceKind) -> SourceKind:
    """`video` for an animated picture, which only its first bytes tell. What cannot be read is left to those who say why."""
    suffix = os.path.splitext(path)[1].lower()
    if kind == "image" and suffix in ANIMATED_SUFFIXES and is_animated(_head(path), suffix):
        return "video"
    return kind


def _is_film(path: str) -> bool:
    """False for a `.ts` that holds a program's source."""
    head = _head(path) if os.path.splitext(path)[1].lower() in SHARED_SUFFIXES else b""
    return not head or is_transport_stream(head)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as opened:
            return opened.read(4096)
    except OSError:
        return b""


def _walk(
    folder: str, given: set[str], visited: set[tuple[int, int]], sound: bool, inside: Sequence[str]
) -> Iterator[Source | Unreadable]:
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in visited:
            return
        visited.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Unreadable(path=folder, reason=error.strerror or str(error))
        return
    images: dict[str, str] = {}
    spoken: dict[str, str] = {}
    folders: list[str] = []
    files: list[tuple[os.DirEntry[str], SourceKind]] = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            # A link that leads nowhere is told by whoever looks at the file.
            if entry.is_symlink() and os.path.exists(entry.path) and not below(os.path.realpath(entry.path), inside):
                if entry.is_dir() or source_kind(entry.name) is not None:
                    yield Unreadable(path=entry.path, reason="a link that leads out of the indexed folders", keep=False)
                continue
            if entry.is_dir():
                folders.append(entry.path)
                continue
        except OSError as error:
            yield Unreadable(path=entry.path, reason=error.strerror or str(error))
            continue
        kind = source_kind(entry.name)
        if kind is None or (kind == "video" and not _is_film(entry.path)):
            continue
        stem = os.path.splitext(entry.name)[0]
        if kind in ("video", "sound"):
            spoken.setdefault(stem, entry.path)
        if kind == "sound" and not sound:
            continue
        files.append((entry, kind))
        if kind == "image":
            images.setdefault(stem, entry.path)
    for entry, kind in files:
        if entry.path in given:
            continue
        try:
            stat = entry.stat()
        except OSError as error:
            yield Unreadable(path=entry.path, reason=error.strerror or str(error))
            continue
        about = None
        if kind == "document" and entry.name.lower().endswith(".txt"):
            about = images.get(os.path.splitext(entry.name)[0])
            kind = "sidecar" if about else kind
        elif kind == "subtitles":
            # `film.srt` and `film.en.srt` both belong to `film.mp4`.
            stem = os.path.splitext(entry.name)[0]
            about = spoken.get(stem) or spoken.get(os.path.splitext(stem)[0])
        yield Source(path=entry.path, kind=kind, size=stat.st_size, mtime_ns=stat.st_mtime_ns, about=about)
    for path in folders:
        if path not in given:
            yield from _walk(path, given, visited, sound, inside)

"""The files that can be indexed below some paths, by their kinds, as a stream.

`walk` lists and stats but opens nothing (except a `.ts`, which may be a program), so an unchanged folder costs only its
listing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from media.image import IMAGE_SUFFIXES
from media.sidecars import SIDECAR_SUFFIXES, SidecarNames
from media.sound import SOUND_SUFFIXES
from media.subtitles import SUBTITLE_SUFFIXES
from media.text import TABLE_SUFFIXES, TEXT_SUFFIXES
from media.types import Sidecar, Source, SourceKind, Unreadable, below_any
from media.video import ANIMATED_SUFFIXES, SHARED_SUFFIXES, VIDEO_SUFFIXES, is_animated, is_transport_stream


def walk(
    paths: Sequence[str], *, sound: bool = False, roots: Sequence[str] = (), links: list[str] | None = None
) -> Iterator[Source | Unreadable]:
    """Everything indexable under `paths` (absolute), in name order, one after the other; sound files only
    where they are asked for, since only a transcript makes them searchable.

    Hidden files and folders, `.mmsearch` among them, are left out; a folder reached twice, by whatever links, is
    walked once. A link that leads out of `roots` and `paths` is not followed, and said to be `Unreadable`; links to
    folders that are followed are added to `links`.
    """
    visited: set[tuple[int, int]] = set()
    inside = [os.path.realpath(path) for path in (*paths, *roots)]
    given = set(paths)
    for path in paths:
        folder, name = os.path.split(path)
        if os.path.isdir(path):
            yield from _walk(path, given, visited, sound, inside, links if links is not None else [])
        elif os.path.lexists(path):
            yield from (entry for entry in look(folder, {name}, sound=sound, roots=inside) if entry.path == path)
        else:
            yield Unreadable(path=path, reason=os.strerror(errno.ENOENT))


def look(
    folder: str, names: Collection[str], *, sound: bool = False, roots: Sequence[str] = ()
) -> Iterator[Source | Unreadable]:
    """Files of one folder, as `walk` gives them, in name order: those of these `names`, and texts and subtitles that may
    belong to one of them. The folder is listed, and nothing else in it is looked at; names that do not exist
    are left out."""
    inside = [os.path.realpath(path) for path in (folder, *roots)]
    try:
        listing = _Listing.of(folder, sound, inside, names)
    except FileNotFoundError:
        return
    except OSError as error:
        yield Unreadable(path=folder, reason=error.strerror or str(error))
        return
    stems = {form.casefold() for name in names for form in (name, os.path.splitext(name)[0])}
    # A sidecar that is new, other or gone concerns the photo that it belongs to.
    beside = SidecarNames(name for name in names if os.path.splitext(name)[1].lower() in SIDECAR_SUFFIXES)
    yield from (entry for entry in listing.unreadable if os.path.basename(entry.path) in names)
    for file, kind in listing.files:
        stem = os.path.splitext(file.name)[0].casefold()
        if kind in ("document", "subtitles"):
            belongs = not stems.isdisjoint((stem, os.path.splitext(stem)[0]))
        else:
            belongs = kind in ("image", "video") and bool(beside.of(file.name, video=kind == "video"))
        if file.name in names or belongs:
            yield listing.source(file, kind)


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
    """`video` for an animated image, recognised by its first bytes; else `kind`, also for a file that cannot be read."""
    suffix = os.path.splitext(path)[1].lower()
    if kind == "image" and suffix in ANIMATED_SUFFIXES and is_animated(_head(path), suffix):
        return "video"
    return kind


def _is_video(path: str) -> bool:
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
    folder: str, given: set[str], visited: set[tuple[int, int]], sound: bool, inside: Sequence[str], links: list[str]
) -> Iterator[Source | Unreadable]:
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in visited:
            return
        visited.add((stat.st_dev, stat.st_ino))
        listing = _Listing.of(folder, sound, inside)
    except OSError as error:
        yield Unreadable(path=folder, reason=error.strerror or str(error))
        return
    yield from listing.unreadable
    for file, kind in listing.files:
        if file.path not in given:
            yield listing.source(file, kind)
    for entry in listing.folders:
        if entry.is_symlink():
            links.append(entry.path)
        if entry.path not in given:
            yield from _walk(entry.path, given, visited, sound, inside, links)


@dataclass(frozen=True)
class _Listing:
    """What a folder holds, by name. `images` and `spoken` (videos and sound) are paths by stem: what texts belong to."""

    files: list[tuple[os.DirEntry[str], SourceKind]]
    folders: list[os.DirEntry[str]]
    unreadable: list[Unreadable]
    images: dict[str, str]
    spoken: dict[str, str]
    beside: dict[str, os.DirEntry[str]]

    @cached_property
    def sidecars(self) -> SidecarNames:
        """The names of files of metadata."""
        return SidecarNames(self.beside)

    @staticmethod
    def of(folder: str, sound: bool, inside: Sequence[str], named: Collection[str] = ()) -> _Listing:
        """List `folder`; hidden files only where they are `named`. Raises `OSError`."""
        listing = _Listing([], [], [], {}, {}, {})
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: os.fsencode(entry.name)):
                if entry.name.startswith(".") and entry.name not in named:
                    continue
                try:
                    listing._add(entry, sound, inside)
                except OSError as error:
                    listing.unreadable.append(Unreadable(path=entry.path, reason=error.strerror or str(error)))
        return listing

    def _add(self, entry: os.DirEntry[str], sound: bool, inside: Sequence[str]) -> None:
        # A broken link is reported when its file is read.
        if entry.is_symlink() and os.path.exists(entry.path) and not below_any(os.path.realpath(entry.path), inside):
            if entry.is_dir() or source_kind(entry.name) is not None:
                reason = "a link that leads out of the indexed folders"
                self.unreadable.append(Unreadable(path=entry.path, reason=reason, keep=False))
            return
        if entry.is_dir():
            self.folders.append(entry)
            return
        kind = source_kind(entry.name)
        if os.path.splitext(entry.name)[1].lower() in SIDECAR_SUFFIXES:
            self.beside[entry.name] = entry
        if kind is None or (kind == "video" and not _is_video(entry.path)):
            return
        stem = os.path.splitext(entry.name)[0]
        if kind in ("video", "sound"):
            self.spoken.setdefault(stem, entry.path)
        if kind == "image":
            # `photo.txt` and `photo.jpg.txt` both belong to `photo.jpg`, in any case of letters if need be.
            for name in (entry.name, stem):
                self.images.setdefault(name, entry.path)
                self.images.setdefault("\0" + name.casefold(), entry.path)
        if kind != "sound" or sound:
            self.files.append((entry, kind))

    def source(self, entry: os.DirEntry[str], kind: SourceKind) -> Source | Unreadable:
        """A file as it is now."""
        try:
            stat = entry.stat()
        except OSError as error:
            return Unreadable(path=entry.path, reason=error.strerror or str(error))
        about = None
        stem = os.path.splitext(entry.name)[0]
        if kind == "document" and entry.name.lower().endswith(".txt"):
            about = self.images.get(stem) or self.images.get("\0" + stem.casefold())
            kind = "sidecar" if about else kind
        elif kind == "subtitles":
            # `talk.srt` and `talk.en.srt` both belong to `talk.mp4`.
            about = self.spoken.get(stem) or self.spoken.get(os.path.splitext(stem)[0])
        pictured = about if kind == "sidecar" and about is not None else entry.path
        sidecars = self._sidecars_of(os.path.basename(pictured)) if kind in ("image", "video", "sidecar") else ()
        return Source(
            path=entry.path, kind=kind, size=stat.st_size, mtime_ns=stat.st_mtime_ns, about=about, sidecars=sidecars
        )

    def _sidecars_of(self, name: str) -> tuple[Sidecar, ...]:
        """The sidecars of an image or video of this folder, as they are now."""
        if not self.beside:
            return ()
        states = []
        for sidecar in self.sidecars.of(name, video=source_kind(name) == "video"):
            entry = self.beside[sidecar]
            try:
                stat = entry.stat()
            except OSError:
                # A broken link: reading it says so.
                states.append(Sidecar(entry.path, 0, 0))
                continue
            states.append(Sidecar(entry.path, stat.st_size, stat.st_mtime_ns))
        return tuple(states)

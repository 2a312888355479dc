"""The files that can be indexed below some paths, by their kinds, as a stream.

`walk` lists and stats but opens nothing (except a `.ts`, which may be a program), so an unchanged folder costs only its
listing.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from media import storage
from media.excludes import MARKS, Excluder, Excludes, Rules
from media.foreign import PAGED_SUFFIXES, missing_extra
from media.sidecars import SIDECAR_SUFFIXES, SidecarNames
from media.snapshot import Snapshot, is_placeholder, is_same
from media.sound import SOUND_SUFFIXES
from media.storage import Entry
from media.subtitles import SUBTITLE_SUFFIXES
from media.suffixes import (
    ANIMATED_SUFFIXES,
    IMAGE_SUFFIXES,
    SHARED_SUFFIXES,
    VIDEO_SUFFIXES,
    is_animated,
    is_program_stream,
    is_transport_stream,
)
from media.text import TABLE_SUFFIXES, TEXT_SUFFIXES
from media.types import Sidecar, Source, SourceKind, Unchanged, Unreadable, below

_LONGEST_SUFFIX = 12
_IN_THE_CLOUD = "is in the cloud only, and reading it would fetch it"


@dataclass(kw_only=True)
class WalkConfig:
    """How to walk: `sound` files only where they are asked for, since only a transcript makes them searchable. A link that
    leads out of `roots` and of what is walked is not followed; below the outermost of them, `excludes` hold.

    Of a folder that is as the `snapshot` has it, the walk gives `Unchanged` in place of its files; names beside them that would
    change what a file is (patterns, links, what is not indexed) are not in one.

    The walk adds to `links` the folders that links lead to, and counts in `skipped`, by suffix in lower case, files
    that are of no kind that is indexed here.
    """

    sound: bool = False
    roots: Sequence[str] = ()
    excludes: Excludes = field(default_factory=Excludes)
    links: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    snapshot: Snapshot | None = None


def walk(paths: Sequence[str], config: WalkConfig | None = None) -> Iterator[Source | Unreadable | Unchanged]:
    """Everything indexable under `paths` (absolute), in name order, one after the other.

    Hidden files and folders, `.mmsearch` among them, are left out; a folder reached twice, by whatever links, is
    walked once. A link that leads out is said to be `Unreadable`, and one to what is walked anyway is passed over.
    """
    view = _View.of(paths, config or WalkConfig())
    visited: set[object] = set()
    given = set(paths)
    for path in paths:
        folder, name = os.path.split(path)
        if view.goes_by_another_name(path):
            continue
        if storage.is_folder(path):
            try:
                rules = view.excluder.rules(path)
            except OSError as error:
                yield Unreadable(path=path, reason=error.strerror or str(error))
                continue
            if rules is not None:
                yield from _walk(path, rules, given, visited, view)
        elif storage.exists(path):
            yield from (entry for entry in _look(folder, {name}, view) if entry.path == path)
        else:
            yield Unreadable(path=path, reason=os.strerror(errno.ENOENT))


def look(folder: str, names: Collection[str], config: WalkConfig | None = None) -> Iterator[Source | Unreadable]:
    """Files of one folder, as `walk` gives them, in name order: those of these `names`, and texts and subtitles that may
    belong to one of them. The folder is listed, and nothing else in it is looked at; names that do not exist
    are left out."""
    return _look(folder, names, _View.of((os.path.join(folder, ""),), config or WalkConfig()))


def _look(folder: str, names: Collection[str], view: _View) -> Iterator[Source | Unreadable]:
    try:
        rules = view.excluder.rules(folder)
        listing = _Listing.of(folder, rules, view, storage.entries(folder), names) if rules is not None else None
    except FileNotFoundError:
        return
    except OSError as error:
        yield Unreadable(path=folder, reason=error.strerror or str(error))
        return
    if listing is None:
        return
    stems = {form.casefold() for name in names for form in (_whole(name), _stem(name))}
    # A sidecar that is new, other or gone concerns the photo that it belongs to.
    beside = SidecarNames(name for name in names if os.path.splitext(name)[1].lower() in SIDECAR_SUFFIXES)
    yield from (entry for entry in listing.unreadable if os.path.basename(entry.path) in names)
    for file, kind in listing.files:
        stem = _stem(file.name).casefold()
        if kind in ("document", "subtitles"):
            belongs = not stems.isdisjoint((stem, os.path.splitext(stem)[0]))
        else:
            belongs = kind in ("image", "pages", "video") and bool(beside.of(file.name, video=kind == "video"))
        if file.name in names or belongs:
            yield listing.source(file, kind)


def _stem(name: str) -> str:
    """What names belong together by: without the suffix, in one spelling, since systems differ in how they compose letters."""
    stem = os.path.splitext(name)[0]
    return stem if stem.isascii() else unicodedata.normalize("NFC", stem)


def _whole(name: str) -> str:
    """The same with the suffix."""
    return unicodedata.normalize("NFC", name)


def source_kind(name: str) -> SourceKind | None:
    """What a file is, by its name; None for what is not indexed."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    suffix = suffix.lower()
    if suffix in PAGED_SUFFIXES:
        return "pages"
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


def _is_video(entry: Entry) -> bool:
    """False for a `.ts` that holds a program's source. One that is in a cloud alone is not looked into."""
    shared = os.path.splitext(entry.name)[1].lower() in SHARED_SUFFIXES
    head = _head(entry.path) if shared and not _is_in_cloud(entry) else b""
    return not head or is_transport_stream(head) or is_program_stream(head)


def _is_in_cloud(entry: Entry) -> bool:
    try:
        return is_placeholder(entry.stat())
    except OSError:
        return False


def _head(path: str) -> bytes:
    try:
        with storage.open_file(path, 4096) as opened:
            return opened.read(4096)
    except OSError:
        return b""


@dataclass(frozen=True)
class _View:
    """What a walk knows of the world: its configuration, the folders that it may reach as they are named and as they truly
    are, and what is left out there."""

    config: WalkConfig
    inside: Sequence[tuple[str, str]]
    excluder: Excluder
    _lacking: dict[str, bool] = field(default_factory=dict)

    @staticmethod
    def of(paths: Sequence[str], config: WalkConfig) -> _View:
        folders = [path if storage.is_folder(path) else os.path.dirname(path) for path in paths]
        reach = dict.fromkeys(path.rstrip(os.sep) or os.sep for path in (*paths, *config.roots))
        bases = list(config.roots or dict.fromkeys(folder.rstrip(os.sep) or os.sep for folder in folders))
        return _View(config, [(path, storage.real(path)) for path in reach], Excluder(bases, config.excludes))

    def leads_out(self, target: str) -> bool:
        """Whether the true path `target` lies outside of what may be reached."""
        return not any(below(target, real) for _, real in self.inside)

    def walks(self, target: str, is_folder: bool) -> bool:
        """Whether what truly lies at `target` is reached by its own name, too: not hidden, not left out, not a link's."""
        for named in self._names(target):
            if is_folder:
                return self.excluder.rules(named) is not None
            return source_kind(named) is not None and not self.excluder.leaves_out(named)
        return False

    def goes_by_another_name(self, path: str) -> bool:
        """Whether a path leads by a link to what is walked by its own name."""
        target = storage.real(path)
        return path not in self._names(target) and self.walks(target, storage.is_folder(target))

    def _names(self, target: str) -> list[str]:
        """What a true path is called below each of the folders that hold it, as they are named, where nothing hides it."""
        names = []
        for path, real in self.inside:
            if below(target, real):
                place = target[len(real) :].strip(os.sep)
                if not any(name.startswith(".") for name in place.split(os.sep)):
                    names.append(os.path.join(path, place) if place else path)
        return names

    def lacks_extra(self, name: str) -> bool:
        """Whether a library for files of this suffix is not installed; looked for once a walk."""
        suffix = os.path.splitext(name)[1].lower()
        if suffix not in self._lacking:
            self._lacking[suffix] = missing_extra(name) is not None
        return self._lacking[suffix]

    def skip(self, name: str) -> None:
        """Count a file that is not of a kind that is indexed."""
        suffix = os.path.splitext(name)[1].lower()
        self.config.skipped[suffix if len(suffix) <= _LONGEST_SUFFIX else ""] += 1


def _walk(
    folder: str, rules: Rules, given: set[str], visited: set[object], view: _View
) -> Iterator[Source | Unreadable | Unchanged]:
    try:
        identity = storage.identity(folder)
        if identity in visited:
            return
        visited.add(identity)
        entries = storage.entries(folder)
        same = view.config.snapshot is not None and len(given) == 1 and is_same(folder, entries, view.config.snapshot)
        listing = _Listing.of(folder, rules, view, [entry for entry in entries if entry.is_dir()] if same else entries)
    except OSError as error:
        yield Unreadable(path=folder, reason=error.strerror or str(error))
        return
    if same:
        yield Unchanged(folder)
    yield from listing.unreadable
    for file, kind in listing.files:
        if file.path not in given:
            yield listing.source(file, kind)
    for entry in listing.folders:
        if entry.is_symlink():
            view.config.links.append(entry.path)
        if entry.path not in given:
            yield from _walk(entry.path, listing.rules, given, visited, view)


@dataclass(frozen=True)
class _Listing:
    """What a folder holds, by name, and the rules that hold in it. `images` and `spoken` (videos and sound) are paths by
    stem: what texts belong to."""

    rules: Rules
    files: list[tuple[Entry, SourceKind]] = field(default_factory=list)
    folders: list[Entry] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    images: dict[str, str] = field(default_factory=dict)
    spoken: dict[str, str] = field(default_factory=dict)
    beside: dict[str, Entry] = field(default_factory=dict)

    @cached_property
    def sidecars(self) -> SidecarNames:
        """The names of files of metadata."""
        return SidecarNames(self.beside)

    @staticmethod
    def of(folder: str, rules: Rules, view: _View, entries: Sequence[Entry], named: Collection[str] = ()) -> _Listing:
        """Sort the entries of `folder`, to which `rules` lead; hidden files only where they are `named`. Raises `OSError`."""
        entered = rules.entering(folder, [entry.name for entry in entries if entry.name in MARKS])
        if entered is None:
            return _Listing(rules)
        listing = _Listing(entered)
        for entry in entries:
            if entry.name.startswith(".") and (entry.name not in named or entry.name in MARKS):
                continue
            try:
                listing._add(entry, view)
            except OSError as error:
                listing.unreadable.append(Unreadable(path=entry.path, reason=error.strerror or str(error)))
        if listing.beside:
            listing._skip_sidecars_of_nothing(view)
        return listing

    def _skip_sidecars_of_nothing(self, view: _View) -> None:
        media = [(file.name, kind == "video") for file, kind in self.files if kind in ("image", "pages", "video")]
        used = {sidecar for name, is_video in media for sidecar in self.sidecars.of(name, video=is_video)}
        for name in self.beside.keys() - used:
            view.skip(name)

    def _add(self, entry: Entry, view: _View) -> None:
        is_folder = entry.is_dir()
        if self.rules.leaves_out(entry.path, is_folder=is_folder):
            return
        # A broken link is reported when its file is read.
        if entry.is_symlink() and os.path.exists(entry.path):
            target = os.path.realpath(entry.path)
            if view.leads_out(target):
                if is_folder or source_kind(entry.name) is not None:
                    self._refuse(entry, "a link that leads out of the indexed folders")
                return
            if view.walks(target, is_folder):
                if is_folder:
                    view.config.links.append(entry.path)
                return
        if is_folder:
            self.folders.append(entry)
            return
        kind = source_kind(entry.name)
        if os.path.splitext(entry.name)[1].lower() in SIDECAR_SUFFIXES:
            if _is_in_cloud(entry):
                self._refuse(entry, _IN_THE_CLOUD)
            else:
                self.beside[entry.name] = entry
            return
        if kind is None or (kind in ("image", "pages") and view.lacks_extra(entry.name)):
            view.skip(entry.name)
            return
        if not entry.is_file() and os.path.exists(entry.path):
            # A pipe without a writer would make whoever opens it wait for ever.
            self._refuse(entry, "not a regular file")
            return
        if kind == "video" and not _is_video(entry):
            view.skip(entry.name)
            return
        stem = _stem(entry.name)
        if kind in ("video", "sound"):
            self.spoken.setdefault(stem, entry.path)
        if kind == "image":
            # `photo.txt` and `photo.jpg.txt` both belong to `photo.jpg`, in any case of letters if need be.
            for name in (_whole(entry.name), stem):
                self.images.setdefault(name, entry.path)
                self.images.setdefault("\0" + name.casefold(), entry.path)
        if kind != "sound" or view.config.sound:
            self.files.append((entry, kind))
        else:
            view.skip(entry.name)

    def _refuse(self, entry: Entry, reason: str) -> None:
        self.unreadable.append(Unreadable(path=entry.path, reason=reason, keep=False))

    def source(self, entry: Entry, kind: SourceKind) -> Source | Unreadable:
        """A file as it is now."""
        try:
            stat = entry.stat()
        except OSError as error:
            return Unreadable(path=entry.path, reason=error.strerror or str(error))
        if is_placeholder(stat):
            return Unreadable(path=entry.path, reason=_IN_THE_CLOUD)
        about = None
        stem = _stem(entry.name)
        if kind == "document" and entry.name.lower().endswith(".txt"):
            about = self.images.get(stem) or self.images.get("\0" + stem.casefold())
            kind = "sidecar" if about else kind
        elif kind == "subtitles":
            # `talk.srt` and `talk.en.srt` both belong to `talk.mp4`.
            about = self.spoken.get(stem) or self.spoken.get(os.path.splitext(stem)[0])
        pictured = about if kind == "sidecar" and about is not None else entry.path
        sidecars = (
            self._sidecars_of(os.path.basename(pictured)) if kind in ("image", "pages", "video", "sidecar") else ()
        )
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

"""plan: what an index knows of some folders against what is on disk now, as a stream of units of work.

The walk and the table of sources come in the same order, so comparing them is one merge of two streams: memory follows
what changed, not the size of the folders. Only changed files are opened.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from indexer.places import FolderScope, caption_tables, places_of
from media.excludes import Excluder
from media.types import CONTAINERS, Source, Unchanged, Unreadable, below
from media.walk import WalkConfig, look, moving, walk
from retrieval.store.source_keys import folder_key, key_of, place_of
from retrieval.store.source_lines import Columns, Lines, PairedLines
from retrieval.store.sources import SourceLine, SourceTable

# The kind of a line that notes a place that could not be looked at.
UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """`unit_size` small files make a unit. With `transcribe`, sound files are indexed too, and a video without a transcript
    counts as changed. With `prune`, a folder that had files and is empty now loses them; else it may be a drive that is not
    mounted. With `exclude_anew`, what the index leaves out has changed: all that it holds is compared with that. With `reread`,
    photos and videos count as changed whatever their lines say, so that their facts are read again."""

    unit_size: int = 32
    retry_failed: bool = False
    reread: bool = False
    transcribe: bool = False
    prune: bool = False
    exclude_anew: bool = False


@dataclass(frozen=True, kw_only=True)
class Unit:
    """Some sources to read anew, or one container from its record-slice number `first_slice` on. Any process that sees the
    same files makes the same unit of it."""

    sources: tuple[Source, ...]
    first_slice: int | None = None


@dataclass
class Plan:
    """Iterate over it for the units; the counts grow meanwhile, and are whole at the end.

    `changed`, `unchanged` and `removed` count media files, `failed` the failures in the ledger of unchanged ones. `gone`
    are the keys of sources that no longer exist, `notes` the lines of places that could not be looked at, `links` the
    folders that were reached by a link, and `skipped` counts by suffix the files of kinds that are not indexed.
    """

    table: SourceTable
    paths: Sequence[str]
    config: PlanConfig
    waiting: Mapping[bytes, tuple[SourceLine, int]] = field(default_factory=dict)
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: int = 0
    gone: list[bytes] = field(default_factory=list)
    notes: dict[bytes, SourceLine] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    # Caption tables as they were, by the key of their folder, and the folders that gained or lost a file meanwhile.
    _captions: list[tuple[bytes, Source, Columns]] = field(default_factory=list)
    _moved: set[bytes] = field(default_factory=set)

    def __iter__(self) -> Iterator[Unit]:
        small: list[Source] = []
        for source, slices in self._changed():
            self.changed += 1
            source = replace(source, kind=moving(source.path, source.kind))
            if source.kind in CONTAINERS:
                yield Unit(sources=(source,), first_slice=slices)
            elif source.kind in ("video", "sound"):
                yield Unit(sources=(source,))
            else:
                small.append(source)
                if len(small) == self.config.unit_size:
                    yield Unit(sources=tuple(small))
                    small = []
        if small:
            yield Unit(sources=tuple(small))
        for folder, source, line in self._captions:
            # A table's own time of change does not tell which of the images that it names exist.
            if any(moved.startswith(folder) for moved in self._moved):
                self.changed += 1
                self.unchanged -= line.media
                self.failed -= len(line.failed)
                yield Unit(sources=(source,), first_slice=0)

    def _changed(self) -> Iterator[tuple[Source, int]]:
        """Every source that is new or not as it was, and how many slices of it the index and the journal have already."""
        roots = self.table.manifest.roots
        places = places_of(roots, self.paths)
        whole = [place for place in places if place.names is None]
        walking = self._walking()
        stream = _Pushed(walk([place.path for place in whole], walking))
        for place in whole:
            merge = _Merge(self, place, Lines(self.table, place.prefix))
            # The walk asks about folders just before it gives them, so it is only ever ahead by one of this merge's own.
            if len(whole) == 1 and self._may_pass_over:
                walking.snapshot = merge
            while (entry := next(stream)) is not None:
                if not merge.owns(entry.path):
                    stream.push(entry)
                    break
                yield from merge.meet(entry)
            merge.end()
        for place in places[len(whole) :]:
            yield from self._named(place)
        for place in caption_tables(roots, self._moved, places):
            yield from self._named(place)
        if self.config.exclude_anew:
            self._exclude()

    @property
    def _may_pass_over(self) -> bool:
        """Whether a file that is as its line says need not be looked at."""
        config = self.config
        return not (config.retry_failed or config.reread or config.transcribe or config.exclude_anew or self.waiting)

    def _walking(self) -> WalkConfig:
        manifest = self.table.manifest
        return WalkConfig(
            sound=True, roots=manifest.roots.paths, excludes=manifest.excludes, links=self.links, skipped=self.skipped
        )

    @cached_property
    def excluder(self) -> Excluder:
        """What of the indexed folders is left out."""
        return Excluder(self.table.manifest.roots.paths, self.table.manifest.excludes)

    def leaves_out(self, key: bytes) -> bool:
        """Whether the file of this key is left out, which one whose patterns cannot be read is not."""
        try:
            return self.excluder.leaves_out(self.table.manifest.roots.join(*place_of(key)))
        except OSError:
            return False

    def _exclude(self) -> None:
        """Let go of what is left out now, also outside of the folders of this run."""
        gone = set(self.gone)
        for number in range(len(self.table.manifest.roots.paths)):
            for key, line in Lines(self.table, folder_key(number, "")):
                if key not in gone and line.kind != UNREADABLE and self.leaves_out(key):
                    self.gone.append(key)
                    self.removed += line.media
                    self.moved(key)

    def _named(self, place: FolderScope) -> Iterator[tuple[Source, int]]:
        """The changed sources among the named files of a folder and their sidecars and subtitles."""
        roots = self.table.manifest.roots
        entries = list(look(place.path, place.names or (), self._walking()))
        keys = place.keys | {key_of(*roots.split(entry.path)) for entry in entries}
        lines = [(key, Columns.of(line)) for key, line in self.table.find(sorted(keys)).items()]
        lines += [pair for prefix in place.missing for pair in Lines(self.table, prefix)]
        merge = _Merge(self, place, PairedLines(sorted(dict(lines).items())))
        for entry in entries:
            yield from merge.meet(entry)
        merge.end()

    def is_unchanged(self, key: bytes, source: Source, line: Columns) -> bool:
        """Whether a source is as its line says; its media files and failures are counted then."""
        config = self.config
        if line.size != source.size or line.mtime != source.mtime_ns or line.slices:
            return False
        # Whether an image is animated is in its first bytes, which a listing does not read.
        if line.kind != source.kind and not (line.kind == "video" and source.kind == "image"):
            return False
        if (line.about is not None or source.about is not None) and line.about != self._about(source):
            return False
        if (line.sidecar or b"") != source.sidecar_state or (
            config.reread and line.kind in ("image", "pages", "video")
        ):
            return False
        if line.failures is not None and config.retry_failed:
            return False
        if config.transcribe and line.kind in ("video", "sound") and not line.heard and line.failures is None:
            return False
        self.unchanged += line.media
        self.failed += len(line.failed)
        if source.kind == "captions":
            self._captions.append((key[: key.rindex(b"\0")], source, line))
        return True

    def moved(self, key: bytes) -> None:
        """Record that the file of this key is new or gone."""
        self._moved.add(key[: key.rindex(b"\0")])

    def _about(self, source: Source) -> bytes | None:
        return key_of(*self.table.manifest.roots.split(source.about)) if source.about is not None else None


class _Merge:
    """One place, as it is walked, against the lines of it."""

    def __init__(self, plan: Plan, place: FolderScope, lines: Lines | PairedLines) -> None:
        self._plan, self._place, self._lines = plan, place, lines
        self._roots = plan.table.manifest.roots
        # Of each place that could not be looked at: the prefix of keys below it, and the key that it has if it is a file.
        self._lost: list[tuple[bytes, bytes]] = []
        self._gone: list[tuple[bytes, int]] = []
        self._old_notes: dict[bytes, Columns] = {}
        self._met: set[bytes] = set()
        self._folder: tuple[str, bytes] = ("", b"")

    def owns(self, path: str) -> bool:
        """Whether the walk gives `path` as part of this folder."""
        return path == self._place.path or (
            below(path, self._place.path) and self._key(path).startswith(self._place.prefix)
        )

    def _holds(self, key: bytes) -> bool:
        """Whether the source of a key belongs to this place."""
        if self._place.names is None:
            return key.startswith(self._place.prefix)
        return key in self._place.keys or any(key.startswith(prefix) for prefix in self._place.missing)

    def holds(self, folder: str, names: Sequence[bytes], sizes: Sequence[int], times: Sequence[int]) -> bool:
        """See `media.walk.Snapshot`."""
        prefix = self._prefix(folder)
        return isinstance(self._lines, Lines) and self._lines.hold(prefix, names, sizes, times)

    def meet(self, entry: Source | Unreadable | Unchanged) -> Iterator[tuple[Source, int]]:
        """Take the next entry of the walk."""
        if isinstance(entry, Unchanged):
            prefix = self._prefix(entry.path)
            self._pass(prefix)
            self._met.add(prefix)
            if isinstance(self._lines, Lines):
                self._plan.unchanged += self._lines.skip(prefix)
            return
        if isinstance(entry, Unreadable):
            self._note(entry.path, entry.reason, lost=entry.keep)
            return
        key = self._key(entry.path)
        self._pass(key)
        if not self._met or key in self._plan.waiting:
            self._met.add(key)
        line = None
        if self._lines.key == key:
            line = self._lines.take()
        plan = self._plan
        if entry.kind == "sound" and not plan.config.transcribe:
            # Its transcript, if there is one, stays: only a run that transcribes may replace it.
            plan.unchanged += line.media if line is not None else 0
            if line is None:
                plan.skipped[os.path.splitext(entry.path)[1].lower()] += 1
        elif line is None or not plan.is_unchanged(key, entry, line):
            if line is None:
                plan.moved(key)
            yield entry, self._slices(key, entry, line)

    def _slices(self, key: bytes, source: Source, line: Columns | None) -> int:
        version = (source.size, source.mtime_ns)
        held, slices = self._plan.waiting.get(key, (None, 0))
        if held is not None and (held.size, held.mtime_ns) == version:
            return slices
        return line.slices if line is not None and (line.size, line.mtime) == version else 0

    def end(self) -> None:
        """Sources that the walk did not list are gone, unless the whole folder is empty."""
        self._pass(None)
        plan = self._plan
        whole = self._place.names is None
        emptied = whole and self._gone and not self._met and not self._lost and not plan.config.prune
        if emptied and not all(plan.leaves_out(key) for key, _ in self._gone):
            reason = (
                f"is empty, but {len(self._gone)} files of it are indexed: is a drive not mounted? --prune lets them go"
            )
            self._note(self._place.path, reason)
        else:
            plan.gone += [key for key, _ in self._gone]
            plan.removed += sum(media for _, media in self._gone)
            # Containers of which the journal has slices, while their file is no more.
            left = (key for key in plan.waiting if self._holds(key) and key not in self._met)
            plan.gone += [key for key in left if not self._is_lost(key)]
        for key, line in self._old_notes.items():
            note = plan.notes.get(key)
            if note is not None and line.failed == [list(failure) for failure in note.failures]:
                # The index says so already.
                del plan.notes[key]
                plan.failed += 1
            elif note is None and not self._is_lost(key):
                plan.gone.append(key)

    def _pass(self, key: bytes | None) -> None:
        while (line_key := self._lines.key) is not None and (key is None or line_key < key):
            line = self._lines.take()
            if line.kind == UNREADABLE:
                self._old_notes[line_key] = line
            elif not self._is_lost(line_key):
                self._gone.append((line_key, line.media))
                self._plan.moved(line_key)

    def _is_lost(self, key: bytes) -> bool:
        return any(key.startswith(prefix) or key == lost_key for prefix, lost_key in self._lost)

    def _note(self, path: str, reason: str, *, lost: bool = True) -> None:
        _, place = self._roots.split(path)
        prefix = folder_key(self._place.root, place)
        if lost:
            self._lost.append((prefix, key_of(self._place.root, place)))
        # As a file without a name in that place, which no file can be.
        key = prefix + b"\0"
        self._plan.notes[key] = SourceLine(
            key=key, kind=UNREADABLE, size=0, mtime_ns=0, media=0, failures=((place, "read", reason),)
        )

    def _key(self, path: str) -> bytes:
        folder, _, name = path.rpartition(os.sep)
        return self._prefix(folder or os.sep) + os.fsencode(name)

    def _prefix(self, folder: str) -> bytes:
        """What the keys of the files of a folder begin with."""
        if folder != self._folder[0]:
            root, place = self._roots.split(folder)
            self._folder = (folder, folder_key(root, place) + b"\0")
        return self._folder[1]


class _Pushed:
    """An iterator that takes back the entry that it gave last, and ends with None."""

    def __init__(self, entries: Iterator[Source | Unreadable | Unchanged]) -> None:
        self._entries = entries
        self._back: Source | Unreadable | Unchanged | None = None

    def __next__(self) -> Source | Unreadable | Unchanged | None:
        entry, self._back = self._back, None
        return entry if entry is not None else next(self._entries, None)

    def push(self, entry: Source | Unreadable | Unchanged) -> None:
        """Give `entry` again."""
        self._back = entry

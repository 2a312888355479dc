"""The manifest: the one file that says what an index is. Written last and atomically, so it is always whole.

Nothing here knows Parquet or Faiss: the manifest names their files, with rows and checksums.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from media.excludes import Excludes
from retrieval.errors import FormatError, IndexNotFoundError, MmsearchError, ModelError, OldFormatError
from retrieval.files import write_atomically
from retrieval.store.roots import Roots
from retrieval.types import KINDS, Kind, ModelSpec

FORMAT_VERSION = 2
METRIC = "cosine"
Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A Parquet file of one kind of item. `tombstones` holds half-open ranges of rows that no search may return."""

    file: str
    kind: Kind
    rows: int
    sha256: str
    bytes: int
    tombstones: Ranges = ()

    @property
    def alive(self) -> int:
        """Rows that a search may return."""
        return self.rows - sum(stop - start for start, stop in self.tombstones)

    def tombstone_rows(self) -> NDArray[np.int64]:
        """`(m,) int64`, ascending."""
        if not self.tombstones:
            return np.empty(0, np.int64)
        return np.concatenate([np.arange(start, stop, dtype=np.int64) for start, stop in self.tombstones])


@dataclass(frozen=True, kw_only=True)
class VectorEntry:
    """A Faiss file over consecutive shards of one kind; row i of it is row i of their concatenation. `spread` of an inverted
    file is the mean squared distance of its rows from the centroids of their lists; None where it was not measured."""

    file: str
    type: str
    kind: Kind
    shards: tuple[str, ...]
    rows: int
    bytes: int
    spread: float | None = None


VectorType = Literal["auto", "flat", "ivf", "pq4", "rabitq"]


@dataclass(frozen=True, kw_only=True)
class VectorPolicy:
    """Which vector files an index has: `auto` by its size, `flat` scanned exactly, or an inverted file of which a search
    visits `nprobe` lists (None: a share that `retrieval.store.vector_index` chooses), with a byte a dimension (`ivf`), half a
    byte for each four (`pq4`), or a bit for each (`rabitq`)."""

    type: VectorType = "auto"
    nprobe: int | None = None


@dataclass(frozen=True, kw_only=True)
class SourceSegment:
    """A file of the table of sources: `lines` of them, of which a later segment may hold a newer form."""

    file: str
    lines: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CopiesFile:
    """A file that says which rows are copies: fingerprints of `rows` of them, or the groups that `rows` of them are in."""

    file: str
    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CopiesState:
    """What is known of copies: segments of fingerprints, oldest first, and the groups, None where there are none. The first
    `images` and `moments` rows of these kinds have been looked at. Rebuildable from the shards at any time."""

    segments: tuple[CopiesFile, ...] = ()
    groups: CopiesFile | None = None
    images: int = 0
    moments: int = 0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What `status` reports without opening a shard: media files with something searchable, videos, lines of the ledger."""

    files: int = 0
    videos: int = 0
    failures: int = 0

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        """The sum, or with `sign` -1 the difference."""
        return Counts(
            files=self.files + sign * other.files,
            videos=self.videos + sign * other.videos,
            failures=self.failures + sign * other.failures,
        )


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One committed state of an index.

    `roots` are the folders whose files it holds. `journal` is the highest number of a journal part that was taken into
    account; of those up to it, only `held` still wait in the journal. `excludes` is what of the roots it leaves out.
    """

    model: ModelSpec
    roots: Roots
    shards: tuple[ShardEntry, ...] = ()
    vectors: tuple[VectorEntry, ...] = ()
    sources: tuple[SourceSegment, ...] = ()
    counts: Counts = Counts()
    journal: int = 0
    held: tuple[int, ...] = ()
    generation: int = 0
    policy: VectorPolicy = VectorPolicy()
    copies: CopiesState = CopiesState()
    excludes: Excludes = field(default_factory=Excludes)

    def files(self) -> tuple[ShardEntry | VectorEntry | SourceSegment | CopiesFile, ...]:
        """Every file that this state consists of; beside each shard lie its keys."""
        groups = () if self.copies.groups is None else (self.copies.groups,)
        return (*self.shards, *self.vectors, *self.sources, *self.copies.segments, *groups)

    def of_kind(self, kind: Kind) -> tuple[ShardEntry, ...]:
        """The shards of one kind, in order."""
        return tuple(shard for shard in self.shards if shard.kind == kind)

    def rows(self, kind: Kind) -> int:
        """How many rows of a kind there are, those under tombstones included."""
        return sum(shard.rows for shard in self.of_kind(kind))

    @property
    def copies_are_current(self) -> bool:
        """Whether copies were looked for among all rows."""
        return (self.copies.images, self.copies.moments) == (self.rows("image"), self.rows("video"))

    def alive(self, kind: Kind) -> int:
        """Searchable rows of one kind."""
        return sum(shard.alive for shard in self.of_kind(kind))


def to_ranges(rows: NDArray[np.int64]) -> Ranges:
    """Sorted unique row numbers as half-open ranges."""
    if not len(rows):
        return ()
    breaks = np.flatnonzero(np.diff(rows) != 1)
    starts = np.concatenate(([0], breaks + 1))
    stops = np.concatenate((breaks, [len(rows) - 1]))
    return tuple((int(rows[a]), int(rows[b]) + 1) for a, b in zip(starts, stops, strict=True))


def with_tombstones(shard: ShardEntry, rows: NDArray[np.int64]) -> ShardEntry:
    """The same shard with these rows as tombstones too."""
    return replace(shard, tombstones=to_ranges(np.union1d(shard.tombstone_rows(), rows)))


def find_index(given: str | os.PathLike[str] | None, environ: Mapping[str, str], here: Path) -> Path:
    """The index folder that a command means: as given, from `MMSEARCH_INDEX`, or the nearest one upwards.

    Raises `IndexNotFoundError` with the places that were tried.
    """
    wanted = given if given is not None else environ.get("MMSEARCH_INDEX") or None
    if wanted is not None:
        folder = Path(os.path.abspath(Path(wanted).expanduser()))
        for candidate in (folder, folder / ".mmsearch"):
            if (candidate / "manifest.json").is_file():
                return candidate
        raise IndexNotFoundError(f"no index at {folder}; make one with: mmsearch index FOLDER")
    for folder in (here, *here.parents):
        if (folder / ".mmsearch" / "manifest.json").is_file():
            return folder / ".mmsearch"
    raise IndexNotFoundError(
        f"no index in {here} or above it; make one with: mmsearch index FOLDER, or name one that is elsewhere"
    )


def read_manifest(folder: Path, name: str = "manifest.json") -> Manifest:
    """The committed state of an index. `FormatError` when it is later than this program or not readable."""
    file = folder / name
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise IndexNotFoundError(f"no index at {folder}; make one with: mmsearch index FOLDER") from error
    except OSError as error:
        raise MmsearchError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"{file} is damaged ({error}); move the folder away and index again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{file} is damaged (no object); move the folder away and index again")
    try:
        version = value["format_version"]
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise FormatError(
                f"{folder} has format version {version}, this program reads up to {FORMAT_VERSION}; update mmsearch"
            )
        if version < FORMAT_VERSION:
            raise OldFormatError(
                f"{folder} was written by an older mmsearch; bring it up to date, nothing is encoded again, with: "
                f"mmsearch index {folder.parent if folder.name == '.mmsearch' else f'FOLDER --index {folder}'}"
            )
        return Manifest(
            model=ModelSpec.from_json(value["model"]),
            roots=Roots.of(folder, [str(path) for path in value["roots"]]),
            shards=tuple(
                ShardEntry(
                    file=str(entry["file"]),
                    kind=_kind(entry["kind"]),
                    rows=int(entry["rows"]),
                    sha256=str(entry["sha256"]),
                    bytes=int(entry["bytes"]),
                    tombstones=tuple((int(a), int(b)) for a, b in value["tombstones"].get(entry["file"], [])),
                )
                for entry in value["shards"]
            ),
            vectors=tuple(
                VectorEntry(
                    file=str(entry["file"]),
                    type=str(entry["type"]),
                    kind=_kind(entry["kind"]),
                    shards=tuple(str(name) for name in entry["shards"]),
                    rows=int(entry["rows"]),
                    bytes=int(entry["bytes"]),
                    spread=None if entry.get("spread") is None else float(entry["spread"]),
                )
                for entry in value["vectors"]
            ),
            sources=tuple(
                SourceSegment(file=str(entry["file"]), lines=int(entry["lines"]), bytes=int(entry["bytes"]))
                for entry in value["sources"]
            ),
            counts=Counts(**{name: int(value["counts"][name]) for name in ("files", "videos", "failures")}),
            journal=int(value["journal"]),
            held=tuple(int(number) for number in value["held"]),
            generation=int(value["generation"]),
            policy=_policy(value.get("vector_policy")),
            copies=_copies(value.get("copies")),
            excludes=_excludes(value.get("excludes")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{file} is damaged ({error!r}); move the folder away and index again") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Publish `manifest`: after this returns it is what every new reader sees, even after a power cut."""
    value = {
        "format_version": FORMAT_VERSION,
        "generation": manifest.generation,
        "model": manifest.model.to_json(),
        "metric": METRIC,
        "roots": list(manifest.roots.written),
        "journal": manifest.journal,
        "held": list(manifest.held),
        "counts": vars(manifest.counts),
        "sources": [{"file": s.file, "lines": s.lines, "bytes": s.bytes} for s in manifest.sources],
        "shards": [
            {"file": s.file, "kind": s.kind, "rows": s.rows, "bytes": s.bytes, "sha256": s.sha256}
            for s in manifest.shards
        ],
        "vectors": [{**vars(v), "shards": list(v.shards)} for v in manifest.vectors],
        "excludes": {"globs": list(manifest.excludes.globs), "defaults": manifest.excludes.defaults},
        "vector_policy": {"type": manifest.policy.type, "nprobe": manifest.policy.nprobe},
        "copies": {
            "segments": [vars(segment) for segment in manifest.copies.segments],
            "groups": None if manifest.copies.groups is None else vars(manifest.copies.groups),
            "images": manifest.copies.images,
            "moments": manifest.copies.moments,
        },
        "tombstones": {s.file: [list(pair) for pair in s.tombstones] for s in manifest.shards if s.tombstones},
    }
    write_atomically(folder / "manifest.json", (json.dumps(value, indent=1) + "\n").encode())


def check_model(made_with: ModelSpec, given: ModelSpec) -> None:
    """Raise `ModelError`, with both values, when two models' embeddings cannot be compared."""
    for name in ("weights_sha256", "dim", "architecture", "image_size", "mean", "std", "interpolation",
                 "resize_mode", "tokenizer", "context_length", "clean"):  # fmt: skip
        old, new = getattr(made_with, name), getattr(given, name)
        if old != new:
            shown = (old[:12], new[:12]) if name == "weights_sha256" else (old, new)
            raise ModelError(
                f"this index was made by {made_with.name} ({name} {shown[0]}), the model given is {given.name} "
                f"({name} {shown[1]}); use the first, or let the index change to the other with: "
                f"mmsearch index FOLDER --model {given.name} --change-model"
            )


def _policy(value: object) -> VectorPolicy:
    """The policy as it is written; the default for an index that was written before there was a choice."""
    if value is None:
        return VectorPolicy()
    if not isinstance(value, Mapping):
        raise TypeError("vector_policy must be an object")
    for kind in get_args(VectorType):
        if value["type"] == kind:
            return VectorPolicy(type=kind, nprobe=None if value["nprobe"] is None else int(value["nprobe"]))
    raise ValueError(f"unknown vector policy {value['type']!r}")


def _copies(value: object) -> CopiesState:
    """What is known of copies; nothing for an index that was written before they were looked for."""
    if value is None:
        return CopiesState()
    if not isinstance(value, Mapping):
        raise TypeError("copies must be an object")
    return CopiesState(
        segments=tuple(_copies_file(entry) for entry in value["segments"]),
        groups=None if value["groups"] is None else _copies_file(value["groups"]),
        images=int(value["images"]),
        moments=int(value["moments"]),
    )


def _copies_file(entry: Mapping[str, object]) -> CopiesFile:
    return CopiesFile(file=str(entry["file"]), rows=int(str(entry["rows"])), bytes=int(str(entry["bytes"])))


def _excludes(value: object) -> Excludes:
    """What an index leaves out; the defaults for one that was written before there was a choice."""
    if value is None:
        return Excludes()
    if not isinstance(value, Mapping):
        raise TypeError("excludes must be an object")
    return Excludes(globs=tuple(str(glob) for glob in value["globs"]), defaults=bool(value["defaults"]))


def _kind(value: object) -> Kind:
    for kind in KINDS:
        if value == kind:
            return kind
    raise ValueError(f"unknown kind {value!r}")

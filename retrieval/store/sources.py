"""The table of sources: one line a file that was read, so that changes are detected without reading a row.

It is sorted by key, and lies in a few segments, the newest of which says what holds for a key (a log-structured merge:
O'Neil et al., 1996). A publication writes one small segment; neighbours are merged once the newer has a quarter of the
older's lines, so a line is rewritten O(log n) times. A run reads the part below the folders that it was given.
"""

from __future__ import annotations

import json
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from retrieval.errors import FormatError
from retrieval.files import replacing
from retrieval.store.manifest import Counts, Manifest, SourceSegment
from retrieval.store.source_keys import Touched
from retrieval.types import KINDS, Kind

GROUP_LINES = 16_384
MERGE_SHARE = 4
# Spans as they are stored, packed: a kind by its number, the first row, and how many.
SPAN = np.dtype([("kind", "i1"), ("start", "<i8"), ("count", "<i8")])
_SPAN = struct.Struct("<bqq")
_SCHEMA = pa.schema(
    [
        ("key", pa.binary()),
        ("removed", pa.bool_()),
        ("kind", pa.string()),
        ("size", pa.int64()),
        ("mtime", pa.int64()),
        ("about", pa.binary()),
        ("content", pa.binary()),
        ("media", pa.int32()),
        ("slices", pa.int32()),
        ("heard", pa.bool_()),
        ("spans", pa.binary()),
        ("failures", pa.binary()),
        ("sidecar", pa.binary()),
        ("ocr_seen", pa.int32()),
        ("ocr_read", pa.int32()),
    ]
)


# What the lines of an older version may lack.
_LATER = ("sidecar", "ocr_seen", "ocr_read")


@dataclass(frozen=True, kw_only=True)
class RowSpan:
    """Rows of one kind that came from a source: `start` counts from the first row of that kind in the index."""

    kind: Kind
    start: int
    count: int


@dataclass(frozen=True, kw_only=True)
class SourceLine:
    """What an index knows of one source.

    `kind` is what the walk called it, `about` the key of the media that a sidecar or subtitle belongs to. `content` is the
    SHA-256 of what it holds, where that was computed. `media` is the number of media files that it stands for, `slices`
    how many slices of a container are in the index while the rest is not, and 0 for a source that was read to its end.
    `heard` says that its speech has been transcribed or has subtitles. `failures` hold `(path below the root, stage, reason)`.
    `sidecar` is the signature of the files beside it that its facts were read from (`media.types.Source`).

    Of its images, in the order of their rows, the first `ocr_seen` were either read for their text or found unlikely to hold
    any, and the first `ocr_read` of them were read in any case.
    """

    key: bytes
    kind: str
    size: int
    mtime_ns: int
    about: bytes | None = None
    content: bytes = b""
    media: int = 1
    slices: int = 0
    heard: bool = False
    spans: tuple[RowSpan, ...] = ()
    failures: tuple[tuple[str, str, str], ...] = ()
    sidecar: bytes = b""
    ocr_seen: int = 0
    ocr_read: int = 0

    def counts(self) -> Counts:
        """What this source adds to the counts of the manifest."""
        return Counts(
            files=self.media if self.spans else 0,
            videos=int(any(span.kind == "video" for span in self.spans)),
            failures=len(self.failures),
        )


def write_segment(folder: Path, name: str, tables: Iterable[pa.Table]) -> SourceSegment:
    """Write tables, one after the other in key order, as a segment."""
    lines = 0
    with replacing(folder / name) as scratch, pq.ParquetWriter(scratch, _SCHEMA, compression="zstd") as out:
        for table in tables:
            out.write_table(table, row_group_size=GROUP_LINES)
            lines += table.num_rows
    return SourceSegment(file=name, lines=lines, bytes=(folder / name).stat().st_size)


def to_table(lines: Sequence[SourceLine], removed: Sequence[bytes] = ()) -> pa.Table:
    """Lines and keys of removed sources, sorted by key."""
    rows = sorted([*((line.key, line) for line in lines), *((key, None) for key in removed)], key=lambda row: row[0])
    columns: dict[str, list[object]] = {name: [] for name in _SCHEMA.names}
    for key, line in rows:
        values: tuple[object, ...] = (key, True, *([None] * (len(_SCHEMA) - 2)))
        if line is not None:
            spans = b"".join(_SPAN.pack(KINDS.index(span.kind), span.start, span.count) for span in line.spans)
            failures = json.dumps(line.failures).encode() if line.failures else None
            values = (
                key, False, line.kind, line.size, line.mtime_ns, line.about, line.content, line.media, line.slices,
                line.heard, spans, failures, line.sidecar, line.ocr_seen, line.ocr_read,
            )  # fmt: skip
        for name, value in zip(_SCHEMA.names, values, strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=_SCHEMA)


def to_lines(table: pa.Table) -> list[SourceLine]:
    """The lines of a whole table of sources (all columns)."""
    columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    return [
        SourceLine(
            key=key,
            kind=kind,
            size=size,
            mtime_ns=mtime,
            about=about,
            content=content,
            media=media,
            slices=slices,
            heard=heard,
            spans=tuple(
                RowSpan(kind=KINDS[k], start=start, count=count) for k, start, count in _SPAN.iter_unpack(spans)
            ),
            failures=tuple((path, stage, reason) for path, stage, reason in json.loads(failures)) if failures else (),
            sidecar=sidecar or b"",
            ocr_seen=seen or 0,
            ocr_read=read or 0,
        )
        for (
            key,
            removed,
            kind,
            size,
            mtime,
            about,
            content,
            media,
            slices,
            heard,
            spans,
            failures,
            sidecar,
            seen,
            read,
        ) in zip(*columns, strict=True)
        if not removed
    ]


@dataclass(frozen=True)
class _Segment:
    file: pq.ParquetFile
    first: list[bytes]
    last: list[bytes]


@dataclass
class SourceTable:
    """The sources of one committed state. Raises `FormatError` for a segment that is damaged or missing."""

    folder: Path
    manifest: Manifest
    touched: Touched = field(default_factory=Touched)
    _segments: dict[str, _Segment] = field(default_factory=dict)

    def below(self, prefix: bytes, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The lines whose key begins with `prefix`, in key order, a few thousand at a time; `columns` None reads all."""
        yield from self._merged(self.manifest.sources, prefix, _after(prefix), columns, drop_removed=True)

    def find(self, keys: Sequence[bytes]) -> dict[bytes, SourceLine]:
        """The lines of some keys; a key that is not there is left out."""
        wanted = sorted(set(keys))
        lines: dict[bytes, SourceLine] = {}
        for entry in reversed(self.manifest.sources):
            left = [key for key in wanted if key not in lines]
            segment = self._open(entry)
            groups: dict[int, list[bytes]] = {}
            for key in left:
                number = bisect_right(segment.first, key) - 1
                if number >= 0 and key <= segment.last[number]:
                    groups.setdefault(number, []).append(key)
            for number, here in groups.items():
                table = self._read(segment, number, None)
                places = {key: row for row, key in enumerate(table.column("key").to_pylist())}
                rows = [places[key] for key in here if key in places]
                taken = table.take(pa.array(rows, pa.int64()))
                lines.update((line.key, line) for line in to_lines(taken))
                for key, removed in zip(
                    taken.column("key").to_pylist(), taken.column("removed").to_pylist(), strict=True
                ):
                    if removed:
                        wanted.remove(key)
        return lines

    def merged(self, entries: Sequence[SourceSegment], *, whole: bool) -> Iterator[pa.Table]:
        """Segments, oldest first, as one; `whole` leaves out what was removed, since nothing older can hold it."""
        yield from self._merged(entries, b"", None, None, drop_removed=whole)

    def _merged(
        self, entries: Sequence[SourceSegment], start: bytes, stop: bytes | None, columns: Sequence[str] | None,
        *, drop_removed: bool,
    ) -> Iterator[pa.Table]:  # fmt: skip
        import pyarrow.compute as pc

        names = None if columns is None else ["key", "removed", *columns]
        cursors = [_Cursor(self._batches(self._open(entry), start, stop, names)) for entry in entries]
        cursors = [cursor for cursor in cursors if cursor.fill()]
        while cursors:
            bound = min(cursor.keys[-1] for cursor in cursors)
            parts = [cursor.take(bound) for cursor in cursors]
            pieces = [piece for piece, _ in parts if piece.num_rows]
            if len(pieces) == 1:
                table = pieces[0]
            else:
                # The newest segment is last: of equal keys its line holds.
                newest: dict[bytes, int] = {}
                offset = 0
                for piece, keys in parts:
                    newest.update(zip(keys, range(offset, offset + len(keys)), strict=True))
                    offset += piece.num_rows
                rows = [newest[key] for key in sorted(newest)]
                table = pa.concat_tables([piece for piece, _ in parts]).take(pa.array(rows, pa.int64()))
            if drop_removed:
                gone = table.column("removed")
                if any(chunk.true_count for chunk in gone.chunks):
                    table = table.filter(pc.invert(gone))
            if table.num_rows:
                yield table.combine_chunks()
            cursors = [cursor for cursor in cursors if cursor.fill()]

    def _batches(
        self, segment: _Segment, start: bytes, stop: bytes | None, columns: Sequence[str] | None
    ) -> Iterator[tuple[pa.Table, list[bytes]]]:
        for number in range(len(segment.first)):
            if segment.last[number] < start or (stop is not None and segment.first[number] >= stop):
                continue
            table = self._read(segment, number, columns)
            keys = table.column("key").to_pylist()
            if segment.first[number] < start or (stop is not None and segment.last[number] >= stop):
                low = bisect_right(keys, start) - (1 if start in keys else 0)
                high = len(keys) if stop is None else bisect_right(keys, stop) - (1 if stop in keys else 0)
                table, keys = table.slice(low, high - low), keys[low:high]
            if keys:
                yield table, keys

    def _read(self, segment: _Segment, number: int, columns: Sequence[str] | None) -> pa.Table:
        try:
            table = segment.file.read_row_group(number, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"the table of sources in {self.folder} is damaged ({error})") from error
        self.touched.lines += table.num_rows
        for name in _LATER:
            if name not in table.column_names and (columns is None or name in columns):
                table = table.append_column(name, pa.nulls(table.num_rows, _SCHEMA.field(name).type))
        return table

    def _open(self, entry: SourceSegment) -> _Segment:
        opened = self._segments.get(entry.file)
        if opened is None:
            file = self.folder / entry.file
            try:
                parquet = pq.ParquetFile(file, memory_map=True)
                groups = [parquet.metadata.row_group(n).column(0).statistics for n in range(parquet.num_row_groups)]
                opened = _Segment(parquet, [group.min for group in groups], [group.max for group in groups])
            except (OSError, pa.ArrowException, AttributeError) as error:
                raise FormatError(
                    f"{file} is damaged or missing; restore it, or index again into a new folder"
                ) from error
            self._segments[entry.file] = opened
        return opened


class _Cursor:
    """A place in one segment's batches."""

    def __init__(self, batches: Iterator[tuple[pa.Table, list[bytes]]]) -> None:
        self._batches = batches
        self._table: pa.Table | None = None
        self.keys: list[bytes] = []

    def fill(self) -> bool:
        """Whether there is a batch, the next one where the last is used up."""
        if not self.keys:
            self._table, self.keys = next(self._batches, (None, []))
        return bool(self.keys)

    def take(self, bound: bytes) -> tuple[pa.Table, list[bytes]]:
        """The lines up to `bound`, and their keys."""
        count = bisect_right(self.keys, bound)
        if self._table is None:
            raise AssertionError("an empty cursor has no lines")
        piece, keys = self._table.slice(0, count), self.keys[:count]
        self._table, self.keys = self._table.slice(count), self.keys[count:]
        return piece, keys


def _after(prefix: bytes) -> bytes | None:
    """The least key that is greater than every key that begins with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None

"""What a publication does, computed from the journal and the table of sources as plain values; nothing is written here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from retrieval.store.journal import Part, joined
from retrieval.store.keys import hash_of
from retrieval.store.manifest import Manifest, ShardEntry, with_tombstones
from retrieval.store.sources import RowSpan, SourceLine, SourceTable
from retrieval.types import KINDS, Kind

Parts = Mapping[int, Part]


@dataclass
class Change:
    """What one publication does. `adopted` are, by part, the positions of the lines whose rows enter the index; the
    `replaced` spans become tombstones, `held` are the numbers of parts that wait, and `before` the lines that are replaced."""

    lines: dict[bytes, SourceLine] = field(default_factory=dict)
    adopted: dict[int, set[int]] = field(default_factory=dict)
    replaced: list[RowSpan] = field(default_factory=list)
    held: set[int] = field(default_factory=set)
    before: list[SourceLine] = field(default_factory=list)


def winners_of(parts: Parts) -> dict[bytes, list[tuple[Part, SourceLine]]]:
    """By source, the parts that say what it is now: the last one, or the slices of its last version in order; then those that
    add to it."""
    winners: dict[bytes, list[tuple[Part, SourceLine]]] = {}
    for _, part in sorted(parts.items()):
        for line in part.lines:
            before = winners.get(line.key, [])
            if part.adds:
                winners[line.key] = [*before, (part, line)]
                continue
            same = before and (before[0][1].size, before[0][1].mtime_ns) == (line.size, line.mtime_ns)
            if part.slice is None or not same or before[0][0].slice is None:
                winners[line.key] = [(part, line)]
            else:
                others = [
                    (other, line_of_other) for other, line_of_other in before if other.slice not in (None, part.slice)
                ]
                winners[line.key] = sorted([*others, (part, line)], key=lambda pair: pair[0].slice or 0)
    return winners


def change_of(parts: Parts, table: SourceTable, removed: Iterable[bytes] = ()) -> Change:
    """What publishing these parts changes in a state, given by its table of sources. A container keeps its old rows until its
    last slice is there; until then its parts are held. Parts of the sources `removed` are ignored."""
    change = Change()
    winners = winners_of(parts)
    for key in removed:
        winners.pop(key, None)
    lines_before = table.find(list(winners))
    for key, every in winners.items():
        before = lines_before.get(key)
        added = [pair for pair in every if pair[0].adds]
        pairs = every[: len(every) - len(added)]
        if not pairs:
            if before is not None and _add(change, before, added):
                change.before.append(before)
            continue
        line = pairs[-1][1]
        if pairs[0][0].slice is not None:
            version = (line.size, line.mtime_ns)
            goes_on = before is not None and before.slices > 0 and (before.size, before.mtime_ns) == version
            start = before.slices if before is not None and goes_on else 0
            pairs = [pair for pair in pairs if (pair[0].slice or 0) >= start]
            # Only slices without a gap before them can be taken.
            whole = [pair for place, pair in enumerate(pairs, start) if pair[0].slice == place]
            complete = bool(whole) and whole[-1][0].last
            if not whole or (before is not None and not goes_on and not complete):
                change.held.update(part.number for part, _ in pairs)
                continue
            change.held.update(part.number for part, _ in pairs[len(whole) :])
            change.lines[key] = joined(whole, before if goes_on else None)
            pairs = whole
        else:
            goes_on = False
            change.lines[key] = line
        if before is not None:
            change.before.append(before)
            if not goes_on:
                change.replaced += before.spans
        for part, line in pairs:
            change.adopted.setdefault(part.number, set()).add(part.places[line.key])
        _add(change, change.lines[key], added)
    return change


def _add(change: Change, line: SourceLine, added: Sequence[tuple[Part, SourceLine]]) -> bool:
    """Take what parts add to a source that the index, or an earlier part, has as `line`; whether there was anything. What was
    read of another version of its file is left out."""
    version = (line.size, line.mtime_ns, 0)
    added = [pair for pair in added if (pair[1].size, pair[1].mtime_ns, line.slices) == version]
    for part, more in added:
        change.adopted.setdefault(part.number, set()).add(part.places[more.key])
        line = replace(line, failures=(*line.failures, *more.failures), ocr_seen=more.ocr_seen, ocr_read=more.ocr_read)
    if added:
        change.lines[line.key] = line
    return bool(added)


def spans_of(
    change: Change, parts: Parts, state: Manifest
) -> tuple[dict[bytes, list[RowSpan]], dict[Kind, list[tuple[int, int]]]]:
    """Where the adopted rows will lie: spans by source, and by kind, the rows among the new ones where a content begins,
    with its hash."""
    spans: dict[bytes, list[RowSpan]] = {}
    contents: dict[Kind, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    for kind in KINDS:
        first = position = sum(shard.rows for shard in state.of_kind(kind))
        for number in sorted(change.adopted):
            part = parts[number]
            for place, count in enumerate(part.row_counts[kind]):
                if not count or place not in change.adopted[number]:
                    continue
                line = part.lines[place]
                if line.content:
                    # The film in a photo is of the photo's file, whose content images have in hexadecimal.
                    content = line.content.hex() if line.kind == "image" else line.content
                    contents[kind].append((position - first, hash_of(content)))
                spans.setdefault(line.key, []).append(RowSpan(kind=kind, start=position, count=count))
                position += count
    return spans, contents


def adopted_rows(kind: Kind, change: Change, parts: Parts) -> Iterator[pa.Table]:
    """The rows of one kind that are published now, part by part."""
    for number in sorted(change.adopted):
        part = parts[number]
        counts = np.array(part.row_counts[kind], np.int64)
        if not counts.sum():
            continue
        table = part.table()
        before = sum(sum(part.row_counts[other]) for other in KINDS[: KINDS.index(kind)])
        table = table.slice(before, int(counts.sum())).replace_schema_metadata(None)
        keep = np.repeat(np.isin(np.arange(len(counts)), sorted(change.adopted[number])), counts)
        yield table if keep.all() else table.filter(pa.array(keep))


def with_all_tombstones(state: Manifest, spans: Sequence[RowSpan]) -> list[ShardEntry]:
    """The shards of a state, with these rows as tombstones."""
    rows: dict[str, list[NDArray[np.int64]]] = {}
    for kind in KINDS:
        shards = state.of_kind(kind)
        ends = np.cumsum([shard.rows for shard in shards])
        for span in spans:
            start, stop = span.start, span.start + span.count
            while span.kind == kind and start < stop:
                number = int(np.searchsorted(ends, start, "right"))
                first = int(ends[number]) - shards[number].rows
                here = min(stop, int(ends[number]))
                rows.setdefault(shards[number].file, []).append(np.arange(start - first, here - first))
                start = here
    return [
        with_tombstones(shard, np.concatenate(rows[shard.file])) if shard.file in rows else shard
        for shard in state.shards
    ]

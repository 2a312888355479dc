"""The journal: results of units, each durable in a Parquet file of its own before the next is begun.

A part says everything that its publication needs: rows, the new line of each source that they replace, and failures. So
its publication, in this run or a later one, gives the same state.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store import shards as sh
from retrieval.store.roots import Roots
from retrieval.store.source_keys import key_of
from retrieval.store.sources import SourceLine
from retrieval.types import KINDS, Item, Kind

_META = b"mmsearch"


@dataclass(frozen=True, kw_only=True)
class UnitResult:
    """What came of one unit of work. `embeddings` are `(n, d) float32`, unit rows, one an item of `items`.

    `lines` are the sources that it read, without spans: with the publication, the rows of `items` take the place of all
    that the index had from these sources. A unit that is a slice of one container names its number and whether it is the
    `last`: the container's old rows go when all of its slices are there.

    One that `adds` leaves all that the index has from these sources where it is, as long as their files have the size and time
    that its lines say: its rows come beside, its failures after theirs, and its lines' `ocr_seen` and `ocr_read` hold from then
    on.
    """

    items: tuple[Item, ...]
    embeddings: NDArray[np.float32]
    lines: tuple[SourceLine, ...]
    slice: int | None = None
    last: bool = True
    adds: bool = False

    @staticmethod
    def of_rows(items: Sequence[Item], embeddings: NDArray[np.float32], roots: Roots) -> UnitResult:
        """A result from items that are embedded already, without reading their sources: used by measurements."""
        lines = {
            item.source: SourceLine(
                key=key_of(*roots.split(item.source)), kind=item.kind, size=item.size, mtime_ns=item.mtime_ns
            )
            for item in items
        }
        return UnitResult(items=tuple(items), embeddings=embeddings, lines=tuple(lines.values()))


@dataclass(frozen=True, kw_only=True)
class Part:
    """One file of the journal, without its rows. Those are ordered by kind, and within it by line; `row_counts[kind]` says
    how many each line has."""

    file: Path
    number: int
    lines: tuple[SourceLine, ...]
    row_counts: dict[Kind, tuple[int, ...]]
    slice: int | None
    last: bool
    adds: bool = False

    @cached_property
    def places(self) -> dict[bytes, int]:
        """The place of each source among the lines."""
        return {line.key: place for place, line in enumerate(self.lines)}

    def table(self) -> pa.Table:
        """The rows. Raises `FormatError`."""
        return sh.read_table(self.file)


def part_file(folder: Path, number: int) -> Path:
    """The file of a part."""
    return folder / "journal" / f"{number:08d}.parquet"


def write_part(folder: Path, number: int, result: UnitResult, roots: Roots) -> Part:
    """Make a result durable. Raises `OSError` for a disk that fails or is full."""
    places = {line.key: position for position, line in enumerate(result.lines)}
    owners = [places[key_of(*roots.split(item.source))] for item in result.items]
    kinds = [KINDS.index(item.kind) for item in result.items]
    order = sorted(range(len(owners)), key=lambda row: (kinds[row], owners[row]))
    row_counts: dict[Kind, tuple[int, ...]] = {}
    for number_of_kind, kind in enumerate(KINDS):
        counts = [0] * len(result.lines)
        for row in order:
            if kinds[row] == number_of_kind:
                counts[owners[row]] += 1
        row_counts[kind] = tuple(counts)
    table = sh.to_table([result.items[row] for row in order], result.embeddings[order], roots)
    meta = {
        "lines": [_to_json(line) for line in result.lines],
        "rows": row_counts,
        "slice": result.slice,
        "last": result.last,
        "adds": result.adds,
    }
    file = part_file(folder, number)
    sh.write_shard(file, table.replace_schema_metadata({_META: json.dumps(meta).encode()}))
    return Part(
        file=file,
        number=number,
        lines=result.lines,
        row_counts=row_counts,
        slice=result.slice,
        last=result.last,
        adds=result.adds,
    )


def read_part(folder: Path, number: int) -> Part:
    """A part of the journal, without its rows. Raises `FormatError` where it is damaged."""
    file = part_file(folder, number)
    try:
        meta = json.loads(pq.read_schema(file).metadata[_META])
        return Part(
            file=file,
            number=number,
            lines=tuple(_from_json(line) for line in meta["lines"]),
            row_counts={kind: tuple(int(count) for count in meta["rows"][kind]) for kind in KINDS},
            slice=meta["slice"],
            last=bool(meta["last"]),
            adds=bool(meta.get("adds", False)),
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{file} is damaged; delete it and run `mmsearch index` again") from error


def part_numbers(folder: Path) -> list[int]:
    """The numbers of all parts that are there, ascending."""
    return sorted(int(file.stem) for file in (folder / "journal").glob("*.parquet"))


def joined(parts: Sequence[tuple[Part, SourceLine]], before: SourceLine | None) -> SourceLine:
    """The line of a container from its slices in order, after what the index has of it already."""
    last_part, last_line = parts[-1]
    lines = [line for _, line in parts]
    earlier = [before] if before is not None else []
    return replace(
        last_line,
        media=sum(line.media for line in [*earlier, *lines]),
        slices=0 if last_part.last else (last_part.slice or 0) + 1,
        failures=tuple(failure for line in [*earlier, *lines] for failure in line.failures),
        spans=tuple(span for line in [*earlier, *lines] for span in line.spans),
    )


def _to_json(line: SourceLine) -> dict[str, object]:
    return {
        "key": line.key.hex(),
        "kind": line.kind,
        "size": line.size,
        "mtime": line.mtime_ns,
        "about": line.about.hex() if line.about is not None else None,
        "content": line.content.hex(),
        "media": line.media,
        "heard": line.heard,
        "failures": line.failures,
        "sidecar": line.sidecar.hex(),
        "ocr": [line.ocr_seen, line.ocr_read],
    }


def _from_json(value: dict[str, object]) -> SourceLine:
    failures, marks = value["failures"], value.get("ocr")
    seen, read = marks if isinstance(marks, list) else (0, 0)
    return SourceLine(
        key=bytes.fromhex(str(value["key"])),
        kind=str(value["kind"]),
        size=int(str(value["size"])),
        mtime_ns=int(str(value["mtime"])),
        about=bytes.fromhex(str(value["about"])) if value["about"] is not None else None,
        content=bytes.fromhex(str(value["content"])),
        media=int(str(value["media"])),
        heard=bool(value["heard"]),
        failures=tuple((path, stage, reason) for path, stage, reason in failures) if isinstance(failures, list) else (),
        sidecar=bytes.fromhex(str(value.get("sidecar", ""))),
        ocr_seen=int(seen),
        ocr_read=int(read),
    )

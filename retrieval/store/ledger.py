"""The ledger: `failures.parquet`, what could not be indexed and why, for people and programs.

The table of sources holds the same and is what a run goes by; so a ledger that is damaged or behind is made anew from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from media.names import join_name, split_name
from retrieval.errors import FormatError
from retrieval.files import replacing
from retrieval.results import Failure
from retrieval.store.manifest import Manifest
from retrieval.store.source_keys import place_of
from retrieval.store.sources import SourceLine, SourceTable

LEDGER = "failures.parquet"
_STAMP = b"generation"
_SCHEMA = pa.schema(
    [
        ("root", pa.int32()),
        ("path", pa.string()),
        ("path_raw", pa.binary()),
        ("source", pa.binary()),
        ("stage", pa.string()),
        ("reason", pa.string()),
    ]
)


def read_failures(folder: Path, manifest: Manifest) -> list[Failure]:
    """The ledger, in path order; empty when there is none. Raises `FormatError` where it is damaged."""
    failures = []
    for row in _read(folder):
        root, source = place_of(row["source"])
        failures.append(
            Failure(
                path=manifest.roots.join(row["root"], join_name(row["path"], row["path_raw"])),
                source=manifest.roots.join(root, source),
                stage=row["stage"],
                reason=row["reason"],
            )
        )
    return failures


def keep_ledger(
    folder: Path,
    table: SourceTable,
    before: int,
    gone: frozenset[bytes] = frozenset(),
    lines: Sequence[SourceLine] = (),
) -> str | None:
    """Bring the ledger from generation `before` to that of `table`: entries of the sources `gone` and of those in `lines`
    leave it, and the failures of `lines` come in.

    A ledger of any other generation is made anew from `table`; one that cannot be read is set aside first, and a line for
    the user says so.
    """
    notice = None
    try:
        ours = ledger_generation(folder) == before
        left = gone | {line.key for line in lines}
        rows = [row for row in _read(folder) if row["source"] not in left] if ours else _all_rows(table)
        rows += [row for line in lines for row in _rows(line)] if ours else []
    except FormatError:
        aside = folder / f"{LEDGER}.damaged"
        os.replace(folder / LEDGER, aside)
        notice = f"the ledger of failures was damaged: it was set aside as {aside.name}, and made anew"
        rows = _all_rows(table)
    rows.sort(key=lambda row: (row["root"], row["path"]))
    stamp = {_STAMP: str(table.manifest.generation).encode()}
    with replacing(folder / LEDGER) as scratch:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(stamp)), scratch)
    return notice


def ledger_generation(folder: Path) -> int | None:
    """The generation that the ledger agrees with; None where there is no ledger, -1 where it is damaged."""
    file = folder / LEDGER
    try:
        return int((pq.read_schema(file).metadata or {})[_STAMP])
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return -1


def _all_rows(table: SourceTable) -> list[dict[str, Any]]:
    import pyarrow.compute as pc

    rows = []
    for part in table.below(b"", ["failures"]):
        held = part.filter(pc.is_valid(part.column("failures")))
        for key, failures in zip(held.column("key").to_pylist(), held.column("failures").to_pylist(), strict=True):
            rows += [_row(key, *failure) for failure in json.loads(failures)]
    return rows


def _rows(line: SourceLine) -> list[dict[str, Any]]:
    return [_row(line.key, *failure) for failure in line.failures]


def _row(source: bytes, path: str, stage: str, reason: str) -> dict[str, Any]:
    shown, raw = split_name(path)
    root, _ = place_of(source)
    reason, _ = split_name(reason)
    return {"root": root, "path": shown, "path_raw": raw, "source": source, "stage": stage, "reason": reason}


def _read(folder: Path) -> list[dict[str, Any]]:
    file = folder / LEDGER
    if not file.exists():
        return []
    try:
        table = pq.read_table(file)
        if table.schema.names != _SCHEMA.names:
            raise FormatError(f"{file} is of another format; mend it with: mmsearch index FOLDER")
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise FormatError(f"{file} is damaged; mend it with: mmsearch index FOLDER") from error
    return rows

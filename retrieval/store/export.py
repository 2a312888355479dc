"""An index as a table for other programs: every item with its facts and its embedding, a few thousand rows at a time."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from media.names import split_name
from retrieval.files import replacing
from retrieval.store.leases import open_state
from retrieval.store.manifest import Manifest
from retrieval.store.shards import ShardReader, embeddings_of, to_items
from retrieval.types import Item, Kind

Format = Literal["parquet", "csv", "npy"]
Precision = Literal["float16", "float32"]
FORMATS: tuple[Format, ...] = ("parquet", "csv", "npy")
PRECISIONS: tuple[Precision, ...] = ("float16", "float32")
_FACTS: tuple[tuple[str, pa.DataType], ...] = (
    ("id", pa.string()),
    ("kind", pa.string()),
    ("path", pa.string()),
    ("path_raw", pa.binary()),
    ("start", pa.float64()),
    ("end", pa.float64()),
    ("text", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("taken_at", pa.string()),
    ("camera", pa.string()),
    ("latitude", pa.float64()),
    ("longitude", pa.float64()),
)
# A cell that begins so is a formula to a spreadsheet, which runs it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: `items` rows of `dim` numbers by the model `model`, into `files`."""

    items: int
    dim: int
    model: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Batch:
    """Some items with their embeddings `(n, d) float16`, unit rows."""

    items: list[Item]
    embeddings: NDArray[np.float16]


def export(
    folder: Path, output: Path, format: Format, *, kinds: Sequence[Kind] = (), precision: Precision = "float16"
) -> Exported:
    """Write every living item of these kinds (none: of all) to `output`, in index order, with the ids that searches give.

    - `parquet`: a column a fact, and `embedding`, lists of `precision`.
    - `csv`: the same facts, then a column a number of the embedding; text that a spreadsheet would run has a `'` before it.
    - `npy`: the embeddings, `(n, d)` of `precision`, and beside it a file `.jsonl` with the facts of row i in line i.

    `path_raw` is the path's bytes (base64 in text files) where `path` cannot hold them exactly. Files are whole or not
    there. Raises `OSError`, and what opening an index raises.
    """
    with closing(open_state(folder)) as lease:
        state = lease.manifest
        batches = _batches(folder, state, kinds)
        write = {"parquet": _to_parquet, "csv": _to_csv, "npy": _to_npy}[format]
        items, files = write(batches, output, state, precision)
    return Exported(items=items, dim=state.model.dim, model=state.model.name, files=files)


def _batches(folder: Path, state: Manifest, kinds: Sequence[Kind]) -> Iterator[_Batch]:
    reader = ShardReader(folder, state)
    for number, entry in enumerate(state.shards):
        if kinds and entry.kind not in kinds:
            continue
        living = np.ones(entry.rows, bool)
        living[entry.tombstone_rows()] = False
        first = 0
        for table in reader.iter_tables(number):
            mask = living[first : first + table.num_rows]
            first += table.num_rows
            if mask.any():
                left = table.filter(pa.array(mask))
                yield _Batch(to_items(left, state.roots), embeddings_of(left))


def _facts(item: Item) -> dict[str, Any]:
    path, raw = split_name(item.path)
    return {name: getattr(item, name, None) for name, _ in _FACTS} | {"path": path, "path_raw": raw}


def _written(item: Item) -> dict[str, Any]:
    """The facts as a text file can hold them."""
    facts = _facts(item)
    raw = facts["path_raw"]
    return {**facts, "path_raw": base64.b64encode(raw).decode("ascii") if raw is not None else None}


def _to_parquet(
    batches: Iterator[_Batch], output: Path, state: Manifest, precision: Precision
) -> tuple[int, tuple[Path, ...]]:
    number = pa.float16() if precision == "float16" else pa.float32()
    vector = pa.list_(pa.field("element", number, nullable=False), state.model.dim)
    shape = pa.schema([*_FACTS, pa.field("embedding", vector, nullable=False)], {"model": state.model.name})
    count = 0
    with replacing(output) as scratch, pq.ParquetWriter(scratch, shape) as writer:
        for batch in batches:
            facts = [_facts(item) for item in batch.items]
            columns = [pa.array([row[name] for row in facts], kind) for name, kind in _FACTS]
            flat = pa.array(np.ascontiguousarray(batch.embeddings, precision).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=vector))
            writer.write_table(pa.Table.from_arrays(columns, schema=shape))
            count += len(facts)
    return count, (output,)


def _to_csv(batches: Iterator[_Batch], output: Path, state: Manifest, _: Precision) -> tuple[int, tuple[Path, ...]]:
    count = 0
    with replacing(output) as scratch, open(scratch, "w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow([*(name for name, _ in _FACTS), *(f"embedding_{n}" for n in range(state.model.dim))])
        for batch in batches:
            for item, row in zip(batch.items, batch.embeddings.tolist(), strict=True):
                # Half precision has some three digits: five give each number back exactly.
                numbers = [f"{value:.5g}" for value in row]
                writer.writerow([*(harmless_cell(value) for value in _written(item).values()), *numbers])
            count += len(batch.items)
    return count, (output,)


def harmless_cell(value: object) -> object:
    """A value that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _to_npy(
    batches: Iterator[_Batch], output: Path, state: Manifest, precision: Precision
) -> tuple[int, tuple[Path, ...]]:
    beside = output.with_suffix(".jsonl")
    count = 0
    with ExitStack() as stack:
        scratch, lines = (stack.enter_context(replacing(file)) for file in (output, beside))
        with open(scratch, "wb") as matrix, open(lines, "w", encoding="utf-8") as facts:
            # The number of rows comes last, over a header of the same length.
            _write_header(matrix, 0, state.model.dim, precision)
            for batch in batches:
                matrix.write(np.ascontiguousarray(batch.embeddings, precision).tobytes())
                facts.writelines(json.dumps(_written(item), ensure_ascii=False) + "\n" for item in batch.items)
                count += len(batch.items)
            matrix.seek(0)
            _write_header(matrix, count, state.model.dim, precision)
    return count, (output, beside)


def _write_header(out: Any, rows: int, dim: int, precision: Precision) -> None:
    head = {"descr": np.lib.format.dtype_to_descr(np.dtype(precision)), "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(out, head)

"""An index of format 1 is brought up to date: nothing is lost, nothing is encoded again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from retrieval.engine import Engine
from retrieval.errors import FormatError, OldFormatError
from retrieval.store.leases import open_state
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.migrate import bring_up_to_date
from retrieval.store.shards import ShardReader, embeddings_of
from tests.conftest import write_photos
from tests.libraries import rows_of, run, write_moving, write_table, write_tar
from tests.stores import PlainEncoder


def name_columns(name: str, values: list[str]) -> dict[str, pa.Array]:
    texts = [os.fsencode(value).decode("utf-8", "replace") for value in values]
    raws = [None if text == value else os.fsencode(value) for text, value in zip(texts, values, strict=True)]
    return {name: pa.array(texts), f"{name}_raw": pa.array(raws, pa.binary())}


def as_format_1(index: Path) -> None:
    """Rewrite an index as the first edition wrote it: absolute paths, `phash`, no table of sources."""
    lease = open_state(index)
    state, reader = lease.manifest, ShardReader(index, lease.manifest)
    value = json.loads((index / "manifest.json").read_text())
    for number, entry in enumerate(state.shards):
        count = np.arange(entry.rows)
        items = reader.items(np.full(entry.rows, number), count)
        table = reader.take(number, count, None)
        columns = {name: table.column(name) for name in table.column_names if "root" not in name and name != "dhash"}
        columns |= name_columns("path", [item.path for item in items])
        columns |= name_columns("source", [item.source for item in items])
        columns["phash"] = table.column("dhash")
        assert len(embeddings_of(table)) == entry.rows
        pq.write_table(pa.table(columns), index / entry.file, row_group_size=512)
    failures = read_failures(index, state)
    stats = {failure.path: os.stat(failure.source) for failure in failures}
    ledger = {
        **name_columns("path", [failure.path for failure in failures]),
        **name_columns("source", [failure.source for failure in failures]),
        "stage": pa.array([failure.stage for failure in failures], pa.string()),
        "reason": pa.array([failure.reason for failure in failures], pa.string()),
        "size": pa.array([stats[failure.path].st_size for failure in failures], pa.int64()),
        "mtime": pa.array([stats[failure.path].st_mtime_ns for failure in failures], pa.int64()),
    }
    pq.write_table(pa.table(ledger), index / "failures.parquet")
    for name in ("roots", "held", "counts", "sources"):
        del value[name]
    (index / "manifest.json").write_text(json.dumps({**value, "format_version": 1}))
    lease.close()
    for name in ("sources", "leases"):
        shutil.rmtree(index / name)
    for file in (index / "shards").glob("*.keys"):
        file.unlink()


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Every kind of source, one photo gone, one file that fails, and a name that is not UTF-8."""
    media = tmp_path / "media"
    files = write_photos(media / "sub", 9)
    files[1].with_suffix(".txt").write_text("about one\nmore\n")
    os.rename(files[2], os.fsencode(media) + b"/caf\xe9.jpg")
    (media / "notes.md").write_text("# Notes\n\nWords.\n")
    (media / "captions.csv").write_text("path,caption\nsub/photo0003.jpg,a dog\n")
    (media / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    write_tar(media / "set.tar", [20, 21])
    write_table(media / "set.parquet", [30, 31, 32])
    write_moving(media / "moving.gif", [40, 50, 60])
    run(media / ".mmsearch", media)
    files[0].unlink()
    run(media / ".mmsearch", media)
    return media


def test_an_old_index_says_in_one_line_how_to_bring_it_up_to_date(media: Path) -> None:
    as_format_1(media / ".mmsearch")
    with pytest.raises(OldFormatError, match=f"mmsearch index {media}$"):
        Engine.open(media)


def test_an_old_index_is_taken_over_whole(media: Path) -> None:
    index = media / ".mmsearch"
    before, counts = rows_of(index), read_manifest(index).counts
    as_format_1(index)
    assert "brought up to date" in str(bring_up_to_date(index))
    assert rows_of(index) == before
    assert read_manifest(index).counts == counts
    assert [Path(failure.path).name for failure in read_failures(index, read_manifest(index))] == ["bad.jpg"]
    assert bring_up_to_date(index) is None
    encoder = PlainEncoder()
    report = run(index, media, encoder=encoder)
    assert (report.indexed, report.removed, encoder.encoded) == (0, 0, 0)
    assert rows_of(index) == before
    (media / "moving.gif").rename(media / "renamed.gif")
    (media / "sub" / "photo0005.jpg").rename(media / "other.jpg")
    report = run(index, media, encoder=encoder)
    # The caption table is read again as well: a file came and another went where it names images.
    assert (report.indexed, report.removed) == (3, 2)
    assert encoder.encoded <= 3, "an image that moved is copied; a video's content was not noted by the first edition"


def test_an_old_index_whose_rows_lie_elsewhere_keeps_them(media: Path, tmp_path: Path) -> None:
    run(tmp_path / "index", media / "sub", media / "notes.md")
    before = [row[0] for row in rows_of(tmp_path / "index")]
    as_format_1(tmp_path / "index")
    bring_up_to_date(tmp_path / "index")
    assert [row[0] for row in rows_of(tmp_path / "index")] == before
    report = run(tmp_path / "index", media / "sub", media / "notes.md")
    assert (report.indexed, report.removed) == (0, 0)


def test_what_an_old_journal_holds_is_not_lost(media: Path) -> None:
    index = media / ".mmsearch"
    before = rows_of(index)
    as_format_1(index)
    value = json.loads((index / "manifest.json").read_text())
    moved = next(entry for entry in value["shards"] if entry["kind"] == "image")
    value["shards"].remove(moved)
    value["tombstones"].pop(moved["file"], None)
    table = pq.read_table(index / moved["file"])
    keep = [row[0] for row in before if row[1].startswith("image")]
    pq.write_table(table, index / "journal" / f"{value['journal'] + 1:08d}.parquet")
    (index / "manifest.json").write_text(json.dumps(value))
    bring_up_to_date(index)
    assert set(keep) <= {row[0] for row in rows_of(index)}


def test_a_damaged_old_index_is_one_clear_error(media: Path) -> None:
    index = media / ".mmsearch"
    as_format_1(index)
    next((index / "shards").glob("image*.parquet")).write_bytes(b"nothing")
    with pytest.raises(FormatError, match="index again"):
        bring_up_to_date(index)

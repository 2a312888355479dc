"""Shards, manifest, journal and lock: what is written is what is read, and nothing is half there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import FormatError, IndexLockedError, IndexNotFoundError, MmsearchError, ModelError
from retrieval.store import rewrite as writing
from retrieval.store import shards as sh
from retrieval.store.leases import open_state
from retrieval.store.manifest import ShardEntry, find_index, read_manifest, to_ranges, with_tombstones
from retrieval.store.roots import Roots
from retrieval.store.sources import SourceTable
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, ModelSpec
from tests.conftest import ROOT
from tests.stores import DIM, items, make_index, remove_rows, result, spec, unit_rows

names = st.one_of(
    st.text(min_size=1, max_size=30).filter(
        lambda text: "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)
    ),
    st.binary(min_size=1, max_size=20).filter(lambda raw: b"\0" not in raw).map(os.fsdecode),
)
numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.one_of(st.none(), st.floats(allow_nan=False))
texts = st.one_of(st.none(), st.text(max_size=40))
any_item = st.builds(
    Item, id=st.text(min_size=1, max_size=24), path=names, source=names, kind=st.sampled_from(["image", "video", "text"]),
    start=floats, end=floats, text=texts, width=st.one_of(st.none(), st.integers(0, 2**31 - 1)),
    height=st.one_of(st.none(), st.integers(0, 2**31 - 1)), size=numbers, mtime_ns=numbers,
    sha256=st.text("0123456789abcdef", max_size=64), taken_at=texts, camera=texts, latitude=floats, longitude=floats,
    dhash=st.one_of(st.none(), numbers), place=texts, rating=st.one_of(st.none(), st.integers(1, 5)), words=texts,
    date_source=texts,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(many=st.lists(any_item, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_shards_round_trip(tmp_path: Path, many: list[Item], seed: int) -> None:
    vectors = unit_rows(len(many), seed=seed)
    roots = Roots.of(tmp_path, ["/"])
    # Paths are absolute and normal, as the walk gives them: POSIX gives a path of two leading slashes a meaning of its own.
    many = [replace(item, path=f"/p{item.path}", source=f"/x/{item.source}") for item in many]
    digest = sh.write_shard(tmp_path / "one.parquet", sh.to_table(many, vectors, roots))
    table = sh.read_table(tmp_path / "one.parquet")
    assert sh.to_items(table, roots) == many
    assert np.array_equal(sh.embeddings_of(table), vectors.astype(np.float16))
    sh.verify(tmp_path, ShardEntry(file="one.parquet", kind="image", rows=len(many), sha256=digest, bytes=0))


def test_rows_come_from_any_place_in_the_order_asked(tmp_path: Path) -> None:
    rows = make_index(tmp_path / "i", [("image", 1300), ("text", 40), ("image", 700)])
    reader = sh.ShardReader(tmp_path / "i", read_manifest(tmp_path / "i"))
    shards, places = np.array([2, 0, 1, 0, 2]), np.array([699, 1299, 7, 3, 0])
    found = reader.items(shards, places)
    assert [item.id for item in found] == ["image-1999", "image-1299", "text-7", "image-3", "image-1300"]
    wanted = np.stack([rows[item.id] for item in found])
    assert np.array_equal(reader.embeddings(shards, places).astype(np.float32), wanted)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 50)])
    entry = read_manifest(tmp_path).shards[0]
    data = bytearray((tmp_path / entry.file).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / entry.file).write_bytes(bytes(data))
    with pytest.raises(FormatError, match=r"SHA-256"), IndexWriter(tmp_path) as writer:
        writer.rebuild_vectors()


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 5)])
    entry = read_manifest(tmp_path).shards[0]
    (tmp_path / entry.file).unlink()
    with pytest.raises(FormatError, match=Path(entry.file).name):
        sh.ShardReader(tmp_path, read_manifest(tmp_path)).items(np.array([0]), np.array([0]))


@given(st.sets(st.integers(0, 200)))
def test_ranges_hold_exactly_their_rows(rows: set[int]) -> None:
    ordered = np.array(sorted(rows), np.int64)
    entry = ShardEntry(file="x", kind="image", rows=201, sha256="", bytes=0, tombstones=to_ranges(ordered))
    assert entry.tombstone_rows().tolist() == ordered.tolist()
    assert entry.alive == 201 - len(rows)
    assert with_tombstones(entry, np.array([5, 5, 6])).tombstone_rows().tolist() == sorted(rows | {5, 6})


def test_a_later_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 1)])
    value = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**value, "format_version": 99}))
    with pytest.raises(FormatError, match=r"version 99.*up to 2"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format_version": 1}'])
def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(FormatError, match="damaged"):
        read_manifest(tmp_path)


def test_the_index_is_found_as_the_contract_says(tmp_path: Path) -> None:
    make_index(tmp_path / "media" / ".mmsearch", [("image", 1)])
    deep = tmp_path / "media" / "a" / "b"
    deep.mkdir(parents=True)
    index = tmp_path / "media" / ".mmsearch"
    assert find_index(None, {}, deep) == index
    assert find_index(tmp_path / "media", {}, tmp_path) == index
    assert find_index(str(index), {}, tmp_path) == index
    assert find_index(None, {"MMSEARCH_INDEX": str(index)}, tmp_path) == index
    with pytest.raises(IndexNotFoundError, match="mmsearch index"):
        find_index(None, {}, tmp_path)
    with pytest.raises(IndexNotFoundError):
        find_index(tmp_path, {"MMSEARCH_INDEX": str(index)}, deep)


def test_another_model_is_refused_with_both_values(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 1)])
    for field, value in (("dim", 99), ("weights_sha256", "a" * 64), ("image_size", 64), ("tokenizer", "other")):
        other = ModelSpec(**{**spec().__dict__, field: value})
        with pytest.raises(ModelError) as caught, IndexWriter(tmp_path, other):
            pass
        assert str(getattr(spec(), field))[:12] in str(caught.value)
        assert str(value)[:12] in str(caught.value)


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    with IndexWriter(tmp_path, spec()):
        code = (
            "import sys\nfrom pathlib import Path\nfrom retrieval.store.writer import IndexWriter\n"
            "from retrieval.errors import IndexLockedError\n"
            f"try:\n    IndexWriter(Path({str(tmp_path)!r})).__enter__()\nexcept IndexLockedError as e:\n    print(e)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert f"process {os.getpid()} on " in done.stdout
        with pytest.raises(IndexLockedError):
            IndexWriter(tmp_path).__enter__()
    with IndexWriter(tmp_path):
        pass


def test_the_journal_survives_and_is_published_once(tmp_path: Path) -> None:
    with IndexWriter(tmp_path, spec()) as writer:
        writer.journal(result(writer, items(10), unit_rows(10)))
        writer.journal(result(writer, items(4, "text"), unit_rows(4)))
    assert read_manifest(tmp_path).shards == ()
    with IndexWriter(tmp_path, spec()) as writer:
        assert writer.pending == 14
        writer.publish()
        writer.publish()
    state = read_manifest(tmp_path)
    assert {(shard.kind, shard.rows) for shard in state.shards} == {("image", 10), ("text", 4)}
    assert list((tmp_path / "journal").glob("*.parquet")) == []


def test_a_journal_part_that_a_commit_contains_is_not_read_again(tmp_path: Path) -> None:
    """Killed between publishing the manifest and deleting the journal."""
    with IndexWriter(tmp_path, spec()) as writer:
        writer.journal(result(writer, items(3), unit_rows(3)))
        part = next((tmp_path / "journal").glob("*.parquet"))
        data = part.read_bytes()
        writer.publish()
        part.write_bytes(data)
    with IndexWriter(tmp_path, spec()) as writer:
        assert writer.pending == 0
        assert writer.publish().alive("image") == 3


def test_shards_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sh, "SHARD_ROWS", 100)
    with IndexWriter(tmp_path, spec()) as writer:
        for start in range(0, 250, 50):
            writer.journal(result(writer, items(50, start=start), unit_rows(50, seed=start)))
        state = writer.publish()
    assert [shard.rows for shard in state.shards] == [100, 100, 50]


def test_many_small_shards_are_merged_and_keep_their_rows(tmp_path: Path) -> None:
    with IndexWriter(tmp_path, spec()) as writer:
        for number in range(writing.SMALL_SHARDS + 2):
            writer.journal(result(writer, items(3, start=3 * number), unit_rows(3, seed=number)))
            state = writer.publish(merge=True)
    assert len(state.shards) < 5
    reader = sh.ShardReader(tmp_path, state)
    assert len(reader.living()[0]) == 3 * (writing.SMALL_SHARDS + 2)
    on_disk = {f"shards/{file.name}" for file in (tmp_path / "shards").glob("*.parquet")}
    assert on_disk == {shard.file for shard in state.shards}


def test_compact_drops_the_dead_and_keeps_the_rest(tmp_path: Path) -> None:
    rows = make_index(tmp_path, [("image", 30), ("image", 30), ("text", 5)])
    with IndexWriter(tmp_path) as writer:
        remove_rows(writer, 0, np.arange(10))
        remove_rows(writer, 1, np.array([0, 29]))
        assert writer.manifest.alive("image") == 48
        state = writer.compact()
    assert [(shard.kind, shard.rows, shard.tombstones) for shard in state.shards] == [
        ("image", 48, ()),
        ("text", 5, ()),
    ]
    reader = sh.ShardReader(tmp_path, state)
    found = reader.items(np.zeros(48, np.int64), np.arange(48))
    assert [item.id for item in found] == [f"image-{n}" for n in [*range(10, 30), *range(31, 59)]]
    kept = reader.embeddings(np.zeros(48, np.int64), np.arange(48)).astype(np.float32)
    assert np.array_equal(kept, np.stack([rows[item.id] for item in found]))


def test_files_of_an_older_state_stay_while_a_reader_holds_it(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 20)])
    old = read_manifest(tmp_path)
    with closing(open_state(tmp_path)):
        with IndexWriter(tmp_path) as writer:
            writer.compact()
        assert (tmp_path / old.shards[0].file).exists()
    with IndexWriter(tmp_path) as writer:
        assert not (tmp_path / old.shards[0].file).exists()
        assert (tmp_path / writer.manifest.shards[0].file).exists()


def fill(folder: str) -> str:
    """Write until the limit: what the child process of the next test does."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with IndexWriter(Path(folder)) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            writer.journal(result(writer, items(500, start=100), unit_rows(500)))
        except MmsearchError as error:
            return str(error)
    return "no error"


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on file size makes the real write fail in the real place."""
    rows = make_index(tmp_path, [("image", 20)])
    code = f"from tests.test_store import fill\nprint(fill({str(tmp_path)!r}))"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "cannot write to" in child.stdout
    assert "free some space" in child.stdout
    with IndexWriter(tmp_path) as writer:
        assert writer.pending == 0
        assert writer.publish().alive("image") == len(rows)


def test_an_index_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MmsearchError, match="cannot write to"), IndexWriter(tmp_path / "file" / "index", spec()):
        pass


def as_an_older_version_wrote(index: Path) -> None:
    """Take the columns that came later out of every file of rows and lines."""
    later = {"place", "rating", "words", "date_source", "sidecar", "text_kind", "ocr_seen", "ocr_read"}
    for file in [*index.glob("shards/*.parquet"), *index.glob("sources/*.parquet"), *index.glob("journal/*.parquet")]:
        table = pq.read_table(file)
        pq.write_table(
            table.drop_columns([name for name in table.column_names if name in later]), file, row_group_size=512
        )


def test_rows_and_lines_written_before_a_column_was_there_read_as_none(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 700), ("text", 5)])
    rated = [
        replace(item, rating=4, words="sea", place="Paris, France", date_source="exif") for item in items(3, start=900)
    ]
    with IndexWriter(tmp_path) as writer:
        writer.journal(result(writer, items(2, start=800), unit_rows(2)))
    as_an_older_version_wrote(tmp_path)
    with IndexWriter(tmp_path) as writer:
        # Parts of the journal of both kinds make one shard.
        writer.journal(result(writer, rated, unit_rows(3)))
        state = writer.publish()
    for again in (False, True):
        reader = sh.ShardReader(tmp_path, state)
        shards, rows = reader.living()
        found = {item.id: item for item in reader.items(shards, rows)}
        assert found["image-900"] == rated[0]
        assert (found["image-3"].rating, found["image-801"].words, found["text-0"].date_source) == (None, None, None)
        assert reader.take(0, np.array([3, 699]), ["id", "rating"]).column("rating").to_pylist() == [None, None]
        if not again:
            with IndexWriter(tmp_path) as writer:
                state = writer.compact()
    lines = list(SourceTable(tmp_path, state).below(b""))
    assert all("sidecar" in table.column_names for table in lines)


def test_dimension_is_in_the_schema() -> None:
    assert sh.schema(DIM).field("embedding").type.list_size == DIM

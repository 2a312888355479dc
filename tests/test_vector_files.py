"""Which vector files there are: new rows join lists, and nobody who adds a little waits for a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import FormatError
from retrieval.store import vector_files as module
from retrieval.store.manifest import Manifest, read_manifest
from retrieval.store.selection import Selection
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from tests.stores import clustered, items, make_index, result, spec, unit_rows


@pytest.fixture(autouse=True)
def small_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an inverted file take over at a size that a test can build."""
    monkeypatch.setattr(module, "EXACT_WORK", 1000 * 24)


def add(writer: IndexWriter, count: int, start: int, seed: int) -> Manifest:
    writer.journal(result(writer, items(count, start=start), clustered(count, seed)))
    return writer.publish()


def test_new_rows_join_lists_without_training_once_scanning_them_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with IndexWriter(tmp_path, spec()) as writer:
        before = add(writer, 4000, 0, 1).vectors
        little = add(writer, 100, 5000, 50)
        assert little.vectors[0] == before[0]
        assert little.vectors[1].type == "flat"
        monkeypatch.setattr(module, "TAIL_WORK", 1000 * 24)
        much = add(writer, 1500, 6000, 51)
        monkeypatch.setattr(module, "MERGE_ROWS", 2800)
        more = add(writer, 1100, 8000, 52)
        most = add(writer, 1100, 9500, 53)
        whole = writer.compact()
    assert [(entry.type, entry.rows) for entry in much.vectors] == [("ivf128,sq8", 4000), ("ivf128,sq8", 1600)]
    assert much.vectors[0] == before[0]
    assert [entry.rows for entry in more.vectors] == [4000, 2700]
    assert [entry.rows for entry in most.vectors] == [4000, 2700, 1100]
    assert [entry.rows for entry in whole.vectors] == [7800]


def test_rows_in_lists_that_they_joined_are_found_as_well_as_in_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAIL_WORK", 1000 * 24)
    with IndexWriter(tmp_path, spec()) as writer:
        add(writer, 4000, 0, 1)
        state = add(writer, 2000, 5000, 2)
    assert len(state.vectors) == 2
    matrix = np.concatenate([clustered(4000, 1), clustered(2000, 2)]).astype(np.float16).astype(np.float32)
    index, selection = VectorIndex(tmp_path, state), Selection.of_kinds(state, ["image"])
    hits = 0
    for query in clustered(40, 77):
        _, shards, places = index.search(query, 10, selection)
        best = np.argsort(-(matrix @ query), kind="stable")[:10]
        hits += len(set((4000 * shards + places).tolist()) & set(best.tolist()))
    assert hits >= 380


def test_a_flat_policy_has_no_lists_and_another_brings_them_back(tmp_path: Path) -> None:
    from retrieval.store.manifest import VectorPolicy

    with IndexWriter(tmp_path, spec()) as writer:
        add(writer, 2000, 0, 1)
        writer.rebuild_vectors(VectorPolicy(type="flat"))
        assert [entry.type for entry in read_manifest(tmp_path).vectors] == ["flat"]
        writer.rebuild_vectors(VectorPolicy(type="auto"))
    assert read_manifest(tmp_path).vectors[0].type.startswith("ivf")


def test_who_brings_most_of_the_rows_waits_for_the_training_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAIL_WORK", 100 * 24)
    with IndexWriter(tmp_path, spec()) as writer:
        add(writer, 1500, 0, 1)
        add(writer, 3000, 2000, 2)
        add(writer, 3000, 6000, 3)
        writer.publish(merge=True)
        assert [entry.rows for entry in writer.manifest.vectors] == [7500]
    with IndexWriter(tmp_path) as writer:
        monkeypatch.setattr(module, "OUTGROWN", 1.01)
        add(writer, 300, 12_000, 4)
        state = writer.publish(merge=True)
        assert [entry.rows for entry in state.vectors] == [7500, 300]
        assert any("mmsearch compact" in notice for notice in writer.notices)


def test_vector_files_are_made_again_from_the_shards(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 50), ("text", 20)])
    state = read_manifest(tmp_path)
    query = unit_rows(1, seed=4)[0]
    before = VectorIndex(tmp_path, state).search(query, 20, Selection.of_kinds(state, ["image"]))
    (tmp_path / state.vectors[0].file).write_bytes(b"damaged")
    with pytest.raises(FormatError, match="--rebuild-vectors"):
        VectorIndex(tmp_path, state)
    with IndexWriter(tmp_path) as writer:
        state = writer.rebuild_vectors()
    after = VectorIndex(tmp_path, state).search(query, 20, Selection.of_kinds(state, ["image"]))
    for number in range(3):
        assert np.array_equal(before[number], after[number])

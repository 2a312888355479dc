"""Faiss against brute force: exact where exact is due, and measured where it is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.store import vector_files as vf
from retrieval.store.manifest import read_manifest
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from tests.stores import items, make_index, remove_rows, result, spec, unit_rows


def brute_force(rows: NDArray[np.float32], query: NDArray[np.float32], k: int) -> list[int]:
    scores = rows.astype(np.float64) @ query.astype(np.float64)
    return [int(row) for row in np.lexsort((np.arange(len(rows)), -scores))[:k]]


@pytest.mark.parametrize("k", [1, 7, 500, 5000])
def test_flat_search_equals_brute_force(tmp_path: Path, k: int) -> None:
    rows = make_index(tmp_path, [("image", 700), ("image", 1), ("image", 333)])
    matrix = np.stack([rows[f"image-{n}"] for n in range(1034)])
    index = VectorIndex(tmp_path, read_manifest(tmp_path))
    starts = np.array([0, 700, 701])
    assert index.exact
    for query in unit_rows(10, seed=99):
        scores, shards, places = index.search(query, k, ["image"])
        found = starts[shards] + places
        assert found.tolist() == brute_force(matrix, query, min(k, 1034))
        assert np.allclose(scores, matrix[found] @ query, atol=2e-6)
        assert (np.diff(scores) <= 0).all()


def test_only_the_kinds_asked_for_are_found(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 20), ("text", 20), ("video", 20)])
    index = VectorIndex(tmp_path, read_manifest(tmp_path))
    query = unit_rows(1, seed=5)[0]
    assert set(index.search(query, 60, ["text"])[1].tolist()) == {1}
    assert set(index.search(query, 60, ["image", "video"])[1].tolist()) == {0, 2}
    assert len(index.search(query, 60, [])[0]) == 0


def test_dead_rows_are_never_found_and_cost_no_hits(tmp_path: Path) -> None:
    rows = make_index(tmp_path, [("image", 300)])
    matrix = np.stack([rows[f"image-{n}"] for n in range(300)])
    query = unit_rows(1, seed=8)[0]
    dead = np.sort(np.array(brute_force(matrix, query, 150)))
    with IndexWriter(tmp_path) as writer:
        state = remove_rows(writer, 0, dead)
    _, _, places = VectorIndex(tmp_path, state).search(query, 40, ["image"])
    living = np.setdiff1d(np.arange(300), dead)
    assert places.tolist() == living[brute_force(matrix[living], query, 40)].tolist()
    assert len(VectorIndex(tmp_path, state).search(query, 300, ["image"])[0]) == 150


def test_no_row_number_is_negative_when_there_are_fewer_than_k(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 3)])
    with IndexWriter(tmp_path) as writer:
        state = remove_rows(writer, 0, np.array([0, 1, 2]))
    scores, shards, places = VectorIndex(tmp_path, state).search(unit_rows(1)[0], 10, ["image"])
    assert len(scores) == len(shards) == len(places) == 0


@pytest.fixture
def small_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an inverted file take over at a size that a test can build."""
    monkeypatch.setattr(vf, "EXACT_WORK", 1000 * 24)


def clustered(count: int, seed: int) -> NDArray[np.float32]:
    centres = unit_rows(40, seed=1234)
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, 40, count)] + 0.35 * rng.standard_normal((count, 24)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def build(folder: Path, sizes: list[int]) -> NDArray[np.float32]:
    matrix = []
    with IndexWriter(folder, spec()) as writer:
        for seed, size in enumerate(sizes):
            rows = clustered(size, seed)
            writer.journal(result(writer, items(size, start=sum(sizes[:seed])), rows))
            writer.publish()
            matrix.append(rows.astype(np.float16).astype(np.float32))
    return np.concatenate(matrix)


@pytest.mark.usefixtures("small_exact")
def test_many_rows_go_under_an_inverted_file_whose_recall_is_high(tmp_path: Path) -> None:
    sizes = [4000, 400]
    matrix = build(tmp_path, sizes)
    state = read_manifest(tmp_path)
    assert [entry.type.partition(",")[0] for entry in state.vectors] == ["ivf128", "flat"]
    index = VectorIndex(tmp_path, state)
    assert not index.exact
    starts = np.array([0, 4000])
    hits = 0
    for query in clustered(50, seed=77):
        _, shards, places = index.search(query, 10, ["image"])
        found = starts[shards] + places
        assert len(found) == 80
        rescored = found[np.argsort(-(matrix[found] @ query), kind="stable")][:10]
        hits += len(set(rescored.tolist()) & set(brute_force(matrix, query, 10)))
        _, shards, places = index.search(query, 10, ["image"], nprobe=128)
        every = starts[shards] + places
        rescored = every[np.argsort(-(matrix[every] @ query), kind="stable")][:10]
        assert rescored.tolist() == brute_force(matrix, query, 10)
    assert hits >= 480


@pytest.mark.usefixtures("small_exact")
def test_new_rows_join_lists_without_training_once_scanning_them_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, [4000])
    before = read_manifest(tmp_path).vectors
    with IndexWriter(tmp_path) as writer:
        writer.journal(result(writer, items(100, start=5000), clustered(100, 50)))
        little = writer.publish()
        assert little.vectors[0] == before[0]
        assert little.vectors[1].type == "flat"
        monkeypatch.setattr(vf, "TAIL_WORK", 1000 * 24)
        writer.journal(result(writer, items(1500, start=6000), clustered(1500, 51)))
        much = writer.publish()
        monkeypatch.setattr(vf, "MERGE_ROWS", 2800)
        writer.journal(result(writer, items(1100, start=8000), clustered(1100, 52)))
        more = writer.publish()
        writer.journal(result(writer, items(1100, start=9500), clustered(1100, 53)))
        most = writer.publish()
        whole = writer.compact()
    assert [(entry.type, entry.rows) for entry in much.vectors] == [("ivf128,sq8", 4000), ("ivf128,sq8", 1600)]
    assert much.vectors[0] == before[0]
    assert [entry.rows for entry in more.vectors] == [4000, 2700]
    assert [entry.rows for entry in most.vectors] == [4000, 2700, 1100]
    assert [entry.rows for entry in whole.vectors] == [7800]


@pytest.mark.usefixtures("small_exact")
def test_dead_rows_stay_out_of_an_inverted_file(tmp_path: Path) -> None:
    matrix = build(tmp_path, [3000])
    query = clustered(1, seed=5)[0]
    dead = np.sort(np.array(brute_force(matrix, query, 20)))
    with IndexWriter(tmp_path) as writer:
        state = remove_rows(writer, 0, dead)
    _, _, places = VectorIndex(tmp_path, state).search(query, 20, ["image"], nprobe=128)
    assert not set(places.tolist()) & set(dead.tolist())


def test_vector_files_are_made_again_from_the_shards(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 50), ("text", 20)])
    state = read_manifest(tmp_path)
    query = unit_rows(1, seed=4)[0]
    before = VectorIndex(tmp_path, state).search(query, 20, ["image"])
    (tmp_path / state.vectors[0].file).write_bytes(b"damaged")
    with pytest.raises(FormatError, match="--rebuild-vectors"):
        VectorIndex(tmp_path, state)
    with IndexWriter(tmp_path) as writer:
        after = VectorIndex(tmp_path, writer.rebuild_vectors()).search(query, 20, ["image"])
    for number in range(3):
        assert np.array_equal(before[number], after[number])

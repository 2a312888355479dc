"""Searching within a selection against brute force: exact where exact is due, the same prefix for every k, nothing lost to
tombstones, filters or equal rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.ranking.collapse import HitKeys, grouped_candidates
from retrieval.store import vector_files as vec
from retrieval.store import vector_index
from retrieval.store.gpu import OnGpu
from retrieval.store.manifest import Manifest, VectorPolicy, VectorType, read_manifest, with_tombstones
from retrieval.store.row_places import RowPlaces
from retrieval.store.selection import Selection, living
from retrieval.store.vector_index import VectorIndex, falling
from retrieval.store.writer import IndexWriter
from tests.stores import DIM, clustered, clustered_index, items, make_index, remove_rows, result, spec, unit_rows

Floats = NDArray[np.float32]
Masks = list[NDArray[np.bool_]]


def images(state: Manifest) -> Selection:
    return Selection.of_kinds(state, ["image"])


def brute_force(rows: Floats, query: Floats, k: int, mask: NDArray[np.bool_] | None = None) -> list[int]:
    """The best rows, ties by row."""
    scores = np.einsum("ij,j->i", rows, query)
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    order = np.lexsort((np.arange(len(rows)), -scores))[:k]
    return [int(row) for row in order if scores[row] > -np.inf]


def flatten(state: Manifest, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> list[int]:
    starts = np.cumsum([0, *(entry.rows for entry in state.shards)])
    return [int(row) for row in starts[shards] + rows]


@pytest.mark.parametrize("k", [1, 7, 500, 5000])
def test_flat_search_equals_brute_force(tmp_path: Path, k: int) -> None:
    rows = make_index(tmp_path, [("image", 700), ("image", 1), ("image", 333)])
    matrix = np.stack([rows[f"image-{n}"] for n in range(1034)])
    state = read_manifest(tmp_path)
    index = VectorIndex(tmp_path, state)
    for query in unit_rows(10, seed=99):
        scores, shards, places = index.search(query, k, images(state))
        best = flatten(state, shards, places)
        assert best == brute_force(matrix, query, min(k, 1034))
        assert np.array_equal(scores, np.einsum("ij,j->i", matrix[best], query))


def test_only_the_kinds_asked_for_are_found(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 20), ("text", 20), ("video", 20)])
    state = read_manifest(tmp_path)
    index = VectorIndex(tmp_path, state)
    query = unit_rows(1, seed=5)[0]
    assert set(index.search(query, 60, Selection.of_kinds(state, ["text"]))[1].tolist()) == {1}
    assert set(index.search(query, 60, Selection.of_kinds(state, ["image", "video"]))[1].tolist()) == {0, 2}
    assert len(index.search(query, 60, Selection.of_kinds(state, []))[0]) == 0


def test_no_row_number_is_negative_when_there_are_fewer_than_k(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 3)])
    with IndexWriter(tmp_path) as writer:
        state = remove_rows(writer, 0, np.array([0, 1, 2]))
    scores, shards, places = VectorIndex(tmp_path, state).search(unit_rows(1)[0], 10, images(state))
    assert len(scores) == len(shards) == len(places) == 0


def test_a_query_of_another_length_is_refused(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 3)])
    state = read_manifest(tmp_path)
    with pytest.raises(ValueError, match=r"\(25,\)"):
        VectorIndex(tmp_path, state).search(unit_rows(1, 25)[0], 10, images(state))


def repeated(count: int, seed: int) -> Floats:
    """Clustered rows, every third of them one of a few: near ties and equal rows in plenty."""
    rows = clustered(count, seed)
    rows[::3] = rows[: len(rows[::3])][np.arange(len(rows[::3])) % 5]
    return rows


INVERTED: tuple[VectorType, ...] = ("ivf", "pq4", "rabitq")


class Library:
    """One index: an inverted file over its first shards, flat files over the rest."""

    def __init__(self, folder: Path, kind: VectorType) -> None:
        self.folder, self.coded = folder, kind != "ivf"
        sizes = [1500, 900, 300, 100]
        parts = [repeated(size, seed) for seed, size in enumerate(sizes)]
        with IndexWriter(folder, spec()) as writer:
            for number, part in enumerate(parts):
                writer.journal(result(writer, items(len(part), start=sum(sizes[:number])), part))
                writer.publish()
                if number == 1:
                    writer.rebuild_vectors(VectorPolicy(type=kind))
        self.rows = np.concatenate(parts).astype(np.float16).astype(np.float32)
        self.state = read_manifest(folder)
        assert sorted(entry.type[:3] for entry in self.state.vectors) == ["fla", "fla", "ivf"]

    def selection(self, seed: int, share: float, dead: float) -> tuple[Manifest, Masks, Selection]:
        """A random filter and random tombstones."""
        rng = np.random.default_rng(seed)
        shards = tuple(
            with_tombstones(entry, np.flatnonzero(rng.random(entry.rows) < dead)) for entry in self.state.shards
        )
        state = replace(self.state, shards=shards)
        masks = [living(state, n, ["image"]) & (rng.random(e.rows) < share) for n, e in enumerate(shards)]
        return state, masks, Selection.of_masks(masks)


@pytest.fixture(scope="module", params=INVERTED)
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("vectors"), request.param)


cases = st.tuples(
    st.integers(0, 10_000), st.sampled_from([1.0, 0.9, 0.5, 0.1, 0.01, 0.0]), st.sampled_from([0.0, 0.1, 0.6])
)


@given(case=cases, k=st.integers(1, 60), query=st.integers(0, 10_000))
@settings(max_examples=120, deadline=None)
def test_a_small_selection_equals_brute_force_whatever_the_files(
    library: Library, case: tuple[int, float, float], k: int, query: int
) -> None:
    """Also of the inverted file, which has fewer rows than are scanned exactly."""
    state, masks, selection = library.selection(*case)
    direction = clustered(1, query)[0]
    scores, shards, rows = VectorIndex(library.folder, state).search(direction, k, selection)
    best = flatten(state, shards, rows)
    assert best == brute_force(library.rows, direction, k, np.concatenate(masks))
    assert np.array_equal(scores, np.einsum("ij,j->i", library.rows[best], direction))


@given(
    case=cases,
    k=st.integers(1, 40),
    more=st.integers(0, 60),
    query=st.integers(0, 10_000),
    nprobe=st.sampled_from([None, 3]),
)
@settings(max_examples=150, deadline=None)
def test_a_search_for_fewer_is_the_beginning_of_one_for_more(
    library: Library, case: tuple[int, float, float], k: int, more: int, query: int, nprobe: int | None
) -> None:
    """By the inverted file itself, at its usual number of lists and at few."""
    state, masks, selection = library.selection(*case)
    direction = clustered(1, query)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_index, "EXACT_ROWS", 0)
        index = VectorIndex(library.folder, state)
        few = index.search(direction, k, selection, nprobe)
        many = index.search(direction, k + more, selection, nprobe)
    for column in range(3):
        assert np.array_equal(few[column], many[column][:k])
    chosen = np.concatenate(masks)
    assert chosen[flatten(state, many[1], many[2])].all()
    if nprobe is None:
        assert len(many[0]) == min(k + more, selection.count)
        assert (np.diff(many[0]) <= 0).all()


@given(case=cases, k=st.integers(1, 60), query=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_an_inverted_file_whose_lists_are_all_visited_equals_brute_force(
    library: Library, case: tuple[int, float, float], k: int, query: int
) -> None:
    """Of compressed codes where every row is a candidate."""
    state, masks, selection = library.selection(*case)
    direction = clustered(1, query)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_index, "EXACT_ROWS", 0)
        patch.setattr(vector_index, "CANDIDATES_PER_ROW", 100)
        scores, shards, rows = VectorIndex(library.folder, state).search(direction, k, selection, nprobe=10_000)
    best = flatten(state, shards, rows)
    assert np.array_equal(scores, np.einsum("ij,j->i", library.rows[best], direction))
    assert flatten(state, shards, rows) == brute_force(library.rows, direction, k, np.concatenate(masks))


@given(case=cases, k=st.integers(1, 100), more=st.integers(0, 300), query=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_hits_of_a_search_for_fewer_begin_those_of_one_for_more(
    library: Library, case: tuple[int, float, float], k: int, more: int, query: int
) -> None:
    """Over the rounds of a grouped search, and the tiers of compressed codes, of which few are candidates here."""
    state, _, selection = library.selection(*case)
    direction = clustered(1, query)[0]
    keys = HitKeys(None, None, RowPlaces(state))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vector_index, "EXACT_ROWS", 0)
        patch.setattr(vector_index, "CANDIDATES_PER_ROW", 1)
        index = VectorIndex(library.folder, state)
        few, many = (grouped_candidates(index, keys, direction, size, selection) for size in (k, k + more))
    for column in ("scores", "shards", "rows"):
        first = getattr(few, column)[:k]
        assert np.array_equal(first, getattr(many, column)[: len(first)])
    assert (np.diff(many.scores) <= 0).all() and len(many) >= min(k + more, selection.count)
    assert len(np.unique(many.shards << 32 | many.rows)) == len(many)


def test_rows_that_codes_hid_follow_those_that_were_found() -> None:
    scores = np.array([0.9, 0.5, 0.4], np.float32)
    fallen = falling(scores, np.array([3, 9, 1]), 0.5, 7)
    assert 0.5 - 1e-6 < fallen[1] < fallen[0] < 0.5 and fallen[2] == scores[2]
    # A tie keeps its score where it stands after by its place, and not where it stands before.
    assert np.array_equal(falling(scores[1:], np.array([9, 1]), 0.5, 7), scores[1:])
    assert falling(scores[1:], np.array([6, 1]), 0.5, 7)[0] < 0.5


def test_what_is_left_of_a_selection_is_searched_like_the_whole(library: Library) -> None:
    """Rounds of a grouped search take rows away, and must find the best of the others."""
    state, masks, selection = library.selection(4, 0.5, 0.2)
    index = VectorIndex(library.folder, state)
    direction = clustered(1, 77)[0]
    _, shards, rows = index.search(direction, 100, selection)
    gone = {int(shard): rows[shards == shard] for shard in np.unique(shards)}
    left = selection.without(gone)
    assert left.count == selection.count - 100
    _, after_shards, after_rows = index.search(direction, 100, left)
    both = brute_force(library.rows, direction, 200, np.concatenate(masks))
    assert flatten(state, shards, rows) + flatten(state, after_shards, after_rows) == both


def test_a_selection_is_copied_once_and_old_copies_go(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    state, _, selection = library.selection(1, 0.5, 0.0)
    index = VectorIndex(library.folder, state)
    taken: list[int] = []
    stored = index._stored

    class Counted:
        def take(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
            taken.append(len(rows))
            return stored.take(shards, rows)

    index._stored = Counted()
    for seed in range(5):
        index.search(clustered(1, seed)[0], 10, selection)
    assert len(taken) == 1
    monkeypatch.setattr(vector_index, "_COPIES", 1)
    index.search(clustered(1, 9)[0], 10, library.selection(2, 0.4, 0.0)[2])
    assert len(index._copies) == 1


@pytest.fixture
def small_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an inverted file take over, and be searched by its lists, at a size that a test can build."""
    monkeypatch.setattr(vec, "EXACT_WORK", 1000 * DIM)
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 0)


@pytest.mark.usefixtures("small_exact")
@pytest.mark.parametrize(
    ("kind", "types"), [("auto", "pq6x4fs"), ("ivf", "sq8"), ("pq4", "pq6x4fs"), ("rabitq", "rabitq")]
)
def test_the_recall_of_an_inverted_file_is_high(tmp_path: Path, kind: VectorType, types: str) -> None:
    matrix = clustered_index(tmp_path, [4000])
    with IndexWriter(tmp_path) as writer:
        writer.rebuild_vectors(VectorPolicy(type=kind))
        matrix = np.concatenate([matrix, clustered(400, 1).astype(np.float16).astype(np.float32)])
        writer.journal(result(writer, items(400, start=4000), clustered(400, 1)))
        writer.publish()
    state = read_manifest(tmp_path)
    assert [entry.type for entry in state.vectors] == [f"ivf128,{types}", "flat"]
    index = VectorIndex(tmp_path, state)
    hits = 0
    for query in clustered(50, seed=77):
        _, shards, places = index.search(query, 10, images(state))
        hits += len(set(flatten(state, shards, places)) & set(brute_force(matrix, query, 10)))
    assert hits >= 480


@pytest.mark.usefixtures("small_exact")
@pytest.mark.parametrize("kind", INVERTED)
def test_a_search_for_more_than_the_nearest_lists_hold_gives_all_that_there_is(
    tmp_path: Path, kind: VectorType
) -> None:
    matrix = clustered_index(tmp_path, [3000])
    with IndexWriter(tmp_path) as writer:
        state = writer.rebuild_vectors(VectorPolicy(type=kind))
    index, query = VectorIndex(tmp_path, state), clustered(1, 3)[0]
    scores, shards, places = index.search(query, 3000, images(state))
    found, exact = flatten(state, shards, places), brute_force(matrix, query, 3000)
    assert (np.diff(scores) <= 0).all() and sorted(found) == list(range(3000))
    if kind == "ivf":
        assert found == exact
    else:
        # Those of the visited lists come first, so that a search for more begins with what one for fewer gives.
        assert found[:500] == flatten(state, *index.search(query, 500, images(state))[1:])
        assert len(set(found[:30]) & set(exact[:30])) >= 20


class StubOfGpu:
    """Stands where Faiss's GPU index would: no selector, at most `GPU_MOST` rows, and half-precision scores."""

    def __init__(self, rows: Floats) -> None:
        self.rows, self.ntotal, self.d = rows, len(rows), rows.shape[1]
        self.asked: list[int] = []

    def search(self, queries: Floats, k: int, params: Any = None) -> tuple[Floats, NDArray[np.int64]]:
        assert k <= vector_index.GPU_MOST and getattr(params, "sel", None) is None
        self.asked.append(k)
        scores = (self.rows @ queries[0]).astype(np.float16).astype(np.float32)
        order = np.argsort(-scores, kind="stable")[:k]
        return scores[order][None], order[None]


@pytest.mark.parametrize(("dead", "asked"), [(0, 1), (150, 2), (2100, 3)])
def test_a_gpu_loses_nothing_to_tombstones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: int, asked: int
) -> None:
    """The best rows are all dead: more than once it was asked for all that a GPU gives, and the living ones were lost."""
    matrix = clustered_index(tmp_path, [4000])
    query = clustered(1, 5)[0]
    with IndexWriter(tmp_path) as writer:
        state = remove_rows(writer, 0, np.array(brute_force(matrix, query, dead), np.int64))
    stub = StubOfGpu(matrix)
    index = VectorIndex(tmp_path, state)
    monkeypatch.setattr(index, "_parts", [replace(index._parts[0], gpu=OnGpu(stub, False))])
    living_rows = np.ones(4000, np.bool_)
    living_rows[state.shards[0].tombstone_rows()] = False
    for k in (5, 40):
        scores, shards, rows = index.search(query, k, images(state))
        best = flatten(state, shards, rows)
        assert best == brute_force(matrix, query, k, living_rows)
        assert np.array_equal(scores, np.einsum("ij,j->i", matrix[best], query))
    assert len(stub.asked) >= asked


def test_a_damaged_vector_file_names_the_remedy(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 30)])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["vectors"][0]["rows"] = 31
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="--rebuild-vectors"):
        VectorIndex(tmp_path, read_manifest(tmp_path))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Hypothesis runs hundreds of searches of a few rows: waking threads for each takes longer than they do."""
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)

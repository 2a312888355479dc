"""What vector files become on GPUs, against a stub of the calls that Faiss has for them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.gpu import main as measure_gpus
from retrieval.errors import QueryError
from retrieval.store import vector_index
from retrieval.store.gpu import Gpus
from retrieval.store.manifest import VectorPolicy, VectorType
from retrieval.store.selection import Selection
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from tests.stores import clustered, clustered_index, remove_rows

ROWS = 3000


class Cuda:
    """Stands where Faiss's GPU calls would, and does what they do on the CPU; `room` is how many rows a GPU holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, room: int) -> None:
        import faiss

        self.room, self.faiss = room, faiss
        self.pieces: list[tuple[int, Any]] = []
        self.copied: list[tuple[int, str]] = []
        monkeypatch.setattr(faiss, "get_num_gpus", lambda: count)
        for name in ("StandardGpuResources", "GpuClonerOptions", "GpuIndexFlatConfig"):
            monkeypatch.setattr(faiss, name, SimpleNamespace, raising=False)
        monkeypatch.setattr(faiss, "index_cpu_to_gpu", self.clone, raising=False)
        monkeypatch.setattr(faiss, "GpuIndexFlat", self.flat, raising=False)

    def clone(self, _: object, number: int, index: Any, options: SimpleNamespace) -> Any:
        assert options.useFloat16
        if "FastScan" in type(index).__name__:
            raise RuntimeError("this index type is not implemented on the GPU")
        if index.ntotal > self.room:
            raise RuntimeError("out of memory")
        self.copied.append((number, type(index).__name__))
        return Clone(index)

    def flat(self, _: object, dim: int, metric: int, config: SimpleNamespace) -> Any:
        assert config.useFloat16
        piece = Piece(self.faiss.IndexFlat(dim, metric), self.room)
        self.pieces.append((config.device, piece.index))
        # Pieces of several GPUs are put together by Faiss, which takes Faiss's own.
        return piece if self.faiss.get_num_gpus() == 1 else piece.index


class Clone:
    def __init__(self, index: Any) -> None:
        self.index, self.ntotal, self.d = index, index.ntotal, index.d

    def search(self, queries: NDArray[np.float32], k: int, params: Any = None) -> Any:
        assert k <= vector_index.GPU_MOST and getattr(params, "sel", None) is None
        return self.index.search(queries, k, params=params)


class Piece(Clone):
    def __init__(self, index: Any, room: int) -> None:
        super().__init__(index)
        self.room = room

    def add(self, rows: NDArray[np.float32]) -> None:
        if self.index.ntotal + len(rows) > self.room:
            raise RuntimeError("out of memory")
        self.index.add(rows)
        self.ntotal = self.index.ntotal

    def search(self, queries: NDArray[np.float32], k: int, params: Any = None) -> Any:
        assert params is None
        return super().search(queries, k)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float32]:
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 0)
    return clustered_index(tmp_path, [ROWS])


def brute_force(matrix: NDArray[np.float32], query: NDArray[np.float32], alive: NDArray[np.bool_]) -> list[int]:
    scores = np.where(alive, np.einsum("ij,j->i", matrix, query), -np.inf)
    return [int(row) for row in np.lexsort((np.arange(len(scores)), -scores))[:20]]


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("kind", ["flat", "pq4", "rabitq"])
def test_what_is_scanned_on_gpus_is_what_an_exact_scan_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: NDArray[np.float32], kind: VectorType, gpus: int
) -> None:
    with IndexWriter(tmp_path) as writer:
        writer.rebuild_vectors(VectorPolicy(type=kind))
        state = remove_rows(writer, 0, np.arange(0, ROWS, 3))
    cuda = Cuda(monkeypatch, gpus, 10 * ROWS)
    index = VectorIndex(tmp_path, state, "cuda")
    alive = np.arange(ROWS) % 3 != 0
    for query in clustered(20, seed=5):
        _, _, rows = index.search(query, 20, Selection.of_kinds(state, ["image"]))
        assert rows.tolist() == brute_force(library, query, alive)
    if kind == "flat":
        assert cuda.copied == [(0, "IndexScalarQuantizer")] and not cuda.pieces
    else:
        assert [device for device, _ in cuda.pieces] == list(range(gpus))
        assert sum(piece.ntotal for _, piece in cuda.pieces) == ROWS
        assert max(piece.ntotal for _, piece in cuda.pieces) <= -(-ROWS // gpus) and not cuda.copied


def test_lists_with_8_bit_codes_are_searched_on_the_gpu_as_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: NDArray[np.float32]
) -> None:
    with IndexWriter(tmp_path) as writer:
        state = writer.rebuild_vectors(VectorPolicy(type="ivf"))
    every = Selection.of_kinds(state, ["image"])
    on_cpu = VectorIndex(tmp_path, state)
    cuda = Cuda(monkeypatch, 2, ROWS)
    on_gpu = VectorIndex(tmp_path, state, "cuda:1")
    assert cuda.copied == [(1, "IndexIVFScalarQuantizer")]
    for query in clustered(20, seed=5):
        found, wanted = (index.search(query, 10, every, nprobe=8) for index in (on_gpu, on_cpu))
        assert np.array_equal(found[2], wanted[2])


@pytest.mark.parametrize("kind", ["flat", "ivf", "pq4", "rabitq"])
@pytest.mark.parametrize(("device", "room"), [("cuda", 100), ("auto", 100), ("cpu", 10 * ROWS)])
def test_what_does_not_fit_or_is_not_asked_for_stays_on_the_cpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: NDArray[np.float32],
    kind: VectorType,
    device: str,
    room: int,
) -> None:
    with IndexWriter(tmp_path) as writer:
        state = writer.rebuild_vectors(VectorPolicy(type=kind))
    every = Selection.of_kinds(state, ["image"])
    query = clustered(1, seed=5)[0]
    wanted = VectorIndex(tmp_path, state).search(query, 20, every)
    Cuda(monkeypatch, 1, room)
    index = VectorIndex(tmp_path, state, device)
    assert index.parts_on_gpu == 0
    assert np.array_equal(index.search(query, 20, every)[2], wanted[2])


def test_one_search_does_not_read_all_rows_of_compressed_lists_to_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: NDArray[np.float32]
) -> None:
    with IndexWriter(tmp_path) as writer:
        state = writer.rebuild_vectors(VectorPolicy(type="pq4"))
    cuda = Cuda(monkeypatch, 1, 10 * ROWS)
    assert VectorIndex(tmp_path, state, "auto").parts_on_gpu == 0 and not cuda.pieces
    assert VectorIndex(tmp_path, state, "cuda").parts_on_gpu == 1


def test_files_go_to_the_gpu_that_has_the_fewest_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: NDArray[np.float32]
) -> None:
    cuda = Cuda(monkeypatch, 2, 10 * ROWS)
    gpus = Gpus.of("cuda")
    assert gpus is not None
    for rows in (5, 3, 1, 4):
        index = cuda.faiss.IndexFlatIP(2)
        index.add(np.eye(rows, 2, dtype=np.float32))
        gpus.copy(index)
    assert [number for number, _ in cuda.copied] == [0, 1, 1, 1]


def test_gpus_are_measured_against_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tmp_path), "--rows", "1500", "--dim", "24"]
    with pytest.raises(QueryError, match="no GPU"):
        measure_gpus(arguments)
    Cuda(monkeypatch, 1, 10 * ROWS)
    measure_gpus(arguments)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["kind"], line["device"]) for line in lines[:4]] == [
        ("flat", "cpu"), ("flat", "cuda:0"), ("flat", "cuda"), ("ivf", "cpu")
    ]  # fmt: skip
    assert len(lines) == 12 and min(line["recall"] for line in lines) > 0.9
    assert {line["recall"] for line in lines if line["kind"] != "ivf"} == {1.0}
    assert [line["files_on_gpu"] for line in lines] == [0, 1, 1] * 4

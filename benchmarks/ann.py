"""What an index type costs in recall and gives in speed and memory: exact scan against inverted files, for texts and images
apart.

Text embeddings lie apart from the image embeddings that they search, and quantisers trained on images serve them worse, so
an index type is chosen by the recall of texts. Everything runs through the files and the code that a search uses, with
candidates scored again from the exact rows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import faiss
import numpy as np
from faiss.contrib.evaluation import OperatingPoints, knn_intersection_measure
from faiss.contrib.exhaustive_search import knn_ground_truth
from numpy.typing import NDArray

from benchmarks.made_up import CLIP, MINI, MadeUp, Shape
from benchmarks.metrics import Floats, unit
from retrieval.engine import Engine
from retrieval.errors import QueryError
from retrieval.store.inverted import Codes, write_ivf
from retrieval.store.manifest import Manifest, ShardEntry, VectorEntry, VectorPolicy, VectorType
from retrieval.store.roots import Roots
from retrieval.store.selection import Selection
from retrieval.store.vector_files import LEAST_IVF, write_flat
from retrieval.store.vector_index import CANDIDATES_PER_ROW, FIRST_TIER, LEAST_ASKED, VectorIndex
from retrieval.types import Kind, ModelSpec, Query

Halves = NDArray[np.float16]
QUERIES = 200
_TYPE_OF: dict[Codes, VectorType] = {"sq8": "ivf", "pq4": "pq4", "rabitq": "rabitq"}
_WHO = ("a dog", "a cat", "a child", "two people", "a woman", "an old man", "a crowd", "a bird", "a red car", "a horse")
_WHERE = (
    "in the snow", "on a beach", "at night", "in a kitchen", "by a lake", "on a street", "in a forest", "at a party",
    "on a mountain", "in the rain", "at a market", "in front of a house", "on a boat", "at sunset", "with a ball",
    "sitting at a table", "in black and white", "seen from above", "close up", "in a museum",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Point:
    """One index type at one setting. Recalls are shares of the exact first k; milliseconds are of whole searches, one query
    at a time; `read_mb` is what a search looks at, and `row_bytes` what a row takes in memory once all lists were."""

    type: str
    nprobe: int | None
    recall_text: float
    recall_image: float
    median_ms: float
    p95_ms: float
    p99_ms: float
    build_seconds: float
    disk_mb: float
    read_mb: float
    row_bytes: float
    pareto: bool = False
    recall_made_up: float | None = None

    @property
    def policy(self) -> VectorPolicy:
        """The policy that gives an index this type and setting."""
        return VectorPolicy(type=_TYPE_OF[self.codes] if self.nprobe is not None else "flat", nprobe=self.nprobe)

    @property
    def codes(self) -> Codes:
        """The codes of an inverted file."""
        codes = self.type.partition(",")[2]
        return "sq8" if codes == "sq8" else "rabitq" if codes == "rabitq" else "pq4"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Rows `(n, d)` to search, and unit queries `(q, d)`; `own_rows` is each image query's own row, which is left out. `shape`
    is how made-up rows like these lie."""

    name: str
    rows: Halves
    texts: Floats
    images: Floats
    own_rows: NDArray[np.int64]
    shape: Shape = CLIP


def of_index(folder: Path) -> Workload:
    """The images and moments of an index, or its texts where it has nothing else. Queries in words are the texts that the
    index holds, else made-up ones. Raises `QueryError` where there are too few rows to tell index types apart."""
    rng = np.random.default_rng(0)
    with Engine.open(folder) as engine:
        model = engine.model.name
        kinds: tuple[Kind, ...] = ("image", "video")
        rows = engine.embeddings(kinds)
        if not len(rows):
            kinds = ("text",)
            rows = engine.embeddings(kinds)
        if len(rows) < LEAST_IVF:
            raise QueryError(
                f"{folder} has {len(rows)} rows; with fewer than {LEAST_IVF} every search is exact and instant"
            )
        words = engine.embeddings(("text",)) if kinds != ("text",) else rows[:0]
        if len(words) >= QUERIES:
            texts = words[np.sort(rng.choice(len(words), QUERIES, replace=False))].astype(np.float32)
        else:
            texts = np.stack([engine.embed(Query(text=f"{who} {where}")) for who in _WHO for where in _WHERE])
    own_rows = np.sort(rng.choice(len(rows), min(QUERIES, len(rows)), replace=False))
    return Workload(
        name=str(folder),
        rows=rows,
        texts=unit(texts),
        images=unit(rows[own_rows].astype(np.float32)),
        own_rows=own_rows,
        shape=MINI if model == "mini" else CLIP,
    )


def synthetic(count: int, dim: int, seed: int = 0, shape: Shape = CLIP) -> Workload:
    """Rows as embeddings of pictures lie, and texts from the other side of the gap."""
    made = MadeUp(count, dim, shape, seed)
    rows = np.concatenate(list(made.blocks()))
    own_rows = np.sort(np.random.default_rng(seed).choice(count, min(QUERIES, count), replace=False))
    return Workload(
        name=f"{count:,} made-up rows of {dim}",
        rows=rows,
        texts=made.texts(QUERIES),
        images=unit(rows[own_rows].astype(np.float32)),
        own_rows=own_rows,
        shape=shape,
    )


class _InMemory:
    """The exact rows of a work load, which is in no shard."""

    def __init__(self, rows: Halves) -> None:
        self._rows = rows

    def take(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> Halves:
        return self._rows[rows]


def measure_ann(work: Workload, k: int = 10, on_progress: Callable[[str], None] = lambda _: None) -> list[Point]:
    """Every index type at every setting, the ones that nothing beats in both recall for texts and speed marked `pareto`."""
    on_progress("exact answers")
    truth = {name: _exact(work.rows, queries, own_rows, k) for name, queries, own_rows in _queries(work)}
    points: list[Point] = []
    with tempfile.TemporaryDirectory(prefix="mmsearch-ann-") as scratch:
        folder = Path(scratch)
        kinds: tuple[Codes | None, ...] = (None, "sq8", "pq4", "rabitq") if len(work.rows) >= LEAST_IVF else (None,)
        for kind in kinds:
            on_progress(f"building {kind or 'flat'}")
            name = f"shards/{kind}.parquet"
            shard = ShardEntry(file=name, kind="image", rows=len(work.rows), sha256="", bytes=0)
            began = time.perf_counter()
            if kind is None:
                entry = write_flat(folder, shard, work.rows)
            else:
                entry = write_ivf(folder, f"vectors/{kind}.ivf.faiss", [shard], lambda _: work.rows, kind)
            build = time.perf_counter() - began
            index = VectorIndex(folder, _manifest(work.rows.shape[1], shard, entry), stored=_InMemory(work.rows))
            nlist = int(entry.type.partition(",")[0].removeprefix("ivf")) if kind is not None else 0
            settings = [None] if kind is None else [2**n for n in range(12) if 2**n <= max(1, nlist // 2)]
            for nprobe in settings:
                on_progress(f"searching {entry.type}" + (f", nprobe {nprobe}" if nprobe else ""))
                points.append(_point(work, index, entry, nprobe, nlist, k, truth, build))
    return _marked(points)


def compared(work: Workload, points: list[Point], k: int, on_progress: Callable[[str], None]) -> list[Point]:
    """Each point of `work` with the recall for texts of as many made-up rows, at the same type and setting."""
    count, dim = work.rows.shape
    made = measure_ann(synthetic(count, dim, shape=work.shape), k, on_progress)
    recalls = {(point.type, point.nprobe): point.recall_text for point in made}
    return [replace(point, recall_made_up=recalls[point.type, point.nprobe]) for point in points]


def choose(points: list[Point], target: float) -> Point:
    """The fastest point whose recall for texts is `target` or more."""
    return min((point for point in points if point.recall_text >= target), key=lambda point: point.median_ms)


def _queries(work: Workload) -> Iterator[tuple[str, Floats, NDArray[np.int64]]]:
    yield "text", work.texts, np.full(len(work.texts), -1)
    yield "image", work.images, work.own_rows


def _exact(rows: Halves, queries: Floats, own_rows: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The exact first k rows of each query `(q, k)`, its own row left out."""
    blocks = (rows[start : start + 65_536].astype(np.float32) for start in range(0, len(rows), 65_536))
    _, numbers = knn_ground_truth(queries, blocks, k + 1, metric_type=faiss.METRIC_INNER_PRODUCT, ngpu=0)
    return np.stack([_without(nearest, own_rows[query], k) for query, nearest in enumerate(numbers)])


def _without(rows: NDArray[np.int64], own_row: int, k: int) -> NDArray[np.int64]:
    """The first k of some rows without `own_row`, filled up with -1."""
    others = rows[rows != own_row][:k]
    return np.pad(others, (0, k - len(others)), constant_values=-1)


def _point(
    work: Workload,
    index: VectorIndex,
    entry: VectorEntry,
    nprobe: int | None,
    nlist: int,
    k: int,
    truth: dict[str, NDArray[np.int64]],
    build: float,
) -> Point:
    recalls: dict[str, float] = {}
    seconds: list[float] = []
    every = Selection.of_masks([np.ones(len(work.rows), np.bool_)])
    for name, queries, own_rows in _queries(work):
        index.search(queries[0], k + 1, every, nprobe)
        answers = np.empty_like(truth[name])
        for number, query in enumerate(queries):
            began = time.perf_counter()
            _, _, rows = index.search(query, k + 1, every, nprobe)
            seconds.append(time.perf_counter() - began)
            answers[number] = _without(rows, own_rows[number], k)
        recalls[name] = float(knn_intersection_measure(answers, truth[name]))
    share = min(1.0, nprobe / nlist) if nprobe is not None else 1.0
    candidates = LEAST_ASKED if entry.type.endswith("sq8") else CANDIDATES_PER_ROW * FIRST_TIER
    rescored = 0 if nprobe is None else 2 * work.rows.shape[1] * candidates
    return Point(
        type=entry.type,
        nprobe=nprobe,
        recall_text=recalls["text"],
        recall_image=recalls["image"],
        median_ms=1000 * float(np.median(seconds)),
        p95_ms=1000 * float(np.percentile(seconds, 95)),
        p99_ms=1000 * float(np.percentile(seconds, 99)),
        build_seconds=build,
        disk_mb=entry.bytes / 1e6,
        read_mb=(entry.bytes * share + rescored) / 1e6,
        row_bytes=entry.bytes / max(1, entry.rows),
    )


def _marked(points: list[Point]) -> list[Point]:
    best = OperatingPoints()
    for number, point in enumerate(points):
        best.add_operating_point(number, point.recall_text, point.median_ms)
    on_front = {number for number, _, _ in best.operating_points}
    return [replace(point, pareto=number in on_front) for number, point in enumerate(points)]


def made_up_spec(dim: int) -> ModelSpec:
    """The model of embeddings that no model made."""
    three = (0.5, 0.5, 0.5)
    return ModelSpec(
        name="none", architecture="none", weights_sha256="", dim=dim, image_size=1, mean=three, std=three,
        interpolation="bicubic", resize_mode="shortest", tokenizer="none", context_length=1, clean="lower",
    )  # fmt: skip


def _manifest(dim: int, shard: ShardEntry, entry: VectorEntry) -> Manifest:
    return Manifest(model=made_up_spec(dim), roots=Roots(), shards=(shard,), vectors=(entry,))

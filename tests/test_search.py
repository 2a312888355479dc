"""The stages of a search over real indexes: what is one hit, what a reranker reads, and what is relevant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL.Image import Image

from media.types import Place
from retrieval.crossmodal.rerank import Reranked, Reranker
from retrieval.errors import QueryError
from retrieval.ranking.collapse import FIRST_ROUND, MOST_MOMENTS, HitKeys, Videos, collapse
from retrieval.ranking.relevance import Calibration, judge
from retrieval.search import Calibrations, Reading, reads_by_text, search, shortlist
from retrieval.state import IndexState, check_device
from retrieval.store.manifest import read_manifest
from retrieval.store.row_places import RowPlaces
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from retrieval.types import Answer, Hit, Item, Query, Rerank
from tests.stores import clustered, items, make_index, result, spec, unit_rows

Floats = NDArray[np.float32]
NONE = Calibrations(cosine=None, fused=None)


def moments(video: str, count: int) -> list[Item]:
    return [
        Item(
            id=f"{ascii(video)[1:-1]}-{n}",
            path=video,
            source=video,
            kind="video",
            start=float(n),
            end=n + 1.0,
            sha256=f"{n:064d}",
        )
        for n in range(count)
    ]


def near(direction: Floats, count: int, closeness: float, seed: int) -> Floats:
    """Unit rows whose cosine to `direction` is about `closeness`, each a little less than the one before."""
    noise = unit_rows(count, seed=seed)
    noise -= (noise @ direction)[:, None] * direction
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosines = (closeness - 0.0005 * np.arange(count))[:, None]
    return np.asarray(cosines * direction + np.sqrt(1 - cosines**2) * noise, np.float32)


DIRECTION = unit_rows(1, seed=500)[0]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten long videos, each better than the next by all of its moments, and twelve photos among them."""
    folder = tmp_path_factory.mktemp("videos")
    with IndexWriter(folder, spec()) as writer:
        for number in range(10):
            rows = near(DIRECTION, 300, 0.95 - 0.08 * number, number)
            writer.journal(result(writer, moments(f"/media/{number}.mp4", 300), rows))
        writer.journal(result(writer, items(12), near(DIRECTION, 12, 0.3, 99)))
        writer.publish()
    return folder


class Scoring:
    """Stands where a reranker would: it reads so many of what it is given, and likes what it is told to."""

    def __init__(self, liked: str = "", most: int = 1000) -> None:
        self.liked, self.most = liked, most
        self.given: list[Item] = []

    def by_text(
        self, text: str, items: Sequence[Item], cosines: Floats, images: object, milliseconds: float | None = None
    ) -> Reranked:
        self.given = list(items)
        second = np.array([5.0 if item.id == self.liked else 0.0 for item in items], np.float32)
        second[self.most :] = np.nan
        fused = np.where(np.isnan(second), cosines, cosines + 0.1 * second).astype(np.float32)
        return Reranked(fused=fused, second=second, out_of_time=len(items) > self.most)


class NoImages:
    def image(self, place: Place) -> Image:
        raise AssertionError("the stand-in looks at no image")


def opened(folder: Path) -> IndexState:
    return IndexState(folder, read_manifest(folder), "cpu")


def reading(scoring: Scoring, how: Rerank) -> Reading:
    return Reading(reranker=cast(Reranker, scoring), images=NoImages(), how=how)


def answer(folder: Path, query: Query, calibrations: Calibrations = NONE, scoring: Scoring | None = None) -> Answer:
    reads = None
    if query.rerank is not None:
        reads = reading(scoring or Scoring(), query.rerank)
    return search(opened(folder), query, DIRECTION, calibrations, reads)


def names(hits: Sequence[Hit]) -> list[str]:
    return [hit.item.path.rpartition("/")[2] for hit in hits]


def test_each_video_is_one_hit_by_its_best_moment(library: Path) -> None:
    hits = answer(library, Query(text="x", k=30)).hits
    assert names(hits) == [
        "0.mp4", "1.mp4", "2.mp4", "3.mp4", "4.mp4", "5.mp4", "6.mp4", "7.mp4", "8.mp4", *(f"image{n}" for n in range(12)),
        "9.mp4",
    ]  # fmt: skip
    assert [hit.rank for hit in hits] == list(range(1, 23))
    for hit in hits[:9]:
        assert hit.item.start == 0.0 and hit.moments[0].item == hit.item
        assert len(hit.moments) == MOST_MOMENTS
        assert [moment.item.start for moment in hit.moments] == list(range(MOST_MOMENTS))
    assert not hits[9].moments


def test_a_grouped_search_costs_what_it_returns(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 3,000 moments were once looked at to find ten videos."""
    asked: list[int] = []
    once = VectorIndex.search

    def counted(self: VectorIndex, query: Floats, k: int, *rest: object) -> object:
        asked.append(k)
        return once(self, query, k, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(VectorIndex, "search", counted)
    assert len(answer(library, Query(text="x", kind="video", k=1)).hits) == 1
    assert asked == [FIRST_ROUND]
    asked.clear()
    read: list[int] = []
    rows = ShardReader.items

    def noted(self: ShardReader, shards: NDArray[np.int64], places: NDArray[np.int64]) -> list[Item]:
        read.append(len(places))
        return rows(self, shards, places)

    monkeypatch.setattr(ShardReader, "items", noted)
    assert len(answer(library, Query(text="x", kind="video", k=20)).hits) == 10
    assert sum(read) <= 10 * MOST_MOMENTS
    assert len(asked) <= 6


@given(k=st.integers(1, 22), more=st.integers(0, 22), reranked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_search_for_fewer_is_the_beginning_of_one_for_more(library: Path, k: int, more: int, reranked: bool) -> None:
    how = Rerank(candidates=20) if reranked else None
    scoring = Scoring(liked="/media/3.mp4-5")
    few = answer(library, Query(text="x", k=k, rerank=how), scoring=scoring).hits
    many = answer(library, Query(text="x", k=k + more, rerank=how), scoring=scoring).hits
    assert few == many[:k]


def test_every_moment_is_a_hit_where_none_are_grouped(library: Path) -> None:
    hits = answer(library, Query(text="x", k=500, group=False)).hits
    assert len(hits) == 500
    assert set(names(hits[:300])) == {"0.mp4", "1.mp4"}


def test_a_video_with_the_best_fifty_moments_leaves_room_for_others(library: Path) -> None:
    """Re-ranked, one video once took every place among the candidates, and the answer was that one hit."""
    scoring = Scoring(liked="/media/0.mp4-7")
    done = answer(library, Query(text="x", kind="video", k=10, rerank=Rerank(candidates=50)), scoring=scoring)
    assert len(done.hits) == 10
    assert done.hits[0].item.id == "/media/0.mp4-7"
    assert done.seen == len(scoring.given) == 50
    assert len({item.path for item in scoring.given}) == 10
    few = answer(library, Query(text="x", kind="video", k=10, rerank=Rerank(candidates=4)), scoring=scoring)
    assert len(few.hits) == 10 and few.seen == 4


def test_good_hits_that_no_reranker_read_stay(library: Path) -> None:
    """With a budget, the fused calibration once judged cosines, and dropped what was not read."""
    # A fused score must be above 0.9 to be likely, a cosine only above 0.2.
    calibrations = Calibrations(
        cosine=Calibration(slope=100, intercept=-20), fused=Calibration(slope=100, intercept=-90)
    )
    query = Query(text="x", kind="image", k=12, min_relevance=0.5, rerank=Rerank(candidates=12))
    done = answer(library, query, calibrations, Scoring(most=2))
    assert done.out_of_time and done.seen == 2
    assert len(done.hits) == 10
    assert all(hit.rerank_score is None for hit in done.hits)
    assert all(hit.relevance is not None and hit.relevance > 0.9 for hit in done.hits)


def test_hits_are_judged_by_the_calibration_of_their_score() -> None:
    cosine, fused = Calibration(slope=1, intercept=0), Calibration(slope=2, intercept=0)
    scores, both = np.array([0.5, 0.5], np.float32), np.array([2.0, 0.5], np.float32)
    read = np.array([True, False])
    assert judge(scores, both, read, cosine, fused) == pytest.approx(
        [1 / (1 + np.exp(-4)), 1 / (1 + np.exp(-0.5))], abs=1e-6
    )
    assert judge(scores, both, read, cosine, None) == pytest.approx([1 / (1 + np.exp(-0.5))] * 2, abs=1e-6)
    assert np.isnan(judge(scores, both, read, None, None)).all()


def test_relevance_that_cannot_be_told_is_an_error_without_options_of_a_command(library: Path) -> None:
    with pytest.raises(QueryError, match="relevance cannot be told") as caught:
        answer(library, Query(text="x", min_relevance=0.5))
    assert "--" not in str(caught.value)
    assert answer(library, Query(text="x", k=1)).hits[0].relevance is None


def test_what_is_re_ranked_is_words_against_images_or_images_against_texts() -> None:
    assert reads_by_text(Query(text="x"), ("image", "video"))
    with pytest.raises(QueryError, match="neither"):
        reads_by_text(Query(text="x"), ("text",))
    with pytest.raises(QueryError, match="neither"):
        reads_by_text(Query(like=("a",)), ("image",))


@given(keys=st.lists(st.integers(-5, 5), max_size=40))
def test_groups_stand_by_their_first_rows(keys: list[int]) -> None:
    groups = [group.tolist() for group in collapse(np.array(keys, np.int64))]
    order = list(dict.fromkeys(keys))
    assert groups == [[n for n, key in enumerate(keys) if key == wanted] for wanted in order]


@given(keys=st.lists(st.integers(0, 8), min_size=1, max_size=60), count=st.integers(1, 70))
def test_a_shortlist_has_the_best_of_many_groups(keys: list[int], count: int) -> None:
    chosen = shortlist(np.array(keys, np.int64), count).tolist()
    assert len(chosen) == min(count, len(keys)) and chosen == sorted(set(chosen))
    firsts = [keys.index(key) for key in dict.fromkeys(keys)]
    assert set(firsts[: (count + 1) // 2]) <= set(chosen)


def test_videos_are_told_apart_by_names_that_are_not_utf8(tmp_path: Path) -> None:
    """Two such names look the same once they are text."""
    first, second = "/media/\udcff.mp4", "/media/\udcfe.mp4"
    with IndexWriter(tmp_path, spec()) as writer:
        writer.journal(result(writer, [*moments(first, 3), *moments(second, 2)], unit_rows(5)))
        state = writer.publish()
    videos = Videos(state, ShardReader(tmp_path, state))
    assert videos.numbers[0].tolist() == [0, 0, 0, 1, 1]


def test_videos_of_one_name_below_two_roots_are_two(tmp_path: Path) -> None:
    with IndexWriter(tmp_path, spec()) as writer:
        writer.journal(result(writer, [*moments("/a/film.mp4", 2), *moments("/b/film.mp4", 2)], unit_rows(4)))
        state = writer.publish()
    assert Videos(state, ShardReader(tmp_path, state)).numbers[0].tolist() == [0, 0, 1, 1]


def test_rows_of_hits_are_found_in_every_shard(tmp_path: Path) -> None:
    with IndexWriter(tmp_path, spec()) as writer:
        first = [*moments("/media/a.mp4", 2), *moments("/media/b.mp4", 1), *items(2)]
        writer.journal(result(writer, first, unit_rows(5)))
        writer.publish()
        writer.journal(result(writer, moments("/media/c.mp4", 3), unit_rows(3, seed=1)))
        state = writer.publish()
    videos = Videos(state, ShardReader(tmp_path, state))
    shards = [number for number, entry in enumerate(state.shards) if entry.kind == "video"]
    image = next(number for number, entry in enumerate(state.shards) if entry.kind == "image")
    keys = videos.keys(np.array([shards[0], image, shards[1]]), np.array([0, 1, 2]))
    assert keys[0] == 0 and keys[1] < 0 and keys[2] == 2
    rows = HitKeys(videos, None, RowPlaces(state)).rows_of(keys)
    assert {shard: part.tolist() for shard, part in rows.items()} == {
        shards[0]: [0, 1],
        shards[1]: [0, 1, 2],
        image: [1],
    }


@given(seed=st.integers(0, 1000), k=st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_a_search_equals_brute_force(tmp_path_factory: pytest.TempPathFactory, seed: int, k: int) -> None:
    folder = tmp_path_factory.mktemp("brute")
    rows = make_index(folder, [("image", 60)])
    matrix = np.stack([rows[f"image-{n}"] for n in range(60)])
    direction = clustered(1, seed)[0]
    hits = search(opened(folder), Query(text="x", k=k), direction, NONE, None).hits
    scores = np.einsum("ij,j->i", matrix, direction)
    assert [hit.item.size for hit in hits] == np.lexsort((np.arange(60), -scores))[:k].tolist()


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cpu:0", ""])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(QueryError, match="unknown device"):
        check_device(device)


def test_a_gpu_that_is_not_here_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.state.gpu_count", lambda: 1)
    check_device("cuda")
    check_device("cuda:0")
    with pytest.raises(QueryError, match="cuda:1 is not here: this machine has 1"):
        check_device("cuda:1")


def test_answers_without_re_ranking_say_that_nothing_was_read(library: Path) -> None:
    done = answer(library, Query(text="x", k=2))
    assert replace(done, hits=()) == Answer(hits=())

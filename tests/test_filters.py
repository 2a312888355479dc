"""Filters against brute force over random facts, by flat and by inverted files: what passes, and in which order."""

from __future__ import annotations

import math
import random
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrieval.errors import QueryError
from retrieval.search import Calibrations, listed, search
from retrieval.state import IndexState
from retrieval.store.manifest import VectorPolicy, read_manifest
from retrieval.store.pattern import Pattern
from retrieval.store.writer import IndexWriter
from retrieval.types import Filter, Hit, Item, Near, Query, Sort
from tests.stores import clustered, remove_rows, result, spec, unit_rows

NONE = Calibrations(cosine=None, fused=None)
FOLDERS = ["", "holiday", "holiday/2023", "Holiday/2024", "old/holiday", "Café/photos", "été"]
CAMERAS = [None, "Apple iPhone 15", "Canon EOS 5D", "NIKON\x07 D750", "Zeiß Ikon"]
WORDS = ["the red car", "a Café in Paris", "RED  CAR at night", "nothing", "straße", "exact\nwords here"]
POINTS = [
    (48.85, 2.35),
    (48.9, 2.4),
    (51.5, -0.12),
    (0.0, 0.0),
    (math.nan, math.nan),
    (95.0, 10.0),
    (-33.9, 179.99),
    (-33.9, -179.99),
]
DAYS = [
    "0000-00-00T00:00:00",
    "1904-01-01T00:00:00",
    "2107-12-31T23:59:59",
    "2023-12-25T18:30:00",
    "nonsense",
    "2022-02-30T00:00:00",
]


def _facts(chance: random.Random) -> dict[str, Any]:
    latitude, longitude = chance.choice([(None, None), *POINTS])
    taken = (datetime(2021, 1, 1) + timedelta(seconds=chance.randrange(4 * 365 * 86_400))).isoformat()
    return {
        "taken_at": chance.choice([taken, taken, taken, None, *DAYS]),
        "camera": chance.choice(CAMERAS),
        "latitude": latitude,
        "longitude": longitude,
        "mtime_ns": chance.choice([0, 1_600_000_000_000_000_000 + chance.randrange(10**17)]),
    }


def _path(chance: random.Random, name: str) -> str:
    return "/".join(part for part in ("/media/Photos", chance.choice(FOLDERS), name) if part)


def make_items(seed: int) -> list[Item]:
    """Images, moments of videos, captions of both, and notes, all of random facts."""
    chance = random.Random(seed)
    rows: list[Item] = []
    for number in range(260):
        path = _path(chance, f"{chance.choice(['IMG', 'Été', 'scan'])}_{number:04}.jpg")
        rows.append(Item(id=f"i{number}", path=path, source=path, kind="image", **_facts(chance)))
        if chance.random() < 0.3:
            text = chance.choice(WORDS)
            rows.append(Item(id=f"c{number}", path=path, source=f"{path}.txt", kind="text", text=text, mtime_ns=5))
    for number in range(40):
        path, facts = _path(chance, f"film_{number:02}.mp4"), _facts(chance)
        for second in range(chance.randrange(1, 6)):
            rows.append(
                Item(
                    id=f"v{number}-{second}",
                    path=path,
                    source=path,
                    kind="video",
                    start=second,
                    end=second + 1,
                    **facts,
                )
            )
    for number in range(30):
        path = _path(chance, f"note {number}.md")
        text = " ".join(chance.choices(WORDS, k=2))
        rows.append(Item(id=f"n{number}", path=path, source=path, kind="text", text=text, mtime_ns=10**18 + number))
    return rows


class Library:
    """An index of random facts, some rows of it gone."""

    def __init__(self, folder: Path, policy: VectorPolicy) -> None:
        every = make_items(3)
        with IndexWriter(folder, spec()) as writer:
            writer.add_root("/media/Photos")
            for number, part in enumerate((every[:200], every[200:])):
                vectors = clustered(len(part), number)
                vectors[::7] = vectors[0]
                writer.journal(result(writer, part, vectors))
                writer.publish()
                if not number:
                    writer.rebuild_vectors(policy)
            remove_rows(writer, 0, np.array([1, 2, 30]))
        self.state = IndexState(folder, read_manifest(folder), "cpu")
        self.types = {entry.type[:4] for entry in self.state.manifest.vectors}
        shards, places = self.state.reader.living()
        self.items = self.state.reader.items(shards, places)
        self.by_path = {item.path: item for item in reversed(self.items) if item.kind != "text"}

    def hits(self, query: Query) -> tuple[Hit, ...]:
        return search(self.state, query, unit_rows(1, seed=8)[0], NONE, None).hits

    def moment(self, item: Item) -> datetime | None:
        """By its own date, else its media's, else its file's."""
        taken = _date(item.taken_at)
        if taken is None and item.kind == "text" and item.path in self.by_path:
            taken = self.moment(self.by_path[item.path])
        if taken is None and item.mtime_ns:
            return datetime.fromtimestamp(item.mtime_ns // 10**9)
        return taken

    def passes(self, item: Item, wanted: Filter) -> bool:
        """What a filter means, said another way."""
        about = self.by_path.get(item.path, item) if item.kind == "text" else item
        moment = self.moment(item)
        names = [_folded(part) for part in item.path.split("/")[2:-1]]
        kinds = wanted.kinds or ("image", "video")
        name = _folded(item.path.rsplit("/", 1)[1])
        about_it = [
            text for text in self.items if text.kind == "text" and item.kind != "text" and text.path == item.path
        ]
        said = [
            _folded(" ".join(words.split()))
            for words in (
                item.text or "",
                item.path.removeprefix("/media/Photos/"),
                *(text.text or "" for text in about_it),
            )
        ]
        return all(
            [
                item.kind in kinds,
                wanted.after is None or (moment is not None and moment >= wanted.after),
                wanted.before is None or (moment is not None and moment < wanted.before),
                not wanted.folders or any(_lies_in(names, _folded(folder).split("/")) for folder in wanted.folders),
                not wanted.names or any(_folded(part) in name for part in wanted.names),
                not wanted.cameras or any(_folded(part) in _folded(about.camera or "") for part in wanted.cameras),
                wanted.near is None or _distance(about, wanted.near) <= wanted.near.km,
                all(any(_folded(phrase) in words for words in said) for phrase in wanted.phrases),
                wanted.rating is None,
            ]
        )


def _date(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text is not None else None
    except ValueError:
        return None


def _folded(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(c))


def _lies_in(names: list[str], wanted: list[str]) -> bool:
    return any(names[at : at + len(wanted)] == wanted for at in range(len(names)))


def _distance(item: Item, near: Near) -> float:
    """By the chord, not the angle."""
    if item.latitude is None or item.longitude is None or near.latitude is None or near.longitude is None:
        return math.inf
    if item.latitude == item.longitude == 0 or not abs(item.latitude) <= 90:
        return math.inf

    def on_sphere(latitude: float, longitude: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        up, round_it = math.radians(latitude), math.radians(longitude)
        return np.array([math.cos(up) * math.cos(round_it), math.cos(up) * math.sin(round_it), math.sin(up)])

    chord = np.linalg.norm(on_sphere(item.latitude, item.longitude) - on_sphere(near.latitude, near.longitude))
    return 2 * 6371.0088 * math.asin(min(1, float(chord) / 2))


@pytest.fixture(scope="module", params=["flat", "ivf"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    made = Library(tmp_path_factory.mktemp(request.param), VectorPolicy(type=request.param))
    assert any(kind.startswith(request.param) for kind in made.types)
    return made


FOLDER_FILTERS = [("holiday",), ("Photos",), ("cafe",), ("HOLIDAY/2023", "été"), ("2023/holiday",), ("nowhere",)]
PHRASES = [("red car",), ("CAFE",), ("exact words", "e"), ("strasse",), ("holiday/2023",)]
circles = st.builds(
    Near,
    latitude=st.sampled_from([48.86, -33.9, 0.0]),
    longitude=st.sampled_from([2.35, 179.995, 0.0]),
    km=st.sampled_from([3.0, 20.0, 400.0]),
)
sorts = st.sampled_from(["relevance", "newest", "oldest"])
days = st.datetimes(datetime(2020, 6, 1), datetime(2025, 6, 1)).map(lambda moment: moment.replace(microsecond=0))
wanted_filters = st.builds(
    Filter,
    kinds=st.sampled_from([None, ("image",), ("video",), ("text",), ("image", "video", "text")]),
    after=st.none() | days | st.just(datetime(1904, 1, 1)),
    before=st.none() | days | st.just(datetime(2107, 1, 1)),
    folders=st.sampled_from([(), (), *FOLDER_FILTERS]),
    names=st.sampled_from([(), (), (), ("img",), ("ete_", "film"), ("0.",)]),
    cameras=st.sampled_from([(), (), (), ("iphone",), ("ZEISS",), ("canon", "nikon"), ("\x07",), ("x",)]),
    near=st.none() | circles,
    phrases=st.sampled_from([(), (), (), *PHRASES]),
)


@given(wanted=wanted_filters, k=st.integers(1, 400))
@settings(max_examples=150, deadline=None)
def test_what_passes_and_its_order_equal_brute_force(library: Library, wanted: Filter, k: int) -> None:
    every = library.hits(Query(text="x", k=5000, group=False, filter=Filter(kinds=wanted.kinds)))
    expected = [hit.item.id for hit in every if library.passes(hit.item, wanted)]
    found = library.hits(Query(text="x", k=k, group=False, filter=wanted))
    assert [hit.item.id for hit in found] == expected[:k]
    scores = {hit.item.id: hit.score for hit in every}
    assert all(hit.score == scores[hit.item.id] for hit in found)


@given(
    wanted=wanted_filters,
    k=st.integers(1, 60),
    more=st.integers(0, 60),
    sort=st.sampled_from(["relevance", "newest", "oldest"]),
)
@settings(max_examples=80, deadline=None)
def test_a_filter_alone_lists_by_date_and_a_shorter_list_is_the_beginning(
    library: Library, wanted: Filter, k: int, more: int, sort: Sort
) -> None:
    query = Query(filter=wanted, kind=None if wanted.kinds else "image", sort=sort, k=k)
    many = listed(library.state, replace(query, k=k + more)).hits
    assert repr(listed(library.state, query).hits) == repr(many[:k]), "NaN is not equal to itself"
    kinds = replace(wanted, kinds=wanted.kinds or ("image",))
    passing = [item for item in library.items if library.passes(item, kinds)]
    assert len(many) == min(k + more, len({item.path if item.kind == "video" else item.id for item in passing}))
    assert {hit.item.id for hit in many} <= {item.id for item in passing}
    moments = [library.moment(hit.item) for hit in many]
    dated = [moment for moment in moments if moment is not None]
    assert moments[: len(dated)] == sorted(dated, reverse=sort != "oldest"), "what has no date comes last"
    for hit in many:
        if hit.item.kind == "video":
            of_video = [item for item in passing if item.path == hit.item.path and item.kind == "video"]
            assert [moment.item.id for moment in hit.moments] == [item.id for item in of_video]


@given(
    wanted=wanted_filters, k=st.integers(1, 150), more=st.integers(0, 150), sort=st.sampled_from(["newest", "oldest"])
)
@settings(max_examples=60, deadline=None)
def test_the_best_hundred_are_sorted_by_date_whatever_k_is(
    library: Library, wanted: Filter, k: int, more: int, sort: Sort
) -> None:
    query = Query(text="x", filter=wanted, sort=sort, k=k)
    many = library.hits(replace(query, k=k + more))
    assert [hit.item.id for hit in library.hits(query)] == [hit.item.id for hit in many[:k]]
    best = library.hits(replace(query, k=400, sort="relevance"))
    assert {hit.item.id for hit in many[:100]} <= {hit.item.id for hit in best[:100]}
    assert len(many) == min(k + more, len(best))
    for first in (0, 100):
        dated = [
            moment for hit in many[first : first + 100 if not first else None] if (moment := library.moment(hit.item))
        ]
        assert dated == sorted(dated, reverse=sort == "newest")


def test_grouped_hits_of_a_filter_are_those_without_it_less_what_does_not_pass(library: Library) -> None:
    wanted = Filter(kinds=("video",), after=datetime(2022, 1, 1))
    every = library.hits(Query(text="x", kind="video", k=500))
    found = library.hits(Query(text="x", filter=wanted, k=500))
    assert [hit.item.id for hit in found] == [hit.item.id for hit in every if library.passes(hit.item, wanted)]


def with_columns(folder: Path, number: int, columns: dict[str, pa.Array]) -> None:
    """Let a shard have further columns, as a later version writes them."""
    file = folder / read_manifest(folder).shards[number].file
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.drop_columns(name) if name in table.column_names else table
        table = table.append_column(name, values)
    pq.write_table(table, file, row_group_size=512, compression=dict.fromkeys(table.column_names, "none"))


@pytest.fixture
def dogs(tmp_path: Path) -> Path:
    """Six pictures in two folders."""
    paths = [f"/media/{folder}/dog{number}.jpg" for number, folder in enumerate(["a", "a", "a", "b", "b", "b"])]
    rows = [Item(id=f"i{n}", path=path, source=path, kind="image", mtime_ns=10**18) for n, path in enumerate(paths)]
    with IndexWriter(tmp_path, spec()) as writer:
        writer.add_root("/media")
        writer.journal(result(writer, rows, unit_rows(6)))
        writer.publish()
    return tmp_path


def ids(folder: Path, wanted: Filter) -> list[str]:
    state = IndexState(folder, read_manifest(folder), "cpu")
    return sorted(hit.item.id for hit in listed(state, Query(filter=wanted)).hits)


def notes(folder: Path, wanted: Filter) -> Sequence[str]:
    return IndexState(folder, read_manifest(folder), "cpu").selections.notes(wanted)


def test_ratings_and_words_are_read_where_a_shard_has_them(dogs: Path) -> None:
    with_columns(
        dogs,
        0,
        {
            "rating": pa.array([None, 1, 3, 4, 5, 99], pa.int32()),
            "words": pa.array([None, "Rex\nMax Müller", None, "rex", None, None], pa.string()),
        },
    )
    assert ids(dogs, Filter(rating=4)) == ["i3", "i4", "i5"]
    assert ids(dogs, Filter(phrases=("REX",))) == ["i1", "i3"]
    assert ids(dogs, Filter(phrases=("rex", "max muller"))) == ["i1"]
    assert notes(dogs, Filter(rating=1)) == ()


def test_a_filter_on_a_fact_that_nothing_has_says_so(dogs: Path) -> None:
    for wanted, reason in (
        (Filter(near=Near(latitude=0, longitude=0)), "near:0,0~20km: only pictures that hold a place pass"),
        (Filter(cameras=("canon",)), "camera:canon: only pictures that name their camera pass"),
        (Filter(folders=("c", "d")), "nothing here passes in:c in:d"),
        (Filter(after=datetime(2107, 1, 1), folders=("a",)), "nothing here passes after:2107"),
    ):
        assert ids(dogs, wanted) == []
        (note,) = notes(dogs, wanted)
        assert reason in note
    assert notes(dogs, Filter(folders=("a",))) == ()


def test_rows_of_an_earlier_version_say_what_has_to_be_run(dogs: Path) -> None:
    table = pq.read_table(dogs / read_manifest(dogs).shards[0].file)
    if "rating" in table.column_names:
        pq.write_table(table.drop_columns("rating"), dogs / read_manifest(dogs).shards[0].file, row_group_size=512)
    assert ids(dogs, Filter(rating=1)) == []
    first, *_ = notes(dogs, Filter(rating=1))
    assert first == "6 items were indexed before ratings were read; bring them up to date with: mmsearch index FOLDER"


def test_a_folder_is_named_by_its_name_a_path_or_from_the_top(dogs: Path) -> None:
    assert ids(dogs, Filter(folders=("A",))) == ids(dogs, Filter(folders=("/media/a/",))) == ["i0", "i1", "i2"]
    assert ids(dogs, Filter(folders=("media/b",))) == ids(dogs, Filter(folders=("/b",))) == ["i3", "i4", "i5"]
    assert len(ids(dogs, Filter(folders=("media",)))) == 6
    assert ids(dogs, Filter(folders=("dog1.jpg",))) == ids(dogs, Filter(folders=("edia",))) == []


def test_names_may_hold_wildcards(dogs: Path) -> None:
    assert ids(dogs, Filter(names=("DOG?.jpg",))) == [f"i{n}" for n in range(6)]
    assert ids(dogs, Filter(names=("*3*", "dog4"))) == ["i3", "i4"]
    assert ids(dogs, Filter(names=("dog?",))) == []


def test_a_place_that_nobody_knows_is_an_error_with_names_like_it(dogs: Path) -> None:
    with pytest.raises(QueryError, match="Paris"):
        ids(dogs, Filter(near=Near(place="Pariss")))


@example(needle="0\x0b0", around="", rest="")
@example(needle="0 0", around="0\x1c0", rest="")
@given(needle=st.text(max_size=12).filter(str.strip), around=st.text(max_size=12), rest=st.text(max_size=12))
def test_a_pattern_is_found_in_whatever_holds_it(needle: str, around: str, rest: str) -> None:
    pattern = Pattern(needle)
    for text in (around + needle + rest, (around + needle + rest).upper().lower()):
        try:
            column = pa.array([text, None])
        except UnicodeEncodeError:
            continue
        assert pattern.mask(column).tolist() == [pattern.matches(text), False]
    assert pattern.matches(needle)


def test_a_phrase_of_ten_thousand_words_is_looked_for(dogs: Path) -> None:
    began = time.perf_counter()
    assert ids(dogs, Filter(phrases=(" ".join(["word"] * 10_000),))) == []
    assert Pattern("ab " * 1500).mask(pa.array(["x " + "ab  " * 1500, "ab"])).tolist() == [True, False]
    assert time.perf_counter() - began < 5


def test_a_phrase_is_found_in_the_texts_about_a_picture_and_in_the_moments_where_it_is_said(tmp_path: Path) -> None:
    """`"LH 441"` did not find the picture of the boarding pass whose recognised text has it."""
    rows = [Item(id=f"i{n}", path=f"/m/{n}.jpg", source=f"/m/{n}.jpg", kind="image") for n in range(3)]
    rows += [
        Item(id=f"v{n}", path="/m/a.mp4", source="/m/a.mp4", kind="video", start=10 * n, end=10 * n + 10)
        for n in range(4)
    ]
    texts = [("/m/1.jpg", "LH 441 Frankfurt", None, None), ("/m/2.jpg", "LH 4410", None, None),
             ("/m/a.mp4", "we take lh  441 home", 12.0, 14.0), ("/m/a.mp4", "a chapter", 0.0, 40.0)]  # fmt: skip
    rows += [
        Item(id=f"t{n}", path=path, source=f"{path}.txt", kind="text", text=text, start=start, end=end)
        for n, (path, text, start, end) in enumerate(texts)
    ]
    with IndexWriter(tmp_path, spec()) as writer:
        writer.add_root("/m")
        writer.journal(result(writer, rows, clustered(len(rows), 1)))
        writer.publish()
    assert sorted(ids(tmp_path, Filter(phrases=("LH 441 Frank",)))) == ["i1"]
    assert sorted(ids(tmp_path, Filter(phrases=("LH 441",)))) == ["i1", "i2", "v1"]
    assert sorted(ids(tmp_path, Filter(phrases=("a chapter",), kinds=("video",)))) == ["v0"], "one hit a video"
    assert ids(tmp_path, Filter(phrases=("LH 441", "nowhere"))) == []

"""The query line: what each part means, round trips, and lines that make no sense."""

from __future__ import annotations

import time
from datetime import date, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import QueryError
from retrieval.query import FILTERS, add_filters, hint, parse_region
from retrieval.types import Filter, Near, Query, Term


def test_every_part_of_the_contracts_line() -> None:
    line = (
        "after:2023-06 before:2024 in:holiday/2023 kind:image camera:iphone near:Paris~20km -people "
        '-"red car" "exact words" a dog in the snow'
    )
    assert Query.parse(line) == Query(
        text="a dog in the snow",
        negatives=("people", "red car"),
        filter=Filter(
            kinds=("image",),
            after=datetime(2023, 6, 1),
            before=datetime(2024, 1, 1),
            folders=("holiday/2023",),
            cameras=("iphone",),
            near=Near(place="Paris", km=20),
            phrases=("exact words",),
        ),
    )
    assert Query.parse("on:2023-12-25").filter == Filter(after="2023-12-25", before=date(2023, 12, 26))  # type: ignore[arg-type]
    assert Query.parse("on:2023-12").filter == Filter(after=datetime(2023, 12, 1), before=datetime(2024, 1, 1))
    assert Query.parse("rating:4 name:IMG_20*").filter == Filter(rating=4, names=("IMG_20*",))
    assert Query.parse("near:48.86,2.35").filter.near == Near(latitude=48.86, longitude=2.35)
    assert Query.parse('near:"New York"~5 in:"my holiday"').filter == Filter(
        near=Near(place="New York", km=5), folders=("my holiday",)
    )


def test_a_filter_given_twice_passes_either_and_dates_narrow() -> None:
    wanted = Query.parse(
        "in:a in:b kind:image kind:text kind:image camera:x camera:y after:2020 after:2021 before:2030 before:2025"
    )
    assert wanted.filter == Filter(
        folders=("a", "b"), kinds=("image", "text"), cameras=("x", "y"), after=datetime(2021, 1, 1), before=datetime(2025, 1, 1)
    )  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        "a dog in the snow",
        "16:9 picture of a clock at 10:30",
        "http://example.org foo:bar",
        'a 5" screen',
        "it's the dog's “own” bowl".replace("“own” ", ""),
        "semi-automatic well-kept",
        "C++ -- --sort",
        "lonely \" quote and ' another",
    ],
)
def test_what_is_no_filter_stays_words(line: str) -> None:
    assert Query.parse(line) == Query(text=line)
    assert Query.parse(str(Query.parse(line))) == Query(text=line)


def test_weights_as_users_of_rclip_write_them() -> None:
    assert Query.parse("2:beach + sunset - people").terms == (
        Term(text="beach", weight=2),
        Term(text="sunset"),
        Term(text="people", weight=-1),
    )
    assert str(Query.parse("2:beach + sunset - people")) == "2:beach + sunset - people"
    assert Query.parse('0.5:"golden retriever" in:garden + ball').terms == (
        Term(text="golden retriever", weight=0.5),
        Term(text="ball"),
    )
    assert Query.parse("a dog in:x + ").text == "a dog"
    assert Query.parse("2:beach + sunset - people").words == "beach sunset"


@pytest.mark.parametrize("quote", ['"%s"', "“%s”", "„%s“", "«%s»"])
def test_every_pair_of_quotes_makes_a_phrase(quote: str) -> None:
    assert Query.parse(f"dog {quote % 'exact words'}") == Query(text="dog", filter=Filter(phrases=("exact words",)))
    assert Query.parse(f"-{quote % 'exact words'} dog").negatives == ("exact words",)
    assert Query.parse(f"in:{quote % 'exact words'}").filter.folders == ("exact words",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("after:0000", "'0000' is no date; use a year, a month or a day"),
        ("after:2023-13", "no date"),
        ("on:2023-02-30", "no date"),
        ("before:yesterday", "no date"),
        ("after:٢٠٢٣", "no date"),
        ("after:", "after: needs a year, a month or a day"),
        ("in: holiday", "in: needs the name of a folder"),
        ('camera:""', "camera: needs a part of a camera's name"),
        ("kind:photo", "use image, video, text"),
        ("rating:6", "1 to 5"),
        ("rating:many", "1 to 5"),
        ("near:95,0", "latitudes are -90 to 90"),
        ("near:Paris~0km", "above 0"),
        ("near:~5", "needs a place"),
        ("near:Paris near:Rome", "one at a time"),
        ("near:1,2~x", "needs a place"),
        ("-in:holiday", "only words can be left out"),
        ("\x00 after:\x1f", "needs a year"),
    ],
)
def test_a_value_that_makes_no_sense_is_told_with_what_would(line: str, reason: str) -> None:
    with pytest.raises(QueryError) as caught:
        Query.parse(line)
    assert reason in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("year", ["0001", "1904", "2107", "9999"])
def test_years_far_away_are_dates(year: str) -> None:
    wanted = Query.parse(f"on:{year}").filter
    assert wanted.after == datetime(int(year), 1, 1)
    assert wanted.before == (None if year == "9999" else datetime(int(year) + 1, 1, 1))
    assert Query.parse(f"on:{year}-12-31").filter.after == datetime(int(year), 12, 31)


def test_a_line_of_ten_thousand_words_is_read_at_once() -> None:
    began = time.monotonic()
    line = "dog " * 10_000
    assert Query.parse(line) == Query(text=line.strip())
    assert len(Query.parse('"' * 20_001).filter.phrases) == 0
    assert len(Query.parse("“a " * 10_000).words or "") == 29_999
    assert len(Query.parse('"a" ' * 10_000).filter.phrases) == 1
    for odd in ('a"', "“„", '\\"', '-"', "in:„", '2:"a '):
        Query.parse(odd * 10_000)
    # What reads each word again from every mark takes minutes.
    assert time.monotonic() - began < 5


def test_an_option_and_the_filter_in_the_line_mean_the_same() -> None:
    asked = add_filters(Query.parse("dog in:a").filter, [("in", "b c"), ("after", "2023"), ("near", "1,2~3")])
    assert asked == Query.parse('in:a in:"b c" after:2023 near:1,2~3').filter
    with pytest.raises(QueryError, match="no filter 'colour'; the filters are after:, before:"):
        add_filters(Filter(), [("colour", "red")])


def test_words_that_negate_get_a_hint() -> None:
    assert hint(Query.parse("a man without glasses")) == "to leave out glasses, write -glasses"
    assert hint(Query.parse("beach, no people")) == "to leave out people, write -people"
    assert hint(Query.parse("a man without a hat")) == "to leave out hat, write -hat"
    for line in ("a man -glasses", "a knot in a rope", "in:2023", "nothing there", "number no 5"):
        assert hint(Query.parse(line)) is None


def test_a_region_is_four_fractions() -> None:
    assert parse_region("0.25, 0.25,0.5,0.75") == (0.25, 0.25, 0.5, 0.75)
    for text in ("1,2,3", "a,b,c,d", "0.5,0,0.6,1", "0,0,0,1", "-0.1,0,1,1", "nan,0,1,1", ""):
        with pytest.raises(QueryError, match=r"region"):
            parse_region(text)


text = st.text(max_size=30)
odd = st.text(alphabet=st.sampled_from(list("ab:-+\"\\ “”„«»~,.12*/'\t\n\x00\x1f\xa0é")), max_size=25)
prefixes = st.sampled_from([*(f"{name}:" for name in FILTERS), "-", '"', "2:", "+ ", "- ", "\\", "0.25:", ""])
pieces = st.lists(st.tuples(prefixes, st.one_of(text, odd)), max_size=6)


@given(pieces)
@settings(max_examples=400, deadline=None)
def test_a_query_prints_as_a_line_that_makes_it(parts: list[tuple[str, str]]) -> None:
    try:
        query = Query.parse(" ".join(prefix + value for prefix, value in parts))
    except QueryError:
        return
    assert Query.parse(str(query)) == query


words = st.lists(st.text(min_size=1, max_size=8).filter(lambda t: t.split() == [t]), min_size=1, max_size=4).map(
    " ".join
)
days = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda moment: moment.replace(microsecond=0))
values = st.lists(words, max_size=2).map(tuple)
places = st.builds(
    Near, latitude=st.floats(-90, 90), longitude=st.floats(-180, 180), km=st.floats(0.001, 20_000)
) | st.builds(Near, place=st.from_regex(r"[A-Za-zé]{1,9}( [a-z]{2,8})?", fullmatch=True), km=st.floats(0.001, 20_000))
terms = st.builds(Term, text=words, weight=st.floats(0.01, 1000) | st.floats(-1000, -0.01))
filters = st.builds(
    Filter,
    kinds=st.none() | st.sampled_from([("image",), ("video", "text")]),
    after=st.none() | days,
    before=st.none() | days,
    folders=values,
    names=values,
    cameras=values,
    near=st.none() | places,
    rating=st.none() | st.integers(1, 5),
    phrases=values,
)


@given(
    text=st.none() | words,
    terms=st.lists(terms, max_size=3).map(tuple),
    negatives=st.lists(words, max_size=3, unique=True).map(tuple),
    wanted=filters,
)
@settings(max_examples=400, deadline=None)
def test_a_query_of_a_program_prints_as_the_line_that_makes_it(
    text: str | None, terms: tuple[Term, ...], negatives: tuple[str, ...], wanted: Filter
) -> None:
    query = Query(text=text, terms=terms, negatives=negatives, filter=wanted)
    assert Query.parse(str(query)) == query

"""The search line of the page: the same grammar as the server's, filters as chips, completion, and searches that are kept."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from retrieval.errors import QueryError
from retrieval.query import FILTERS, parse
from retrieval.types import Query
from tests.browsers import tab_of

LINES = [
    "", " ", "a cat", "after:2023", "after:2023 a cat", "a cat after:2023-06 before:2024", "AFTER:2023 In:Holiday x",
    'in:"summer trip" beach', 'in:"a \\"b\\" c" x', 'in:"unclosed beach', 'a" in:"x', 'in:"a"b c', 'a "in:x y" b', '"a"in:x b',
    '-"in:x y" camera:z', "-people camera:iphone", "--x in:y", "-", "- in:x a", "beach + sunset in:x", "beach - people on:2024",
    "2:beach + sunset", '2:"beach in:x" + in:y sun', "2:in:x y", "0:a in:x", "a 2:b in:x", '2:"a in:x b', "\\after:2023 x",
    "\\-5 in:x", "\\", "16:9 10:30 in:x", "“in:x y” in:„a b“ c", "«in:x» in:«a b»", "in:“a b” c", "near:48.86,2.35~5km x",
    "near:Paris near:Berlin", "kind:image kind:video", "kind:nothing", "after:", "after: 2023", "in:\u00a0x\u2003y", "in:x\u1680y",
    "in:x\ufeffy z", "in:x\x1cy", "rating:4 name:*.heic", "-after:2023", "x:y in:z", "in:a\\b", 'in:"a\\\\b c"', '"" in:x',
    "😀 in:😀 x", "é:in:x", "½:in:x y", "1:½a in:x",
]  # fmt: skip
PIECES = [
    "in:", "after:2023", "camera:", "near:Paris", '"', "“", "”", "„", "«", "»", "\\", "-", "+", "2:", "0.5:", ":", " ", " ", "\u3000",
    "a", "bc", "é", "kind:image", "IN:", "\ufeff", "~", "9",
]  # fmt: skip


@pytest.fixture(scope="module")
def blank(browser: Browser, address: str) -> Any:
    with tab_of(browser, address) as tab:
        tab.open()
        tab.page.evaluate(
            "async () => { const src = document.querySelector('script[type=module]').src;"
            " window.line = await import(src.replace('main.js', 'line.js')); }"
        )
        yield tab.page


def meant(line: str) -> Query | str:
    try:
        return parse(line)
    except QueryError:
        return "an error"


def check(page: Page, lines: list[str]) -> None:
    parts = page.evaluate(
        "(lines) => lines.map((text) => { const { filters, rest } = line.split(text);"
        " return [filters.map(({ name, value }) => [name, value]), rest, line.join(filters, rest)]; })",
        lines,
    )
    for text, (filters, rest, joined) in zip(lines, parts, strict=True):
        wanted = meant(text)
        assert meant(joined) == wanted, (text, joined)
        if isinstance(wanted, Query):
            assert all(name in FILTERS for name, _ in filters)
            bare = meant(rest)
            assert isinstance(bare, Query), (text, rest)
            # No filter is left among the words, and no words went with the filters.
            phrases = wanted.filter.phrases
            assert bare.filter == Query.parse("").filter if not phrases else bare.filter.phrases == phrases, (
                text,
                rest,
            )
            assert (bare.terms, bare.text, bare.negatives) == (wanted.terms, wanted.text, wanted.negatives), (
                text,
                rest,
            )


def test_the_page_reads_a_line_as_the_server_does(blank: Page) -> None:
    check(blank, LINES)
    shuffled = random.Random(4)
    check(blank, ["".join(shuffled.choices(PIECES, k=shuffled.randint(1, 14))) for _ in range(3000)])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.text(st.sampled_from(' ":-+\\inafter2«“”é\u3000'), max_size=40))
def test_the_page_reads_any_line_as_the_server_does(blank: Page, line: str) -> None:
    check(blank, [line])


def test_a_long_line_is_read_in_time_that_follows_its_length(blank: Page) -> None:
    took = blank.evaluate(
        "() => { const text = 'in:\"a '.repeat(50000), began = performance.now(); line.split(text); return performance.now() - began; }"
    )
    assert took < 3000

"""The search line of the page: the same grammar as the server's, filters as chips, completion, and searches that are kept."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from retrieval.errors import QueryError
from retrieval.query import FILTERS, parse
from retrieval.types import Query
from tests.browsers import MadeUpServer, query_of, tab_of
from tests.test_page_access import no_finding

LINES = [
    "", " ", "a cat", "after:2023", "after:2023 a cat", "a cat after:2023-06 before:2024", "AFTER:2023 In:Holiday x",
    'in:"summer trip" beach', 'in:"a \\"b\\" c" x', 'in:"unclosed beach', 'a" in:"x', 'in:"a"b c', 'a "in:x y" b', '"a"in:x b',
    '-"in:x y" camera:z', "-people camera:iphone", "--x in:y", "-", "- in:x a", "beach + sunset in:x", "beach - people on:2024",
    "2:beach + sunset", '2:"beach in:x" + in:y sun', "2:in:x y", "0:a in:x", "a 2:b in:x", '2:"a in:x b', "\\after:2023 x",
    "\\-5 in:x", "\\", "16:9 10:30 in:x", "“in:x y” in:„a b“ c", "«in:x» in:«a b»", "in:“a b” c", "near:48.86,2.35~5km x",
    "near:Paris near:Berlin", "kind:image kind:video", "kind:nothing", "after:", "after: 2023", "in:\u00a0x\u2003y",
    "in:x\u1680y",
    "in:x\ufeffy z", "in:x\x1cy", "rating:4 name:*.heic", "-after:2023", "x:y in:z", "in:a\\b", 'in:"a\\\\b c"', '"" in:x',
    "😀 in:😀 x", "é:in:x", "½:in:x y", "1:½a in:x",
]  # fmt: skip
PIECES = [
    "in:", "after:2023", "camera:", "near:Paris", '"', "“", "”", "„", "«", "»", "\\", "-", "+", "2:", "0.5:", ":", " ", " ",
    "\u3000",
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
        "() => { const text = 'in:\"a '.repeat(50000), began = performance.now();"
        " line.split(text); return performance.now() - began; }"
    )
    assert took < 3000


def chips(page: Page) -> list[str]:
    return page.locator(".chip.filter .value").all_text_contents()


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_filters_become_chips_as_they_are_typed(browser: Browser, address: str, width: int) -> None:
    with tab_of(browser, address, width, 800) as tab:
        server = MadeUpServer(tab.page, total=9)
        page = tab.open()
        words = page.locator("#words")
        words.click()
        page.keyboard.type("after:2023")
        expect(page.locator(".chip")).to_have_count(0)
        page.keyboard.type(" ")
        assert chips(page) == ["after:2023"] and words.input_value() == ""
        page.keyboard.type('a cat in:"summer ')
        assert chips(page) == ["after:2023"], "what is quoted has no end yet"
        page.keyboard.type('trip" ')
        assert chips(page) == ["after:2023", 'in:"summer trip"'] and words.input_value() == "a cat "
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("9 found")
        assert query_of(page) == {"q": 'after:2023 in:"summer trip" a cat'}
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        no_finding(page)
        # Backspace before the words takes the last filter back.
        words.click()
        page.keyboard.press("Home")
        page.keyboard.press("Backspace")
        assert chips(page) == ["after:2023"] and words.input_value() == 'in:"summer trip" a cat'
        page.keyboard.press("Enter")
        expect(page.locator(".chip.filter")).to_have_count(2)
        # A filter is changed by a click on it, and gone by one on its mark.
        page.get_by_role("button", name="after:2023", exact=True).click()
        assert words.input_value() == "after:2023 a cat"
        for _ in range(4):
            page.keyboard.press("Backspace")
        page.keyboard.type("2024 ")
        assert chips(page) == ['in:"summer trip"', "after:2024"] and words.input_value() == "a cat"
        searched = server.asked.count("/api/search")
        page.get_by_label('Search without in:"summer trip"').click()
        expect(page.locator(".chip.filter")).to_have_count(1)
        assert query_of(page) == {"q": "after:2024 a cat"}
        assert server.asked.count("/api/search") == searched + 1
        page.go_back()
        expect(page.locator(".chip.filter")).to_have_count(2)


@pytest.mark.parametrize("width", [1280, 390])
def test_filters_and_their_values_are_completed_by_keys(browser: Browser, address: str, width: int) -> None:
    facets = {
        "years": {"2024": 3, "2023": 9}, "months": {"2024-02": 3, "2023-07": 9}, "folders": {"trips": 9, "trips/são paulo": 4},
        "cameras": {"Canon EOS R6": 8, "<b>Leica</b>": 1}, "places": {"Paris, Île-de-France, France": 7},
        "kinds": {"image": 12},
    }  # fmt: skip
    with tab_of(browser, address, width, 800) as tab:
        MadeUpServer(tab.page, total=9)
        tab.page.route("**/api/facets*", lambda route: route.fulfill(json=facets))
        page = tab.open()
        words, options = page.locator("#words"), page.locator("#suggestions").get_by_role("option")
        words.click()
        page.keyboard.type("ca")
        expect(options).to_have_text(["camera:a part of the camera's name", re.compile('camera:"Canon EOS R6"8 items')])
        assert words.get_attribute("aria-expanded") == "true"
        no_finding(page)
        page.keyboard.press("ArrowDown")
        assert words.get_attribute("aria-activedescendant") == options.first.get_attribute("id")
        page.keyboard.press("Enter")
        assert words.input_value() == "camera:"
        expect(options).to_have_text(['camera:"Canon EOS R6"8 items', re.compile("camera:<b>Leica</b>1 item")])
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Enter")
        assert chips(page) == ["camera:<b>Leica</b>"] and words.input_value() == ""
        # Without diacritics, in the middle of a path, and of a place its name alone.
        page.keyboard.type("in:sao")
        expect(options).to_have_count(1)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.keyboard.type("a cat par")
        expect(options).to_have_text(["near:Paris7 items"])
        options.first.click()
        assert chips(page) == ["camera:<b>Leica</b>", 'in:"trips/são paulo"', "near:Paris"]
        assert words.input_value() == "a cat "
        page.keyboard.type("on:")
        expect(options).to_have_text(["on:20243 items", "on:20239 items", "on:2024-023 items", "on:2023-079 items"])
        page.keyboard.press("Escape")
        expect(options).to_have_count(0)
        for _ in range(3):
            page.keyboard.press("Backspace")
        page.keyboard.press("Enter")
        assert query_of(page) == {"q": 'camera:<b>Leica</b> in:"trips/são paulo" near:Paris a cat'}
        # Nothing is suggested where nothing fits, and the arrow leads into the results.
        expect(page.locator("#said")).to_contain_text("9 found")
        page.keyboard.press("ArrowDown")
        assert page.evaluate("document.activeElement.className") == "tile"


def test_searches_are_remembered_kept_and_handed_on(browser: Browser, address: str) -> None:
    with tab_of(browser, address, permissions=["clipboard-read", "clipboard-write"]) as tab:
        MadeUpServer(tab.page, total=9)
        page = tab.open("/?q=red+car+after%3A2023&sort=newest")
        expect(page.locator("#said")).to_contain_text("9 found")
        page.get_by_role("button", name="Save this search").click()
        expect(page.get_by_role("button", name="Do not keep this search")).to_have_attribute("aria-pressed", "true")
        page.goto(tab.home + "/?q=blue+sky")
        expect(page.locator("#said")).to_contain_text("9 found")
        page.goto(tab.home + "/")
        start = page.locator("#start")
        assert start.locator("p", has_text=re.compile("^Searches")).get_by_role("link").all_text_contents() == [
            "blue sky", "red car after:2023 · newest"
        ]  # fmt: skip
        kept = start.locator("p", has_text="Your searches")
        assert kept.get_by_role("link").all_text_contents() == ["red car after:2023 · newest"]
        page.locator("#words").click()
        page.keyboard.type("blu")
        expect(page.locator("#suggestions").get_by_role("option")).to_have_text(["blue skysearched before"])
        page.keyboard.press("Escape")
        kept.get_by_role("button", name="Copy as a link").click()
        expect(kept.get_by_role("button", name="Copied")).to_be_visible()
        link = page.evaluate("navigator.clipboard.readText()")
    with tab_of(browser, address) as other:
        MadeUpServer(other.page, total=9)
        page = other.page
        page.goto(link)
        kept = page.locator("#start p", has_text="Your searches")
        assert kept.get_by_role("link").all_text_contents() == ["red car after:2023 · newest"]
        assert page.url == f"{address}/"
        kept.get_by_role("link").click()
        expect(page.locator("#said")).to_contain_text("9 found")
        assert query_of(page) == {"q": "red car after:2023", "sort": "newest"}
        # What makes no sense in such a link is not taken.
        page.goto(address + '/#saved=["https%3A%2F%2Fexample.org","/?q=fine",7]')
        page.reload()
        texts = page.locator("#start p", has_text="Your searches").get_by_role("link")
        expect(texts).to_have_text(["red car after:2023 · newest", "fine"])

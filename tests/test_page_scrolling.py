"""The grid of the page: whatever the size of the window, scrolling comes to the last result, and the end is told truly."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import MadeUpServer, Tab, made_up_hit, tab_of, tiles

SIZES = [
    (320, 568), (375, 667), (427, 240), (768, 1024), (1024, 768), (1280, 720), (1366, 768), (1440, 900), (1920, 1080),
    (2560, 1440), (3840, 2160),
]  # fmt: skip


def scroll_to_the_end(page: Page, total: int) -> None:
    """Scroll as a hand does until all are there; what makes no progress any more ends the test."""
    page.locator("#grid").hover()
    seen = rest = 0
    while seen < total and rest < 100:
        page.mouse.wheel(0, 700)
        page.wait_for_timeout(60)
        count = tiles(page).count()
        rest = rest + 1 if count == seen else 0
        seen = count
    assert seen == total


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_window_reaches_the_last_result(browser: Browser, address: str, width: int, height: int) -> None:
    with tab_of(browser, address, width, height) as tab:
        MadeUpServer(tab.page, total=408)
        page = tab.open("/?q=colours")
        expect(page.locator("#said")).to_contain_text("found")
        scroll_to_the_end(page, 408)
        expect(page.locator("#said")).to_contain_text("408 found")
        names = page.eval_on_selector_all("#grid a.tile", "(all) => all.map((one) => one.getAttribute('aria-label'))")
        assert len(set(names)) == 408
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_last_result_is_reached_over_the_real_server(tab: Tab) -> None:
    page = tab.open("/?q=colours")
    expect(page.locator("#said")).to_contain_text("found")
    for _ in range(200):
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(60)
        if "the best" not in (page.locator("#said").text_content() or "the best"):
            break
    names = page.eval_on_selector_all("#grid a.tile", "(all) => all.map((one) => one.getAttribute('href'))")
    assert len(names) > 80 and len(set(names)) == len(names)


def test_a_window_that_grows_is_filled(browser: Browser, address: str) -> None:
    with tab_of(browser, address, 800, 300) as tab:
        MadeUpServer(tab.page, total=408)
        page = tab.open("/?q=colours")
        expect(page.locator("#said")).to_contain_text("found")
        before = tiles(page).count()
        page.set_viewport_size({"width": 2560, "height": 1440})
        expect(tiles(page).nth(before)).to_be_attached()
        page.wait_for_function("() => document.querySelector('#grid').getBoundingClientRect().bottom > innerHeight")


def test_a_page_of_results_that_fails_is_told_and_tried_again_by_hand(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=200)
        page = tab.open("/?q=colours")
        expect(page.locator("#said")).to_contain_text("found")
        page.wait_for_timeout(300)
        server.hold = lambda path: path == "/api/search"
        while not server.held:
            page.mouse.wheel(0, 3000)
            page.wait_for_timeout(50)
        count = tiles(page).count()
        server.release(status=0)
        expect(page.locator("#said")).to_have_text("More results could not be had: the server does not answer")
        assert tiles(page).count() == count
        server.hold = lambda _: False
        page.get_by_role("button", name="Try again").click()
        scroll_to_the_end(page, 200)
        tab.wrong.clear()


def test_a_busy_server_is_asked_again_without_a_word_from_anybody(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=30)
        server.hold = lambda path: path == "/api/search"
        page = tab.open("/?q=colours")
        for _ in range(2):
            page.wait_for_timeout(50)
            while not server.held:
                page.wait_for_timeout(50)
            server.release(status=503)
            expect(page.locator("#said")).to_contain_text("busy")
        while not server.held:
            page.wait_for_timeout(50)
        server.release()
        expect(page.locator("#said")).to_contain_text("30 found")


def test_the_end_of_the_pages_is_not_called_the_number_found(browser: Browser, address: str) -> None:
    answer = {
        "hits": [made_up_hit("some", number) for number in range(20)], "next": None, "more": True, "truncated": True,
        "picture": None, "milliseconds": 1.0, "model": "made-up",
    }  # fmt: skip
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page)
        tab.page.route("**/api/search", lambda route: route.fulfill(json=answer))
        page = tab.open("/?q=colours")
        expect(page.locator("#said")).to_contain_text(
            "The best 20 are shown, best first; narrow the search to see others"
        )
        expect(page.locator("#said")).to_contain_text("only the first count")


def test_words_that_are_too_many_are_told_and_none_is_cut(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=3)
        page = tab.open()
        long = "word " * 380
        page.locator("#words").fill(long)
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("found")
        assert page.locator("#words").input_value() == long, "1,900 characters are searched for as they are"
        asked = server.asked.count("/api/search")
        page.locator("#words").fill("word " * 500)
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("2,000 characters at most")
        assert len(page.locator("#words").input_value()) == 2500 and server.asked.count("/api/search") == asked


def test_the_switch_is_out_where_re_ranking_does_nothing(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=3)
        page = tab.open("/?q=colours&rerank=1")
        expect(page.locator("#rerank")).to_be_checked()
        page.get_by_role("radio", name="Texts", exact=True).check()
        expect(page.locator("#rerank")).to_be_disabled()
        expect(page.locator("#rerank")).not_to_be_checked()
        page.get_by_role("radio", name="Pictures", exact=True).check()
        expect(page.locator("#rerank")).to_be_checked()
        page.goto(f"{tab.home}/?like=some-1&rerank=1")
        expect(page.locator("#rerank")).to_be_disabled()

"""The grid of the page: whatever the size of the window, scrolling comes to the last result, and the end is told truly."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import MadeUpServer, Tab, made_up_hit, tab_of, tiles

SIZES = [
    (320, 568), (375, 667), (427, 240), (768, 1024), (1024, 768), (1280, 720), (1366, 768), (1440, 900), (1920, 1080),
    (2560, 1440), (3840, 2160),
]  # fmt: skip


LABELS = "(all) => all.map((one) => one.getAttribute('aria-label'))"


def scroll_to_the_end(page: Page, total: int) -> set[str]:
    """Scroll as a hand does until all have been there, and give their names; what makes no progress any more ends the test."""
    page.mouse.move(*page.evaluate("[innerWidth / 2, innerHeight / 2]"))
    names: set[str] = set()
    rest = 0
    while len(names) < total and rest < 100:
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(60)
        # However busy this machine is: what is seen after two frames is what a person sees.
        page.evaluate("new Promise((seen) => requestAnimationFrame(() => requestAnimationFrame(seen)))")
        before = len(names)
        names.update(tiles(page).evaluate_all(LABELS))
        rest = rest + 1 if len(names) == before else 0
    assert len(names) == total
    return names


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_window_reaches_the_last_result(browser: Browser, address: str, width: int, height: int) -> None:
    with tab_of(browser, address, width, height) as tab:
        MadeUpServer(tab.page, total=408)
        page = tab.open("/?q=colours")
        expect(page.locator("#said")).to_contain_text("found")
        names = scroll_to_the_end(page, 408)
        expect(page.locator("#said")).to_contain_text("408 found")
        assert {name.partition(".")[0] for name in names} == {f"colours-{number}" for number in range(408)}
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_last_result_is_reached_over_the_real_server(tab: Tab) -> None:
    page = tab.open("/?q=colours")
    expect(page.locator("#said")).to_contain_text("found")
    for _ in range(200):
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(60)
        if "the best" not in (page.locator("#said").text_content() or "the best"):
            break
    last = page.locator("#grid > li").last
    assert last.get_attribute("aria-posinset") == last.get_attribute("aria-setsize")
    assert int(last.get_attribute("aria-setsize") or 0) > 80


def test_a_window_that_grows_is_filled(browser: Browser, address: str) -> None:
    with tab_of(browser, address, 800, 300) as tab:
        MadeUpServer(tab.page, total=408)
        page = tab.open("/?q=colours")
        expect(page.locator("#said")).to_contain_text("found")
        page.set_viewport_size({"width": 2560, "height": 1440})
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
        size = tiles(page).first.locator("..").get_attribute("aria-setsize")
        server.release(status=0)
        expect(page.locator("#said")).to_contain_text("More results could not be had: the server does not answer")
        assert tiles(page).first.locator("..").get_attribute("aria-setsize") == size
        server.hold = lambda _: False
        page.get_by_role("button", name="Try again").click()
        page.keyboard.press("Control+Home")
        page.evaluate("scrollTo(0, 0)")
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


LIST = 100_000


def numbers(page: Page) -> list[int]:
    """Which results are in the document."""
    return [
        int(one) for one in page.locator("#grid > li").evaluate_all("(all) => all.map((one) => one.dataset.number)")
    ]


def in_view(page: Page) -> int:
    """The first result below the head that has come."""
    return int(
        page.evaluate(
            """() => {
                const head = document.querySelector("header").getBoundingClientRect().bottom;
                const all = [...document.querySelectorAll("#grid > li:has(a)")];
                const one = all.find((item) => item.getBoundingClientRect().bottom > head + 1);
                return one ? Number(one.dataset.number) : -1;
            }"""
        )
    )


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_a_hundred_thousand_results_are_as_high_as_all_and_few_of_them_there(
    browser: Browser, address: str, width: int
) -> None:
    with tab_of(browser, address, width, 900) as tab:
        server = MadeUpServer(tab.page, total=LIST)
        page = tab.open("/?q=in:all")
        expect(page.locator("#said")).to_contain_text("100,000 found, newest first")
        expect(tiles(page).first).to_have_attribute("aria-label", "all-0.jpg, maybe relevant")
        height = page.evaluate("document.documentElement.scrollHeight")
        assert height > 900 * 100
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        page.wait_for_function(
            "() => [...document.querySelectorAll('#grid > li a')]"
            ".some((one) => /^all-(4[89]|5[012])/.test(one.getAttribute('aria-label')))"
        )
        assert len(numbers(page)) < 250
        assert server.asked.count("/api/search") < 12, "what nobody sees is not asked for"
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(page.locator("#grid > li").last.locator("a")).to_have_attribute(
            "aria-label", f"all-{LIST - 1}.jpg, maybe relevant"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        # Back at the top are the first ones.
        page.evaluate("scrollTo(0, 0)")
        expect(tiles(page).first).to_have_attribute("aria-label", "all-0.jpg, maybe relevant")


def test_flinging_through_asks_for_little(browser: Browser, address: str) -> None:
    with tab_of(browser, address, 1280, 900) as tab:
        server = MadeUpServer(tab.page, total=LIST)
        page = tab.open("/?q=in:all")
        expect(tiles(page).first).to_be_visible()
        page.evaluate(
            """async () => { for (let step = 0; step < 200; step += 1) {
                scrollBy(0, 9000); await new Promise((resolve) => requestAnimationFrame(resolve)); } }"""
        )
        page.wait_for_function(
            "() => [...document.querySelectorAll('#grid > li')].every((one) => one.querySelector('a'))"
        )
        # Of some six hundred blocks that flew past. A slow machine draws few frames, and rests at more of them.
        assert server.asked.count("/api/search") < 150


def test_what_is_looked_at_stays_where_it_is_while_others_come(browser: Browser, address: str) -> None:
    with tab_of(browser, address, 1280, 900) as tab:
        server = MadeUpServer(tab.page, total=5000)
        page = tab.open("/?q=in:all")
        expect(tiles(page).first).to_be_visible()
        server.hold = lambda path: path == "/api/search"
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 2)")
        while len(server.held) < 1:
            page.wait_for_timeout(30)
        page.wait_for_timeout(200)
        while server.held:
            server.release()
            page.wait_for_timeout(150)
        server.hold = lambda _: False
        page.wait_for_function(
            "() => [...document.querySelectorAll('#grid > li')].every((one) => one.querySelector('a'))"
        )
        at = in_view(page)
        place = f"document.querySelector('#grid > li[data-number=\"{at}\"]').getBoundingClientRect().top"
        before = page.evaluate(place)
        page.wait_for_timeout(500)
        assert page.evaluate(place) == before
        # A little way up are results that have not come yet: what is in view does not move when they do.
        page.mouse.move(600, 500)
        page.mouse.wheel(0, -900)
        page.wait_for_timeout(150)
        at = in_view(page)
        place = f"document.querySelector('#grid > li[data-number=\"{at}\"]').getBoundingClientRect().top"
        seen = [page.evaluate(place)]
        for _ in range(8):
            page.wait_for_timeout(60)
            seen.append(page.evaluate(place))
        assert max(seen) - min(seen) <= 1


def test_keys_walk_a_list_to_its_end_and_back(browser: Browser, address: str) -> None:
    with tab_of(browser, address, 1280, 900) as tab:
        MadeUpServer(tab.page, total=LIST)
        page = tab.open("/?q=in:all")
        tiles(page).first.focus()
        focused = "document.activeElement.getAttribute('aria-label')"
        page.keyboard.press("End")
        page.wait_for_function(f"() => {focused} === 'all-{LIST - 1}.jpg, maybe relevant'")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate(focused) == f"all-{LIST - 2}.jpg, maybe relevant"
        page.keyboard.press("Home")
        page.wait_for_function(f"() => {focused} === 'all-0.jpg, maybe relevant'")
        page.keyboard.press("PageDown")
        page.wait_for_timeout(300)
        label = page.evaluate(focused)
        assert 5 < int(label.split("-")[1].split(".")[0]) < 60
        box = page.evaluate(
            "(() => { const { top, bottom } = document.activeElement.getBoundingClientRect(); return [top, bottom]; })()"
        )
        assert box[0] > 60 and box[1] <= 900
        page.keyboard.press("Enter")
        expect(page.locator("#viewer")).to_be_visible()
        # The one tile that the tab key comes to is always there.
        page.keyboard.press("Escape")
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight / 3)")
        page.wait_for_timeout(300)
        assert page.locator("#grid a[tabindex='0']").count() == 1


@pytest.mark.parametrize("width", [1280, 390])
def test_the_strip_of_dates_leads_to_a_year(browser: Browser, address: str, width: int) -> None:
    with tab_of(browser, address, width, 900) as tab:
        MadeUpServer(tab.page, total=LIST)
        page = tab.open("/?q=in:all")
        strip = page.get_by_role("slider", name="Date")
        expect(strip).to_be_visible()
        expect(strip).to_have_attribute("aria-valuetext", "Dec 2024")
        box = strip.bounding_box()
        assert box
        # Four years of as many photos each: three quarters down is the last but one.
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.76)
        page.wait_for_function(
            "() => [...document.querySelectorAll('#grid > li a')].some((one) => /^all-76/.test(one.getAttribute('aria-label')))"
        )
        expect(strip).to_have_attribute("aria-valuetext", "Dec 2021")
        assert abs(in_view(page) - 76_000) < 40
        strip.focus()
        page.keyboard.press("Home")
        expect(tiles(page).first).to_have_attribute("aria-label", "all-0.jpg, maybe relevant")
        page.keyboard.press("PageDown")
        expect(strip).to_have_attribute("aria-valuetext", "Dec 2023")
        page.wait_for_timeout(300)
        assert abs(in_view(page) - 25_000) < 40
        page.keyboard.press("ArrowDown")
        expect(strip).to_have_attribute("aria-valuetext", "Nov 2023")


def test_a_result_that_has_not_come_opens_when_it_has(browser: Browser, address: str) -> None:
    with tab_of(browser, address, 1280, 900) as tab:
        MadeUpServer(tab.page, total=1000)
        page = tab.open("/?q=in:all")
        tiles(page).first.click()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#name")).to_have_text("all-1.jpg")
        page.keyboard.press("Escape")
        tiles(page).first.focus()
        page.keyboard.press("End")
        page.wait_for_function(
            "() => document.activeElement.getAttribute('aria-label') === 'all-999.jpg, maybe relevant'"
        )
        page.keyboard.press("Enter")
        expect(page.locator("#name")).to_have_text("all-999.jpg")
        page.keyboard.press("ArrowLeft")
        expect(page.locator("#name")).to_have_text("all-998.jpg")
        expect(page.locator("#position")).to_have_text(re.compile("999 of 1,?000"))


def test_a_film_plays_its_moment_under_the_mouse_unless_motion_is_reduced(browser: Browser, address: str) -> None:
    for how, count in (({}, 1), ({"reduced_motion": "reduce"}, 0)):
        with tab_of(browser, address, 1280, 900, **how) as tab:
            page = tab.open("/?kind=video")
            expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^film"))
            tiles(page).first.hover()
            page.wait_for_timeout(700)
            video = page.locator("#grid video")
            assert video.count() == count
            if count:
                page.wait_for_function(
                    "() => { const one = document.querySelector('#grid video'); return !one.paused && one.currentTime > 0; }"
                )
                assert video.evaluate("(one) => one.muted")
                page.mouse.move(5, 5)
                expect(video).to_have_count(0)

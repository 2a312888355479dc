"""The page for everybody: by keys, by ear, enlarged, in the user's own colours, at rest, and on paper; and signed in."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.browsers import MadeUpServer, drop, made_up_hit, tab_of, tiles
from tests.servers import serving

LOOKS = [
    ("light", {"color_scheme": "light"}),
    ("dark", {"color_scheme": "dark"}),
    ("forced", {"forced_colors": "active", "color_scheme": "dark"}),
]


@pytest.mark.parametrize(("look", "how"), LOOKS, ids=[look for look, _ in LOOKS])
@pytest.mark.parametrize("width", [375, 768, 1200])
def test_axe_finds_nothing(browser: Browser, address: str, look: str, how: dict[str, str], width: int) -> None:
    """axe-core over the empty page, results, an error, texts, and the viewer, at three widths and in three looks."""
    with tab_of(browser, address, width, 760, **how) as tab:
        page = tab.open()
        expect(page.locator("#holds")).to_contain_text("pictures")
        no_finding(page)
        page = tab.open("/?q=a+cat")
        expect(page.locator("#said")).to_contain_text("found")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if look != "forced":
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (dark == "rgb(255, 255, 255)") == (look == "light")
        no_finding(page)
        tiles(page).first.click()
        expect(page.locator("#viewer")).to_be_visible()
        expect(page.locator("#facts")).to_contain_text("451")
        no_finding(page)
        assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width
        for path in ("/?q=a+cat&kind=text", "/?like=nothing-here&unlike=nor-this"):
            page = tab.open(path)
            expect(page.locator("#said")).to_contain_text(re.compile("found|no item"))
            no_finding(page)


def no_finding(page: Page) -> None:
    violations = Axe().run(page).response["violations"]
    assert not [f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in violations]


def test_forced_colours_tell_what_is_chosen_and_which_moment_it_is(browser: Browser, address: str) -> None:
    with tab_of(browser, address, forced_colors="active") as tab:
        page = tab.open()
        drop(page, 56)
        page.get_by_role("radio", name="Videos", exact=True).check()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^film"))
        colour = "(one) => getComputedStyle(one).backgroundColor"
        chosen = page.locator("[name=kind]:checked + span").evaluate(colour)
        others = {one.evaluate(colour) for one in page.locator("[name=kind]:not(:checked) + span").all()}
        assert chosen not in others
        tiles(page).first.click()
        expect(page.locator("#line button")).to_have_count(3)
        line = page.locator("#line").evaluate(colour)
        marks = {one.evaluate(colour) for one in page.locator("#line button:not([aria-current])").all()}
        current = page.locator("#line button[aria-current=true]").evaluate(colour)
        assert line not in marks and current not in marks | {line}


def test_the_viewer_says_what_it_shows(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=9)
        page = tab.open("/?q=sea")
        tiles(page).nth(2).click()
        said = page.locator("#viewer [role=status]")
        expect(said).to_have_text("sea-2.jpg, 3 of 9")
        page.keyboard.press("ArrowRight")
        expect(said).to_have_text("sea-3.jpg, 4 of 9")
        page.get_by_role("button", name="Describe").click()
        expect(said).to_have_text("caption of sea-3")
        server.hold = lambda path: path == "/api/describe"
        page.get_by_role("button", name="Describe").click()
        while not server.held:
            page.wait_for_timeout(50)
        server.release(status=404)
        expect(said).to_have_text("made up 404")


def test_there_is_a_heading_and_texts_run_in_their_own_direction(browser: Browser, address: str) -> None:
    hit = {**made_up_hit("some", 0, "text"), "text": "قطة على الطاولة", "path": "/photos/قطة.txt"}
    answer = {
        "hits": [hit], "next": None, "more": False, "truncated": False, "picture": None, "milliseconds": 1.0, "model": "m",
    }  # fmt: skip
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=1)
        tab.page.route("**/api/search", lambda route: route.fulfill(json=answer))
        page = tab.open("/?q=قطة&kind=text")
        expect(page.get_by_role("heading", level=1)).to_have_text("mmsearch")
        direction = "(one) => getComputedStyle(one).direction"
        assert page.locator("#words").evaluate(direction) == "rtl"
        assert page.locator("#grid .text").evaluate(direction) == "rtl"
        tiles(page).first.click()
        assert page.locator("#name").evaluate(direction) == "rtl"
        assert page.locator("#stage p").evaluate(direction) == "rtl"


def test_the_head_leaves_room_where_the_page_is_enlarged(browser: Browser, address: str) -> None:
    """Three times as large on a small desk is 427×240: what has the focus is seen whole."""
    with tab_of(browser, address, 427, 240) as tab:
        MadeUpServer(tab.page, total=60)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        tiles(page).first.focus()
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp"):
            page.keyboard.press(key)
            page.wait_for_timeout(100)
            box = page.evaluate(
                """() => {
                    const tile = document.activeElement.getBoundingClientRect();
                    const middle = document.elementFromPoint(tile.x + tile.width / 2, tile.y + 2);
                    return [tile.top, tile.bottom, document.activeElement.contains(middle)];
                }"""
            )
            assert box[0] >= -1 and box[1] <= 241 and box[2], box


def test_who_wants_no_motion_gets_none(browser: Browser, address: str) -> None:
    with tab_of(browser, address, reduced_motion="reduce") as tab:
        page = tab.open()
        drop(page, 56)
        page.get_by_role("radio", name="Videos", exact=True).check()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^film"))
        tiles(page).first.click()
        page.wait_for_function("() => document.querySelector('#stage video')?.readyState >= 2")
        page.wait_for_timeout(700)
        assert page.evaluate("document.querySelector('#stage video').paused")


def test_the_grid_is_one_stop_of_the_tab_key(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=40)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        page.get_by_role("button", name="Save this search").focus()
        page.keyboard.press("Tab")
        expect(tiles(page).first).to_be_focused()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(tiles(page).nth(2)).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Copies")).to_be_focused()
        page.keyboard.press("Shift+Tab")
        expect(tiles(page).nth(2)).to_be_focused()
        page.keyboard.press("End")
        expect(tiles(page).nth(39)).to_be_focused()


def test_arrows_on_a_mark_of_a_video_stay_with_the_marks(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open()
        drop(page, 56)
        page.get_by_role("radio", name="Videos", exact=True).check()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^film"))
        tiles(page).first.click()
        marks = page.locator("#line button")
        expect(marks).to_have_count(3)
        marks.first.focus()
        page.keyboard.press("ArrowRight")
        expect(marks.nth(1)).to_be_focused()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(marks.nth(2)).to_be_focused()
        expect(page.locator("#name")).to_have_text("film.mp4")


def test_on_paper_each_picture_has_its_name(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=5)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        names = page.locator("#grid .name")
        assert not names.first.is_visible()
        page.emulate_media(media="print")
        assert [name.text_content() for name in names.all()] == [f"sea-{n}.jpg" for n in range(5)]
        assert all(name.is_visible() for name in names.all()) and not page.locator("header").is_visible()


def test_a_link_in_a_chat_signs_in_and_stays_signed_in(browser: Browser, site: Path, tmp_path: Path) -> None:
    """Followed from a page of another site, the link sets the cookie and its redirect sends it, as does every reload."""
    token = "a-long-secret/+"
    with serving(site / ".mmsearch", token=token) as locked, tab_of(browser, locked) as tab:
        page = tab.page
        port = urlsplit(locked).port
        page.route(
            "http://chat.example/",
            lambda route: route.fulfill(
                content_type="text/html",
                body=f'<a href="http://127.0.0.1:{port}/?token=a-long-secret%2F%2B&q=a+cat">look</a>',
            ),
        )
        page.goto("http://chat.example/")
        page.get_by_text("look").click()
        expect(page.locator("#said")).to_contain_text("found")
        page.reload()
        expect(page.locator("#said")).to_contain_text("found")
        assert "token" not in page.url
        tab.wrong.clear()


def test_a_browser_without_the_cookie_signs_in_by_hand(browser: Browser, site: Path) -> None:
    with serving(site / ".mmsearch", token="a-long-secret") as locked, tab_of(browser, locked) as tab:
        page = tab.open("/?q=a+cat")
        no_finding(page)
        page.get_by_label("token").fill("wrong-wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("not the token")
        page.get_by_label("token").fill("a-long-secret")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#said")).to_contain_text("found")
        expect(page.locator("#words")).to_have_value("a cat")

"""The address and the history of the page: entries that mean something, places that are kept, and keys that do no harm."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import MadeUpServer, ask, hand_over, png, query_of, tab_of, tiles


def entries(page: Page) -> int:
    return int(page.evaluate("history.length"))


def test_the_same_search_again_is_no_entry_and_kinds_in_a_row_are_one(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=3)
        page = tab.open()
        ask(page, "sea")
        before, asked = entries(page), server.asked.count("/api/search")
        for _ in range(2):
            page.keyboard.press("Enter")
            page.wait_for_timeout(200)
        assert entries(page) == before and server.asked.count("/api/search") == asked + 2
        page.locator("[name=kind]").first.focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        assert query_of(page)["kind"] == "text" and entries(page) == before + 1
        page.go_back()
        assert query_of(page) == {"q": "sea"}
        expect(page.locator("[name=kind]").first).to_be_checked()


def test_going_back_and_a_shared_address_show_the_same(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open()
        ask(page, "a cat")
        ask(page, "a rocket")
        page.get_by_role("radio", name="Texts", exact=True).check()
        expect(page.locator("#grid .text").first).to_be_visible()
        shared = page.url
        page.go_back()
        page.go_back()
        expect(page.locator("#words")).to_have_value("a cat")
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^chelsea\.png"))
        page.goto(shared)
        expect(page.locator("#words")).to_have_value("a rocket")
        expect(page.locator("#grid .text").first).to_be_visible()


def test_a_reload_and_going_back_come_to_the_same_place_of_a_long_grid(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=408)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        for _ in range(200):
            page.mouse.wheel(0, 800)
            page.wait_for_timeout(50)
            if int(page.locator("#grid > li").last.get_attribute("aria-posinset") or 0) > 200:
                break
        page.wait_for_timeout(600)
        place = int(page.evaluate("Math.round(scrollY)"))
        assert place > 2000
        page.reload()
        page.wait_for_function("(place) => Math.abs(scrollY - place) < 30", arg=place)
        assert int(page.locator("#grid > li").last.get_attribute("aria-posinset") or 0) > 200
        page.evaluate("document.querySelector('#words').focus({ preventScroll: true })")
        page.locator("#words").fill("snow")
        page.keyboard.press("Enter")
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^snow"))
        page.go_back()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^sea"))
        page.wait_for_function("(place) => Math.abs(scrollY - place) < 30", arg=place)


def test_a_photo_has_an_address_of_its_own(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open("/?q=a+cat")
        expect(page.locator("#said")).to_contain_text("found")
        link = tiles(page).nth(1)
        href, label = link.get_attribute("href"), link.get_attribute("aria-label")
        assert href and href.startswith("/?q=a+cat&item=") and label
        with page.context.expect_page() as opened:
            link.click(button="middle")
        other = opened.value
        expect(other.locator("#viewer")).to_be_visible()
        expect(other.locator("#name")).to_have_text(label.split(",")[0])
        assert not page.locator("#viewer").is_visible(), "the tab where it was clicked stays as it was"
        alone = f"/?{href.split('&')[1]}"
        tab.open(alone)
        expect(page.locator("#name")).to_have_text(label.split(",")[0])
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).not_to_be_visible()
        # What is newest is shown then: the photo, where it is among that, has the focus.
        expect(page.locator("#words:focus, #grid a:focus")).to_have_count(1)
        assert query_of(page) == {}


def test_back_closes_the_photo_and_forward_opens_it_again(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        before = entries(page)
        tiles(page).nth(2).click()
        expect(page.locator("#name")).to_have_text("sea-2.jpg")
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#name")).to_have_text("sea-5.jpg")
        assert entries(page) == before + 1 and query_of(page)["item"] == "sea-5"
        page.go_back()
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(tiles(page).nth(5)).to_be_focused()
        assert query_of(page) == {"q": "sea"}
        page.go_forward()
        expect(page.locator("#name")).to_have_text("sea-5.jpg")
        page.get_by_label("Close").click()
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(page).to_have_url(re.compile(r"\?q=sea$"))


def test_an_item_that_is_no_more_is_told_and_the_page_works_on(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open("/?item=nothing-here")
        expect(page.locator("#said")).to_contain_text("the index has no item")
        ask(page, "a cat")
        page = tab.open("/?like=nothing-here")
        expect(page.locator("#said")).to_contain_text("the index has no item")
        expect(page.locator(".chip")).to_contain_text("the picture it shall be like")


def test_what_makes_no_sense_in_an_address_counts_as_absent(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open("/?q=a+cat&kind=bogus&like=a/../b&picture=xyz&rerank=maybe")
        expect(page.locator("#said")).to_contain_text("found")
        expect(page.locator("[name=kind]").first).to_be_checked()
        assert page.locator(".chip").count() == 0


def test_escape_in_the_search_box_wipes_nothing(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open()
        ask(page, "sea")
        page.locator("#words").focus()
        for _ in range(2):
            page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        expect(page.locator("#words")).to_have_value("sea")
        assert tiles(page).count() == 30 and query_of(page) == {"q": "sea"}
        page.locator("#words").fill("half a thou")
        page.keyboard.press("Escape")
        page.wait_for_timeout(300)
        assert page.locator("#words").input_value() == "half a thou" and tiles(page).count() == 30


def test_focus_never_falls_to_the_body(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        tiles(page).nth(3).focus()
        page.keyboard.press("Enter")
        expect(page.locator("#name")).to_be_focused()
        page.get_by_role("button", name="More like this").click()
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(tiles(page).first).to_be_focused()
        tiles(page).nth(4).click()
        page.get_by_role("button", name="Less like this").click()
        expect(page.locator(".chip")).to_have_count(2)
        expect(tiles(page).first).to_be_focused()
        page.get_by_label("Search without the picture it shall be like").click()
        expect(page.locator(".chip")).to_have_count(1)
        expect(page.get_by_label("Search without the picture it shall not be like")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#words")).to_be_focused()


def test_after_more_like_this_back_leads_to_the_photo_and_then_to_its_place(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        tiles(page).nth(7).click()
        page.get_by_role("button", name="More like this").click()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^sea_sea_7"))
        page.go_back()
        expect(page.locator("#name")).to_have_text("sea-7.jpg")
        page.go_back()
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(tiles(page).nth(7)).to_have_attribute("aria-label", re.compile("^sea-7"))


def test_each_entry_shows_the_picture_that_it_was_made_with(browser: Browser, address: str) -> None:
    """A is uploaded, the page loaded again, B uploaded: going back shows A's results, since its hash names it."""
    with tab_of(browser, address) as tab:
        page = tab.open()
        hand_over(page, [("a.png", "image/png", png(7))])
        first = tiles(page).first
        expect(first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
        page.reload()
        expect(first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
        hand_over(page, [("b.png", "image/png", png(21))])
        expect(first).to_have_attribute("aria-label", re.compile(r"^photo0021\.jpg"))
        page.go_back()
        expect(first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
        expect(page.locator(".chip")).to_have_count(1)


@pytest.mark.parametrize("kept", [True, False])
def test_a_picture_that_the_server_has_forgotten(browser: Browser, address: str, kept: bool) -> None:
    """This tab sends it again where it has it, and says so where not; never are other results shown."""
    with tab_of(browser, address) as tab:
        page = tab.open()
        if kept:
            hand_over(page, [("a.png", "image/png", png(7))])
            expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
            refused: list[int] = []

            def once(route: object) -> None:
                if refused:
                    route.fallback()  # type: ignore[attr-defined]
                else:
                    refused.append(1)
                    route.fulfill(status=404, json={"error": "no longer kept"})  # type: ignore[attr-defined]

            page.route("**/api/search", once)
            page.locator("#words").fill("colours")
            page.keyboard.press("Enter")
            expect(page.locator("#said")).to_contain_text("found")
            expect(page.locator(".chip")).to_have_count(1)
        else:
            page = tab.open(f"/?picture={'0' * 64}")
            expect(page.locator("#said")).to_contain_text("no longer at hand")
            assert tiles(page).count() == 0
            expect(page.locator(".chip")).to_contain_text("the picture you gave")

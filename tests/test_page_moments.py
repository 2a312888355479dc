"""Videos, texts and answers in the page: each leads to what it is about, at three widths; and what everybody needs of them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from retrieval.models.encoder import Encoder
from tests.browsers import Tab, query_of, tab_of, tiles
from tests.servers import serving
from tests.shelves import CUES, make_shelf

WIDTHS = [(1280, 800), (768, 1024), (390, 844)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Iterator[str]:
    with serving(make_shelf(tmp_path_factory.mktemp("shelf"), mini) / ".mmsearch") as served:
        yield served


@pytest.fixture(params=WIDTHS, ids=[str(width) for width, _ in WIDTHS])
def wide(request: pytest.FixtureRequest, browser: Browser, home: str) -> Iterator[Tab]:
    width, height = request.param
    with tab_of(browser, home, width, height, has_touch=width < 1000, is_mobile=width < 500) as opened:
        yield opened


def show(tab: Tab, query: str) -> Page:
    """Search, and open what is found first."""
    page = tab.open(f"/?{query}")
    expect(page.locator("#said")).to_contain_text("found")
    tiles(page).first.click()
    expect(page.locator("#viewer")).to_be_visible()
    return page


def plays_at(page: Page, least: float, most: float) -> None:
    page.wait_for_function(
        """([least, most]) => {
            const video = document.querySelector("#stage video");
            return video && video.readyState >= 2 && !video.seeking && video.currentTime >= least && video.currentTime <= most;
        }""",
        arg=[least, most],
    )


def test_a_video_has_a_storyboard_a_playhead_and_a_transcript_that_jumps(wide: Tab) -> None:
    page = show(wide, "q=rocket+name:talk.mp4&kind=video")
    expect(page.locator("#board button")).to_have_text(["00:00", "00:02", "00:04", "00:06"])
    lines = page.locator(".transcript a")
    expect(lines).to_have_text([f"00:0{int(start)} {text}" for start, _, text in CUES])
    lines.nth(1).click()
    plays_at(page, 2.2, 3.9)
    expect(lines.nth(1)).to_have_attribute("aria-current", "true")
    expect(page.locator("#board button").nth(1)).to_have_attribute("aria-current", "true")
    page.evaluate("document.querySelector('#stage video').pause()")
    page.wait_for_function(
        """() => {
            const video = document.querySelector("#stage video"), head = document.querySelector(".head");
            return Math.abs(parseFloat(head.style.left) - 100 * video.currentTime / video.duration) < 4;
        }"""
    )
    expect(page.locator("#clock")).to_have_text(re.compile(r"^00:0[23] / 00:08$"))
    page.get_by_role("button", name="Play from 00:06").click()
    plays_at(page, 6, 8)
    expect(lines.nth(1)).not_to_have_attribute("aria-current", "true")
    # It stops where the stretch ends.
    lines.nth(0).click()
    page.wait_for_function("() => document.querySelector('#stage video').paused")
    assert page.evaluate("document.querySelector('#stage video').currentTime") < 2.6


def test_what_no_browser_plays_is_shown_in_previews_of_each_stretch(wide: Tab) -> None:
    page = show(wide, "q=name:old.avi&kind=video")
    expect(page.locator("#stage .note")).to_have_text(
        "This browser cannot play the file itself; this is a preview of the moment."
    )
    plays_at(page, 0, 2.2)
    expect(page.locator("#board button")).to_have_count(2)
    page.get_by_role("button", name="Play from 00:02").click()
    expect(page.locator("#stage video")).to_have_attribute("src", re.compile(r"^/preview/\w+\?start=2&end=4$"))
    page.wait_for_function("() => parseFloat(document.querySelector('.head').style.left) > 50")


def test_a_subtitle_opens_its_video_at_that_second_and_a_caption_its_photo(wide: Tab) -> None:
    page = wide.open("/?q=coffee+in+the+harbour&kind=text")
    expect(page.locator("#said")).to_contain_text("found")
    tile = tiles(page).first
    expect(tile.locator(".text")).to_have_text("Coffee in the harbour.")
    expect(tile.locator(".from")).to_contain_text("talk.mp4 00:04")
    page.wait_for_function("() => document.querySelector('#grid .about img').naturalWidth > 0")
    tile.click()
    plays_at(page, 4.2, 6)
    expect(page.locator("#quote")).to_have_text("Coffee in the harbour.")
    expect(page.locator(".transcript a").nth(2)).to_have_attribute("aria-current", "true")
    page.keyboard.press("Escape")
    page = show(wide, "q=tired+animal+of+our+neighbours&kind=text")
    expect(page.locator("#name")).to_have_text("cat.jpg")
    expect(page.locator("#quote")).to_have_text("the tired animal of our neighbours")
    page.wait_for_function("() => document.querySelector('#stage img')?.naturalWidth >= 700")
    page = show(wide, "q=boats+in+the+evening&kind=text")
    expect(page.locator("#stage p")).to_have_text("A note about boats in the evening.")
    expect(page.locator("#quote")).to_be_empty()


def test_an_answer_is_a_view_of_its_own_with_its_pictures(wide: Tab) -> None:
    page = wide.open("/?q=coins")
    expect(page.locator("#said")).to_contain_text("found")
    page.locator("#words").fill("where is the cat?")
    page.get_by_role("button", name="Ask").click()
    evidence = page.locator("#answer .evidence a")
    expect(evidence.first).to_be_visible()
    assert query_of(page) == {"ask": "where is the cat?"} and tiles(page).count() == 0
    expect(page.locator("#answer h2")).to_have_text("where is the cat?")
    page.wait_for_function("() => document.querySelector('#answer img').naturalWidth > 0")
    expect(evidence.first).to_contain_text("[1]")
    count = evidence.count()
    evidence.first.click()
    expect(page.locator("#position")).to_have_text(f"1 of {count}")
    if count > 1:
        page.keyboard.press("ArrowRight")
        expect(page.locator("#position")).to_have_text(f"2 of {count}")
        page.keyboard.press("ArrowLeft")
    page.go_back()
    expect(page.locator("#viewer")).not_to_be_visible()
    expect(evidence.first).to_be_focused()
    page.reload()
    expect(evidence).to_have_count(count)
    page.go_back()
    expect(tiles(page).first).to_be_visible()
    expect(page.locator("#answer")).not_to_be_visible()
    page = wide.open("/?ask=is+there+a+submarine+in+the+kitchen%3F")
    expect(page.locator("#answer")).to_contain_text("Nothing here answers that.")
    page.get_by_role("link", name="Search for").click()
    assert query_of(page) == {"q": "is there a submarine in the kitchen?"}


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("width", [width for width, _ in WIDTHS])
def test_axe_finds_nothing_and_a_finger_finds_every_button(browser: Browser, home: str, width: int, look: str) -> None:
    with tab_of(
        browser,
        home,
        width,
        844,
        color_scheme=look,
        reduced_motion="reduce",
        has_touch=width < 500,
        is_mobile=width < 500,
    ) as tab:
        page = show(tab, "q=the+cat+on+a+table+in:trip")
        expect(page.locator("#facts")).to_contain_text("trip/paris")
        page.get_by_role("button", name="Why it matched").click()
        expect(page.locator("#why-words button")).to_have_count(3)
        sound(page, width)
        page.get_by_role("button", name="Search by a part").click()
        expect(page.locator(".region")).to_be_focused()
        sound(page, width)
        page = show(tab, "q=coffee+in+the+harbour&kind=text")
        expect(page.locator(".transcript a")).to_have_count(4)
        expect(page.locator("#board button")).to_have_count(4)
        sound(page, width)
        tab.open("/?ask=where+is+the+cat%3F")
        expect(page.locator("#answer .evidence a").first).to_be_visible()
        sound(page, width)
        tab.open("/?like=nothing-here")
        expect(page.locator(".chip")).to_contain_text("the picture it shall be like (gone)")
        sound(page, width)


def sound(page: Page, width: int) -> None:
    """No finding, nothing wider than the screen, and on a phone no button of the viewer or an answer below 44 pixels."""
    violations = Axe().run(page).response["violations"]
    assert not [f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in violations]
    assert (
        page.evaluate("Math.max(document.documentElement.scrollWidth, document.querySelector('#viewer').scrollWidth)")
        <= width
    )
    if width > 500:
        return
    small = page.evaluate(
        """[...document.querySelectorAll("#viewer[open] :is(button, .acts a, .transcript a), #answer a, #again")]
            .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest(".line"))
            .filter((one) => one.getBoundingClientRect().height < 43.5 || one.getBoundingClientRect().width < 43.5)
            .map((one) => one.id || one.textContent)"""
    )
    assert small == []
    cut = page.evaluate(
        """[...document.querySelectorAll("#viewer[open] button")]
            .filter((one) => one.checkVisibility() && one.scrollWidth > one.clientWidth + 1)
            .map((one) => one.id || one.textContent)"""
    )
    assert cut == []

"""The viewer over real photos, by mouse, touch and keys, at three widths: each act with what must then be seen."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from retrieval.models.encoder import Encoder
from tests.browsers import MadeUpServer, Tab, query_of, tab_of, tiles
from tests.servers import serving
from tests.shelves import CAMERA, PLAIN, make_shelf

WIDTHS = [(1280, 800), (768, 1024), (390, 844)]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"), mini)


@pytest.fixture(scope="module")
def home(shelf: Path) -> Iterator[str]:
    with serving(shelf / ".mmsearch") as served:
        yield served


@pytest.fixture(params=WIDTHS, ids=[str(width) for width, _ in WIDTHS])
def wide(request: pytest.FixtureRequest, browser: Browser, home: str) -> Iterator[Tab]:
    """A tab of each width; the narrow ones are touched."""
    width, height = request.param
    with tab_of(browser, home, width, height, has_touch=width < 1000, is_mobile=width < 500) as opened:
        yield opened


def show(tab: Tab, line: str, name: str) -> Page:
    """Search, and open the photo of this name."""
    page = tab.open(f"/?q={quote_plus(line)}")
    expect(page.locator("#said")).to_contain_text("found")
    page.locator(f'#grid a.tile[aria-label^="{name}"]').click()
    expect(page.locator("#name")).to_have_text(name)
    expect(page.locator("#facts")).to_contain_text("Folder" if name != "pair.jpg" else name)
    return page


def touch(page: Page, *moments: list[tuple[float, float]]) -> None:
    """Put fingers on the screen, move them from moment to moment, and lift them."""
    client = page.context.new_cdp_session(page)
    for number, points in enumerate(moments):
        kind = "touchStart" if number == 0 else "touchMove"
        fingers = [{"x": x, "y": y, "id": at} for at, (x, y) in enumerate(points)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
        page.wait_for_timeout(20)
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    client.detach()


def frame(page: Page) -> dict[str, float]:
    """Where the picture is on the screen."""
    box = page.locator("#stage .frame").bounding_box()
    assert box
    return {name: float(value) for name, value in dict(box).items()}  # type: ignore[arg-type]


def middle(page: Page) -> tuple[float, float]:
    box = page.locator("#stage").bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_arrows_lead_to_the_neighbours_and_end_at_the_ends(wide: Tab) -> None:
    page = wide.open("/?q=in:trip")
    expect(tiles(page)).to_have_count(7)
    names = [str(tile.get_attribute("aria-label")).split(",")[0] for tile in tiles(page).all()]
    tiles(page).first.click()
    previous, following = page.locator("#previous"), page.locator("#next")
    expect(previous).to_be_disabled()
    for name in names[1:]:
        following.click()
        expect(page.locator("#name")).to_have_text(name)
    expect(following).to_be_disabled()
    expect(page.locator("#name")).to_be_focused()
    expect(page.locator("#position")).to_have_text("7 of 7")
    previous.click()
    expect(page.locator("#name")).to_have_text(names[5])


@pytest.mark.parametrize("width", [768, 390])
def test_a_swipe_leads_to_the_neighbour_and_scrolling_does_not(browser: Browser, home: str, width: int) -> None:
    with tab_of(browser, home, width, 844, has_touch=True, is_mobile=True) as tab:
        page = show(tab, "in:trip", "horse.jpg")
        order = [str(tile.get_attribute("aria-label")).split(",")[0] for tile in tiles(page).all()]
        here = order.index("horse.jpg")
        x, y = middle(page)
        for step, name in ((-140, order[here + 1]), (140, "horse.jpg")):
            touch(page, [(x, y)], [(x + step / 2, y + 5)], [(x + step, y + 10)])
            expect(page.locator("#name")).to_have_text(name)
        touch(page, [(x, y)], [(x + 5, y - 60)], [(x + 10, y - 120)])
        page.wait_for_timeout(400)
        expect(page.locator("#name")).to_have_text("horse.jpg")


def test_the_neighbours_are_there_before_they_are_wanted(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=9)
        page = tab.open("/?q=sea")
        tiles(page).nth(4).click()
        expect(page.locator("#facts")).to_contain_text("camera of sea-4")
        page.wait_for_timeout(300)
        large = {url for url in server.asked if url.startswith("/thumb/sea-")}
        assert {"/thumb/sea-3/v", "/thumb/sea-5/v"} <= large
        loaded = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
        assert {f"sea-{n}" for n in (3, 4, 5)} == {
            re.findall(r"sea-\d", url)[0] for url in loaded if "size=1024" in url
        }


def test_zoom_keeps_what_is_under_the_pointer_and_brings_the_file_itself(wide: Tab) -> None:
    page = show(wide, "name:pair.jpg", "pair.jpg")
    page.wait_for_function("() => document.querySelector('#stage img')?.src.includes('size=1024')")
    fitted = frame(page)
    stage = page.locator("#stage").bounding_box()
    assert stage and fitted["width"] == pytest.approx(min(stage["width"], 2 * stage["height"]), abs=1)
    x, y = fitted["x"] + 0.75 * fitted["width"], fitted["y"] + 0.4 * fitted["height"]
    page.mouse.move(x, y)
    for _ in range(6):
        page.mouse.wheel(0, -200)
    page.wait_for_function("() => document.querySelector('#stage img').naturalWidth === 3000")
    zoomed = frame(page)
    assert zoomed["width"] > 2 * fitted["width"]
    assert (x - zoomed["x"]) / zoomed["width"] == pytest.approx(0.75, abs=0.01)
    if zoomed["height"] > stage["height"]:
        page.mouse.down()
        page.mouse.move(x - 30, y - 20, steps=3)
        page.mouse.up()
        moved = frame(page)
        assert [moved["x"] - zoomed["x"], moved["y"] - zoomed["y"]] == pytest.approx([-30, -20], abs=1)
    page.keyboard.press("0")
    assert frame(page) == pytest.approx(fitted, abs=1)
    page.keyboard.press("+")
    assert frame(page)["width"] == pytest.approx(1.5 * fitted["width"], abs=1)
    left = frame(page)["x"]
    page.keyboard.press("ArrowRight")
    assert frame(page)["x"] < left and query_of(page)["q"] == "name:pair.jpg"
    page.keyboard.press("-")
    assert frame(page)["width"] == pytest.approx(fitted["width"], abs=1)
    page.get_by_role("button", name="Zoom in").click()
    assert frame(page)["width"] == pytest.approx(1.5 * fitted["width"], abs=1)
    page.get_by_role("button", name="Whole picture").click()
    page.mouse.dblclick(*middle(page))
    assert frame(page)["width"] >= 2 * fitted["width"] - 1
    page.mouse.dblclick(*middle(page))
    assert frame(page)["width"] == pytest.approx(fitted["width"], abs=1)


def test_fingers_pinch_move_and_tap_twice(browser: Browser, home: str) -> None:
    with tab_of(browser, home, 390, 844, has_touch=True, is_mobile=True) as tab:
        page = show(tab, "in:trip", "cat.jpg")
        fitted, (x, y) = frame(page), middle(page)
        touch(page, [(x - 40, y), (x + 40, y)], [(x - 60, y), (x + 60, y)], [(x - 100, y), (x + 100, y)])
        assert frame(page)["width"] == pytest.approx(2.5 * fitted["width"], rel=0.05)
        before = frame(page)["x"]
        touch(page, [(x, y)], [(x - 20, y)], [(x - 50, y)])
        assert frame(page)["x"] == pytest.approx(before - 50, abs=2)
        expect(page.locator("#name")).to_have_text("cat.jpg")
        for _ in range(2):
            page.touchscreen.tap(x, y)
        assert frame(page)["width"] == pytest.approx(fitted["width"], abs=1)
        for _ in range(2):
            page.touchscreen.tap(x, y)
        assert frame(page)["width"] >= 2 * fitted["width"] - 1


def found_by_part(home: str, page: Page) -> list[str]:
    """What the API finds for the part in the address, in order."""
    query = query_of(page)
    asked = {"image_id": query["like"], "region": query["region"], "k": 40}
    return [Path(hit["path"]).name for hit in httpx.post(f"{home}/api/search", json=asked, timeout=60).json()["hits"]]


def test_a_part_of_a_photo_finds_what_is_like_that_part(wide: Tab) -> None:
    """The photo shows a cat on its left and a rocket on its right."""
    page = show(wide, "name:pair.jpg", "pair.jpg")
    for left, right, name in ((0.55, 0.95, "rocket.jpg"), (0.05, 0.45, "cat.jpg")):
        page.get_by_role("button", name="Search by a part").click()
        box = frame(page)
        page.mouse.move(box["x"] + left * box["width"], box["y"] + 0.1 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + right * box["width"], box["y"] + 0.9 * box["height"], steps=4)
        page.mouse.up()
        page.get_by_role("button", name="Search this part").click()
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(page.locator("#said")).to_contain_text("found")
        region = [float(side) for side in query_of(page)["region"].split(",")]
        assert region == pytest.approx([left, 0.1, right - left, 0.8], abs=0.02)
        labels = [str(tile.get_attribute("aria-label")).split(",")[0] for tile in tiles(page).all()]
        assert name in labels[:2] and labels[:40] == found_by_part(wide.home, page)[: len(labels)]
        page.go_back()
        expect(page.locator("#viewer")).to_be_visible()
        expect(page.locator("#name")).to_have_text("pair.jpg")


def test_a_part_by_keys_alone_and_escape_puts_only_the_tool_away(browser: Browser, home: str) -> None:
    with tab_of(browser, home) as tab:
        page = show(tab, "name:pair.jpg", "pair.jpg")
        part = page.get_by_role("button", name="Search by a part")
        part.focus()
        page.keyboard.press("Enter")
        box = page.locator(".region")
        expect(box).to_be_focused()
        page.keyboard.press("Escape")
        expect(box).to_have_count(0)
        expect(part).to_be_focused()
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("Enter")
        for key in ("ArrowRight", "ArrowRight", "ArrowUp", "Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowUp"):
            page.keyboard.press(key)
        expect(page.locator("#name")).to_have_text("pair.jpg")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("found")
        region = [float(side) for side in query_of(page)["region"].split(",")]
        assert region == pytest.approx([0.29, 0.23, 0.52, 0.46], abs=0.001)
        # Without its picture a part means nothing.
        page.get_by_label("Search without the picture it shall be like").click()
        assert query_of(page) == {}


def test_a_press_that_lasts_takes_up_the_tool(browser: Browser, home: str) -> None:
    with tab_of(browser, home, 390, 844, has_touch=True, is_mobile=True) as tab:
        page = show(tab, "name:pair.jpg", "pair.jpg")
        box = frame(page)
        x, y = box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"]
        client = page.context.new_cdp_session(page)
        client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        region = page.locator(".region")
        expect(region).to_be_visible()
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        drawn = region.bounding_box()
        assert drawn and drawn["x"] + drawn["width"] / 2 == pytest.approx(x, abs=3)


def test_facts_are_links_that_search_and_no_path_of_the_server_is_told(wide: Tab, shelf: Path) -> None:
    page = show(wide, "in:trip", "cat.jpg")
    expect(page.locator("#facts")).to_contain_text("Paris")
    expect(page.locator("#written")).to_contain_text("the tired animal of our neighbours")
    assert str(shelf) not in page.locator("#viewer").inner_text()
    assert page.locator("#facts dd").all_inner_texts()[-2:] == ["trip/paris", "cat.jpg"]
    paris = {f"{name}.jpg" for name in PLAIN}
    everywhere = paris | {"moon.jpg"}
    facts = page.locator("#facts")
    for link, line, names in (
        ("2023-12-25", "on:2023-12-25", paris),
        (CAMERA, f'camera:"{CAMERA}"', everywhere),
        ("trip/paris", "in:trip/paris", paris),
        (re.compile("Paris, "), "near:48.8584,2.2945~5km", paris),
    ):
        facts.get_by_role("link", name=link).click()
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(page.locator("#said")).to_contain_text("found")
        assert query_of(page) == {"q": line}
        labels = {str(tile.get_attribute("aria-label")).split(",")[0] for tile in tiles(page).all()}
        assert labels == names, line
        page.go_back()
        expect(page.locator("#name")).to_have_text("cat.jpg")
        expect(facts).to_contain_text("trip/paris")


def test_similar_photos_and_those_of_the_same_day_and_place_lie_under_the_photo(wide: Tab) -> None:
    page = show(wide, "in:trip", "cat.jpg")
    same = page.locator("#strips section", has_text="Same day, same place")
    expect(same.locator("li")).to_have_count(5)
    assert {str(one.get_attribute("aria-label")) for one in same.locator("li a").all()} == {
        f"{name}.jpg" for name in PLAIN if name != "cat"
    }
    similar = page.locator("#strips section", has_text="Similar")
    expect(similar.locator("li a").first).to_have_attribute("aria-label", re.compile("talk.mp4|pair.jpg"))
    same.get_by_role("link", name="rocket.jpg").click()
    expect(page.locator("#name")).to_have_text("rocket.jpg")
    expect(page.locator("#facts")).to_contain_text("trip/paris")
    # Back leads over the one before, and closing to the results at once.
    page.go_back()
    expect(page.locator("#name")).to_have_text("cat.jpg")
    same.get_by_role("link", name="coins.jpg").click()
    expect(page.locator("#name")).to_have_text("coins.jpg")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()
    expect(page).to_have_url(re.compile(r"\?q=in%3Atrip$"))
    page.go_forward()
    expect(page.locator("#name")).to_have_text("cat.jpg")
    same.get_by_role("link", name="Same day, same place").click()
    expect(page.locator("#said")).to_contain_text("6 found")


def test_why_is_drawn_over_the_photo_word_by_word(wide: Tab) -> None:
    page = show(wide, "the cat on a table", "cat.jpg")
    page.get_by_role("button", name="Why it matched").click()
    words = page.locator("#why-words button")
    expect(words).to_have_text(["all words", "cat", "table"])
    expect(words.first).to_have_attribute("aria-pressed", "true")
    picture = "document.querySelector('#stage .heat').toDataURL()"
    seen = set()
    for word in words.all():
        word.click()
        expect(word).to_have_attribute("aria-pressed", "true")
        expect(page.locator("#why-words [aria-pressed=true]")).to_have_count(1)
        seen.add(page.evaluate(picture))
        expect(page.locator("#stage img")).to_be_visible()
    assert len(seen) == 3
    heat, photo = page.locator("#stage .heat").bounding_box(), page.locator("#stage img").bounding_box()
    assert heat and photo and heat["x"] >= photo["x"] - 1 and heat["width"] <= photo["width"] + 1
    page.get_by_role("button", name="Back to the picture").click()
    expect(page.locator("#stage .heat")).to_have_count(0)
    expect(words).to_have_count(0)
    page.get_by_role("button", name="Describe").click()
    expect(page.locator("#byline")).to_have_text("A model wrote this; it may be wrong.")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#byline")).not_to_be_visible()


@pytest.mark.parametrize("width", [width for width, _ in WIDTHS])
def test_back_from_more_like_this_comes_to_the_place_in_the_grid(browser: Browser, address: str, width: int) -> None:
    with tab_of(browser, address, width, 800) as tab:
        MadeUpServer(tab.page, total=408)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        link = page.locator("#grid > li[data-number='110'] a.tile")
        for _ in range(100):
            page.mouse.wheel(0, 400)
            page.wait_for_timeout(50)
            if link.count():
                break
        page.wait_for_timeout(500)
        link.scroll_into_view_if_needed()
        page.wait_for_timeout(400)
        place = int(page.evaluate("Math.round(scrollY)"))
        assert place > 1000
        link.click()
        expect(page.locator("#name")).to_have_text("sea-110.jpg")
        page.get_by_role("button", name="More like this").click()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^sea_sea_110"))
        page.go_back()
        expect(page.locator("#viewer")).to_be_visible()
        expect(page.locator("#name")).to_have_text("sea-110.jpg")
        page.go_back()
        expect(page.locator("#viewer")).not_to_be_visible()
        page.wait_for_function("(place) => Math.abs(scrollY - place) < 200", arg=place)
        expect(link).to_be_in_viewport()
        expect(link).to_be_focused()


def test_recognised_text_is_told_and_can_be_selected(browser: Browser, address: str) -> None:
    held: dict[str, Any] = {
        "kind": "image", "place": "a/sea-0.jpg", "folder": "a", "moments": [],
        "texts": [{"id": "t", "text_kind": "ocr", "start": None, "end": None, "text": "<b>EXIT</b>\nthis way"}],
    }  # fmt: skip
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=3)
        tab.page.route("**/file", lambda route: route.fulfill(json=held))
        page = tab.open("/?q=sea")
        tiles(page).first.click()
        text = page.locator("#written .passage")
        expect(page.locator("#written h3")).to_have_text("Text in the picture")
        expect(text).to_have_text("<b>EXIT</b> this way")
        text.click(click_count=3, position={"x": 20, "y": 8})
        assert "EXIT" in page.evaluate("getSelection().toString()")

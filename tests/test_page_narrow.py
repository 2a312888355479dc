"""Narrowing results down on the page at three widths: dates, folders, cameras, places, kinds; the start; the page of copies."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import datetime

import pytest
from playwright.sync_api import Browser, Page, expect

from retrieval.models.encoder import Encoder
from tests.albums import photo
from tests.browsers import query_of, tab_of, tiles
from tests.conftest import build
from tests.films import film
from tests.servers import serving
from tests.test_page_access import no_finding

WIDTHS = [1280, 768, 390]
PARIS, BERLIN, SYDNEY = (48.8584, 2.2945), (52.5163, 13.3777), (-33.8568, 151.2153)
CANON, APPLE = ("Canon", "EOS R6"), ("Apple", "iPhone 15")


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Iterator[str]:
    """A server over 6 photos of each year from 2018 to 2024, a film, and a copy."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(42):
        below = ("trips/paris", "trips/berlin", "home")[number % 3]
        photo(
            folder / below / f"n{number:02}.jpg", 300 + number, f"{2018 + number // 6}-{1 + number % 12:02}-15",
            (PARIS, BERLIN, None)[number % 3] if number != 41 else SYDNEY, CANON if number % 2 else APPLE,
        )  # fmt: skip
    shutil.copyfile(folder / "home" / "n02.jpg", folder / "home" / "n02-copy.jpg")
    film(folder / "films" / "film.mp4", (50, 56))
    build(folder, mini)
    with serving(folder / ".mmsearch") as home:
        yield home


@pytest.fixture(params=WIDTHS)
def narrow(request: pytest.FixtureRequest, browser: Browser, album: str) -> Iterator[Page]:
    """The page with its panel open on all that is of 2018 to 2024."""
    with tab_of(browser, album, request.param, 900) as tab:
        page = tab.open("/?q=before:2025")
        open_panel(page)
        yield page


def open_panel(page: Page) -> None:
    expect(page.locator("#said")).to_contain_text("found")
    page.get_by_role("button", name="Narrow").click()
    expect(page.locator("#facets .bars i").first).to_be_visible()


def closed(page: Page) -> None:
    """On a phone the panel covers the results."""
    if page.evaluate("innerWidth") < 900:
        page.keyboard.press("Escape")
        expect(page.locator("#facets")).not_to_be_visible()
        expect(page.get_by_role("button", name="Narrow")).to_be_focused()


def found(page: Page, count: int) -> None:
    expect(page.locator("#said")).to_contain_text(re.compile(rf"^{count} found"))


def chips(page: Page) -> list[str]:
    return page.locator(".chip.filter .value").all_text_contents()


def test_cameras_and_folders_narrow_and_their_counts_follow(narrow: Page) -> None:
    page = narrow
    panel = page.locator("#facets")
    expect(panel.get_by_role("button", name="Canon EOS R6, 21 items")).to_be_visible()
    panel.get_by_role("button", name="Canon EOS R6, 21 items").click()
    found(page, 21)
    assert chips(page) == ["before:2025", 'camera:"Canon EOS R6"']
    canon = panel.get_by_role("button", name="Canon EOS R6")
    expect(canon).to_have_attribute("aria-pressed", "true")
    expect(canon).to_be_focused()
    # Odd numbers alone: seven of each folder.
    expect(panel.get_by_role("button", name="trips, 14 items")).to_be_visible()
    toggle = panel.get_by_role("button", name="Folders in trips")
    expect(toggle).to_have_attribute("aria-expanded", "false")
    toggle.click()
    panel.get_by_role("button", name="berlin, 7 items").click()
    found(page, 7)
    assert chips(page) == ["before:2025", 'camera:"Canon EOS R6"', "in:trips/berlin"]
    expect(panel.get_by_role("button", name="berlin, 7 items")).to_be_visible()
    panel.get_by_role("button", name="Canon EOS R6, 7 items").click()
    found(page, 14)
    expect(panel.get_by_role("button", name="Apple iPhone 15, 7 items")).to_be_visible()
    closed(page)
    page.get_by_label("Search without in:trips/berlin").click()
    found(page, 42)
    assert query_of(page) == {"q": "before:2025"}


def test_dates_are_brushed_by_the_mouse_and_set_by_keys(narrow: Page) -> None:
    page = narrow
    bars = page.locator("#facets .bars i")
    expect(bars).to_have_count(7)
    titles = bars.evaluate_all("(all) => all.map((one) => one.title)")
    assert titles == [f"{year}, {7 if year == 2018 else 6} items" for year in range(2018, 2025)]
    first, last = bars.nth(1).bounding_box(), bars.nth(3).bounding_box()
    assert first and last
    page.mouse.move(first["x"] + 2, first["y"] + 3)
    page.mouse.down()
    page.mouse.move(last["x"] + 3, last["y"] + 3, steps=4)
    expect(page.locator("#facets output")).to_have_text("2019 – 2021, 18 items")
    page.mouse.up()
    found(page, 18)
    assert chips(page) == ["after:2019", "before:2022"]
    # Of fewer years the months are shown, from the first photo to the last.
    expect(page.locator("#facets .bars i")).to_have_count(30)
    page.get_by_role("button", name="All dates").click()
    # The film is as old as its file.
    expect(page.locator("#facets .bars i")).to_have_count(datetime.now().year - 2018 + 1)
    assert chips(page) == []
    page.get_by_label("From").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(50)
    expect(page.locator(".chip.filter .value").first).to_have_text(re.compile("^after:20(19|2[0-2])$"))


def test_the_map_joins_what_is_near_and_leads_there(narrow: Page) -> None:
    page = narrow
    labels = page.locator("#facets .cluster").evaluate_all("(all) => all.map((one) => one.getAttribute('aria-label'))")
    # Paris and Berlin are one on a map that reaches to Sydney.
    assert labels == ["28 items near 48.86° north, 2.29° east", "1 item near 33.86° south, 151.22° east"] or (
        sorted(labels) == sorted([
            "14 items near 48.86° north, 2.29° east", "14 items near 52.52° north, 13.38° east",
            "1 item near 33.86° south, 151.22° east",
        ])
    )  # fmt: skip
    # The outline comes later than the clusters.
    expect(page.locator("#facets .map path")).to_have_attribute("d", re.compile(r"^.{10000}", re.DOTALL))
    page.get_by_role("button", name="1 item near 33.86° south").click()
    found(page, 1)
    (chip,) = [one for one in chips(page) if one.startswith("near:")]
    assert re.fullmatch(r"near:-33\.8568,151\.215\d~[\d.]+km", chip)
    page.get_by_role("button", name="Everywhere").click()
    found(page, 42)
    page.get_by_role("button", name=re.compile(r"^Paris, .* 14 items$")).click()
    found(page, 14)


def test_kinds_are_counted_and_chosen(narrow: Page) -> None:
    page = narrow
    page.get_by_role("button", name="All dates").click()
    page.locator("#facets").get_by_role("button", name="Videos, 1 item").click()
    found(page, 1)
    assert query_of(page) == {"kind": "video"}
    expect(page.locator("[name=kind][value=video]")).to_be_checked()


def test_axe_finds_nothing_in_what_narrows(narrow: Page) -> None:
    no_finding(narrow)
    assert narrow.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", WIDTHS)
def test_the_start_shows_what_is_newest_and_examples_of_this_index(browser: Browser, album: str, width: int) -> None:
    with tab_of(browser, album, width, 900) as tab:
        page = tab.open()
        # The film is as new as its file.
        expect(tiles(page).nth(0)).to_have_attribute("aria-label", re.compile("^film.mp4"))
        names = tiles(page).evaluate_all("(all) => all.slice(1, 4).map((one) => one.getAttribute('aria-label'))")
        assert names == ["n41.jpg", "n40.jpg", "n39.jpg"]
        start = page.locator("#start")
        expect(start.get_by_role("link", name="near:Berlin", exact=True)).to_be_visible()
        expect(start.get_by_role("link", name="in:trips", exact=True).first).to_be_visible()
        page.get_by_text("What a search can say").click()
        expect(start.get_by_role("link", name="near:Berlin~20km")).to_be_visible()
        assert start.locator("dt").count() == start.locator("dd").count() == 8
        no_finding(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        start.get_by_role("link", name="near:Berlin", exact=True).click()
        found(page, 14)
        expect(start).to_be_hidden()
        page.go_back()
        expect(start).to_be_visible()
        # What was searched is at hand again.
        expect(start.locator("p", has_text="Searches").get_by_role("link", name="near:Berlin")).to_be_visible()
        start.get_by_role("button", name="Forget what was searched").click()
        expect(start.locator("p", has_text="Searches")).to_have_count(0)


@pytest.mark.parametrize("width", WIDTHS)
def test_copies_have_a_page_of_their_own(browser: Browser, album: str, width: int) -> None:
    with tab_of(browser, album, width, 900) as tab:
        page = tab.open()
        page.get_by_role("link", name="Copies").click()
        group = page.locator("#duplicates section")
        expect(group).to_have_count(1)
        names = group.locator("li bdi").all_text_contents()
        assert sorted(names) == ["n02-copy.jpg", "n02.jpg"]
        expect(group.locator("h2")).to_have_text("The same file")
        assert page.get_by_role("button", name=re.compile("delete|remove", re.IGNORECASE)).count() == 0
        no_finding(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        group.get_by_role("link", name=names[1]).click()
        expect(page.locator("#name")).to_have_text(names[1])
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(group).to_be_visible()
        expect(page).to_have_url(f"{album}/?view=duplicates")


@pytest.mark.parametrize("width", WIDTHS)
def test_copies_open_in_their_place(browser: Browser, album: str, width: int) -> None:
    with tab_of(browser, album, width, 900) as tab:
        page = tab.open("/?q=in:home+on:2018")
        found(page, 2)
        stack = page.get_by_role("button", name=re.compile("^Show 1 copy of n02"))
        stack.click()
        copies = page.locator("#grid .copies a")
        expect(copies).to_have_count(2)
        expect(copies.first).to_be_focused()
        box = page.locator("#grid .copies").bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
        no_finding(page)
        page.keyboard.press("ArrowRight")
        name = copies.nth(1).locator("bdi").text_content()
        page.keyboard.press("Enter")
        expect(page.locator("#name")).to_have_text(name or "")
        page.keyboard.press("Escape")
        expect(page.locator("#viewer")).not_to_be_visible()

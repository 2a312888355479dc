"""Selecting results on the page and acting on all of them: by mouse and by keys, at three widths."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from playwright.sync_api import Browser, Download, Page, Route, expect

from tests.browsers import MadeUpServer, Tab, tab_of, tiles
from tests.test_page_access import no_finding


def selected(page: Page) -> list[str]:
    marks = page.locator("#grid .check[aria-pressed=true]")
    labels = marks.evaluate_all("(all) => all.map((one) => one.getAttribute('aria-label'))")
    return [label.removeprefix("Select ").removesuffix(".jpg") for label in labels]


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_results_are_selected_by_marks_ranges_and_keys(browser: Browser, address: str, width: int) -> None:
    with tab_of(browser, address, width, 800) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("30 found")
        bar = page.get_by_role("toolbar", name="Selection")
        expect(bar).to_be_hidden()
        tiles(page).nth(1).hover()
        page.locator("#grid .check").nth(1).click()
        expect(bar).to_be_visible()
        assert selected(page) == ["sea-1"]
        expect(page.locator("#viewer")).not_to_be_visible()
        page.locator("#grid .check").nth(4).click(modifiers=["Shift"])
        assert selected(page) == ["sea-1", "sea-2", "sea-3", "sea-4"]
        tiles(page).nth(6).click(modifiers=["Shift"])
        expect(page.locator("#selected")).to_have_text("6 selected")
        page.locator("#grid .check").nth(2).click()
        expect(page.locator("#selected")).to_have_text("5 selected")
        no_finding(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        tiles(page).nth(8).focus()
        page.keyboard.press(" ")
        assert "sea-8" in selected(page)
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ ")
        expect(page.locator("#selected")).to_have_text("7 selected")
        page.keyboard.press("Control+a")
        expect(page.locator("#selected")).to_have_text("30 selected")
        page.keyboard.press("Escape")
        expect(bar).to_be_hidden()
        assert selected(page) == []
        # A click still opens.
        tiles(page).nth(3).click()
        expect(page.locator("#name")).to_have_text("sea-3.jpg")


def test_another_search_selects_nothing(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        tiles(page).nth(1).hover()
        page.locator("#grid .check").nth(1).click()
        page.locator("#words").fill("sky")
        page.keyboard.press("Enter")
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^sky-0"))
        expect(page.get_by_role("toolbar", name="Selection")).to_be_hidden()


def test_paths_are_copied(browser: Browser, address: str) -> None:
    with tab_of(browser, address, permissions=["clipboard-read", "clipboard-write"]) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        for number in (0, 2):
            tiles(page).nth(number).hover()
            page.locator("#grid .check").nth(number).click()
        page.get_by_role("button", name="Copy paths").click()
        expect(page.locator("#selected")).to_have_text("2 paths copied")
        assert page.evaluate("navigator.clipboard.readText()") == "/photos/sea-0.jpg\n/photos/sea-2.jpg"


def test_all_are_described_one_after_the_other_until_it_is_called_off(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=5)
        page = tab.open("/?q=sea")
        tiles(page).first.focus()
        page.keyboard.press("Control+a")
        page.get_by_role("button", name="Describe all").click()
        captions = page.locator("#captions li")
        expect(captions).to_have_count(5)
        expect(captions.nth(3)).to_have_text("sea-3.jpg caption of sea-3")
        expect(page.locator("#selected")).to_have_text("Described 5 of 5")
        server.hold = lambda path: path == "/api/describe"
        page.get_by_role("button", name="Describe all").click()
        for _ in range(2):
            while not server.held:
                page.wait_for_timeout(30)
            server.release()
        expect(captions).to_have_count(2)
        expect(page.locator("#selected")).to_have_text("Described 2 of 5")
        assert page.locator("#selection-progress").evaluate("(one) => [one.value, one.max]") == [2, 5]
        asked = server.asked.count("/api/describe")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#selection-progress")).to_be_hidden()
        page.wait_for_timeout(200)
        # What was described stays, and nothing more is asked for.
        expect(captions).to_have_count(2)
        assert server.asked.count("/api/describe") == asked + (1 if not server.held else 0)


def test_a_description_that_fails_is_told(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=3)
        page = tab.open("/?q=sea")
        tiles(page).first.focus()
        page.keyboard.press("Control+a")
        server.hold = lambda path: path == "/api/describe"
        page.get_by_role("button", name="Describe all").click()
        while not server.held:
            page.wait_for_timeout(30)
        server.release(status=404)
        expect(page.locator("#selected")).to_have_text("That did not work: made up 404")


def test_tables_and_sheets_are_saved_and_the_files_come_as_one(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=3)
        asked: list[tuple[str, list[str]]] = []

        def answer(route: Route) -> None:
            name = route.request.url.rsplit("/", 1)[1]
            body = route.request.post_data or ""
            asked.append((name, parse_qs(body)["ids"] if name == "zip" else json.loads(body)["ids"]))
            headers = {"Content-Disposition": f'attachment; filename="selection.{name}"'}
            route.fulfill(body=f"made up {name}", headers=headers, content_type="application/octet-stream")

        for where in (tab.page, tab.page.context):
            where.route("**/api/selection/*", answer)
        page = tab.open("/?q=sea")
        for number in (0, 2):
            tiles(page).nth(number).hover()
            page.locator("#grid .check").nth(number).click()
        for button, form in (("CSV", "csv"), ("JSON", "json"), ("Contact sheet", "html")):
            with page.expect_download() as started:
                page.get_by_role("button", name=button, exact=True).click()
            assert started.value.suggested_filename == f"selection.{form}"
            assert started.value.path().read_text() == f"made up {form}"
            expect(page.locator("#selected")).to_have_text("2 selected")
        with page.context.expect_event("page") as opened:
            page.get_by_role("button", name="Download").click()
        opened.value.wait_for_event("close") if not opened.value.is_closed() else None
        assert asked == [(form, ["sea-0", "sea-2"]) for form in ("csv", "json", "html", "zip")]


def test_the_server_gives_the_table_and_the_files_of_what_is_selected(tab: Tab) -> None:
    page = tab.open("/?q=a+cat")
    expect(page.locator("#said")).to_contain_text("found")
    names = []
    for number in (0, 3):
        tiles(page).nth(number).hover()
        page.locator("#grid .check").nth(number).click()
        names.append(
            (page.locator("#grid .check").nth(number).get_attribute("aria-label") or "").removeprefix("Select ")
        )
    with page.expect_download() as started:
        page.get_by_role("button", name="CSV", exact=True).click()
    with started.value.path().open(encoding="utf-8", newline="") as table:
        assert [Path(row["path"]).name for row in csv.DictReader(table)] == names
    given: list[Download] = []

    def hear(download: Download) -> None:
        given.append(download)

    page.context.on("page", lambda opened: opened.on("download", hear))
    page.on("download", hear)
    page.get_by_role("button", name="Download").click()
    for _ in range(300):
        if given:
            break
        page.wait_for_timeout(100)
    (archive,) = given
    assert archive.suggested_filename == "selection.zip"
    with zipfile.ZipFile(archive.path()) as files:
        assert sorted(Path(name).name for name in files.namelist()) == sorted(names)

"""The page in a real browser: what a person does with it, by mouse and by keys alone."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from retrieval.models.encoder import Encoder
from retrieval.store.writer import IndexWriter
from server.page import load_page
from tests.browsers import Tab, ask, drop, query_of, tab_of, tiles
from tests.servers import serving

# Where screenshots go that the documentation shows; only when asked for.
SHOTS = os.environ.get("MMSEARCH_SCREENSHOTS")
LARGEST_PAGE = 120_000
LARGEST_MAP = 25_000


def keep(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(600)
        page.screenshot(path=str(Path(SHOTS) / name))


def test_the_page_is_small_as_it_travels(tab: Tab) -> None:
    page = tab.open()
    expect(page.locator("#holds")).to_contain_text("pictures")
    sizes = page.evaluate(
        """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
            .filter((one) => one.entryType === "navigation" || one.name.includes("/page/"))
            .map((one) => one.encodedBodySize)"""
    )
    parts = [file for file in load_page().files.values() if not file.media_type.startswith("image/")]
    assert len(sizes) == 1 + len(parts) and min(sizes) > 0
    assert sum(sizes) < LARGEST_PAGE


def test_the_page_asks_for_nothing_from_elsewhere() -> None:
    page = load_page()
    parts = [file.content for file in page.files.values() if not file.media_type.startswith("image/")]
    text = page.document + b"".join(parts)
    assert b"http://" not in text and b"https://" not in text and b"innerHTML" not in text
    outline = page.files["world.svg"].content
    assert len(outline) < LARGEST_MAP and b"<script" not in outline and b"href" not in outline


def test_words_show_the_right_picture_first(tab: Tab) -> None:
    page = tab.open()
    expect(page.locator("#holds")).to_contain_text("pictures")
    ask(page, "a cat")
    expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^chelsea\.png"))
    assert query_of(page) == {"q": "a cat"} and page.title() == "a cat – mmsearch"
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    rows = page.evaluate(
        "[...document.querySelectorAll('#grid > li')].map((one) => one.getBoundingClientRect()).map((at) => [at.top, at.right])"
    )
    ends: dict[int, int] = {}
    for top, right in rows:
        ends[top] = max(ends.get(top, 0), right)
    full = list(ends.values())[:-1]
    assert len(full) >= 2 and max(full) - min(full) < 16, "rows end at the same edge"
    keep(page, "page.png")


def test_a_dropped_picture_finds_its_like_and_joins_with_words(tab: Tab) -> None:
    page = tab.open()
    drop(page, 7)
    expect(page.locator(".chip")).to_have_count(1)
    expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
    ask(page, "a cat")
    expect(page.locator(".chip")).to_have_count(1)
    page.get_by_label("Search without the picture you gave").click()
    expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^chelsea\.png"))
    page.go_back()
    expect(page.locator(".chip")).to_have_count(1)


def test_everything_by_keys_alone(tab: Tab) -> None:
    page = tab.open()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("found")
    page.keyboard.press("ArrowDown")
    label = "document.activeElement.getAttribute('aria-label')"
    first = page.evaluate(label)
    assert first.startswith("chelsea.png")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(label) != first
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Home")
    assert page.evaluate(label) == first
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    expect(page.locator("#name")).to_have_text("chelsea.png")
    expect(page.locator("#facts")).to_contain_text("451 × 300")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#name")).not_to_have_text("chelsea.png")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#name")).to_have_text("chelsea.png")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()
    expect(tiles(page).first).to_be_focused()


def test_a_video_plays_from_the_moment_to_its_end(tab: Tab) -> None:
    page = tab.open()
    drop(page, 56)
    page.get_by_role("radio", name="Videos", exact=True).check()
    expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^film\.mp4, 00:0[12]"))
    tiles(page).first.click()
    video = page.locator("#stage video")
    expect(video).to_be_visible()
    page.wait_for_function("() => document.querySelector('#stage video').currentTime >= 1.8")
    expect(page.locator("#line button")).to_have_count(3)
    expect(page.locator("#line button[aria-current=true]")).to_have_count(1)
    keep(page, "moment.png")
    page.wait_for_function("() => document.querySelector('#stage video').paused")
    stopped = page.evaluate("document.querySelector('#stage video').currentTime")
    assert stopped < 5.5, "it does not play on past the end of the moment"
    page.locator("#line button").first.click()
    page.wait_for_function("() => document.querySelector('#stage video').currentTime < 1.9")


def test_the_viewer_describes_explains_and_finds_more(tab: Tab) -> None:
    page = tab.open("/?q=a+cat")
    expect(page.locator("#said")).to_contain_text("found")
    tiles(page).first.click()
    page.get_by_role("button", name="Describe").click()
    expect(page.locator("#caption")).to_have_text(re.compile(r"^\w+ .+\.$"))
    keep(page, "viewer.png")
    page.get_by_role("button", name="Why it matched").click()
    expect(page.locator("#stage .heat")).to_be_visible()
    keep(page, "why.png")
    page.get_by_role("button", name="Back to the picture").click()
    expect(page.locator("#stage .heat")).to_have_count(0)
    expect(page.locator("#stage img")).to_have_count(1)
    page.get_by_role("button", name="More like this").click()
    expect(page.locator(".chip")).to_have_count(1)
    assert "like" in query_of(page)
    tiles(page).nth(1).click()
    page.get_by_role("button", name="Less like this").click()
    expect(page.locator(".chip")).to_have_count(2)


def test_a_question_is_answered_with_evidence(tab: Tab) -> None:
    page = tab.open()
    page.locator("#words").fill("what is the cat doing?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text(re.compile(r"\[1\]|Nothing relevant"))


def test_names_and_captions_are_text_never_markup(tab: Tab) -> None:
    page = tab.open("/?q=a+strange+caption&kind=text")
    strange = page.locator("#grid .text", has_text="strange")
    expect(strange).to_have_text("<script>alert(2)</script> a strange caption")
    strange.click()
    expect(page.locator("#name")).to_have_text("<img src=x onerror=alert(1)>.jpg")
    assert page.locator("#grid img[src=x]").count() == 0


def test_a_picture_that_is_gone_says_so(tab: Tab) -> None:
    page = tab.open()
    drop(page, 99)
    expect(page.locator("#grid .gone").first).to_have_text(
        "link.jpg: the file is a link that leads out of the indexed folders, and those alone are served"
    )


def test_nothing_found_and_an_empty_index_have_a_word_for_it(browser: Browser, tmp_path: Path, mini: Encoder) -> None:
    with IndexWriter(tmp_path / ".mmsearch", mini.spec):
        pass
    with serving(tmp_path / ".mmsearch") as empty, tab_of(browser, empty) as tab:
        page = tab.open()
        expect(page.locator("#said")).to_contain_text("This index is empty")
        page.locator("#words").fill("a cat")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("Nothing found")


def test_a_slow_search_and_a_server_that_is_gone(tab: Tab) -> None:
    page = tab.open()
    held: list[Route] = []
    page.route("**/api/search", lambda route: held.append(route))
    page.locator("#words").fill("a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("Still searching")
    held.pop().continue_()
    expect(page.locator("#said")).to_contain_text("found")
    page.unroute("**/api/search")
    page.route("**/api/*", lambda route: route.abort())
    page.locator("#words").fill("a dog")
    page.keyboard.press("Enter")
    gone = "That did not work: the server does not answer; is it still running?"
    expect(page.locator("#said")).to_have_text(gone)
    # At once, and not when the next look is due.
    expect(page.locator("#holds")).to_have_text(
        "The server does not answer. This page tries again by itself.", timeout=2000
    )
    page.unroute("**/api/*")
    page.route("**/api/status", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#said")).to_contain_text("found")
    page.route("**/api/search", lambda route: route.abort())
    page.locator("#words").fill("a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_have_text(gone)
    page.unroute("**/api/search")
    page.unroute("**/api/status")
    # Nobody presses anything.
    expect(page.locator("#said")).to_contain_text("found")
    expect(page.locator("#holds")).to_contain_text("pictures")
    tab.wrong.clear()


@pytest.mark.parametrize("kind", ["chelsea.png", "film.mp4", "note.txt"])
def test_each_kind_of_file_opened_alone_is_shown_by_the_browser(
    browser: Browser, site: Path, address: str, kind: str
) -> None:
    """The policy of `/media` forbids scripts, not the picture or the video itself."""
    import httpx

    asked = {"text": "a", "k": 100, "kind": {"png": "image", "mp4": "video", "txt": "text"}[kind.rsplit(".", 1)[1]]}
    hits = httpx.post(f"{address}/api/search", json=asked, timeout=60).json()["hits"]
    hit = next((one for one in hits if one["path"].endswith(kind)), hits[0])
    with tab_of(browser, address) as tab:
        page = tab.open(hit["media_url"])
        if kind.endswith(".mp4"):
            page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
        elif kind.endswith(".png"):
            image = page.locator("img")
            assert image.evaluate("(one) => one.naturalWidth") == 451
            style = image.evaluate("(one) => getComputedStyle(one).marginTop + getComputedStyle(document.body).height")
            assert style, "the browser's own page around it"

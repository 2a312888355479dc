"""The page in a real browser: what a person does with it, at any width, by mouse and by keys alone."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route, expect, sync_playwright

from benchmarks.load import browser_program
from retrieval.models.encoder import Encoder
from retrieval.store.writer import IndexWriter
from tests.conftest import picture
from tests.servers import serving

# Where screenshots go that the documentation shows; only when asked for.
SHOTS = os.environ.get("MMSEARCH_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = browser_program()
    assert program, "these tests need a browser: apt-get install chromium"
    # A machine that is busy with other things is no failure of the page.
    expect.set_options(timeout=15_000)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@dataclass
class Watched:
    """A tab, and what it should not have done."""

    page: Page
    home: str
    wrong: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.home + path)
        return self.page


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Watched]:
    yield from watched(browser, address)


def watched(browser: Browser, address: str, **how: object) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1200, "height": 800}, **how)  # type: ignore[arg-type]
    found = Watched(context.new_page(), address)

    def console(message: ConsoleMessage) -> None:
        # A picture that is refused is part of a test; a script that fails never is.
        if message.type == "error" and "status of 404" not in message.text:
            found.wrong.append(message.text)

    def request(one: Request) -> None:
        if not one.url.startswith((found.home, "data:", "blob:")):
            found.wrong.append(one.url)

    found.page.on("console", console)
    found.page.on("pageerror", lambda error: found.wrong.append(str(error)))
    found.page.on("request", request)
    yield found
    context.close()
    assert not found.wrong


def ask(page: Page, words: str) -> None:
    page.get_by_label("Search", exact=True).first.fill(words)
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("found")


def tiles(page: Page) -> Locator:
    return page.locator("#grid li")


def drop(page: Page, seed: int) -> None:
    """Drop a picture onto the page as a file manager does."""
    out = io.BytesIO()
    picture(seed, 320, 240).save(out, "PNG")
    page.evaluate(
        """(data) => {
            const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
            const box = new DataTransfer();
            box.items.add(new File([bytes], "q.png", { type: "image/png" }));
            for (const name of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(new DragEvent(name, { dataTransfer: box, bubbles: true, cancelable: true }));
        }""",
        base64.standard_b64encode(out.getvalue()).decode(),
    )


def keep(page: Page, name: str) -> None:
    if SHOTS:
        page.wait_for_timeout(600)
        page.screenshot(path=str(Path(SHOTS) / name))


def test_words_show_the_right_picture_first(tab: Watched) -> None:
    page = tab.open()
    expect(page.locator("#holds")).to_contain_text("pictures")
    ask(page, "a cat")
    first = tiles(page).first.locator("button")
    expect(first).to_have_attribute("aria-label", re.compile(r"^chelsea\.png"))
    assert page.url.endswith("?q=a+cat") and page.title() == "a cat – mmsearch"
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 1200
    rows = page.evaluate(
        "[...document.querySelectorAll('#grid li')].map((one) => [one.offsetTop, one.offsetLeft + one.offsetWidth])"
    )
    ends: dict[int, int] = {}
    for top, right in rows:
        ends[top] = max(ends.get(top, 0), right)
    full = list(ends.values())[:-1]
    assert len(full) >= 2 and max(full) - min(full) < 16, "rows end at the same edge"
    keep(page, "page.png")


def test_scrolling_brings_more_until_the_end(tab: Watched) -> None:
    page = tab.open("/?q=colours")
    expect(page.locator("#said")).to_contain_text("found")
    for _ in range(20):
        page.mouse.wheel(0, 4000)
        page.wait_for_timeout(120)
    names = page.eval_on_selector_all("#grid button", "(all) => all.map((one) => one.getAttribute('aria-label'))")
    assert len(names) > 80 and len(set(names)) == len(names)


def test_a_dropped_picture_finds_its_like_and_joins_with_words(tab: Watched) -> None:
    page = tab.open()
    drop(page, 7)
    expect(page.locator(".chip")).to_have_count(1)
    expect(tiles(page).first.locator("button")).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
    ask(page, "a cat")
    expect(page.locator(".chip")).to_have_count(1)
    page.get_by_label("Search without the picture you gave").click()
    expect(tiles(page).first.locator("button")).to_have_attribute("aria-label", re.compile(r"^chelsea\.png"))
    page.go_back()
    expect(page.locator(".chip")).to_have_count(1)


def test_everything_by_keys_alone(tab: Watched) -> None:
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
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()
    assert page.evaluate(label) == first, "focus is back where it was"


def test_a_video_plays_from_the_moment(tab: Watched) -> None:
    page = tab.open()
    drop(page, 33)
    page.get_by_text("Videos", exact=True).click()
    expect(tiles(page).first.locator("button")).to_have_attribute("aria-label", re.compile(r"^film\.mp4, 00:0[34]"))
    tiles(page).first.locator("button").click()
    video = page.locator("#stage video")
    expect(video).to_be_visible()
    page.wait_for_function("() => document.querySelector('#stage video').currentTime >= 3.8")
    marks = page.locator("#line button")
    expect(marks).to_have_count(3)
    expect(page.locator("#line button[aria-current=true]")).to_have_count(1)
    keep(page, "moment.png")
    marks.first.click()
    page.wait_for_function("() => document.querySelector('#stage video').currentTime < 3")


def test_the_viewer_describes_explains_and_finds_more(tab: Watched) -> None:
    page = tab.open("/?q=a+cat")
    expect(page.locator("#said")).to_contain_text("found")
    tiles(page).first.locator("button").click()
    page.get_by_role("button", name="Describe").click()
    expect(page.locator("#caption")).to_have_text(re.compile(r"^a .+"), timeout=30_000)
    keep(page, "viewer.png")
    page.get_by_role("button", name="Why it matched").click()
    expect(page.locator("#stage img.why")).to_be_visible(timeout=30_000)
    keep(page, "why.png")
    page.get_by_role("button", name="More like this").click()
    expect(page.locator(".chip")).to_have_count(1)
    assert "like=" in page.url
    tiles(page).nth(1).locator("button").click()
    page.get_by_role("button", name="Less like this").click()
    expect(page.locator(".chip")).to_have_count(2)


def test_a_question_is_answered_with_evidence(tab: Watched) -> None:
    page = tab.open()
    page.get_by_label("Search", exact=True).first.fill("what is the cat doing?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator("#answer")).to_contain_text(re.compile(r"\[1\]|Nothing relevant"), timeout=30_000)


def test_going_back_and_a_shared_address_show_the_same(tab: Watched) -> None:
    page = tab.open()
    ask(page, "a cat")
    ask(page, "a rocket")
    page.get_by_text("Texts", exact=True).click()
    expect(page.locator("#grid .text").first).to_be_visible()
    address = page.url
    page.go_back()
    page.go_back()
    expect(page.get_by_label("Search", exact=True).first).to_have_value("a cat")
    expect(tiles(page).first.locator("button")).to_have_attribute("aria-label", re.compile(r"^chelsea\.png"))
    page.goto(address)
    expect(page.get_by_label("Search", exact=True).first).to_have_value("a rocket")
    expect(page.locator("#grid .text").first).to_be_visible()


def test_names_and_captions_are_text_never_markup(tab: Watched) -> None:
    page = tab.open("/?q=a+strange+caption&kind=text")
    strange = page.locator("#grid .text", has_text="strange")
    expect(strange).to_have_text("<script>alert(2)</script> a strange caption")
    strange.click()
    expect(page.locator("#name")).to_have_text("<img src=x onerror=alert(1)>.jpg")
    assert page.locator("#grid img[src=x]").count() == 0


def test_a_picture_that_cannot_be_shown_says_so(tab: Watched) -> None:
    page = tab.open()
    drop(page, 99)
    expect(page.locator("#grid .gone").first).to_have_text("link.jpg is gone or cannot be read")


def test_nothing_found_and_an_empty_index_have_a_word_for_it(browser: Browser, tmp_path: Path, mini: Encoder) -> None:
    with IndexWriter(tmp_path / ".mmsearch", mini.spec):
        pass
    with serving(tmp_path / ".mmsearch") as empty:
        for found in watched(browser, empty):
            page = found.open()
            expect(page.locator("#said")).to_contain_text("This index is empty")
            page.get_by_label("Search", exact=True).first.fill("a cat")
            page.keyboard.press("Enter")
            expect(page.locator("#said")).to_contain_text("Nothing found")


def test_a_slow_search_and_a_server_that_is_gone(tab: Watched) -> None:
    page = tab.open()

    def late(route: Route) -> None:
        page.wait_for_timeout(1200)
        route.continue_()

    page.route("**/api/search", late)
    page.get_by_label("Search", exact=True).first.fill("a cat")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("Still searching")
    expect(page.locator("#said")).to_contain_text("found")
    page.unroute("**/api/search")
    page.route("**/api/search", lambda route: route.abort())
    page.get_by_label("Search", exact=True).first.fill("a dog")
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("That did not work")
    tab.wrong.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
def test_nothing_stands_in_the_way_of_anybody(browser: Browser, address: str, scheme: str, width: int) -> None:
    """axe-core over the page with results and over the viewer, in both schemes, on a phone and on a desk."""
    for found in watched(browser, address, color_scheme=scheme):
        found.page.set_viewport_size({"width": width, "height": 760})
        page = found.open("/?q=a+cat")
        expect(page.locator("#said")).to_contain_text("found")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")
        serious(page)
        keep(page, f"{scheme}-{width}.png")
        tiles(page).first.locator("button").click()
        expect(page.locator("#viewer")).to_be_visible()
        expect(page.locator("#facts")).to_contain_text("451")
        serious(page)
        assert page.evaluate("document.querySelector('#viewer').scrollWidth") <= width


def serious(page: Page) -> None:
    """No finding of axe-core that keeps somebody out."""
    found = Axe().run(page).response["violations"]
    bad = [f"{one['id']}: {one['nodes'][0]['html'][:120]}" for one in found if one["impact"] in ("serious", "critical")]
    assert not bad

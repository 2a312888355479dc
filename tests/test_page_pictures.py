"""Pictures to search by: pasted, dropped, dragged, chosen; of any size and of kinds that a browser cannot show."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.browsers import MadeUpServer, drop, hand_over, png, query_of, tab_of, tiles


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_a_picture_given_while_the_viewer_is_open_closes_it(browser: Browser, address: str, how: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open()
        drop(page, 21)
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^photo0021\.jpg"))
        tiles(page).first.click()
        expect(page.locator("#viewer")).to_be_visible()
        hand_over(page, [("q.png", "image/png", png(7))], how, "#viewer")
        expect(page.locator("#viewer")).not_to_be_visible()
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
        expect(tiles(page).first).to_be_focused()
        tiles(page).first.click()
        expect(page.locator("#name")).to_have_text("photo0007.jpg")
        expect(page.locator("#facts")).to_contain_text("64 × 48")


def test_of_several_files_the_first_picture_is_taken_and_the_others_are_told(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open()
        files = [("a.txt", "text/plain", b"words"), ("b.png", "image/png", png(7)), ("c.png", "image/png", png(8))]
        hand_over(page, files)
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^photo0007\.jpg"))
        expect(page.locator("#said")).to_contain_text("2 other files left out")
        hand_over(page, [("a.txt", "text/plain", b"words")])
        expect(page.locator("#said")).to_contain_text("no picture to search by")


def test_a_result_that_is_dragged_a_little_changes_nothing(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        box = tiles(page).first.bounding_box()
        assert box
        page.mouse.move(box["x"] + 40, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 50, steps=5)
        assert not page.locator("#drop").is_visible()
        page.mouse.up()
        page.wait_for_timeout(300)
        assert query_of(page) == {"q": "sea"} and "found" in (page.locator("#said").text_content() or "")


def test_a_result_that_is_dragged_onto_the_box_is_more_like_this(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=30)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        tiles(page).nth(2).drag_to(page.locator("#words"))
        expect(page.locator(".chip")).to_have_count(1)
        assert query_of(page)["like"] == "sea-2"


def test_text_that_is_dropped_or_pasted_is_left_to_the_browser(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=3)
        page = tab.open()
        left = page.evaluate(
            """() => {
                const box = new DataTransfer();
                box.setData("text/plain", "a dog");
                const words = document.querySelector("#words"), common = { bubbles: true, cancelable: true };
                return [
                    words.dispatchEvent(new DragEvent("dragover", { dataTransfer: box, ...common })),
                    words.dispatchEvent(new DragEvent("drop", { dataTransfer: box, ...common })),
                    words.dispatchEvent(new ClipboardEvent("paste", { clipboardData: box, ...common })),
                ];
            }"""
        )
        assert left == [True, True, True] and not page.locator("#drop").is_visible()


def test_a_large_picture_is_made_small_here_and_sent_once(browser: Browser, address: str) -> None:
    """27 million pixels: what is sent is small, and no page of results sends it again."""
    out = io.BytesIO()
    noise = Image.effect_noise((6000, 4500), 60).convert("RGB")
    noise.save(out, "JPEG", quality=60)
    assert len(out.getvalue()) > 3_000_000
    with tab_of(browser, address) as tab:
        # What is sent as a form is not told by the browser's driver.
        tab.page.add_init_script(
            """const send = fetch;
            window.sent = [];
            window.fetch = (path, how) => {
                const parts = how?.body instanceof FormData ? [...how.body.values()] : [how?.body ?? ""];
                if (how?.body) window.sent.push(parts.reduce((sum, part) => sum + (part.size ?? part.length), 0));
                return send(path, how);
            };"""
        )
        page = tab.open()
        page.locator("#file").set_input_files({"name": "large.jpg", "mimeType": "image/jpeg", "buffer": out.getvalue()})
        expect(page.locator("#said")).to_contain_text("found")
        for _ in range(40):
            page.mouse.wheel(0, 2000)
            page.wait_for_timeout(60)
        assert int(page.locator("#grid > li").last.get_attribute("aria-setsize") or 0) > 80
        sent = page.evaluate("window.sent")
        assert sum(size > 2000 for size in sent) == 1 and max(sent) < 1_500_000, sent
        assert len(sent) >= 3, "several pages of results were asked for"


def test_a_picture_that_the_browser_cannot_show_has_a_chip_all_the_same(browser: Browser, address: str) -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    out = io.BytesIO()
    Image.open(io.BytesIO(png(3))).save(out, "HEIF")
    with tab_of(browser, address) as tab:
        page = tab.open()
        hand_over(page, [("IMG_1.HEIC", "", out.getvalue())])
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile(r"^photo0003\.jpg"))
        page.wait_for_function("() => document.querySelector('.chip img')?.naturalWidth > 0")


def test_what_is_no_picture_inside_is_told(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        page = tab.open("/?q=a+cat")
        expect(page.locator("#said")).to_contain_text("found")
        hand_over(page, [("q.png", "image/png", b"not a picture")])
        expect(page.locator("#said")).to_contain_text("the image cannot be read")
        assert tiles(page).count() > 0, "what was there stays"


def test_a_newer_act_calls_off_a_picture_that_is_being_sent(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=3, hold=lambda path: path == "/api/upload")
        page = tab.open()
        drop(page, 7)
        waited(page, server)
        page.locator("#words").fill("sea")
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("3 found")
        server.release()
        page.wait_for_timeout(500)
        assert query_of(page) == {"q": "sea"} and page.locator(".chip").count() == 0


def test_another_kind_chosen_while_a_picture_is_sent_does_not_lose_it(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=3, hold=lambda path: path == "/api/upload")
        page = tab.open()
        drop(page, 7)
        waited(page, server)
        page.get_by_role("radio", name="Videos", exact=True).check()
        expect(page.locator("#said")).to_have_text("Sending the picture …")
        server.release()
        expect(page.locator("#said")).to_contain_text("3 found")
        assert query_of(page)["kind"] == "video" and len(query_of(page)["picture"]) == 64


def waited(page: Page, server: MadeUpServer) -> None:
    for _ in range(600):
        if server.held:
            return
        page.wait_for_timeout(50)
    raise AssertionError("no request came")

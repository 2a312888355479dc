"""Answers that come late, in another order, or not at all: what is shown always belongs to what is named."""

from __future__ import annotations

import random
import re

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsers import MadeUpServer, hand_over, png, query_of, tab_of, tiles


def wait_held(page: Page, server: MadeUpServer, count: int = 1) -> None:
    for _ in range(600):
        if len(server.held) >= count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{count} requests were expected, {len(server.held)} came")


def held_paths(server: MadeUpServer) -> list[str]:
    return [route.request.url for route in server.held]


def test_a_caption_never_comes_under_another_picture(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=20, hold=lambda path: path == "/api/describe")
        page = tab.open("/?q=sea")
        tiles(page).first.click()
        page.get_by_role("button", name="Describe").click()
        wait_held(page, server)
        page.keyboard.press("ArrowRight")
        expect(page.locator("#name")).to_have_text("sea-1.jpg")
        server.release()
        page.wait_for_timeout(500)
        expect(page.locator("#caption")).to_be_empty()
        page.get_by_role("button", name="Describe").click()
        wait_held(page, server)
        server.release()
        expect(page.locator("#caption")).to_have_text("caption of sea-1")


def test_why_it_matched_never_takes_the_place_of_another_picture(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=20, hold=lambda path: path == "/api/explain/words")
        page = tab.open("/?q=sea")
        tiles(page).first.click()
        page.get_by_role("button", name="Why it matched").click()
        wait_held(page, server)
        page.keyboard.press("ArrowRight")
        expect(page.locator("#name")).to_have_text("sea-1.jpg")
        server.release()
        page.wait_for_timeout(500)
        assert page.locator("#stage .heat").count() == 0
        expect(page.locator("#stage img")).to_have_attribute("src", re.compile("sea-1/"))
        page.get_by_role("button", name="Why it matched").click()
        wait_held(page, server)
        server.release(status=503)
        expect(page.locator("#caption")).to_have_text(re.compile("busy"))
        wait_held(page, server)
        server.release(status=422)
        expect(page.locator("#caption")).to_have_text("made up 422")


def test_a_slow_search_that_fails_does_not_stop_the_newer_one(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=300, hold=lambda path: path == "/api/search")
        page = tab.open("/?q=old")
        wait_held(page, server)
        page.locator("#words").fill("new")
        page.keyboard.press("Enter")
        wait_held(page, server, 2)
        server.release(1)
        expect(page.locator("#said")).to_contain_text("found")
        server.hold = lambda _: False
        server.release(status=0)
        for route in list(server.held):
            server.held.remove(route)
            server.answer(route)
        for _ in range(60):
            page.mouse.wheel(0, 1500)
            page.wait_for_timeout(50)
        expect(page.locator("#said")).to_contain_text("300 found")
        labels = page.eval_on_selector_all("#grid a.tile", "(all) => all.map((one) => one.getAttribute('aria-label'))")
        assert all(label.startswith("new-") for label in labels)
        tab.wrong.clear()


def test_leafing_through_on_a_slow_line_asks_for_the_last_one_alone(browser: Browser, address: str) -> None:
    """Every press shows its picture at once, as the grid has it; facts and the large one are asked for where it rests."""
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=40)
        page = tab.open("/?q=sea")
        expect(tiles(page).nth(30)).to_be_attached()
        tiles(page).nth(30).scroll_into_view_if_needed()
        page.wait_for_function(
            "() => [...document.querySelectorAll('#grid img')].slice(0, 26).every((one) => one.complete)"
        )
        tiles(page).first.focus()
        page.keyboard.press("Enter")
        facts = page.locator("#facts")
        expect(facts).to_contain_text("camera of sea-0")
        for fact in ("2023-12-25 18:30:00 (Google Takeout)", "Paris, Île-de-France, France (48.8584, 2.2945)", "4 stars",
                     "snow · Jo March"):  # fmt: skip
            expect(facts).to_contain_text(fact)
        server.asked.clear()
        server.hold = lambda path: path.startswith(("/api/items", "/thumb"))
        shown = page.evaluate(
            """async () => {
                const seen = [];
                for (let n = 1; n <= 25; n += 1) {
                    const press = new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true });
                    document.querySelector("#viewer").dispatchEvent(press);
                    seen.push(document.querySelector("#stage img")?.getAttribute("src"));
                }
                return seen;
            }"""
        )
        assert [re.search(r"sea-\d+", src).group() for src in shown] == [f"sea-{n}" for n in range(1, 26)]  # type: ignore[union-attr]
        wait_held(page, server, 2)
        page.wait_for_timeout(600)
        wanted = [path for path in server.asked if "/sea-" in path and "sea-25" not in path]
        assert len(wanted) <= 2, f"not one for each press: {wanted}"
        assert any("/api/items/sea-25" in path for path in held_paths(server))
        server.hold = lambda _: False
        while server.held:
            server.release()
        expect(page.locator("#facts")).to_contain_text("camera of sea-25")


def test_a_photo_on_a_slow_line_is_seen_at_once(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=10)
        page = tab.open("/?q=sea")
        expect(page.locator("#said")).to_contain_text("found")
        page.wait_for_function("() => document.querySelector('#grid img').naturalWidth > 0")
        server.hold = lambda path: path.startswith(("/thumb", "/api/items"))
        tiles(page).first.click()
        wait_held(page, server)
        image = page.locator("#stage img")
        expect(image).to_have_attribute("src", re.compile("size=384"))
        page.wait_for_function("() => document.querySelector('#stage img').naturalWidth > 0")
        server.hold = lambda _: False
        while server.held:
            server.release()
        expect(image).to_have_attribute("src", re.compile("size=1024"))


@pytest.mark.parametrize("status", [503, 0])
def test_a_thumbnail_that_fails_for_a_while_comes_after_all(browser: Browser, address: str, status: int) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=1)
        server.hold = lambda path: path.startswith("/thumb")
        page = tab.open("/?q=sea")
        # The picture itself and the question why, twice.
        for _ in range(4):
            wait_held(page, server)
            assert page.locator("#grid .gone").count() == 0
            server.release(status=status)
        server.hold = lambda _: False
        page.wait_for_function("() => document.querySelector('#grid img')?.naturalWidth > 0")
        tab.wrong.clear()


@pytest.mark.parametrize("status", [404, 410])
def test_gone_is_said_of_what_is_gone(browser: Browser, address: str, status: int) -> None:
    with tab_of(browser, address) as tab:
        server = MadeUpServer(tab.page, total=1)
        server.hold = lambda path: path.startswith("/thumb")
        page = tab.open("/?q=sea")
        # The picture, the question why, and what the server says of it.
        for _ in range(3):
            wait_held(page, server)
            server.release(status=status)
        expect(page.locator("#grid .gone")).to_have_text(f"sea-0.jpg: made up {status}")
        tab.wrong.clear()


def test_a_step_back_that_the_browser_calls_off_does_not_hold_up_the_page(browser: Browser, address: str) -> None:
    with tab_of(browser, address) as tab:
        MadeUpServer(tab.page, total=20)
        tab.page.add_init_script("History.prototype.back = () => {}")
        page = tab.open("/?q=sea")
        tiles(page).first.click()
        expect(page.locator("#viewer")).to_be_visible()
        page.keyboard.press("Escape")
        page.locator("#words").fill("cat")
        page.keyboard.press("Enter")
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^cat"))
        assert query_of(page) == {"q": "cat"}


ACTS = ("type", "scroll", "open", "next", "back", "forward", "paste", "describe", "close", "like", "kind", "why", "ask")


@pytest.mark.parametrize("seed", range(6))
def test_whatever_somebody_does_and_however_answers_come_what_is_shown_is_what_is_named(
    browser: Browser, address: str, seed: int
) -> None:
    """Random acts, with each answer given late, in any order, or as a failure; after each act nothing may be mixed up."""
    chance = random.Random(seed)
    with tab_of(browser, address, 900, 600) as tab:
        server = MadeUpServer(tab.page, total=120)
        page = tab.open("/?q=start")
        expect(page.locator("#said")).to_contain_text("found")
        server.hold = lambda path: not path.startswith("/thumb") and path != "/api/status" and chance.random() < 0.7
        done = []
        for _ in range(40):
            act = chance.choice(ACTS)
            done.append(act)
            perform(page, act, chance)
            page.wait_for_timeout(chance.choice((0, 0, 20, 200)))
            while server.held and chance.random() < 0.6:
                number = chance.randrange(len(server.held))
                server.release(number, chance.choice((200, 200, 200, 200, 503, 404, 0)))
            check(page, done)
        server.hold = lambda _: False
        while server.held:
            server.release(chance.randrange(len(server.held)))
        page.wait_for_timeout(800)
        page.evaluate("() => Promise.allSettled(window.steps ?? [])")
        check(page, done)
        # And the page still works.
        if page.locator("#viewer").is_visible():
            page.keyboard.press("Escape")
        expect(page.locator("#viewer")).not_to_be_visible()
        page.locator("#words").fill("the end")
        page.keyboard.press("Enter")
        expect(tiles(page).first).to_have_attribute("aria-label", re.compile("^the_end"))
        tab.wrong.clear()


def perform(page: Page, act: str, chance: random.Random) -> None:
    viewer = page.locator("#viewer").is_visible()
    if act == "type" and not viewer:
        page.locator("#words").fill(chance.choice(("sea", "a dog", "snow at night", "cat")))
        page.keyboard.press("Enter")
    elif act == "scroll" and not viewer:
        page.mouse.move(450, 400)
        page.mouse.wheel(0, chance.choice((300, 2000, -1000)))
    elif act == "open" and not viewer:
        page.evaluate("(n) => document.querySelectorAll('#grid a.tile')[n]?.click()", chance.randrange(30))
    elif act == "next" and viewer:
        page.keyboard.press(chance.choice(("ArrowRight", "ArrowRight", "ArrowLeft")))
    elif act in ("back", "forward"):
        # By the page's own history: leaving the page altogether is not meant.
        page.evaluate(
            """(act) => {
                if (!(act === "back" ? navigation.canGoBack : navigation.canGoForward)) return;
                (window.steps ??= []).push(...Object.values(navigation[act]()));
                for (const end of window.steps) end.catch(() => {});
            }""",
            act,
        )
    elif act == "paste":
        hand_over(page, [("q.png", "image/png", png(chance.randrange(5), 40 + chance.randrange(40), 30))], "paste")
    elif act in ("describe", "why", "like") and viewer:
        page.evaluate("(id) => document.getElementById(id).click()", act)
    elif act == "close" and viewer:
        page.keyboard.press("Escape")
    elif act == "kind" and not viewer:
        page.evaluate("(n) => document.querySelectorAll('[name=kind]')[n].click()", chance.randrange(3))
    elif act == "ask" and not viewer:
        page.locator("#ask").click()


def check(page: Page, done: list[str]) -> None:
    """Everything that is seen now, at one moment, speaks of the same."""
    seen = page.evaluate(
        """() => ({
            url: location.search, words: document.querySelector("#words").value, title: document.title,
            tiles: [...document.querySelectorAll("#grid a.tile")].map((one) => one.getAttribute("aria-label").split("-")[0]),
            links: [...document.querySelectorAll("#grid a.tile")].map((one) => new URLSearchParams(one.search).get("item")),
            open: document.querySelector("#viewer").open, name: document.querySelector("#name").textContent,
            caption: document.querySelector("#caption").textContent, facts: document.querySelector("#facts").textContent,
            images: [...document.querySelectorAll("#stage img")].map((one) => one.getAttribute("src")),
            strips: [...document.querySelectorAll("#strips ul a")].map((one) => new URLSearchParams(one.search).get("item")),
            asked: document.querySelector("#answer h2")?.textContent ?? "",
            answer: document.querySelector("#answer").textContent,
            kind: document.querySelector("[name=kind]:checked").value,
        })"""
    )
    query = query_of(page)
    where = f"{done} {seen}"
    assert seen["kind"] == query.get("kind", ""), where
    parts = [query.get(part, "") for part in ("q", "like", "unlike", "picture", "kind")]
    name = re.sub(r"[^\w]", "_", "_".join(parts).strip("_"))[:40]
    assert set(seen["tiles"]) <= {name}, where
    assert len(set(seen["links"])) == len(seen["links"]), where
    line = query.get("ask") or query.get("q")
    assert seen["title"] == (f"{line} – mmsearch" if line else "mmsearch"), where
    assert seen["asked"] == query.get("ask", "") and not (seen["asked"] and seen["tiles"]), where
    assert "answer to" not in seen["answer"] or f"answer to {query['ask']}" in seen["answer"], where
    if seen["open"]:
        shown = seen["name"].removesuffix(".jpg")
        assert f"{shown}.jpg" in seen["facts"] and "/photos" not in seen["facts"], where
        assert "camera of" not in seen["facts"] or f"camera of {shown}" in seen["facts"], where
        assert "caption of" not in seen["caption"] or seen["caption"] == f"caption of {shown}", where
        assert all(f"/{shown}/" in src for src in seen["images"]), where
        near = {re.sub(r"\W", "_", shown)[:40], "on_2023_12_25_near_48_8584_2_2945_2km"}
        assert {item.rpartition("-")[0] for item in seen["strips"]} <= near, where

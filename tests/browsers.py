"""A real Chromium for the tests of the page: tabs that note what goes wrong, and answers made by routing."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from benchmarks.load import browser_program
from tests.conftest import picture

PATIENCE_MILLISECONDS = 30_000
# What a browser writes about an answer that a test wanted to be an error.
_EXPECTED = re.compile(r"status of (400|401|404|409|422|503)")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser of this machine, with patience for one that is busy with other things."""
    program = browser_program()
    assert program, "these tests need a browser: apt-get install chromium"
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@dataclass
class Tab:
    """A tab, and what it should not have done."""

    page: Page
    home: str
    wrong: list[str] = field(default_factory=list)

    def open(self, path: str = "/") -> Page:
        self.page.goto(self.home + path)
        return self.page


@contextmanager
def tab_of(browser: Browser, home: str, width: int = 1200, height: int = 800, **how: Any) -> Iterator[Tab]:
    """A tab of its own; afterwards nothing may have gone wrong in it: no script failed, nothing outside was asked for."""
    context = browser.new_context(viewport={"width": width, "height": height}, **how)
    context.set_default_timeout(PATIENCE_MILLISECONDS)
    tab = Tab(context.new_page(), home)

    def console(message: ConsoleMessage) -> None:
        if message.type == "error" and not _EXPECTED.search(message.text):
            tab.wrong.append(message.text)

    def request(asked: Request) -> None:
        if not asked.url.startswith((tab.home, "data:", "blob:")):
            tab.wrong.append(asked.url)

    tab.page.on("console", console)
    tab.page.on("pageerror", lambda error: tab.wrong.append(str(error)))
    tab.page.on("request", request)
    yield tab
    context.close()
    assert not tab.wrong, tab.wrong


def ask(page: Page, words: str) -> None:
    """Type words and wait for their results."""
    page.locator("#words").fill(words)
    page.keyboard.press("Enter")
    expect(page.locator("#said")).to_contain_text("found")


def tiles(page: Page) -> Locator:
    return page.locator("#grid a.tile")


def hand_over(page: Page, files: list[tuple[str, str, bytes]], how: str = "drop", target: str = "body") -> None:
    """Drop or paste files, each with its name and type, as a file manager or the clipboard does."""
    page.evaluate(
        """([files, how, target]) => {
            const box = new DataTransfer();
            for (const [name, type, data] of files)
                box.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type }));
            const node = document.querySelector(target), common = { bubbles: true, cancelable: true };
            if (how === "paste") node.dispatchEvent(new ClipboardEvent("paste", { clipboardData: box, ...common }));
            else for (const name of ["dragenter", "dragover", "drop"])
                node.dispatchEvent(new DragEvent(name, { dataTransfer: box, ...common }));
        }""",
        [[(name, kind, base64.standard_b64encode(data).decode()) for name, kind, data in files], how, target],
    )


def png(seed: int, width: int = 320, height: int = 240) -> bytes:
    out = io.BytesIO()
    picture(seed, width, height).save(out, "PNG")
    return out.getvalue()


def drop(page: Page, seed: int) -> None:
    """Drop one picture on the page."""
    hand_over(page, [("q.png", "image/png", png(seed))])


# What the API knows of every made-up item besides its hit.
FACTS = {
    "taken_at": "2023-12-25T18:30:00", "date_source": "takeout", "latitude": 48.8584, "longitude": 2.2945, "rating": 4,
    "place": "Paris, Île-de-France, France", "words": "snow\nJo March",
}  # fmt: skip


def made_up_hit(name: str, number: int, kind: str = "image") -> dict[str, Any]:
    """A hit as the API gives it; everything in it tells which one it is."""
    identity = f"{name}-{number}"
    return {
        "rank": number + 1, "score": 0.5, "first_stage_score": 0.5, "rerank_score": None, "id": identity, "kind": kind,
        "path": f"/photos/{identity}.jpg", "start": None, "end": None, "text": None, "width": 400 + 40 * (number % 7),
        "height": 300, "taken_at": None, "camera": None, "latitude": None, "longitude": None, "place": None,
        "matched": [], "matched_words": [], "copies": [], "relevance": 0.5, "moments": [], "media_url": f"/media/{identity}",
        "thumb_url": f"/thumb/{identity}/v",
    }  # fmt: skip


@dataclass
class MadeUpServer:
    """Answers for the API made up by routing: results named by what was searched for, in pages, and captions by their item.

    `held` are requests that wait for the test to answer them; `hold` says which do.
    """

    page: Page
    total: int = 408
    hold: Callable[[str], bool] = lambda _: False
    asked: list[str] = field(default_factory=list)
    held: list[Route] = field(default_factory=list)

    def __post_init__(self) -> None:
        for part in ("**/api/**", "**/thumb/**", "**/upload/**", "**/media/**"):
            self.page.route(part, self._handle)

    def _handle(self, route: Route) -> None:
        path = urlsplit(route.request.url).path
        self.asked.append(path)
        if self.hold(path):
            self.held.append(route)
        else:
            self.answer(route)

    def answer(self, route: Route, status: int = 200) -> None:
        """Answer one request; one that the page has called off meanwhile is nobody's."""
        with contextlib.suppress(PlaywrightError):
            if status == 0:
                route.abort()
            elif status != 200:
                headers = {"Retry-After": "1"} if status == 503 else {}
                route.fulfill(status=status, headers=headers, json={"error": f"made up {status}"})
            else:
                self._fulfil(route)

    def release(self, number: int = 0, status: int = 200) -> None:
        """Answer one of those that are held."""
        self.answer(self.held.pop(number), status)

    def _fulfil(self, route: Route) -> None:
        url = urlsplit(route.request.url)
        name = url.path.rsplit("/", 1)[-1]
        body: dict[str, Any] = (
            (route.request.post_data_json or {}) if url.path in ("/api/search", "/api/describe", "/api/ask") else {}
        )
        if url.path == "/api/search":
            route.fulfill(json=self._results(body))
        elif url.path == "/api/describe":
            route.fulfill(json={"id": body["id"], "caption": f"caption of {body['id']}", "log_probability": -1.0})
        elif url.path == "/api/ask":
            route.fulfill(
                json={"question": body["question"], "answer": f"answer to {body['question']}", "evidence": []}
            )
        elif url.path == "/api/upload":
            # The name of a picture is a hash, here of its length.
            route.fulfill(json={"picture": f"{len(route.request.post_data_buffer or b''):064x}"})
        elif url.path.startswith("/api/items/") and name == "file":
            identity = url.path.split("/")[-2]
            route.fulfill(json={"kind": "image", "place": f"{identity}.jpg", "folder": "", "moments": [], "texts": []})
        elif url.path.startswith("/api/items/"):
            prefix, _, number = name.rpartition("-")
            route.fulfill(json={**made_up_hit(prefix, int(number)), "size": 1, "camera": f"camera of {name}", **FACTS})
        elif url.path == "/api/facets":
            months = {
                f"{year}-{month:02}": self.total // 48 for year in range(2024, 2020, -1) for month in range(12, 0, -1)
            }
            names: dict[str, dict[str, int]] = {name: {} for name in ("years", "folders", "cameras", "places", "kinds")}
            route.fulfill(json={**names, "months": months})
        elif url.path == "/api/points":
            route.fulfill(json={"points": []})
        elif url.path == "/api/explain/words":
            maps = [{"word": word, "relevance": [[0, 1], [0.5, 0]]} for word in ("sea", "shore")]
            route.fulfill(json={"region": [0, 0, 1, 1], "whole": [[1, 0], [0, 0.5]], "words": maps})
        elif url.path == "/api/status":
            route.fulfill(json={"items": 9, "images": 9, "videos": 0, "texts": 0, "watch": None})
        else:
            route.fulfill(body=_PIXELS, content_type="image/png")

    def _results(self, body: dict[str, Any]) -> dict[str, Any]:
        name = "_".join(
            str(body.get(part) or "") for part in ("text", "image_id", "unlike_id", "picture", "kind")
        ).strip("_")
        name = re.sub(r"[^\w]", "_", name)[:40] or "nothing"
        first = int(str(body.get("cursor") or "s.0").rpartition(".")[2], 16)
        first = body.get("offset", first)
        # A line of nothing but a folder is a list.
        lists = str(body.get("text") or "").startswith("in:")
        name = name.removeprefix("in_") if lists else name
        last = min(self.total, first + int(body["k"]))
        return {
            "hits": [made_up_hit(name, number) for number in range(first, last)],
            "next": f"s.{last:x}" if last < self.total else None,
            "more": last < self.total, "total": self.total if lists else None,
            "truncated": False, "picture": body.get("picture"), "milliseconds": 1.0,
            "model": "made-up",
        }  # fmt: skip


_PIXELS = png(3, 40, 30)


def query_of(page: Page) -> dict[str, str]:
    """What the address of a page says."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}

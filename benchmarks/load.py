"""What the server takes: searches at a steady rate, thumbnails, and when a page shows its results. `python -m benchmarks.load`.

The rate is kept whatever the answers take, so that one slow answer does not hide those that would have waited behind it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np

from benchmarks.speed import ROOT, command, report, spread

WHO = (
    "a dog",
    "a cat",
    "two children",
    "a red car",
    "people",
    "a bird",
    "snow",
    "the sea",
    "an old house",
    "a man",
    "a boat",
)
WHERE = (
    "at night",
    "in the snow",
    "on a beach",
    "from above",
    "in a street",
    "by a lake",
    "in the rain",
    "close up",
    "at work",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the server over an index, load it, and print what it did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--rate", type=float, default=20.0, help="searches a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--thumbs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    run = command("serve", "--index", str(given.index), "--port", "0")
    process = subprocess.Popen(run, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline() if process.stderr is not None else ""
        match = re.search(r"http://\S+/", line)
        if match is None:
            raise SystemExit(line)
        address = match.group(0)
        out: dict[str, object] = {"rate": given.rate, "seconds": given.seconds}
        rounds = [asyncio.run(searches(address, given.rate, given.seconds)) for _ in range(given.rounds)]
        for name, percent in (("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)):
            out[name] = spread([float(np.percentile(times, percent)) for times in rounds])
        out["thumbnails_per_second"] = spread([asyncio.run(thumbs(address, given.thumbs)) for _ in range(given.rounds)])
        painted = first_paint(address, given.rounds + 2)
        if painted:
            out["first_results_ms"] = spread(painted)
        report(out)
    finally:
        process.terminate()
        process.wait()
    return 0


async def searches(address: str, rate: float, seconds: float) -> list[float]:
    """Milliseconds of each search, by words that change, from when it was due until the whole answer was there."""
    times: list[float] = []

    async def search_once(web: httpx.AsyncClient, number: int, due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        words = f"{WHO[number % len(WHO)]} {WHERE[number % len(WHERE)]} {number}"
        reply = await web.post("/api/search", json={"text": words, "k": 40})
        reply.raise_for_status()
        times.append(1000 * (time.perf_counter() - due))

    async with httpx.AsyncClient(base_url=address, timeout=60) as web:
        await web.post("/api/search", json={"text": "warm"})
        began = time.perf_counter() + 0.2
        await asyncio.gather(*(search_once(web, n, began + n / rate) for n in range(int(rate * seconds))))
    return times


async def thumbs(address: str, count: int) -> float:
    """Thumbnails a second that are in the cache already, eight at a time."""
    async with httpx.AsyncClient(base_url=address, timeout=60) as web:
        hits = (await web.post("/api/search", json={"text": "a photo", "k": 100})).json()["hits"]
        urls = [f"{hit['thumb_url']}?size=256" for hit in hits]
        for url in urls:
            (await web.get(url)).raise_for_status()
        slots = asyncio.Semaphore(8)

        async def fetch_once(number: int) -> None:
            async with slots:
                (await web.get(urls[number % len(urls)])).raise_for_status()

        began = time.perf_counter()
        await asyncio.gather(*(fetch_once(n) for n in range(count)))
        return count / (time.perf_counter() - began)


def browser_program() -> str | None:
    """The Chromium of this machine, by whichever name it has."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((program for name in names if (program := shutil.which(name)) is not None), None)


def first_paint(address: str, rounds: int) -> list[float]:
    """Milliseconds from opening a search's address to the first ten thumbnails drawn; nothing without a browser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return []
    program = browser_program()
    if program is None:
        return []
    times = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for number in range(rounds):
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.goto(f"{address}?q=a+dog+{number % 2}")
            page.wait_for_function(
                "() => [...document.querySelectorAll('#grid img')].filter((one) => one.complete && one.width).length >= 10"
            )
            times.append(float(page.evaluate("performance.now()")))
            page.close()
        browser.close()
    # The first two fill the caches of thumbnails.
    return times[2:] if len(times) > 2 else [statistics.median(times)]


if __name__ == "__main__":
    raise SystemExit(main())

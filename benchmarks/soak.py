"""A server under every kind of request for hours: does anything fail, and does it grow? `python -m benchmarks.soak INDEX`.

Requests of all kinds come at a steady rate, in a random order that a seed fixes; some clients leave before their answer.
Every half minute the memory, descriptors and threads of the server and of its processes are read. A line of JSON a reading
goes to `--curve`, and a picture of them to the same name with `.png`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from benchmarks.load import WHERE, WHO
from benchmarks.speed import ROOT, command, report

_EVERY = 30.0
_WARM = 300.0
# How often each kind of request comes, of all of them.
_MIX = {
    "search": 30, "page": 10, "image": 6, "upload": 4, "like": 8, "texts": 4, "rerank": 3, "thumb": 40, "media": 6, "item": 8,
    "describe": 2, "ask": 1, "explain": 1, "status": 6, "metrics": 2, "document": 4, "wrong": 4, "left": 4,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The server at one moment: megabytes, descriptors and threads, its child processes counted in."""

    seconds: float
    memory_mb: float
    descriptors: int
    threads: int
    processes: int


@dataclass
class Load:
    """The requests, and what became of them. `statuses` count answers, `failures` those that no server should give."""

    address: str
    chance: random.Random
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)
    hits: list[dict[str, str]] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)

    async def request(self, web: httpx.AsyncClient, kind: str) -> None:
        """One request of a kind."""
        began = time.perf_counter()
        try:
            reply = await self._answer(web, kind)
        except (httpx.TimeoutException, asyncio.CancelledError):
            if kind != "left":
                self.failures.append(f"{kind}: no answer in time")
            return
        except httpx.HTTPError as error:
            self.failures.append(f"{kind}: {type(error).__name__} {error}")
            return
        self.statuses[reply.status_code] += 1
        if kind in ("search", "page"):
            self.milliseconds.append(1000 * (time.perf_counter() - began))
        if (reply.status_code >= 500 and not self._told(reply)) or (reply.status_code >= 400 and kind == "search"):
            self.failures.append(f"{kind}: {reply.status_code} {reply.text[:200]}")

    @staticmethod
    def _told(reply: httpx.Response) -> bool:
        return reply.status_code == 503 and "retry-after" in reply.headers

    def words(self) -> str:
        """Words that nobody has asked for before."""
        return f"{self.chance.choice(WHO)} {self.chance.choice(WHERE)} {self.chance.randrange(100_000)}"

    def hit(self) -> dict[str, str]:
        """Something that was shown lately."""
        return self.chance.choice(self.hits)

    async def _answer(self, web: httpx.AsyncClient, kind: str) -> httpx.Response:
        match kind:
            case "search":
                return self._noted(await web.post("/api/search", json={"text": self.words(), "k": 40}))
            case "page":
                first = await web.post("/api/search", json={"text": self.words(), "k": 20})
                return await web.post(
                    "/api/search", json={"text": "a dog", "k": 20, "cursor": first.json().get("next")}
                )
            case "image":
                return await web.post("/api/search", files={"image": ("q.jpg", self._jpeg())}, data={"k": "10"})
            case "upload":
                reply = await web.post("/api/upload", files={"image": ("q.jpg", self._jpeg())})
                self.pictures = [*self.pictures[-8:], *([reply.json()["picture"]] if reply.is_success else [])]
                return reply
            case "like":
                return await web.post("/api/search", json={"image_id": self.hit()["id"], "k": 20})
            case "texts":
                return await web.post("/api/search", json={"text": self.words(), "kind": "text", "k": 20})
            case "rerank":
                return await web.post("/api/search", json={"text": self.words(), "rerank": True, "k": 10})
            case "thumb":
                return await web.get(self.hit()["thumb_url"], params={"size": self.chance.choice((128, 256, 384))})
            case "media":
                return await web.get(self.hit()["media_url"], headers={"Range": "bytes=0-65535"})
            case "item":
                return await web.get(f"/api/items/{self.hit()['id']}")
            case "describe":
                return await web.post("/api/describe", json={"id": self.hit()["id"]})
            case "ask":
                return await web.post("/api/ask", json={"question": f"what is {self.chance.choice(WHERE)}?"})
            case "explain":
                return await web.get("/api/explain", params={"id": self.hit()["id"], "text": self.chance.choice(WHO)})
            case "wrong":
                return await web.post("/api/search", content=b"\xff{" * self.chance.randrange(1, 99))
            case "left":
                return await web.post("/api/search", json={"text": self.words(), "rerank": True}, timeout=0.05)
            case _:
                paths = {"status": "/api/status", "metrics": "/metrics", "document": "/openapi.json"}
                return await web.get(paths[kind])

    def _noted(self, reply: httpx.Response) -> httpx.Response:
        if reply.is_success:
            shown = [hit for hit in reply.json()["hits"] if hit["kind"] != "text"]
            self.hits = [*self.hits[-400:], *shown]
        return reply

    def _jpeg(self) -> bytes:
        side = self.chance.choice((200, 800, 2400))
        noise = np.random.default_rng(self.chance.randrange(2**32)).integers(0, 256, (8, 8, 3), np.uint8)
        out = io.BytesIO()
        Image.fromarray(noise).resize((side, side)).save(out, "JPEG")
        return out.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the server over an index, load it, and print what it did."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second")
    parser.add_argument("--curve", type=Path, default=Path("soak.jsonl"))
    given = parser.parse_args(arguments)
    run = command("serve", "--index", str(given.index), "--port", "0")
    process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline() if process.stderr is not None else ""
        address = re.search(r"http://\S+/", line)
        if address is None:
            raise SystemExit(line)
        load = Load(address.group(0), random.Random(7))
        readings = asyncio.run(_soak(load, process.pid, given.minutes * 60, given.rate, given.curve))
        report({"rate": given.rate, "minutes": given.minutes, **summary(load, readings)})
        draw(readings, given.curve.with_suffix(".png"))
    finally:
        process.terminate()
        process.wait()
    return 0


async def _soak(load: Load, pid: int, seconds: float, rate: float, curve: Path) -> list[Reading]:
    readings: list[Reading] = []
    kinds, weights = list(_MIX), list(_MIX.values())
    tasks: set[asyncio.Task[None]] = set()
    async with httpx.AsyncClient(base_url=load.address, timeout=60) as web:
        await load.request(web, "search")
        began = due = time.monotonic()
        while (now := time.monotonic()) < began + seconds:
            if now - began >= len(readings) * _EVERY:
                readings.append(read(pid, now - began))
                with open(curve, "a", encoding="utf-8") as out:
                    out.write(json.dumps({**asdict(readings[-1]), "statuses": load.statuses}) + "\n")
            task = asyncio.create_task(load.request(web, load.chance.choices(kinds, weights)[0]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*tasks)
        readings.append(read(pid, time.monotonic() - began))
    return readings


def read(pid: int, seconds: float) -> Reading:
    """What a process and its children hold now."""
    pids, memory, descriptors, threads = [pid], 0.0, 0, 0
    for one in pids:
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                # A thread may end meanwhile, which says nothing of its process.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    pids += map(int, Path(f"/proc/{one}/task/{thread}/children").read_text().split())
            facts = dict(line.split(":", 1) for line in Path(f"/proc/{one}/status").read_text().splitlines())
            memory += int(facts["VmRSS"].split()[0]) / 1000
            threads += int(facts["Threads"])
            descriptors += len(os.listdir(f"/proc/{one}/fd"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return Reading(
        seconds=round(seconds, 1),
        memory_mb=round(memory, 1),
        descriptors=descriptors,
        threads=threads,
        processes=len(pids),
    )


def summary(load: Load, readings: Sequence[Reading]) -> dict[str, object]:
    """What the whole run says: the first five minutes are the server's to fill its caches."""
    warm = [reading for reading in readings if reading.seconds >= _WARM] or list(readings)
    middle = float(np.median([reading.memory_mb for reading in warm[: max(1, len(warm) // 6)]]))
    return {
        "statuses": dict(sorted(load.statuses.items())),
        "failures": load.failures[:20],
        "failed": len(load.failures),
        "search_p50_ms": round(float(np.percentile(load.milliseconds, 50)), 1),
        "search_p99_ms": round(float(np.percentile(load.milliseconds, 99)), 1),
        "memory_mb": [
            min(one.memory_mb for one in warm),
            middle,
            max(one.memory_mb for one in warm),
            warm[-1].memory_mb,
        ],
        "descriptors": [min(one.descriptors for one in warm), max(one.descriptors for one in warm)],
        "threads": [min(one.threads for one in warm), max(one.threads for one in warm)],
    }


def draw(readings: Sequence[Reading], file: Path) -> None:
    """The curve as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    minutes = [reading.seconds / 60 for reading in readings]
    curves: dict[str, list[float]] = {
        "memory, MB": [reading.memory_mb for reading in readings],
        "descriptors": [reading.descriptors for reading in readings],
        "threads": [reading.threads for reading in readings],
    }
    for row, (name, values) in enumerate(curves.items(), 1):
        axes = figure.add_subplot(3, 1, row)
        axes.plot(minutes, values, linewidth=1)
        axes.set_ylim(0, 1.15 * max(values))
        axes.set_ylabel(name)
    axes.set_xlabel("minutes")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())

"""SearchService: one index and its models behind two threads, asked by any number of requests.

Engines belong to one thread each. The search thread takes every query that waits and encodes their words in one batch; the
reading thread re-ranks, describes, answers and explains, which takes longer and must not make a search wait. Both see a new
state of the index as soon as one is committed, between two requests.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from PIL import Image

from media.reader import ImageReader
from retrieval.engine import Engine
from retrieval.errors import MmsearchError
from retrieval.types import Hit, Item, Query
from server.metrics import Metrics

Result = TypeVar("Result")
MOST_WAITING = 64
_BATCH = 16
_ITEMS = 50_000


class Busy(MmsearchError):
    """Too many requests wait already."""


class _Worker:
    """A thread with an engine of its own, and a queue with a bound."""

    def __init__(self, name: str, folder: Path, device: str, metrics: Metrics) -> None:
        self._name, self._folder, self._metrics = name, folder, metrics
        self._jobs: queue.Queue[tuple[Query | None, Callable[[Engine], object], Future[object]] | None] = queue.Queue(
            MOST_WAITING
        )
        self._stamp = _stamp(folder)
        self._engine = Engine.open(folder, device=device)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Engine], Result], query: Query | None = None) -> Future[Result]:
        """Have `work` done with the engine. Its words are encoded with those of other waiting queries. Raises `Busy`."""
        future: Future[Result] = Future()
        try:
            self._jobs.put_nowait((query, work, future))  # type: ignore[arg-type]
        except queue.Full as error:
            raise Busy("too many requests are waiting; try again in a moment") from error
        self._metrics.queue(self._name, self._jobs.qsize())
        return future

    def close(self) -> None:
        """End once the queue is empty."""
        self._jobs.put(None)
        self._thread.join()
        self._engine.close()

    def _run(self) -> None:
        ended = False
        while not ended:
            waiting = [self._jobs.get()]
            while len(waiting) < _BATCH:
                try:
                    waiting.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            batch = [job for job in waiting if job is not None]
            ended = len(batch) < len(waiting)
            self._metrics.queue(self._name, self._jobs.qsize())
            self._refresh()
            self._encode([query for query, _, _ in batch if query is not None])
            for _, work, future in batch:
                if not future.set_running_or_notify_cancel():
                    continue
                try:
                    future.set_result(work(self._engine))
                except BaseException as error:  # Every failure belongs to the request that asked
                    future.set_exception(error)

    def _encode(self, queries: Sequence[Query]) -> None:
        words = [
            text for query in queries for text in (query.text, *query.negatives) if text is not None and text.strip()
        ]
        if len(words) > 1:
            try:
                self._engine.embed_texts(words)
            except Exception:
                # Each search encodes its own again, and tells its own request what is wrong.
                return

    def _refresh(self) -> None:
        """Open the newest state; a request that cannot have it gets the one that is open."""
        stamp = _stamp(self._folder)
        if stamp == self._stamp:
            return
        try:
            fresh = self._engine.reopened()
        except (MmsearchError, OSError):
            return
        self._engine.close()
        self._engine, self._stamp = fresh, stamp


class SearchService:
    """Serves until `close`, which waits for what runs. Raises what `Engine.open` raises."""

    def __init__(self, folder: Path, device: str, metrics: Metrics) -> None:
        self.folder = folder
        self.pictures = ImageReader(1024)
        self.metrics = metrics
        self._searching = _Worker("search", folder, device, metrics)
        self._reading = _Worker("read", folder, device, metrics)
        self.model = self._searching.submit(lambda engine: engine.model.name).result()
        # No request may set off a download.
        self.reader = self._searching.submit(lambda engine: engine.reader_name(offline=True)[0]).result()
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._items_lock = threading.Lock()

    def close(self) -> None:
        """End both threads."""
        self._searching.close()
        self._reading.close()

    def warm(self) -> None:
        """Load what first queries by words and by a picture need."""
        self._searching.submit(lambda engine: engine.embed_texts(["a photo"])).result()
        grey = Image.new("RGB", (32, 32), "grey")
        self._searching.submit(lambda engine: engine.embed(Query(images=(grey,)))).result()

    async def search(self, query: Query) -> list[Hit]:
        """As `Engine.search`; the items of the hits are remembered, since their pictures will be asked for."""
        worker = self._reading if query.rerank is not None else self._searching
        with self.metrics.stage("rerank" if query.rerank is not None else "search"):
            hits = await self._wait(worker.submit(lambda engine: engine.search(query), query))
        for hit in hits:
            for one in (hit, *hit.moments):
                self._remember(one.item)
        return hits

    async def item(self, identity: str) -> Item:
        """The item of an id. Raises `QueryError` where the index has none."""
        with self._items_lock:
            known = self._items.get(identity)
        if known is None:
            known = await self._wait(self._searching.submit(lambda engine: engine.item(identity)))
            self._remember(known)
        return known

    async def read(self, stage: str, work: Callable[[Engine], Result]) -> Result:
        """Have something longer done, on the reading thread."""
        with self.metrics.stage(stage):
            return await self._wait(self._reading.submit(work))

    async def ask(self, work: Callable[[Engine], Result]) -> Result:
        """Have something short done, on the searching thread."""
        return await self._wait(self._searching.submit(work))

    async def _wait(self, future: Future[Result]) -> Result:
        return await asyncio.wrap_future(future)

    def _remember(self, item: Item) -> None:
        with self._items_lock:
            self._items[item.id] = item
            self._items.move_to_end(item.id)
            while len(self._items) > _ITEMS:
                self._items.popitem(last=False)


def _stamp(folder: Path) -> tuple[int, int, int]:
    """What changes with every commit of the manifest."""
    try:
        stat = os.stat(folder / "manifest.json")
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)

"""SearchService: one index and its models behind lanes, asked by any number of requests.

An engine belongs to one thread. The search lane answers by embeddings; the reading lane re-ranks, describes, answers and
explains, which takes longer; the lookup lane finds items and counts. Each sees a new state of the index as soon as one is
committed, between two requests, and items that are cached for a state are dropped with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image
from starlette.requests import Request

from media.reader import ImageReader
from media.types import Place
from retrieval.cancellation import Cancellation
from retrieval.crossmodal.decoder_models import reading_model
from retrieval.engine import Engine
from retrieval.errors import IndexNotFoundError, ItemNotFoundError, MmsearchError
from retrieval.results import Facets
from retrieval.store.manifest import read_manifest
from retrieval.store.roots import Roots
from retrieval.types import Answer, Filter, Item, Query
from server.lanes import Busy, Lane
from server.metrics import Metrics

Result = TypeVar("Result")
_ITEMS = 50_000
_EMBEDDED_AT_ONCE = 2
_EMBEDDED_WAITING = 16


class ResultsChanged(MmsearchError):
    """A cursor of a state of the index that is no longer there."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found, the state of the index that it is of and its model, and whether that read less than all the
    words."""

    answer: Answer
    state: str
    model: str
    truncated: bool


class _Stoppable:
    """Reads the images of an engine's items until the work that wants them is called off."""

    def __init__(self, images: ImageReader) -> None:
        self._images = images
        self.cancellation = Cancellation()

    def image(self, place: Place) -> Image.Image:
        """As `ImageReader.picture`. Raises `Cancelled` as well."""
        self.cancellation.check()
        return self._images.image(place)


class _EngineLane:
    """A lane of one thread with an engine of its own, always at the newest state."""

    def __init__(self, lane: Lane, folder: Path, device: str, images: ImageReader) -> None:
        self._lane, self._folder = lane, folder
        self._images = _Stoppable(images)
        self._stamp = stamp(folder)
        self._engine = Engine.open(folder, device=device, images=self._images)

    def do(self, work: Callable[[Engine], Result]) -> Result:
        """Have something done at the start of the program, and wait for it."""
        return self._lane.do(lambda: work(self._engine))

    async def run(self, work: Callable[[Engine, str], Result], request: Request | None) -> Result:
        """Have something done with the engine and the name of its state; see `Lane.run`."""

        def job(cancellation: Cancellation) -> Result:
            cancellation.check()
            self._images.cancellation = cancellation
            self._refresh()
            return work(self._engine, state_name(self._stamp))

        return await self._lane.run(job, request)

    def close(self) -> None:
        """End once what runs is done."""
        self._lane.close()
        self._engine.close()

    def _refresh(self) -> None:
        """Open the newest state; a request that cannot have it gets the one that is open."""
        now = stamp(self._folder)
        if now == self._stamp:
            return
        try:
            fresh = self._engine.reopened()
        except (MmsearchError, OSError):
            return
        self._engine.close()
        self._engine, self._stamp = fresh, now


class SearchService:
    """Serves until `close`, which waits for what runs. Raises what `Engine.open` raises."""

    def __init__(self, folder: Path, device: str, metrics: Metrics) -> None:
        self.folder = folder
        self.images = ImageReader(1024)
        self.metrics = metrics

        def lane(name: str, bound: int, seconds: float) -> _EngineLane:
            return _EngineLane(
                Lane(name, metrics, threads=1, bound=bound, seconds=seconds), folder, device, self.images
            )

        self._searching = lane("search", 256, 60)
        self._reading = lane("read", 32, 180)
        self._lookups = lane("lookup", 512, 30)
        self._names: tuple[tuple[int, ...], str, str] | None = None
        self._items: OrderedDict[str, Item] = OrderedDict()
        self._items_stamp = stamp(folder)
        self._items_lock = threading.Lock()
        self._status: tuple[object, dict[str, object]] | None = None
        self._status_lock = asyncio.Lock()
        self._embedding = asyncio.Semaphore(_EMBEDDED_AT_ONCE)
        self._to_embed = 0

    @property
    def model(self) -> str:
        """The name of the index's model, which another may follow while the server runs."""
        return self._named()[0]

    @property
    def captioner(self) -> str:
        """The model that re-ranks and describes; `auto` for the index's own."""
        return self._named()[1]

    def close(self) -> None:
        """End the lanes."""
        for lane in (self._searching, self._reading, self._lookups):
            lane.close()

    def warm(self) -> None:
        """Load what first queries by words and by an image need."""
        self._searching.do(lambda engine: engine.embed_texts(["a photo"]))
        grey = Image.new("RGB", (32, 32), "grey")
        self._searching.do(lambda engine: engine.embed(Query(images=(grey,))))

    async def search(self, query: Query, request: Request | None = None, state: str | None = None) -> SearchResult:
        """As `Engine.search`; the items of the hits are remembered, since their images will be asked for.

        Raises `ResultsChanged` where `state` is given and the index has another by now.
        """
        lane = self._reading if query.rerank is not None else self._searching

        def work(engine: Engine, now: str) -> tuple[SearchResult, tuple[int, ...]]:
            if state is not None and state != now:
                raise ResultsChanged("the index has changed since these results were found; search again")
            answer = engine.answer(query)
            cut = query.words is not None and not engine.reads_whole(query.words)
            result = SearchResult(answer=answer, state=now, model=engine.model.name, truncated=cut)
            return result, stamp(self.folder)

        with self.metrics.stage("rerank" if query.rerank is not None else "search"):
            async with self._admitted(query):
                result, stamped = await lane.run(work, request)
        if state_name(stamped) == result.state:
            self._remember(stamped, [each.item for hit in result.answer.hits for each in (hit, *hit.moments)])
        return result

    @asynccontextmanager
    async def _admitted(self, query: Query) -> AsyncIterator[None]:
        """Only a few images at a time are embedded, between the searches by words."""
        if not query.images:
            yield
            return
        if self._to_embed >= _EMBEDDED_WAITING:
            raise Busy("too many pictures are waiting; try again in a moment", 2)
        self._to_embed += 1
        try:
            async with self._embedding:
                yield
        finally:
            self._to_embed -= 1

    async def item(self, identity: str, request: Request | None = None) -> Item:
        """The item of an id, as the index has it now. Raises `ItemNotFoundError` where it has none."""
        with self._items_lock:
            cached = self._items.get(identity) if self._items_stamp == stamp(self.folder) else None
        if cached is not None:
            return cached

        def work(engine: Engine, now: str) -> tuple[Item, str]:
            return engine.item(identity), now

        stamped = stamp(self.folder)
        item, state = await self._lookups.run(work, request)
        if state == state_name(stamped):
            self._remember(stamped, [item])
        return item

    async def same_file(self, identity: str, request: Request | None = None) -> tuple[list[Item], Roots]:
        """As `Engine.same_file`, with the folders that the index is of."""
        return await self._lookups.run(lambda engine, _: (engine.same_file(identity), engine.manifest.roots), request)

    async def items(self, identities: Sequence[str], request: Request | None = None) -> list[Item]:
        """The items of these ids, as the index has them now, in their order; those that it has no more are left out."""

        def work(engine: Engine, _: str) -> list[Item]:
            found = []
            for identity in identities:
                with suppress(ItemNotFoundError):
                    found.append(engine.item(identity))
            return found

        return await self._lookups.run(work, request)

    async def facets(self, wanted: Filter, request: Request | None = None) -> Facets:
        """As `Engine.facets`."""
        with self.metrics.stage("facets"):
            return await self._lookups.run(lambda engine, _: engine.facets(wanted), request)

    async def look(self, stage: str, work: Callable[[Engine, str], Result], request: Request | None = None) -> Result:
        """Have something short looked up, with the name of the state that it is of."""
        with self.metrics.stage(stage):
            return await self._lookups.run(work, request)

    async def read(self, stage: str, work: Callable[[Engine], Result], request: Request | None = None) -> Result:
        """Have something longer done, on the reading lane."""
        with self.metrics.stage(stage):
            return await self._reading.run(lambda engine, _: work(engine), request)

    async def status(self) -> Mapping[str, object]:
        """`Engine.status` and the `generation`, counted once for each state. Raises `IndexNotFoundError` without an index."""
        # One at a time: a burst counts a new state once.
        async with self._status_lock:
            now = (stamp(self.folder), stamp(self.folder, "failures.parquet"))
            if not any(now[0]):
                raise IndexNotFoundError(f"the index at {self.folder} is gone")
            if self._status is None or self._status[0] != now:
                counts = await self._lookups.run(
                    lambda engine, _: {**engine.status(), "generation": engine.manifest.generation}, None
                )
                self._status = (now, counts)
            return self._status[1]

    def _named(self) -> tuple[str, str]:
        now = stamp(self.folder)
        if self._names is None or self._names[0] != now:
            try:
                model = read_manifest(self.folder).model.name
                # No request may set off a download.
                self._names = (now, model, reading_model(model, offline=True)[0])
            except MmsearchError:
                if self._names is None:
                    raise
        return self._names[1:]

    def _remember(self, stamped: tuple[int, ...], items: list[Item]) -> None:
        """Keep items of the state that had the stamp `stamped`; those of another state go."""
        with self._items_lock:
            if stamped != self._items_stamp:
                if stamped != stamp(self.folder):
                    return
                self._items.clear()
                self._items_stamp = stamped
            for item in items:
                self._items[item.id] = item
                self._items.move_to_end(item.id)
            while len(self._items) > _ITEMS:
                self._items.popitem(last=False)


def stamp(folder: Path, name: str = "manifest.json") -> tuple[int, int, int]:
    """What changes with every commit; zeros where the file is not there."""
    try:
        stat = os.stat(folder / name)
    except OSError:
        return (0, 0, 0)
    return (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def state_name(stamped: tuple[int, ...]) -> str:
    """A state of the index in a few letters, the same after a restart."""
    return hashlib.sha256(repr(stamped).encode()).hexdigest()[:12]

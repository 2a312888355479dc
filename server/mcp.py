"""The index for agents: tools of the Model Context Protocol over the service that the HTTP API uses.

Every tool only reads. What comes back has a bound: so many hits, so many letters of a text, so many bytes of a picture, so many
seconds. An error says what was wrong and what to do.
"""

from __future__ import annotations

import inspect
import io
import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from PIL import Image as Pillow
from pydantic import BaseModel, Field, ValidationError

from media.names import valid_text
from retrieval.errors import ItemNotFoundError, MediaError, MmsearchError
from retrieval.models.weights import cache_dir
from retrieval.types import Item, Kind, Sort
from server.access import Access
from server.errors import in_api_words
from server.guard import Guard, Patience
from server.lanes import Lane
from server.media import Files, has_image
from server.metrics import Metrics
from server.models import AskRequest, FacetsResponse, HitModel, MomentModel, Narrowed, SearchRequest
from server.reading import answered, described
from server.searching import facets_filter, find
from server.service import SearchService

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from starlette.types import ASGIApp

PATH = "/mcp"
MOST_HITS = 50
IMAGE_BYTES = 384 * 1024
_LETTERS = 1000
_MOMENTS = 5
_FACETS = 40
_DEEPEST = 500
_INSTRUCTIONS = (
    "Searches one person's photos, videos and texts by meaning, on their own machine. Start with search, whose ids the other "
    "tools take. get_image shows a small picture of a hit: look at it before you say what it shows. Nothing here changes or "
    "deletes anything."
)
_LINE = (
    "Words that say what the picture shows, and filters among them, in one line: after:2023-06 before:2024 on:2023-12-25 "
    'in:holiday kind:video camera:iphone near:Paris~20km rating:4 name:IMG_20 -people "exact words". Filters alone list what '
    "passes, newest first."
)

Line = Annotated[str, Field(max_length=2000, description=_LINE)]
Identity = Annotated[str, Field(min_length=1, max_length=64, description="The id of a hit")]
Count = Annotated[int, Field(ge=1, le=MOST_HITS, description="How many hits")]
OfKind = Annotated[Kind | None, Field(description="Only these; without it images and videos")]
Cursor = Annotated[
    str | None,
    Field(max_length=64, description="`next` of the page before, with all other arguments as they were"),
]


class FoundHit(BaseModel):
    """A hit, best first. `relevance` is the probability that it is relevant, null where nothing is known of that; `start` and
    `end` are seconds of a video; `copies` counts further copies of the picture."""

    id: str
    kind: Kind
    path: str
    score: float
    relevance: float | None
    start: float | None
    end: float | None
    text: str | None
    taken_at: str | None
    camera: str | None
    place: str | None
    matched_words: list[str]
    copies: int
    moments: list[MomentModel]


class FoundPage(BaseModel):
    """Hits, the cursor of the page after this one (null at the end), and notes on the query."""

    hits: list[FoundHit]
    next: str | None
    notes: list[str]


class CountedFacets(FacetsResponse):
    """How many items there are by name, the largest first, years and months the newest first; at most forty of each."""


class DescribedItem(BaseModel):
    """A caption that a model wrote, its logarithmic probability, and what the index knows of the item."""

    id: str
    caption: str
    log_probability: float
    kind: Kind
    path: str
    start: float | None
    end: float | None
    width: int | None
    height: int | None
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    place: str | None
    rating: int | None
    words: str | None


class CitedEvidence(BaseModel):
    """What an answer rests on, the first being [1]."""

    id: str
    path: str
    start: float | None
    end: float | None
    caption: str
    score: float


class CitedAnswer(BaseModel):
    """An answer that cites its evidence as [1], [2]; without evidence it says that nothing relevant was found."""

    answer: str
    evidence: list[CitedEvidence]


class Tools:
    """The tools over one index, until `close`. Raises what `Engine.open` raises."""

    def __init__(self, folder: Path, device: str, roots: Sequence[Path] = ()) -> None:
        metrics = Metrics()
        self._metrics = metrics
        self._service = SearchService(folder, device, metrics)
        self._files = Files(folder, roots, self._service.images, cache_dir())
        self._pictures = Lane("thumb", metrics, threads=2, bound=32, seconds=60)

    def warm(self) -> None:
        """Begin to load the models, on a thread: what is asked meanwhile waits in its queue."""
        threading.Thread(target=self._load, name="warm", daemon=True).start()

    def close(self) -> None:
        """End once what runs is done."""
        self._pictures.close()
        self._service.close()

    async def search(
        self,
        query: Line,
        kind: OfKind = None,
        k: Count = 10,
        sort: Annotated[Sort, Field(description="Best first, or by date")] = "relevance",
        min_relevance: Annotated[
            float | None, Field(ge=0, le=1, description="Leave out what is less likely relevant; 0.5 is a good start")
        ] = None,
        rerank: Annotated[bool, Field(description="Look at the best again, closely; slower")] = False,
        cursor: Cursor = None,
    ) -> FoundPage:
        """Find photos, moments of videos and texts by what they show or say."""
        asked = SearchRequest(
            text=query, kind=kind, k=k, sort=sort, min_relevance=min_relevance, rerank=rerank, cursor=cursor
        )
        return await self._found(asked)

    async def similar(self, id: Identity, kind: OfKind = None, k: Count = 10, cursor: Cursor = None) -> FoundPage:
        """Find what looks like a hit; the hit itself comes first."""
        return await self._found(SearchRequest(image_id=id, kind=kind, k=k, cursor=cursor))

    async def facets(self, query: Line = "", kind: OfKind = None) -> CountedFacets:
        """Count what the filters of a line leave, by year, month, folder, camera, place and kind: to learn what is there."""
        counts = await self._service.facets(facets_filter(Narrowed(text=query, kind=kind)))
        first = {name: dict(list(values.items())[:_FACETS]) for name, values in vars(counts).items()}
        return CountedFacets.model_validate(first)

    async def describe(self, id: Identity) -> DescribedItem:
        """Say what a picture or a moment of a video shows, with its date, place and camera. A model writes the caption, and may
        be wrong."""
        told = await described(self._service, self._files, id)
        item = await self._service.item(id)
        names = set(DescribedItem.model_fields) - {"caption", "log_probability"}
        facts = {name: _short(getattr(item, name)) for name in names}
        return DescribedItem(caption=told.caption, log_probability=round(told.log_probability, 3), **facts)

    async def ask(
        self,
        question: Annotated[str, Field(min_length=1, max_length=2000, description="What the pictures may answer")],
        k: Annotated[int, Field(ge=1, le=10, description="How many pictures may serve as evidence")] = 3,
    ) -> CitedAnswer:
        """Answer a question from what pictures and videos show, with evidence. Slower than `search`."""
        told = await answered(self._service, AskRequest(question=question, k=k))
        return CitedAnswer.model_validate(told.model_dump(include={"answer": True, "evidence": True}))

    async def get_image(
        self, id: Identity, size: Annotated[int, Field(ge=64, le=1024, description="Pixels of the longer side")] = 512
    ) -> list[Any]:
        """Show a small picture of a hit: the photo, or the middle of a moment."""
        from mcp.server.mcpserver import Image

        item = await self._service.item(id)
        if not has_image(item):
            raise MediaError("read", "this text has no picture; its words are the hit's text")
        content = await self._pictures.run(
            lambda _: self._files.cached_thumb(item, size) or self._files.thumb(item, size)
        )
        return [_caption(item), Image(data=bounded_jpeg(content, size), format="jpeg")]

    async def _found(self, asked: SearchRequest) -> FoundPage:
        page = await find(self._service, asked, (), _DEEPEST)
        return FoundPage(hits=[_found_hit(hit) for hit in page.hits], next=page.next, notes=page.notes)

    def _load(self) -> None:
        # Who asks is told what could not be loaded.
        with suppress(MmsearchError):
            self._service.warm()


def tool_server(tools: Tools) -> MCPServer[Any]:
    """The tools as a server of the official SDK, for any of its transports. Raises `MmsearchError` where the SDK is missing."""
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver import Context
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp_types import CallToolResult, InputRequiredResult, ToolAnnotations
    except ImportError as error:
        raise MmsearchError("the tools for agents need the MCP SDK; install it with: pip install mcp") from error
    from importlib.metadata import PackageNotFoundError, version

    known: dict[str, list[str]] = {}

    class Told(MCPServer[Any]):
        """Has every error say what and what to do."""

        async def call_tool(
            self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
        ) -> CallToolResult | InputRequiredResult:
            taken = known.get(name)
            if taken is None:
                raise ToolError(f"there is no tool {name[:64]!r}; the tools are {', '.join(known)}")
            odd = next((argument for argument in arguments if argument not in taken), None)
            if odd is not None:
                raise ToolError(f"{name} takes no {odd[:64]!r}; it takes {', '.join(taken)}")
            try:
                return await super().call_tool(name, arguments, context)
            except ToolError as error:
                said = told(error.__cause__)
                if said is None:
                    raise
                raise ToolError(said) from None

    try:
        own = version("mmsearch")
    except PackageNotFoundError:
        own = ""
    server = Told(
        "mmsearch", title="mmsearch", instructions=_INSTRUCTIONS, version=own, log_level="WARNING", subscriptions=False
    )
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    every: tuple[Callable[..., Any], ...] = (
        tools.search, tools.similar, tools.facets, tools.describe, tools.ask, tools.get_image,
    )  # fmt: skip
    for tool in every:
        known[tool.__name__] = list(inspect.signature(tool).parameters)
        server.add_tool(
            tool,
            description=" ".join((tool.__doc__ or "").split()),
            annotations=reads,
            structured_output=tool != tools.get_image,
        )
    return server


def http_application(server: MCPServer[Any], hosts: frozenset[str], token: str | None) -> ASGIApp:
    """The same over streamable HTTP at `PATH`, guarded as `serve` is. Raises `QueryError` for a token that cannot be used."""
    from mcp.server.transport_security import TransportSecuritySettings

    # The tools remember nothing of who asks, and the guard looks at hosts and origins.
    unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    plain = server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, transport_security=unguarded
    )
    access = Access(token) if token is not None else None
    return Guard(plain, hosts, access, Metrics(), [PATH], Patience())


def told(cause: BaseException | None) -> str | None:
    """What an agent is told of an error, in one sentence; None for one that nobody expected."""
    if isinstance(cause, ValidationError):
        first = cause.errors()[0]
        return valid_text(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    if not isinstance(cause, MmsearchError):
        return None
    said = in_api_words(" ".join(valid_text(str(cause)).split())) or type(cause).__name__
    return f"{said}; ids come from search" if isinstance(cause, ItemNotFoundError) else said


def bounded_jpeg(content: bytes, size: int) -> bytes:
    """A JPEG whose longer side has at most `size` pixels, in `IMAGE_BYTES` bytes at most."""
    rgb = Pillow.open(io.BytesIO(content)).convert("RGB")
    side = min(size, max(rgb.size))
    while side < max(rgb.size) or len(content) > IMAGE_BYTES:
        small = rgb.copy()
        small.thumbnail((side, side))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82)
        content = out.getvalue()
        if len(content) <= IMAGE_BYTES:
            break
        side = side * 3 // 4
    return content


def _found_hit(hit: HitModel) -> FoundHit:
    facts = hit.model_dump(include=set(FoundHit.model_fields) - {"copies", "moments"})
    facts["score"] = round(hit.score, 4)
    facts["relevance"] = None if hit.relevance is None else round(hit.relevance, 3)
    facts["text"] = _short(hit.text)
    return FoundHit(**facts, copies=len(hit.copies), moments=hit.moments[:_MOMENTS])


def _caption(item: Item) -> str:
    names = ("id", "kind", "path", "start", "end", "width", "height", "taken_at", "place")
    return json.dumps({name: _short(getattr(item, name)) for name in names}, ensure_ascii=False)


def _short(value: Any) -> Any:
    """A value as it is, a text valid and no longer than `_LETTERS`."""
    if not isinstance(value, str):
        return value
    text = valid_text(value)
    return text if len(text) <= _LETTERS else f"{text[:_LETTERS]}…"

"""What is sent to a server and what its answers mean: plain values both ways, no network.

A conversation is a generator: it yields each `Call`, is sent the `Reply`, and returns its result, so that the client that waits
and the one that does not are the same but for the waiting.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import retrieval.errors
from media.names import join_name
from retrieval.errors import ItemNotFoundError, MediaError, MmsearchError, QueryError
from retrieval.results import Caption, Facets, Failure
from retrieval.types import Answer, CopyGroup, Filter, Hit, Item, Query, Rerank

if TYPE_CHECKING:
    from PIL.Image import Image

Result = TypeVar("Result")
_PAGE = 200
_LISTED = 200
_TRIES = 3
# Of the shorter side of a picture that is sent, in pixels.
_SIDE = 1024


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request: `body` goes as JSON, `image` as the file of a form."""

    method: str
    path: str
    params: Mapping[str, str | int | float] = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    image: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer. `error` is the name of the error that the server raised, where it says so."""

    status: int
    content: bytes
    error: str | None = None

    def json(self) -> dict[str, Any]:
        """The JSON object in it. Raises `MmsearchError` for an error, and for anything else than an object."""
        try:
            value = json.loads(self.checked())
        except ValueError as error:
            raise MmsearchError("that is no mmsearch server: its answer is no JSON") from error
        if not isinstance(value, dict):
            raise MmsearchError("that is no mmsearch server: its answer is no JSON object")
        return value

    def checked(self) -> bytes:
        """The bytes in it. Raises the project's own error, with the server's message, for an error."""
        if self.status < 400:
            return self.content
        raise self._raised()

    def _raised(self) -> MmsearchError:
        try:
            message = str(json.loads(self.content)["error"])
        except (ValueError, KeyError, TypeError):
            message = f"the server answered with status {self.status}, and is none of mmsearch"
        kind = getattr(retrieval.errors, self.error, None) if self.error in retrieval.errors.__all__ else None
        if kind is MediaError:
            return MediaError("read", message)
        if kind is not None:
            made: MmsearchError = kind(message)
            return made
        return QueryError(message) if self.status in (400, 413, 422) else MmsearchError(message)


Conversation: TypeAlias = Generator[Call, Reply, Result]


@dataclass(frozen=True, kw_only=True)
class Told:
    """The answer to a question, which cites its evidence as [1], [2], and the evidence: hits with a caption each."""

    question: str
    answer: str
    evidence: tuple[tuple[Hit, Caption], ...]


def searching(query: Query) -> Conversation[Answer]:
    """A whole search, page by page. Raises `QueryError` for what a server does not search by."""
    if not isinstance(query, Query):
        raise QueryError(f"search takes a Query, not {query!r:.60}: Query(text=...), or Query.parse(...) of a line")
    body = _search_body(query)
    if query.images:
        pictures: list[str] = []
        for image in query.images:
            if isinstance(image, tuple):
                raise QueryError("a server searches by pictures, not by a film; send one of its frames")
            reply = yield Call(method="POST", path="/api/upload", image=_png(image))
            pictures.append(str(reply.json()["picture"]))
        body["picture"] = pictures
    for _ in range(_TRIES - 1):
        answer = yield from _pages(body, query.k)
        if answer is not None:
            return answer
    answer = yield from _pages(body, query.k)
    if answer is None:
        raise MmsearchError("the index changes faster than its pages can be read; ask for fewer hits")
    return answer


def _pages(body: Mapping[str, object], wanted: int) -> Conversation[Answer | None]:
    """The pages of a search up to so many hits; None where the index changed between them. Raises `QueryError` where the server
    does not give so many."""
    hits: list[Hit] = []
    cursor: str | None = None
    while True:
        left = min(_PAGE, wanted - len(hits))
        reply = yield Call(method="POST", path="/api/search", body={**body, "k": left, "cursor": cursor})
        if reply.status == 409:
            return None
        page = reply.json()
        hits += [hit_of(entry["details"]) for entry in page["hits"]]
        cursor = page["next"]
        if len(hits) >= wanted or (cursor is None and not page["more"]):
            break
        if cursor is None:
            raise QueryError(f"this server gives {len(hits)} hits of a search at most; ask for fewer, or narrow it")
    return Answer(
        hits=tuple(hits),
        unindexed=page["unindexed"],
        seen=page["seen"],
        unreadable=tuple((path, reason) for path, reason in page["unreadable"]),
        out_of_time=page["out_of_time"],
        text_cut=page["text_cut"],
        notes=tuple(page["notes"]),
        total=page["total"],
    )


def counting(wanted: Filter) -> Conversation[Facets]:
    """The facets of a filter."""
    reply = yield Call(method="GET", path="/api/facets", params={"text": str(Query(filter=wanted))})
    return Facets(**reply.json())


def finding(identity: str) -> Conversation[Item]:
    """The item of an id."""
    reply = yield Call(method="GET", path=f"/api/items/{_segment(identity)}")
    return item_of(reply.json())


def describing(identity: str) -> Conversation[Caption | None]:
    """A caption, or None where the picture cannot be read."""
    reply = yield Call(method="POST", path="/api/describe", body={"id": identity})
    try:
        return _caption(reply.json())
    except MediaError:
        return None


def asking(question: str, k: int, min_relevance: float, candidates: int) -> Conversation[Told]:
    """An answer with its evidence."""
    body = {
        "question": question, "k": k, "min_relevance": min_relevance, "candidates": candidates, "details": True,
    }  # fmt: skip
    reply = yield Call(method="POST", path="/api/ask", body=body)
    told = reply.json()
    evidence = tuple((hit_of(entry["details"]), _caption(entry)) for entry in told["evidence"])
    return Told(question=told["question"], answer=told["answer"], evidence=evidence)


def copies() -> Conversation[list[CopyGroup]]:
    """Every group of copies."""
    groups = yield from _listed("/api/duplicates", "groups")
    return [CopyGroup(kind=group["kind"], items=tuple(map(item_of, group["items"]))) for group in groups]


def failed() -> Conversation[list[Failure]]:
    """The whole ledger."""
    entries = yield from _listed("/api/failures", "failures")
    return [
        Failure(path=_path(entry, "path"), source=_path(entry, "source"), stage=entry["stage"], reason=entry["reason"])
        for entry in entries
    ]


def _listed(path: str, key: str) -> Conversation[list[dict[str, Any]]]:
    """All pages of a list, begun anew where the index changes between them."""
    for _ in range(_TRIES):
        entries: list[dict[str, Any]] = []
        cursor: str | None = None
        while True:
            params: dict[str, str | int | float] = {"k": _LISTED}
            if cursor is not None:
                params["cursor"] = cursor
            reply = yield Call(method="GET", path=path, params=params)
            if reply.status == 409:
                break
            page = reply.json()
            entries += page[key]
            cursor = page["next"]
            if cursor is None:
                return entries
    raise MmsearchError("the index changes faster than the list can be read; try again later")


def telling() -> Conversation[dict[str, object]]:
    """The status of the index."""
    reply = yield Call(method="GET", path="/api/status")
    return reply.json()


def thumbing(identity: str, size: int) -> Conversation[bytes]:
    """A small JPEG."""
    reply = yield Call(method="GET", path=f"/thumb/{_segment(identity)}", params={"size": size})
    return reply.checked()


def media_call(identity: str) -> Call:
    """What asks for the file of an item."""
    return Call(method="GET", path=f"/media/{_segment(identity)}")


def reading(identity: str) -> Conversation[bytes]:
    """The file of an item."""
    reply = yield media_call(identity)
    return reply.checked()


def identity_of(item: Item | str) -> str:
    """The id of an item, or an id as it is."""
    return item.id if isinstance(item, Item) else item


def item_of(entry: Mapping[str, Any]) -> Item:
    """An item from the form in which a server gives it."""
    names = [one.name for one in fields(Item)]
    facts = {name: entry[name] for name in names}
    return Item(**{**facts, "path": _path(entry, "path"), "source": _path(entry, "source")})


def hit_of(entry: Mapping[str, Any]) -> Hit:
    """A hit from the form in which a server gives it where details are asked for."""
    raws: Sequence[str | None] = entry.get("copies_raw") or [None] * len(entry["copies"])
    return Hit(
        rank=entry["rank"],
        score=entry["score"],
        first_stage_score=entry["first_stage_score"],
        rerank_score=entry["rerank_score"],
        item=item_of(entry["item"]),
        relevance=entry["relevance"],
        moments=tuple(map(hit_of, entry["moments"])),
        matched=tuple(entry["matched"]),
        matched_words=tuple(entry["matched_words"]),
        copies=tuple(_joined(path, raw) for path, raw in zip(entry["copies"], raws, strict=True)),
    )


def _search_body(query: Query) -> dict[str, object]:
    line = str(query)
    return {
        "text": line or None,
        "image_id": list(query.like) or None,
        "unlike_id": list(query.unlike) or None,
        "region": list(query.region) if query.region is not None else None,
        "sort": query.sort,
        "match": query.match,
        "prefix": query.prefix,
        "copies": query.copies,
        "moments": not query.group,
        "min_relevance": query.min_relevance,
        "rerank": _rerank(query.rerank),
        "details": True,
    }


def _png(image: Image) -> bytes:
    """A picture without a loss, but of no more pixels than a model could use: a request has a bound."""
    rgb = image.convert("RGB")
    side = min(rgb.size)
    if side > _SIDE:
        rgb = rgb.resize((rgb.width * _SIDE // side, rgb.height * _SIDE // side), reducing_gap=2.0)
    out = io.BytesIO()
    rgb.save(out, "PNG")
    return out.getvalue()


def _rerank(how: Rerank | None) -> object:
    if how is None:
        return False
    if how.reranker != "auto":
        raise QueryError(f"a server chooses the model that re-ranks, so {how.reranker!r} cannot be had; leave it out")
    return {"candidates": how.candidates, "milliseconds": how.milliseconds, "fusion": how.fusion}


def _caption(entry: Mapping[str, Any]) -> Caption:
    return Caption(text=entry["caption"], ids=tuple(entry["tokens"]), log_probability=entry["log_probability"])


def _path(entry: Mapping[str, Any], name: str) -> str:
    return _joined(entry[name], entry.get(f"{name}_raw"))


def _joined(text: str, raw: str | None) -> str:
    return join_name(text, base64.standard_b64decode(raw) if raw is not None else None)


def _segment(identity: str) -> str:
    """An id as a part of a path. Raises `ItemNotFoundError` for what is none."""
    if not identity.isalnum() or not identity.isascii():
        raise ItemNotFoundError(f"the index has no item {identity!r}")
    return identity

"""`Client` and `AsyncClient`: the index of a server, with the methods of an engine on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import httpx

from client.wire import (
    Call,
    Conversation,
    Reply,
    Result,
    Told,
    asking,
    copies,
    counting,
    describing,
    failed,
    finding,
    identity_of,
    media_call,
    reading,
    searching,
    telling,
    thumbing,
)
from retrieval.errors import MmsearchError, QueryError
from retrieval.files import replacing
from retrieval.results import Caption, Facets, Failure
from retrieval.types import Answer, CopyGroup, Filter, Hit, Item, Query

# Captions by a large model may take three minutes, and the server gives up before we do.
SECONDS = 200.0
_ERROR = "mmsearch-error"


class Client:
    """A server's index. Every method raises `MmsearchError` where the server cannot be reached or refuses, with its message;
    what is wrong with a query is a `QueryError`, as it is here. Threads may share it."""

    def __init__(self, url: str, token: str | None = None, seconds: float = SECONDS) -> None:
        self._url = checked_url(url)
        self._web = httpx.Client(base_url=self._url, headers=_headers(token), timeout=seconds)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The server's address."""
        return self._url

    def close(self) -> None:
        """Close the connections."""
        self._web.close()

    def search(self, query: Query) -> list[Hit]:
        """As `Engine.search`."""
        return list(self.answer(query).hits)

    def answer(self, query: Query) -> Answer:
        """As `Engine.answer`."""
        return self._run(searching(query))

    def facets(self, wanted: Filter) -> Facets:
        """As `Engine.facets`."""
        return self._run(counting(wanted))

    def duplicates(self) -> list[CopyGroup]:
        """As `Engine.duplicates`, at once."""
        return self._run(copies())

    def item(self, identity: str) -> Item:
        """As `Engine.item`. Raises `ItemNotFoundError`."""
        return self._run(finding(identity))

    def describe(self, item: Item | str) -> Caption | None:
        """As `Engine.describe`, by the server's reader; an id will do."""
        return self._run(describing(identity_of(item)))

    def ask(self, question: str, k: int = 3, *, min_relevance: float = 0.5, candidates: int = 50) -> Told:
        """The answer to a question, with its evidence."""
        return self._run(asking(question, k, min_relevance, candidates))

    def evidence(
        self, question: str, k: int = 3, *, min_relevance: float = 0.5, candidates: int = 50
    ) -> list[tuple[Hit, Caption]]:
        """As `Engine.evidence`, by the server's reader."""
        return list(self.ask(question, k, min_relevance=min_relevance, candidates=candidates).evidence)

    def status(self) -> dict[str, object]:
        """As `Engine.status`, and what the server says of itself: `generation`, `reader` and `watch`."""
        return self._run(telling())

    def failures(self) -> list[Failure]:
        """As `Engine.failures`."""
        return self._run(failed())

    def thumbnail(self, item: Item | str, size: int = 256) -> bytes:
        """A JPEG whose longer side has about `size` pixels. Raises `MediaError`."""
        return self._run(thumbing(identity_of(item), size))

    def media(self, item: Item | str) -> bytes:
        """The file of an item; a film fits in memory seldom: see `download`. Raises `MediaError`."""
        return self._run(reading(identity_of(item)))

    def download(self, item: Item | str, file: str | os.PathLike[str]) -> None:
        """Write the file of an item to `file`, which is whole or not there. Raises `MediaError`, and `MmsearchError` for a file
        that cannot be written."""
        call = media_call(identity_of(item))
        try:
            with self._web.stream(call.method, call.path) as reply:
                if reply.status_code >= 400:
                    reply.read()
                    _reply(reply).checked()
                with replacing(file_path(file)) as scratch, open(scratch, "wb") as out:
                    for part in reply.iter_bytes(1 << 20):
                        out.write(part)
        except httpx.HTTPError as error:
            raise _unreachable(self._url, error) from error
        except OSError as error:
            raise _unwritable(file, error) from error

    def _run(self, talk: Conversation[Result]) -> Result:
        try:
            call = next(talk)
            while True:
                call = talk.send(self._send(call))
        except StopIteration as end:
            result: Result = end.value
            return result

    def _send(self, call: Call) -> Reply:
        files = {"image": ("image.png", call.image, "image/png")} if call.image is not None else None
        try:
            return _reply(
                self._web.request(call.method, call.path, params=dict(call.params), json=call.body, files=files)
            )
        except httpx.HTTPError as error:
            raise _unreachable(self._url, error) from error


class AsyncClient:
    """The same for asynchronous programs."""

    def __init__(self, url: str, token: str | None = None, seconds: float = SECONDS) -> None:
        self._url = checked_url(url)
        self._web = httpx.AsyncClient(base_url=self._url, headers=_headers(token), timeout=seconds)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The server's address."""
        return self._url

    async def close(self) -> None:
        """Close the connections."""
        await self._web.aclose()

    async def search(self, query: Query) -> list[Hit]:
        """As `Engine.search`."""
        return list((await self.answer(query)).hits)

    async def answer(self, query: Query) -> Answer:
        """As `Engine.answer`."""
        return await self._run(searching(query))

    async def facets(self, wanted: Filter) -> Facets:
        """As `Engine.facets`."""
        return await self._run(counting(wanted))

    async def duplicates(self) -> list[CopyGroup]:
        """As `Engine.duplicates`, at once."""
        return await self._run(copies())

    async def item(self, identity: str) -> Item:
        """As `Engine.item`. Raises `ItemNotFoundError`."""
        return await self._run(finding(identity))

    async def describe(self, item: Item | str) -> Caption | None:
        """As `Engine.describe`, by the server's reader; an id will do."""
        return await self._run(describing(identity_of(item)))

    async def ask(self, question: str, k: int = 3, *, min_relevance: float = 0.5, candidates: int = 50) -> Told:
        """The answer to a question, with its evidence."""
        return await self._run(asking(question, k, min_relevance, candidates))

    async def evidence(
        self, question: str, k: int = 3, *, min_relevance: float = 0.5, candidates: int = 50
    ) -> list[tuple[Hit, Caption]]:
        """As `Engine.evidence`, by the server's reader."""
        return list((await self.ask(question, k, min_relevance=min_relevance, candidates=candidates)).evidence)

    async def status(self) -> dict[str, object]:
        """As `Engine.status`, and what the server says of itself: `generation`, `reader` and `watch`."""
        return await self._run(telling())

    async def failures(self) -> list[Failure]:
        """As `Engine.failures`."""
        return await self._run(failed())

    async def thumbnail(self, item: Item | str, size: int = 256) -> bytes:
        """A JPEG whose longer side has about `size` pixels. Raises `MediaError`."""
        return await self._run(thumbing(identity_of(item), size))

    async def media(self, item: Item | str) -> bytes:
        """The file of an item; a film fits in memory seldom: see `download`. Raises `MediaError`."""
        return await self._run(reading(identity_of(item)))

    async def download(self, item: Item | str, file: str | os.PathLike[str]) -> None:
        """Write the file of an item to `file`, which is whole or not there. Raises `MediaError`, and `MmsearchError` for a file
        that cannot be written."""
        call = media_call(identity_of(item))
        try:
            async with self._web.stream(call.method, call.path) as reply:
                if reply.status_code >= 400:
                    await reply.aread()
                    _reply(reply).checked()
                with replacing(file_path(file)) as scratch, open(scratch, "wb") as out:
                    async for part in reply.aiter_bytes(1 << 20):
                        out.write(part)
        except httpx.HTTPError as error:
            raise _unreachable(self._url, error) from error
        except OSError as error:
            raise _unwritable(file, error) from error

    async def _run(self, talk: Conversation[Result]) -> Result:
        try:
            call = next(talk)
            while True:
                call = talk.send(await self._send(call))
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _send(self, call: Call) -> Reply:
        files = {"image": ("image.png", call.image, "image/png")} if call.image is not None else None
        try:
            return _reply(
                await self._web.request(call.method, call.path, params=dict(call.params), json=call.body, files=files)
            )
        except httpx.HTTPError as error:
            raise _unreachable(self._url, error) from error


def checked_url(url: str) -> str:
    """The address of a server without a slash at its end. Raises `QueryError` for one that is none."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        # Reading it raises where it is no number.
        sound = sound and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise QueryError(
            f"{url[:100]!r} is no address of a server; give one as http://127.0.0.1:8000, and its token apart"
        )
    return url.rstrip("/")


def file_path(file: str | os.PathLike[str]) -> Path:
    """A file to write to."""
    return Path(file).expanduser()


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token is not None else {}


def _reply(reply: httpx.Response) -> Reply:
    return Reply(status=reply.status_code, content=reply.content, error=reply.headers.get(_ERROR))


def _unreachable(url: str, error: httpx.HTTPError) -> MmsearchError:
    if isinstance(error, httpx.TimeoutException):
        return MmsearchError(f"the server at {url} did not answer in time; try again, or give it more seconds")
    reason = " ".join(str(error).split()) or type(error).__name__
    return MmsearchError(f"the server at {url} cannot be reached: {reason}; is mmsearch serve running there?")


def _unwritable(file: str | os.PathLike[str], error: OSError) -> MmsearchError:
    return MmsearchError(f"cannot write {os.fspath(file)}: {error.strerror or error}")

"""`/api/failures` and `/api/duplicates`: what could not be indexed and why, and what is there several times."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query, Request

from media.foreign import hint_of
from media.names import valid_json, valid_text
from retrieval.engine import Engine
from server.models import CopyGroupModel, DuplicatesResponse, FailureModel, FailuresResponse
from server.openapi import ERRORS
from server.searching import item_model
from server.service import ResultsChanged, SearchService
from server.watch import Watcher

Cursor = Annotated[str | None, Query(max_length=64)]


def add_review(app: FastAPI, service: SearchService, watcher: Watcher | None) -> None:
    """The routes."""

    @app.get("/api/failures", response_model=FailuresResponse, responses=ERRORS, summary="What is not indexed, and why")
    async def failures(
        request: Request, k: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: Cursor = None
    ) -> FailuresResponse:
        def work(engine: Engine, now: str) -> FailuresResponse:
            start = _start(cursor, now)
            every = engine.failures()
            names = ("path", "source", "stage", "reason")
            page = [
                valid_json({name: getattr(failure, name) for name in names}) for failure in every[start : start + k]
            ]
            skipped = dict(watcher.skipped) if watcher is not None and watcher.skipped is not None else None
            return FailuresResponse(
                failures=[FailureModel.model_validate(entry) for entry in page],
                total=len(every),
                next=f"{now}.{start + k:x}" if len(every) > start + k else None,
                skipped={valid_text(suffix): count for suffix, count in skipped.items()}
                if skipped is not None
                else None,
                advice=_advice(len(every), skipped or {}),
            )

        return await service.look_up(work, request)

    @app.get(
        "/api/duplicates", response_model=DuplicatesResponse, responses=ERRORS,
        summary="Pictures and films that the index has several times",
    )  # fmt: skip
    async def duplicates(
        request: Request, k: Annotated[int, Query(ge=1, le=200)] = 50, cursor: Cursor = None
    ) -> DuplicatesResponse:
        def work(engine: Engine, now: str) -> DuplicatesResponse:
            start = _start(cursor, now)
            groups = list(islice(engine.duplicates(start), k + 1))
            return DuplicatesResponse(
                groups=[
                    CopyGroupModel(
                        kind=group.kind,
                        bytes=group.bytes,
                        frees=group.freed,
                        items=[item_model(i) for i in group.items],
                    )
                    for group in groups[:k]
                ],
                next=f"{now}.{start + k:x}" if len(groups) > k else None,
            )

        return await service.look_up(work, request)


def _start(cursor: str | None, now: str) -> int:
    """Where the page of a cursor begins. Raises `ResultsChanged` for one of another state of the index than `now`."""
    if cursor is None:
        return 0
    state, _, place = cursor.partition(".")
    try:
        start = int(place, 16)
    except ValueError as error:
        raise HTTPException(422, "cursor: not one that this server gave") from error
    if not 0 < start < 2**40:
        raise HTTPException(422, "cursor: not one that this server gave")
    if state != now:
        raise ResultsChanged("the index has changed since this list was begun; begin it anew")
    return start


def _advice(failures: int, skipped: dict[str, int]) -> list[str]:
    """What somebody can do about it, a sentence each."""
    mend = ["once a file is mended or a package installed: mmsearch index FOLDER --retry-failed"] if failures else []
    return [*hint_of(skipped), *mend]

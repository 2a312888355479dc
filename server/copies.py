"""Where items were taken, and which are copies of each other."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi import Query as Parameter

from retrieval.engine import Engine
from retrieval.search import asked_filter
from retrieval.types import CopyGroup, Query
from server.models import (
    CopiesResponse,
    DuplicatesModel,
    DuplicatesResponse,
    Narrowed,
    PointModel,
    PointsResponse,
)
from server.openapi import ERRORS
from server.searching import item_model, narrow, read_cursor
from server.service import ResultsChanged, SearchService

_GROUPS = 50


def add_copies(app: FastAPI, service: SearchService) -> None:
    """The routes."""

    @app.get(
        "/api/points", response_model=PointsResponse, responses=ERRORS,
        summary="Where the items that filters leave were taken, as clusters",
    )  # fmt: skip
    async def points(request: Request, asked: Annotated[Narrowed, Parameter()]) -> PointsResponse:
        line = Query.parse(asked.text or "")
        wanted = asked_filter(replace(line, kind=asked.kind, filter=narrow(line.filter, asked)))
        found = await service.look("points", lambda engine, _: engine.points(wanted), request)
        return PointsResponse(points=[PointModel.model_validate(vars(point)) for point in found])

    @app.get(
        "/api/items/{identity}/copies", response_model=CopiesResponse, responses=ERRORS,
        summary="An item of the index and all its copies, the best first",
    )  # fmt: skip
    async def copies(request: Request, identity: str) -> CopiesResponse:
        items = await service.look("copies", lambda engine, _: engine.copies(identity), request)
        return CopiesResponse(items=[item_model(item) for item in items])

    @app.get(
        "/api/duplicates", response_model=DuplicatesResponse, responses=ERRORS,
        summary="Groups of copies, by pages",
    )  # fmt: skip
    async def duplicates(
        request: Request, cursor: Annotated[str | None, Parameter(max_length=64)] = None
    ) -> DuplicatesResponse:
        state, start = read_cursor(cursor)

        def work(engine: Engine, now: str) -> tuple[list[CopyGroup], str]:
            if state is not None and state != now:
                raise ResultsChanged("the index has changed since these groups were listed; begin anew")
            return list(islice(engine.duplicates(start), _GROUPS + 1)), now

        groups, now = await service.look("duplicates", work, request)
        return DuplicatesResponse(
            groups=[
                DuplicatesModel(kind=group.kind, items=[item_model(item) for item in group.items])
                for group in groups[:_GROUPS]
            ],
            next=f"{now}.{start + _GROUPS:x}" if len(groups) > _GROUPS else None,
        )

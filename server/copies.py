"""Where items were taken, and which are copies of each other."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from fastapi import Query as Parameter
from pydantic import BaseModel

from server.models import ItemModel, Narrowed
from server.openapi import ERRORS
from server.searching import facets_filter, item_model
from server.service import SearchService


class PointModel(BaseModel):
    """How many items were taken about a place, in degrees."""

    latitude: float
    longitude: float
    count: int


class PointsResponse(BaseModel):
    """Where items were taken, the places with most first. How near are one depends on the area that all are in."""

    points: list[PointModel]


class CopiesResponse(BaseModel):
    """An item and all its copies, the best first; the item alone where it has none."""

    items: list[ItemModel]


def add_copies(app: FastAPI, service: SearchService) -> None:
    """The routes."""

    @app.get(
        "/api/points", response_model=PointsResponse, responses=ERRORS,
        summary="Where the items that filters leave were taken, as clusters",
    )  # fmt: skip
    async def points(request: Request, asked: Annotated[Narrowed, Parameter()]) -> PointsResponse:
        wanted = facets_filter(asked)
        found = await service.look("points", lambda engine, _: engine.points(wanted), request)
        return PointsResponse(points=[PointModel.model_validate(vars(point)) for point in found])

    @app.get(
        "/api/items/{identity}/copies", response_model=CopiesResponse, responses=ERRORS,
        summary="An item of the index and all its copies, the best first",
    )  # fmt: skip
    async def copies(request: Request, identity: str) -> CopiesResponse:
        items = await service.look("copies", lambda engine, _: engine.copies(identity), request)
        return CopiesResponse(items=[item_model(item) for item in items])

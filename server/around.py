"""`/api/neighbours`: what was taken near an item, on the same day, at the same place, or both."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import FastAPI, Request
from fastapi import Query as Parameter

from retrieval.engine import Engine
from retrieval.errors import QueryError
from retrieval.filter import date_span
from retrieval.types import Filter, Hit, Item, Near, Query
from server.models import NeighboursResponse
from server.openapi import ERRORS
from server.searching import hit_model
from server.service import SearchService

_HOURS = 24.0 * 366
# A second, in hours.
_SECOND = 1 / 3600


def add_around(app: FastAPI, service: SearchService) -> None:
    """The routes."""

    @app.get(
        "/api/neighbours/{identity}", response_model=NeighboursResponse, responses=ERRORS,
        summary="What was taken near an item, in time, in place or both",
    )  # fmt: skip
    async def around(
        request: Request,
        identity: str,
        hours: Annotated[float | None, Parameter(gt=0, le=_HOURS, allow_inf_nan=False)] = None,
        km: Annotated[float | None, Parameter(gt=0, le=1000, allow_inf_nan=False)] = None,
        k: Annotated[int, Parameter(ge=1, le=200)] = 24,
    ) -> NeighboursResponse:
        if hours is None and km is None:
            hours = 12.0
        item = await service.item(identity, request)
        found = await service.look_up(lambda engine, _: neighbours(engine, item, hours, km, k), request)
        return NeighboursResponse(hits=[hit_model(hit) for hit in found])


def neighbours(engine: Engine, item: Item, hours: float | None, km: float | None, k: int) -> list[Hit]:
    """At most `k` images and videos that were taken within so many `hours` of an item, before or after, and within so many
    `km` of it; None for any. The nearest in time come first; where the item has no date, the newest.

    Raises `QueryError` where the item has no date or no place to go by.
    """
    when = date_span(item.taken_at)[0] if item.taken_at is not None else None
    if hours is not None and when is None:
        raise QueryError("nothing says when this was taken: look for what is near it with km alone")
    if km is not None and (item.latitude is None or item.longitude is None):
        raise QueryError("nothing says where this was taken: look for what is near it with hours alone")
    near = Near(latitude=item.latitude, longitude=item.longitude, km=km) if km is not None else None
    if when is None:
        hits = engine.search(Query(filter=Filter(near=near), sort="newest", k=k + 1))
        return _ranked([hit for hit in hits if not _is_itself(hit, item)][:k])
    first = _moved(when, -hours) if hours is not None else None
    last = _moved(when, hours) if hours is not None else None
    # The item's own second is in the earlier half.
    halves = (
        Query(filter=Filter(after=first, before=_moved(when, _SECOND), near=near), sort="newest", k=k + 1),
        Query(filter=Filter(after=_moved(when, _SECOND), before=last, near=near), sort="oldest", k=k + 1),
    )
    hits = [hit for half in halves if _spans(half.filter) for hit in engine.search(half)]
    others = [hit for hit in hits if not _is_itself(hit, item)]
    others.sort(key=lambda hit: _distance(hit.item, when))
    return _ranked(others[:k])


def _ranked(hits: list[Hit]) -> list[Hit]:
    return [replace(hit, rank=rank) for rank, hit in enumerate(hits, 1)]


def _spans(wanted: Filter) -> bool:
    return wanted.after is None or wanted.before is None or wanted.after < wanted.before


def _is_itself(hit: Hit, item: Item) -> bool:
    """Whether a hit is the item, its video, or what it is a copy of."""
    return item.path == hit.item.path or item.path in hit.copies


def _distance(item: Item, when: datetime) -> timedelta:
    if item.taken_at is None:
        return timedelta.max
    return abs(date_span(item.taken_at)[0] - when)


def _moved(when: datetime, hours: float) -> datetime | None:
    """So many hours later; None where no calendar goes so far."""
    try:
        return (when + timedelta(hours=hours)).replace(microsecond=0)
    except OverflowError:
        return None

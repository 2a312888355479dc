"""What may be found: kinds, dates, folders, names, cameras, places, ratings and phrases, as plain values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal, TypeAlias

from retrieval.errors import QueryError

Kind: TypeAlias = Literal["image", "video", "text"]
KINDS: tuple[Kind, ...] = ("image", "video", "text")
_DATE = re.compile(
    r"([0-9]{4})(?:-([0-9]{1,2})(?:-([0-9]{1,2})(?:[T ]([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?)?)?", re.ASCII
)


def check_kind(value: object) -> Kind:
    """`value` as a kind. Raises `QueryError`, which lists the choices, for anything else."""
    for kind in KINDS:
        if value == kind:
            return kind
    raise QueryError(f"unknown kind {value!r}; use {', '.join(KINDS)}")


def date_span(text: str) -> tuple[datetime, datetime | None]:
    """The first moment of a year, a month, a day, a minute or a second as ISO 8601 writes it, and the first moment after it,
    None past the year 9999. Raises `QueryError` for anything else."""
    match = _DATE.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = (int(part) if part else None for part in match.groups())
        start = datetime(year or 0, month or 1, day or 1, hour or 0, minute or 0, second or 0)
    except ValueError as error:
        raise QueryError(
            f"{text[:64]!r} is no date; use a year, a month or a day, as in 2023, 2023-06 or 2023-06-30"
        ) from error
    try:
        if month is None:
            return start, start.replace(year=start.year + 1)
        if day is None:
            return start, (start + timedelta(days=31)).replace(day=1)
        step = timedelta(days=1) if hour is None else timedelta(minutes=1) if second is None else timedelta(seconds=1)
        return start, start + step
    except (ValueError, OverflowError):
        return start, None


def _as_moment(name: str, value: object) -> datetime | None:
    """A moment in local time, from a text, a date or a time. Raises `QueryError` for anything else."""
    if value is None:
        return None
    if isinstance(value, datetime):
        local = value if value.tzinfo is None else value.astimezone().replace(tzinfo=None)
        return local.replace(microsecond=0)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, str):
        return date_span(value)[0]
    raise QueryError(f"{name} must be a date, not {type(value).__name__}")


def _as_words(name: str, value: object) -> str:
    """A text that says something, without the spaces around it. Raises `QueryError` for anything else."""
    if not isinstance(value, str) or not value.strip():
        raise QueryError(f"{name} must hold words, not {value!r}")
    return value.strip()


def as_tuple(value: object) -> tuple[object, ...]:
    """A sequence as a tuple; a single value, strings among them, as a tuple of one."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


@dataclass(frozen=True, kw_only=True)
class Near:
    """A circle on the map of `km` kilometres around a place that has a name, or around a point given in degrees.

    Raises `QueryError` for both or neither, or a point that is none.
    """

    place: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    km: float = 20.0

    def __post_init__(self) -> None:
        if self.place is None:
            if self.latitude is None or self.longitude is None:
                raise QueryError("near needs the name of a place, or a latitude and a longitude")
            if not (-90 <= self.latitude <= 90 and -180 <= self.longitude <= 180):
                raise QueryError(
                    f"near: {self.latitude:g},{self.longitude:g} is no place: latitudes are -90 to 90, longitudes -180 to 180"
                )
        elif self.latitude is not None or self.longitude is not None or not self.place.strip():
            raise QueryError("near needs the name of a place, or a latitude and a longitude, and not both")
        if not 0 < self.km < math.inf:
            raise QueryError(f"near: a distance is a number of kilometres above 0, not {self.km:g}")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What may be found, whatever it looks like. An item without the fact that a filter asks for does not pass it.

    `kinds` are the kinds that pass; None stands for images and videos, or for texts where an index has no media. `after` is the
    first moment that passes and `before` the first that does not; they may be given as texts or dates (`date_span`). A path
    passes that lies in any of `folders`, each the name of a folder or several of a path, and whose last name holds any of
    `names` (with `*` or `?` in it: is like it). Any of `cameras` must be part of the camera's name, each of `phrases` must
    occur in the item's words, and `rating` is the least number of stars. Case and diacritics do not matter.

    Raises `QueryError` for values that make no sense.
    """

    kinds: tuple[Kind, ...] | None = None
    after: datetime | None = None
    before: datetime | None = None
    folders: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    near: Near | None = None
    rating: int | None = None
    phrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kinds is not None:
            object.__setattr__(self, "kinds", tuple(dict.fromkeys(check_kind(kind) for kind in as_tuple(self.kinds))))
        for name in ("after", "before"):
            object.__setattr__(self, name, _as_moment(name, getattr(self, name)))
        for name in ("folders", "names", "cameras", "phrases"):
            values = [_as_words(name, value) for value in as_tuple(getattr(self, name))]
            object.__setattr__(self, name, tuple(dict.fromkeys(values)))
        if self.rating is not None and (isinstance(self.rating, bool) or self.rating not in range(1, 6)):
            raise QueryError(f"rating must be 1 to 5 stars, not {self.rating!r}")

    def parts(self) -> tuple[Filter, ...]:
        """Filters of a single fact each, which together let pass what this one does; kinds are no fact."""
        asked = [
            (name, value)
            for name in ("after", "before", "folders", "names", "cameras", "near", "rating", "phrases")
            if (value := getattr(self, name)) not in (None, ())
        ]
        return tuple(Filter(kinds=self.kinds, **{name: value}) for name, value in asked)


EVERYTHING = Filter()

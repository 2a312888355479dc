"""Conditions: what a filter asks of each row, from the facts of its shard. Names are compared once, rows as numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from media import storage
from retrieval.query import filter_values
from retrieval.store.facts import Facts, SayingTexts
from retrieval.store.pattern import Pattern, fold
from retrieval.store.shard_facts import NO_DATE
from retrieval.types import Filter, Near

# From the facts of a state and the number of a shard: which of its rows pass, `(rows,) bool`.
Condition: TypeAlias = Callable[[Facts, int], NDArray[np.bool_]]
_EPOCH = datetime(1970, 1, 1)
_EARTH_KM = 6371.0088
# Where an item has words of its own: its text, its path, and the keywords and titles that others gave it.
_WORDS = ("text", "path", "words")


def conditions(wanted: Filter) -> list[Condition]:
    """All that `wanted` asks beside its kinds; a row passes that meets each. Raises `QueryError` for a place that is not
    known."""
    asked: list[Condition] = []
    if wanted.after is not None or wanted.before is not None:
        asked.append(_between(wanted.after, wanted.before))
    if wanted.folders:
        asked.append(_in_folders(wanted.folders))
    if wanted.cameras:
        asked.append(_by_camera(wanted.cameras))
    if wanted.rating is not None:
        asked.append(_rated(wanted.rating))
    if wanted.near is not None:
        asked.append(_within(wanted.near))
    if wanted.names:
        asked.append(_named(wanted.names))
    asked += [_saying(phrase) for phrase in wanted.phrases]
    return asked


def missing(part: Filter) -> str:
    """A sentence on a filter of one fact that lets nothing pass."""
    if part.near is not None:
        return f"nothing here was taken {shown(part)}: {_FEW['near']}"
    if part.rating is not None:
        return f"nothing here has {shown(part)}: {_FEW['rating']}"
    if part.cameras:
        return f"nothing here is of {shown(part)}: {_FEW['camera']}"
    return f"nothing here passes {shown(part)}"


_FEW = {
    "near": "only pictures that hold a place pass",
    "rating": "only pictures that somebody rated pass",
    "camera": "only pictures that name their camera pass",
}


def shown(part: Filter) -> str:
    """A filter as its line, without kinds."""
    return " ".join(
        [*(f"{name}:{value}" for name, value in filter_values(part) if name != "kind"), *map(repr, part.phrases)]
    )


def _between(after: datetime | None, before: datetime | None) -> Condition:
    low = NO_DATE + 1 if after is None else _seconds(after)
    high = np.iinfo(np.int64).max if before is None else _seconds(before)

    def passing(facts: Facts, shard: int) -> NDArray[np.bool_]:
        moments = facts.moments(shard)
        return np.asarray((moments >= low) & (moments < high))

    return passing


def _seconds(moment: datetime) -> int:
    return round((moment - _EPOCH).total_seconds())


def _in_folders(folders: tuple[str, ...]) -> Condition:
    wanted = [_Folder(folder) for folder in folders]

    def passing(facts: Facts, shard: int) -> NDArray[np.bool_]:
        column = facts.folders(shard)
        names = [any(folder.holds(facts.roots[root], below) for folder in wanted) for root, below in column.places]
        return column.mask(np.array(names, np.bool_))

    return passing


class _Folder:
    """A folder by its name, by some names of a path that follow each other, or, where it begins at the top, by its path."""

    def __init__(self, text: str) -> None:
        text = os.path.expanduser(text)
        self._names = _names(text)
        self._from_top = os.path.isabs(text) or storage.is_object(text)

    def holds(self, root: str, below: str) -> bool:
        """Whether the folder `below` a root is it, or lies in it."""
        size = len(self._names)
        under = _names(below)
        if self._from_top:
            return (_names(root) + under)[:size] == self._names or under[:size] == self._names
        path = _names(root)[-1:] + under
        return any(path[at : at + size] == self._names for at in range(len(path) - size + 1))


def _names(path: str) -> list[str]:
    """The names in a path, folded."""
    parts = path.replace("\\", "/").split("/") if os.sep == "\\" else path.split("/")
    return [fold(part) for part in parts if part not in ("", ".")]


def _by_camera(cameras: tuple[str, ...]) -> Condition:
    patterns = [Pattern(camera) for camera in cameras]

    def passing(facts: Facts, shard: int) -> NDArray[np.bool_]:
        column = facts.coded(shard, "camera")
        names = [any(pattern.matches(name) for pattern in patterns) for name in column.names]
        return column.mask(np.array(names, np.bool_))

    return passing


def _rated(least: int) -> Condition:
    return lambda facts, shard: np.asarray(facts.ratings(shard) >= least)


def _within(near: Near) -> Condition:
    latitude, longitude = _point(near)

    def passing(facts: Facts, shard: int) -> NDArray[np.bool_]:
        there = np.radians(facts.points(shard))
        here = np.radians([latitude, longitude])
        # Haversine; what has no place is nowhere near.
        half = np.sin((there - here) / 2) ** 2
        inner = half[:, 0] + np.cos(there[:, 0]) * np.cos(here[0]) * half[:, 1]
        return np.asarray(2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(inner, 0, 1))) <= near.km)

    return passing


def _point(near: Near) -> tuple[float, float]:
    """Where it is, in degrees. Raises `QueryError` for a name that is not known."""
    if near.place is None:
        return near.latitude or 0.0, near.longitude or 0.0
    from retrieval.gazetteer import gazetteer

    return gazetteer().locate(near.place)


def _named(names: tuple[str, ...]) -> Condition:
    patterns = [Pattern(name, whole="*" in name or "?" in name) for name in names]

    def passing(facts: Facts, shard: int) -> NDArray[np.bool_]:
        masks = [facts.holding(shard, pattern, ("name",)) for pattern in patterns]
        return np.asarray(np.stack(masks).any(0), np.bool_)

    return passing


def _saying(phrase: str) -> Condition:
    pattern = Pattern(phrase)
    # Looked for once, for all shards of media.
    texts: list[SayingTexts] = []

    def passing(facts: Facts, shard: int) -> NDArray[np.bool_]:
        mask = facts.holding(shard, pattern, _WORDS)
        if facts.is_media(shard):
            if not texts:
                texts.append(facts.texts_saying(pattern))
            mask |= facts.said_of(shard, texts[0])
        return mask

    return passing

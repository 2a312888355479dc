"""What an engine gives beside hits, as plain values: counts, captions and failures. No library is loaded for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Facets:
    """Counts by name. A video counts once. `years` ("2023") and `months` ("2023-06") have the newest first, the others the
    largest; a folder is its path below its root, and counts what lies in folders below it, too."""

    years: Mapping[str, int]
    months: Mapping[str, int]
    folders: Mapping[str, int]
    cameras: Mapping[str, int]
    places: Mapping[str, int]
    kinds: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """`log_probability` is the sum over the caption's tokens and its end mark, in nats, given the image; not of a prefix
    that was asked for. `ids` are the tokens, without the marks of start and end."""

    text: str
    ids: tuple[int, ...]
    log_probability: float


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One file that could not be indexed, or not whole. `stage` is `read`, `decode` or `encode`; `path` is absolute, that of
    the source or of a member of it."""

    path: str
    source: str
    stage: str
    reason: str

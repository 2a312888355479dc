"""Rows of an index from what was read: identities and facts of images, moments and passages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from media.facts import Facts
from media.image import DecodedImage
from media.types import Passage, Source
from retrieval.crossmodal.moments import Moment
from retrieval.store.roots import Roots
from retrieval.types import Item, Kind

# What `with_facts` sets.
FACTS = ("taken_at", "date_source", "camera", "latitude", "longitude", "place", "rating", "words")


def item_id(roots: Roots, path: str, kind: Kind, part: str) -> str:
    """A name for an item that lasts as long as its place in its root: 24 hexadecimal digits."""
    number, place = roots.split(path)
    whole = "\0".join((roots.label(number), place, kind, part)).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(whole, digest_size=12).hexdigest()


def with_facts(item: Item, facts: Facts) -> Item:
    """The same row with these facts, and the name of the place that they tell."""
    return replace(
        item,
        taken_at=facts.taken_at,
        date_source=facts.date_source,
        camera=facts.camera,
        latitude=facts.latitude,
        longitude=facts.longitude,
        place=_place(facts.latitude, facts.longitude),
        rating=facts.rating,
        words=facts.text,
    )


@lru_cache(maxsize=4096)
def _place(latitude: float | None, longitude: float | None) -> str | None:
    if latitude is None or longitude is None:
        return None
    from retrieval.gazetteer import gazetteer

    return gazetteer().place(latitude, longitude)


def image_item(roots: Roots, path: str, source: Source, sha256: str, decoded: DecodedImage) -> Item:
    """The row of an image, without its facts."""
    return Item(
        id=item_id(roots, path, "image", ""),
        path=path,
        source=source.path,
        kind="image",
        width=decoded.width,
        height=decoded.height,
        size=source.size,
        mtime_ns=source.mtime_ns,
        sha256=sha256,
        dhash=decoded.dhash,
    )


def text_items(roots: Roots, passages: Sequence[Passage], source: Source, first: int = 0) -> list[Item]:
    """Rows of passages, captions or cues; `first` is the number of the first among those of its source."""
    number, place = roots.split(source.path)
    return [
        Item(
            id=item_id(roots, passage.path, "text", f"{roots.label(number)}\0{place}\0{position}"),
            path=passage.path,
            source=source.path,
            kind="text",
            start=passage.start,
            end=passage.end,
            text=passage.text,
            size=source.size,
            mtime_ns=source.mtime_ns,
            sha256=_digest(passage.text),
            text_kind=passage.kind,
        )
        for position, passage in enumerate(passages, first)
    ]


def recognised_item(roots: Roots, image: Item, text: str) -> Item:
    """The row of the text that was recognised in an image, with the image's facts."""
    row = Item(
        id=item_id(roots, image.path, "text", "ocr"),
        path=image.path,
        source=image.source,
        kind="text",
        text=text,
        size=image.size,
        mtime_ns=image.mtime_ns,
        sha256=_digest(text),
        text_kind="ocr",
    )
    return replace(row, **{name: getattr(image, name) for name in FACTS})


def moment_items(roots: Roots, moments: Sequence[Moment], source: Source, size: tuple[int, int]) -> list[Item]:
    """Rows of a video's moments; `size` is its width and height. A moment's digest names its file's state and its time, for
    what is kept of its image elsewhere."""
    width, height = size
    number, place = roots.split(source.path)
    version = f"{roots.label(number)}\0{place}\0{source.size}\0{source.mtime_ns}"
    return [
        Item(
            id=item_id(roots, source.path, "video", f"{moment.start:.3f}"),
            path=source.path,
            source=source.path,
            kind="video",
            start=round(moment.start, 3),
            end=round(moment.end, 3),
            width=width,
            height=height,
            size=source.size,
            mtime_ns=source.mtime_ns,
            sha256=_digest(f"{version}\0{moment.start:.3f}\0{moment.end:.3f}"),
        )
        for moment in moments
    ]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

"""Files of indexed items, by id: the file itself, and thumbnails cached on disk.

No path comes from a client. A file is served only where it truly lies below a root of the index, or a folder that was named
for it: a link that leads out of them is not followed.
"""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from media.names import printable
from media.reader import ImageReader
from media.types import MEMBER, below, below_any
from media.walk import source_kind
from retrieval.errors import MediaError, MmsearchError
from retrieval.files import DiskCache
from retrieval.store.manifest import read_manifest
from retrieval.types import Item
from server.service import stamp

SIZES = (128, 256, 384, 512, 1024)
CACHE_BYTES = 512 * 1024**2
# What not every system's table of types knows.
_TYPES = {
    ".webp": "image/webp", ".avif": "image/avif", ".heic": "image/heic", ".heif": "image/heif", ".jp2": "image/jp2",
    ".mkv": "video/x-matroska", ".webm": "video/webm", ".m4v": "video/mp4", ".ts": "video/mp2t", ".m4a": "audio/mp4",
    ".flac": "audio/flac", ".opus": "audio/ogg", ".srt": "text/plain", ".vtt": "text/plain", ".md": "text/plain",
}  # fmt: skip
# What a browser may show in place; anything else is offered as a download.
_SHOWN = ("image/", "video/", "audio/", "text/plain")


class Files:
    """Finds, and makes thumbnails of, the files of items. Any thread may call it."""

    def __init__(self, folder: Path, roots: Sequence[Path], images: ImageReader, cache: Path) -> None:
        self._folder = folder
        self._named = [os.path.realpath(root) for root in roots]
        self._indexed: tuple[tuple[int, ...], list[str]] = ((), [])
        self._images = images
        self._cache = DiskCache(cache, CACHE_BYTES)

    def place(self, item: Item) -> str:
        """Where the file of an item is. Raises `MediaError`, which says why, where it is gone or lies outside of every root."""
        path = item.source if MEMBER in item.path else item.path
        real = os.path.realpath(path)
        roots = self.roots()
        if not below_any(real, [*self._named, *map(os.path.realpath, roots)]):
            raise MediaError(
                "read", "the file is a link that leads out of the indexed folders, and those alone are served"
            )
        if os.path.isfile(real):
            return real
        away = next((root for root in roots if below(path, root) and not os.path.isdir(root)), None)
        if away is not None:
            raise MediaError("read", f"its folder {printable(away)} is not there now; is a drive not mounted?")
        raise MediaError("read", "the file is gone")

    def roots(self) -> Sequence[str]:
        """The folders that the index is of, as its newest state says."""
        now = stamp(self._folder)
        if now != self._indexed[0]:
            try:
                self._indexed = now, list(read_manifest(self._folder).roots.paths)
            except MmsearchError:
                # An index that is being replaced: what was known serves on.
                return self._indexed[1]
        return self._indexed[1]

    def content(self, item: Item) -> bytes | None:
        """The bytes of a member of a container; None for a file of its own. Raises `MediaError`."""
        self.place(item)
        return self._images.read(item.path) if MEMBER in item.path else None

    def image(self, item: Item) -> Image:
        """The item's image, the middle of a moment, or what a text is about. Raises `MediaError`."""
        self.place(item)
        return self._images.image(item.image_place)

    def cached_thumb(self, item: Item, size: int) -> bytes | None:
        """The item's JPEG, its longer side the next of `SIZES`, if the cache has it."""
        return self._cache.get(_key(item, size))

    def thumb(self, item: Item, size: int) -> bytes:
        """The same, made now and cached. Raises `MediaError`."""
        rgb = self.image(item)
        side = next_size(size)
        rgb.thumbnail((side, side))
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=82)
        self._cache.put(_key(item, size), out.getvalue())
        return out.getvalue()


def version(item: Item) -> str:
    """A digest that changes whenever the image of an item does."""
    return hashlib.sha256(f"{item.id}\0{item.sha256}\0{item.mtime_ns}\0{item.size}".encode()).hexdigest()[:32]


def has_image(item: Item) -> bool:
    """Whether an item shows something: a text does where it is about an image, or about a stretch of a video."""
    if item.kind != "text":
        return True
    container, mark, member = item.path.partition(MEMBER)
    kind = source_kind(member) if mark else source_kind(item.path)
    if item.start is not None:
        return kind == "video" or (kind == "image" and item.path != item.source)
    # A row of a table has a name of any form.
    return kind == "image" or (bool(mark) and kind is None and source_kind(container) == "parquet")


def next_size(size: int) -> int:
    """The longer side of the thumbnail that a size asks for."""
    return next((side for side in SIZES if side >= size), SIZES[-1])


def media_type(path: str) -> tuple[str, bool]:
    """The type of a file by its name, and whether a browser may show it in place."""
    suffix = os.path.splitext(path)[1].lower()
    kind = _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    shown = kind.startswith(_SHOWN) and kind != "image/svg+xml"
    return (kind if shown or kind.startswith("text/") else "application/octet-stream"), shown


def _key(item: Item, size: int) -> str:
    return f"{version(item)}-{next_size(size)}.jpg"

"""Files of indexed items, by id: the file with byte ranges, and small pictures kept on disk.

No path comes from a client. A file is served only where it truly lies below a root of the index: a link that leads out of it
is not followed.
"""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import threading
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from media.reader import ImageReader
from media.types import MEMBER
from retrieval.errors import MediaError
from retrieval.types import Item

SIZES = (128, 256, 384, 512, 1024)
CACHE_BYTES = 512 * 1024**2
# What not every system's table of types knows.
_TYPES = {
    ".webp": "image/webp", ".avif": "image/avif", ".heic": "image/heic", ".heif": "image/heif", ".jp2": "image/jp2",
    ".mkv": "video/x-matroska", ".webm": "video/webm", ".m4v": "video/mp4", ".ts": "video/mp2t", ".m4a": "audio/mp4",
    ".flac": "audio/flac", ".opus": "audio/ogg", ".srt": "text/plain", ".vtt": "text/plain", ".md": "text/plain",
}  # fmt: skip
# What a browser may show in place; anything else is offered as a download.
_SHOWN = ("image/", "video/", "audio/")


class Files:
    """Finds, and makes thumbnails of, the files of items. Any thread may call it."""

    def __init__(self, folder: Path, roots: Sequence[Path], pictures: ImageReader, cache: Path) -> None:
        inside = [folder.parent] if folder.name == ".mmsearch" else []
        self._roots = [os.path.realpath(root) for root in (*roots, *inside)]
        self._pictures = pictures
        self._cache = cache
        self._lock = threading.Lock()
        self._written = 0

    def place(self, item: Item) -> str:
        """Where the file of an item is. Raises `MediaError` where it is gone, or lies outside of every root."""
        path = item.source if MEMBER in item.path else item.path
        real = os.path.realpath(path)
        # An index that is kept elsewhere has no roots of its own: then a file must lie in the folder that names it.
        roots = self._roots or [os.path.realpath(os.path.dirname(path))]
        if not any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots):
            raise MediaError("read", "the file lies outside of what is served")
        if not os.path.isfile(real):
            raise MediaError("read", "the file is gone")
        return real

    def content(self, item: Item) -> bytes | None:
        """The bytes of a member of a container; None for a file of its own. Raises `MediaError`."""
        self.place(item)
        return self._pictures.read(item.path) if MEMBER in item.path else None

    def picture(self, item: Item) -> Image:
        """The item's picture, or the middle of a moment. Raises `MediaError`."""
        self.place(item)
        return self._pictures.picture(item.place)

    def kept(self, item: Item, size: int) -> bytes | None:
        """The item's JPEG, its longer side the next of `SIZES`, if the cache has it."""
        try:
            return self._file(item, size).read_bytes()
        except OSError:
            return None

    def thumb(self, item: Item, size: int) -> bytes:
        """The same, made now and kept. Raises `MediaError`."""
        file = self._file(item, size)
        size = _next(size)
        rgb = self.picture(item)
        rgb.thumbnail((size, size))
        out = io.BytesIO()
        rgb.save(out, "JPEG", quality=82)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            scratch = file.with_suffix(f".{threading.get_ident()}.partial")
            scratch.write_bytes(out.getvalue())
            os.replace(scratch, file)
        except OSError:
            # A full disk costs the next request's time.
            return out.getvalue()
        self._trim(len(out.getvalue()))
        return out.getvalue()

    def _file(self, item: Item, size: int) -> Path:
        key = hashlib.sha256(f"{item.id}\0{item.sha256}\0{item.mtime_ns}".encode()).hexdigest()
        return self._cache / key[:2] / f"{key[2:34]}-{_next(size)}.jpg"

    def _trim(self, added: int) -> None:
        """Now and then, delete what was used longest ago until the rest fits."""
        with self._lock:
            self._written += added
            if self._written < CACHE_BYTES // 16:
                return
            self._written = 0
        files = []
        for file in self._cache.rglob("*.jpg"):
            try:
                stat = file.stat()
            except OSError:
                continue
            files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= CACHE_BYTES:
                return
            file.unlink(missing_ok=True)
            total -= size


def _next(size: int) -> int:
    return next((one for one in SIZES if one >= size), SIZES[-1])


def media_type(path: str) -> tuple[str, bool]:
    """The type of a file by its name, and whether a browser may show it in place."""
    suffix = os.path.splitext(path)[1].lower()
    kind = _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
    shown = kind.startswith(_SHOWN) and kind != "image/svg+xml"
    return (kind if shown or kind.startswith("text/") else "application/octet-stream"), shown

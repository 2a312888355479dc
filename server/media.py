"""Files of indexed items, by id: the file itself, and thumbnails cached on disk.

No path comes from a client. A file is served only where it truly lies below a root of the index, or a folder that was named
for it: a link that leads out of them is not followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mimetypes
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from media import storage
from media.child import module_command, module_environment
from media.foreign import page_of
from media.motion import Film, film_of, may_hold_film
from media.names import printable
from media.reader import ImageReader
from media.types import MEMBER, below, below_any
from media.walk import source_kind
from retrieval.cancellation import Cancellation
from retrieval.errors import MediaError, MmsearchError
from retrieval.files import DiskCache
from retrieval.store.manifest import read_manifest
from retrieval.types import Item
from server.service import stamp

SIZES = (128, 256, 384, 512, 1024)
CACHE_BYTES = 512 * 1024**2
# Previews of videos that a browser does not play; one that takes longer to make is given up, in seconds.
PREVIEW_BYTES, PREVIEW_SECONDS = 1024**3, 120
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
        self._cache = DiskCache(cache / "thumbs", CACHE_BYTES)
        self._previews = DiskCache(cache / "previews", PREVIEW_BYTES)

    def place(self, item: Item) -> str:
        """Where the file of an item is. Raises `MediaError`, which says why, where it is gone or lies outside of every root."""
        path = item.source if MEMBER in item.path else item.path
        real = storage.real(path)
        roots = self.roots()
        if not below_any(real, [*self._named, *map(storage.real, roots)]):
            raise MediaError(
                "read", "the file is a link that leads out of the indexed folders, and those alone are served"
            )
        try:
            if storage.is_file(real):
                return real
            away = next((root for root in roots if below(path, root) and not storage.is_folder(root)), None)
        except OSError as error:
            raise MediaError("read", error.strerror or str(error)) from error
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
        return self._images.read(item.path) if MEMBER in item.path and not is_page(item) else None

    def film(self, item: Item) -> Film | None:
        """Where the film of a moment lies in the file of its photo; None for any other item. Raises `MediaError`."""
        return film_of(self.place(item)) if is_film_in_photo(item) else None

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

    def preview(self, item: Item, start: float, end: float, cancellation: Cancellation) -> bytes:
        """A stretch of a video as an MP4 that every browser plays, from the cache or made by a process apart. Raises
        `MediaError`, and `Cancelled` where nobody waits for it any more."""
        place = self.place(item)
        key = f"{version(item)}-{start:.3f}-{end:.3f}.mp4"
        made = self._previews.get(key)
        if made is None:
            with tempfile.TemporaryDirectory(prefix="mmsearch-preview-") as folder:
                target = Path(folder, "preview.mp4")
                _make_preview(place, start, end, target, cancellation)
                made = target.read_bytes()
            self._previews.put(key, made)
        return made


def _make_preview(place: str, start: float, end: float, target: Path, cancellation: Cancellation) -> None:
    command = module_command("media.preview", place, repr(start), repr(end), os.fspath(target))
    deadline = time.monotonic() + PREVIEW_SECONDS
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=module_environment(),
        start_new_session=True,
    ) as process:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said = process.communicate(timeout=0.1)[1].decode("utf-8", "replace").strip().splitlines()
                    break
                cancellation.check()
                if time.monotonic() > deadline:
                    raise MediaError("decode", f"making a preview took more than {PREVIEW_SECONDS} s")
        finally:
            process.kill()
    if process.returncode:
        reason = said[-1] if process.returncode == 1 and said else "the decoder crashed on this file"
        raise MediaError("decode", reason)


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
    return kind == "image" or is_page(item) or (bool(mark) and kind is None and source_kind(container) == "parquet")


def is_page(item: Item) -> bool:
    """Whether an item is a page of a PDF, or about one."""
    return item.path != item.source and page_of(item.path) is not None


def is_film_in_photo(item: Item) -> bool:
    """Whether an item is a moment of the film inside of a photo."""
    return item.kind == "video" and may_hold_film(item.path)


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

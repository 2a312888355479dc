"""From an item of an index back to its picture, wherever that lies: a file, or a member of a tar or a table."""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Callable
from typing import Protocol

from PIL.Image import Image

from media.containers import read_bytes
from media.errors import MediaError
from media.image import decode_image, register_decoders
from media.types import MEMBER, Place
from media.video import (
    Frame,
    SampleConfig,
    VideoDecoder,
)
from media.walk import moving, source_kind

# A video to search by is looked at this many times at most.
_QUERY_FRAMES = 64
_Find = Callable[[str], bytes]


class ImageSource(Protocol):
    """Whatever gives the image at a place; called from several threads."""

    def picture(self, place: Place) -> Image:
        """Upright RGB. Raises `MediaError` where it is gone or damaged."""
        ...


class ImageReader:
    """Reads pictures by their items; any thread may call it. Containers are listed once, then read at the right place."""

    def __init__(self, min_side: int = 512) -> None:
        register_decoders()
        self._least_side = min_side
        self._containers: dict[str, _Find] = {}
        self._listing = threading.Lock()

    def picture(self, place: Place) -> Image:
        """The image at a place, upright RGB, its shorter side at `min_side` or more where the
        file has that many.

        Raises `MediaError` when it is gone or damaged.
        """
        if place.start is not None:
            # FFmpeg is loaded where a video is met. This one was read before, so it may be read in this process.
            from media.frames import frame_at

            return frame_at(place.path, (place.start + (place.end or place.start)) / 2, self._least_side)
        return decode_image(self.read(place.path), self._least_side).rgb

    def read(self, path: str) -> bytes:
        """The encoded picture at a path, `file` or `file::member`; `MediaError` when it is not there."""
        container, mark, member = path.partition(MEMBER)
        if not mark or os.path.isfile(path):
            return read_bytes(path)
        with self._listing:
            if container not in self._containers:
                self._containers[container] = _lister(container)
        return self._containers[container](member)


def query_media(path: str) -> Image | tuple[Image, ...]:
    """A file to search by: a picture, upright RGB, or the frames of a video. Raises `MediaError`."""
    register_decoders()
    if not moves(path):
        return decode_image(read_bytes(path), 512).rgb
    with VideoDecoder() as decoder:
        config = SampleConfig(max_frames=_QUERY_FRAMES, min_side=512)
        return tuple(found.rgb for found in decoder.sample(os.path.abspath(path), config) if isinstance(found, Frame))


def moves(path: str) -> bool:
    """Whether a file is a video or an animated picture, by its name and first bytes."""
    kind = source_kind(path)
    return kind is not None and moving(path, kind) == "video"


def _lister(container: str) -> _Find:
    kind = source_kind(container)
    try:
        if kind == "tar":
            return _tar(container)
        if kind == "parquet":
            return _parquet(container)
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise MediaError("read", f"cannot read {container}: {str(error).splitlines()[0]}") from error
    raise MediaError("read", "no such file")


def _tar(container: str) -> _Find:
    with tarfile.open(container, "r:") as opened:
        places = {member.name: (member.offset_data, member.size) for member in opened if member.isfile()}

    def find(member: str) -> bytes:
        if member not in places:
            raise MediaError("read", f"{container} has no member {member}")
        offset, size = places[member]
        try:
            with open(container, "rb") as opened:
                opened.seek(offset)
                return opened.read(size)
        except OSError as error:
            raise MediaError("read", error.strerror or str(error)) from error

    return find


def _parquet(container: str) -> _Find:
    import pyarrow as pa
    import pyarrow.parquet as pq

    places: dict[str, tuple[int, int]] = {}
    with pq.ParquetFile(container) as opened:
        for group in range(opened.num_row_groups):
            names = opened.read_row_group(group, columns=["image_id"]).column("image_id").to_pylist()
            for row, name in enumerate(names):
                places.setdefault(str(name), (group, row))

    def find(member: str) -> bytes:
        if member not in places:
            raise MediaError("read", f"{container} has no row {member}")
        group, row = places[member]
        try:
            with pq.ParquetFile(container) as opened:
                image = opened.read_row_group(group, columns=["image"]).column("image")[row].as_py()
        except (OSError, pa.ArrowInvalid) as error:
            raise MediaError("read", f"damaged table: {str(error).splitlines()[0]}") from error
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes):
            raise MediaError("read", "the image is not bytes")
        return data

    return find

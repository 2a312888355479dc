"""From an item of an index back to its image, wherever that lies: a file, or a member of a tar or a table."""

from __future__ import annotations

import tarfile
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from PIL.Image import Image

from media import storage
from media.containers import image_bytes, read_bytes, table_columns, table_names, tar_members
from media.errors import MediaError
from media.foreign import page_of
from media.image import decode_image, decode_page
from media.types import MEMBER, Place
from media.video import Frame, SampleConfig, VideoDecoder
from media.walk import moving, source_kind

# A video to search by is looked at this many times at most.
_QUERY_FRAMES = 64
_CONTAINERS_KEPT = 8
_ROWS_AT_ONCE = 4
_Find = Callable[[str], bytes]
# A container's state: another size, time or inode means other bytes.
_State = tuple[str, int, int, int]


class ImageSource(Protocol):
    """Whatever gives the image at a place; called from several threads."""

    def image(self, place: Place) -> Image:
        """Upright RGB. Raises `MediaError` where it is gone or damaged."""
        ...


class ImageReader:
    """Reads images by their places; any thread may call it. The last few containers stay listed, each as long as it is the
    same file."""

    def __init__(self, min_side: int = 512) -> None:
        self._min_side = min_side
        self._containers: OrderedDict[_State, _Find] = OrderedDict()
        self._listing = threading.Lock()

    def image(self, place: Place) -> Image:
        """The image at a place, upright RGB, its shorter side at `min_side` or more where the file has that many.

        Raises `MediaError` when it is gone or damaged, and, without reading it, for a file of a kind that has no image.
        """
        if place.start is not None:
            # FFmpeg is loaded where a video is met. This one was read before, so it may be read in this process.
            from media.frames import frame_at

            if source_kind(place.path) not in ("video", "image"):
                raise MediaError("read", "has no image")
            return frame_at(place.path, (place.start + (place.end or place.start)) / 2, self._min_side)
        page = page_of(place.path)
        if page is not None and not storage.is_file(place.path):
            return decode_page(*page, self._min_side).rgb
        if not self._is_member(place.path) and source_kind(place.path) not in ("image", "pages"):
            raise MediaError("read", "has no image of its own")
        return decode_image(self.read(place.path), self._min_side, name=place.path).rgb

    def read(self, path: str) -> bytes:
        """The encoded image at a path, `file` or `file::member`; `MediaError` when it is not there."""
        if not self._is_member(path):
            return read_bytes(path)
        container, _, member = path.partition(MEMBER)
        return self._find(container)(member)

    def _is_member(self, path: str) -> bool:
        """Whether a path names a member: of a container that is there, not a file with the mark in its own name."""
        container, mark, _ = path.partition(MEMBER)
        if not mark or source_kind(container) not in ("tar", "parquet"):
            return False
        return storage.is_file(container) or not storage.is_file(path)

    def _find(self, container: str) -> _Find:
        try:
            stat = storage.stat(container)
        except OSError as error:
            raise MediaError("read", f"cannot read {container}: {error.strerror or error}") from error
        state = (container, stat.st_size, stat.st_mtime_ns, getattr(stat, "st_ino", 0))
        with self._listing:
            if state not in self._containers:
                self._containers[state] = _lister(container)
            self._containers.move_to_end(state)
            while len(self._containers) > _CONTAINERS_KEPT:
                self._containers.popitem(last=False)
            return self._containers[state]


def query_media(path: str) -> Image | tuple[Image, ...]:
    """A file to search by: an image, upright RGB, or the frames of a video. Raises `MediaError`."""
    if not moves(path):
        return decode_image(read_bytes(path), 512, name=path).rgb
    with VideoDecoder() as decoder:
        config = SampleConfig(max_frames=_QUERY_FRAMES, min_side=512)
        return tuple(event.rgb for event in decoder.sample(storage.absolute(path), config) if isinstance(event, Frame))


def moves(path: str) -> bool:
    """Whether a file is a video or an animated image, by its name and first bytes."""
    kind = source_kind(path)
    return kind is not None and moving(path, kind) == "video"


def _lister(container: str) -> _Find:
    try:
        return _tar(container) if source_kind(container) == "tar" else _parquet(container)
    except Exception as error:  # Parsers of containers raise whatever a damaged one makes them raise
        raise MediaError("read", f"cannot read {container}: {(str(error).splitlines() or ['damaged'])[0]}") from error


def _tar(container: str) -> _Find:
    with storage.open_file(container) as headers, tarfile.open(fileobj=headers, mode="r:") as opened:
        places = {name: (member.offset_data, member.size) for name, member in tar_members(opened) if member.isfile()}

    def find(member: str) -> bytes:
        if member not in places:
            raise MediaError("read", f"{container} has no member {member}")
        offset, size = places[member]
        try:
            with storage.open_file(container, size) as opened:
                opened.seek(offset)
                return opened.read(size)
        except OSError as error:
            raise MediaError("read", error.strerror or str(error)) from error

    return find


def _parquet(container: str) -> _Find:
    """Rows are found by their number; a row is read alone, with the pages of one column before it in its row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, int] = {}
    ends: list[int] = []
    with pq.ParquetFile(storage.source(container), pre_buffer=False) as opened:
        named_by, _ = table_columns(opened.schema_arrow)
        # Of a struct the name alone is read, not the image beside it.
        names = ["image.path"] if named_by == "image" else [named_by]

        def ids() -> list[object]:
            column: list[object] = []
            for group in range(opened.num_row_groups):
                table = opened.read_row_group(group, columns=names, use_threads=False)
                count = opened.metadata.row_group(group).num_rows
                column += table.column(0).to_pylist() if table.num_columns else [None] * count
                ends.append(len(column))
            return column

        rows.update((name, row) for row, name in enumerate(table_names(ids())))

    def find(member: str) -> bytes:
        if member not in rows:
            raise MediaError("read", f"{container} has no row {member}")
        row = rows[member]
        group = next(number for number, end in enumerate(ends) if row < end)
        row -= ends[group - 1] if group else 0
        try:
            # A buffer of its own keeps Arrow from reading the whole column of the group into memory first.
            with pq.ParquetFile(storage.source(container), buffer_size=1 << 20, pre_buffer=False) as opened:
                batches = opened.iter_batches(
                    batch_size=_ROWS_AT_ONCE, row_groups=[group], columns=["image"], use_threads=False
                )
                for batch in batches:
                    if row < batch.num_rows:
                        return image_bytes(batch.column(0)[row].as_py())
                    row -= batch.num_rows
        except (OSError, pa.ArrowInvalid) as error:
            raise MediaError("read", f"damaged table: {(str(error).splitlines() or ['?'])[0]}") from error
        raise MediaError("read", "the table ends before it")

    return find

"""Cameras' raw files by LibRaw: the preview that the camera put in, or, where that is small or missing, the whole picture."""

from __future__ import annotations

import contextlib
import io
from typing import IO, Any

from PIL import ExifTags, Image

from media.errors import MediaError
from media.opening import open_image, too_large

_TURNS = {3: 3, 5: 8, 6: 6}
# TIFFs of Olympus and Panasonic under names of their own.
_OWN_TIFFS = {b"IIRO": b"II*\0", b"IIRS": b"II*\0", b"MMOR": b"MM\0*", b"IIU\0": b"II*\0"}
_MOST_HEAD = 4 << 20


def develop(data: bytes, min_side: int, max_pixels: int) -> tuple[Image.Image, Image.Exif, tuple[int, int]]:
    """The picture as it was stored, its EXIF with the orientation that makes it upright, and the size of the sensor's
    picture as stored. A preview is good enough with a shorter side of `min_side`, or where nothing else can be read: of more
    than `max_pixels`, nothing else is.

    Raises `MediaError("decode", reason)`.
    """
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            size = (int(raw.sizes.width), int(raw.sizes.height))
            turn = _TURNS.get(int(raw.sizes.flip), 1)
            preview = _preview(raw, min_side)
            exif = _exif(data, preview)
            large = size[0] * size[1] > max_pixels
            if preview is not None and (large or min(preview.size) >= min(min_side, *size)):
                exif[ExifTags.Base.Orientation] = turn
                return preview, exif, size
            if large:
                raise MediaError("decode", too_large(size, max_pixels))
            try:
                values = raw.postprocess(use_camera_wb=True, half_size=min(size) >= 2 * min_side, user_flip=0)
                image = Image.fromarray(values)
            except rawpy.LibRawError:
                if preview is None:
                    raise
                image = preview
            exif[ExifTags.Base.Orientation] = turn
            return image, exif, size
    except (rawpy.LibRawError, ValueError, OSError) as error:
        reason = error.args[0] if error.args else error
        reason = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        # LibRaw's word for a file that is not long enough.
        reason = "it ends early" if reason.startswith("Input/output") else reason
        raise MediaError("decode", f"damaged raw file: {' '.join(reason.split())[:150]}") from error


def raw_head(content: IO[bytes]) -> IO[bytes]:
    """Of a raw file that begins like no other format, the part with its EXIF, as a TIFF or JPEG; else the file as it is."""
    head = content.read(92)
    content.seek(0)
    if head[:4] in _OWN_TIFFS:
        return io.BytesIO(_OWN_TIFFS[head[:4]] + content.read(_MOST_HEAD)[4:])
    if head.startswith(b"FUJIFILMCCD-RAW "):
        content.seek(int.from_bytes(head[84:88], "big"))
        return io.BytesIO(content.read(min(_MOST_HEAD, int.from_bytes(head[88:92], "big"))))
    if head[4:12] == b"ftypcrx ":
        start = content.read(_MOST_HEAD)
        place = start.find(b"CMT1")
        return io.BytesIO(start[place + 4 :] if place > 0 else start)
    return content


def _preview(raw: Any, min_side: int) -> Image.Image | None:
    import rawpy

    with contextlib.suppress(rawpy.LibRawError, OSError, SyntaxError, ValueError, MediaError):
        thumb = raw.extract_thumb()
        if thumb.format == rawpy.ThumbFormat.BITMAP:
            return Image.fromarray(thumb.data)
        opened = open_image(io.BytesIO(thumb.data))
        opened.draft("RGB", (min_side, min_side))
        opened.load()
        return opened
    return None


def _exif(data: bytes, preview: Image.Image | None) -> Image.Exif:
    """What the camera wrote: in the file itself where that is a kind of TIFF, else in the preview."""
    exif = Image.Exif()
    with contextlib.suppress(Exception):
        if data[:4] in (b"II*\0", b"MM\0*") or data[:4] in _OWN_TIFFS:
            exif.load(b"Exif\0\0" + raw_head(io.BytesIO(data[:_MOST_HEAD])).read())
        elif preview is not None:
            exif = preview.getexif()
    return exif

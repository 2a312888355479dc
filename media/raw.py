"""Cameras' raw files by LibRaw: the preview that the camera put in, or, where that is small or missing, the whole picture."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from PIL import ExifTags, Image

from media.errors import MediaError
from media.opening import open_image

_TURNS = {3: 3, 5: 8, 6: 6}


def develop(data: bytes, min_side: int) -> tuple[Image.Image, Image.Exif, tuple[int, int]]:
    """The picture as it was stored, its EXIF with the orientation that makes it upright, and the size of the sensor's
    picture as stored. A preview is good enough with a shorter side of `min_side`, or where nothing else can be read.

    Raises `MediaError("decode", reason)`.
    """
    import rawpy

    try:
        with rawpy.imread(io.BytesIO(data)) as raw:
            size = (int(raw.sizes.width), int(raw.sizes.height))
            turn = _TURNS.get(int(raw.sizes.flip), 1)
            preview = _preview(raw, min_side)
            exif = _exif(data, preview)
            if preview is not None and min(preview.size) >= min(min_side, *size):
                exif[ExifTags.Base.Orientation] = turn
                return preview, exif, size
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
        raise MediaError("decode", f"damaged raw file: {' '.join(reason.split())[:150]}") from error


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
        if data[:4] in (b"II*\0", b"MM\0*"):
            exif.load(b"Exif\0\0" + data[: 4 << 20])
        elif preview is not None:
            exif = preview.getexif()
    return exif

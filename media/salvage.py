"""What can still be seen of a picture whose file ends early: the rows that are whole.

How many rows are whole is not asked of the codec, which hardly ever tells. JPEG and PNG leave what they do not reach in one
colour. Others are decoded a second time with a little less: the rows that this changes are the first that lack something.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from media.errors import MediaError
from media.opening import format_of, open_image

# With fewer of its rows a picture is not the picture any more.
LEAST_SHARE = 1 / 3
# More than a block of a GIF, which is read whole or not at all.
_LESS = 64
_LESS_GIF = 600
_CAUTION, _GENEROUS = 0.9, 1.2
_END_OF_IMAGE = b"\xff\xd9"
_MOST_BYTES = 512 * 1024**2


def salvaged(data: bytes, prepare: Callable[[ImageFile.ImageFile], None]) -> tuple[Image.Image, float]:
    """A loaded image of the rows that are whole, and which share of all rows they are, 0 to 1. `prepare` is called with the
    opened image before its pixels are decoded; it may refuse it.

    Raises `MediaError` for less than a third, and what Pillow's plugins raise where nothing can be decoded.
    """
    kind = format_of(data)
    image: Image.Image
    if kind in ("JPEG", "PNG"):
        # Without a mark of the end, libjpeg would wait for more, and show nothing of a progressive image.
        image = _loaded(data + (_END_OF_IMAGE if kind == "JPEG" else b""), prepare)
        first, last = 0, _rows_before_the_fill(np.asarray(image))
    else:
        missing = _declared_end(data) - len(data) if kind != "GIF" else 0
        if not 0 <= missing <= _MOST_BYTES:
            raise MediaError("decode", "damaged")
        image = _loaded(data + bytes(missing), prepare)
        less = _LESS_GIF if kind == "GIF" else _LESS
        try:
            shorter = _loaded(data[:-less] + bytes(missing + less if missing else 0), prepare)
            first, last = _whole_rows(np.asarray(image), np.asarray(shorter), bottom_first=kind in ("BMP", "DIB"))
        except (OSError, SyntaxError, ValueError, RuntimeError):
            # Some codecs notice; then the share of the bytes has to do.
            first, last = 0, int(_CAUTION * image.height * len(data) / (len(data) + missing))
        if kind in ("WEBP", "AVIF", "HEIF"):
            # Where a small file ends in its tables, no row may differ.
            last = min(last, int(_GENEROUS * image.height * len(data) / (len(data) + missing)))
    share = (last - first) / image.height
    if share < LEAST_SHARE:
        raise MediaError("decode", f"damaged: only {share:.0%} of its rows can be decoded")
    return image.crop((0, first, image.width, last)) if last - first < image.height else image, share


def _loaded(data: bytes, prepare: Callable[[ImageFile.ImageFile], None]) -> Image.Image:
    image = open_image(io.BytesIO(data))
    prepare(image)
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError, IndexError):
        # What was decoded before the error is in the image; without tiles it counts as loaded.
        image.tile = []
        image.load()
    return image


def _rows_before_the_fill(pixels: NDArray[np.generic]) -> int:
    """How many rows stand above those at the bottom that have the colour of the last pixel throughout."""
    flat = (pixels == pixels[-1, -1]).reshape(len(pixels), -1).all(axis=1)
    return len(pixels) - int(np.argmin(flat[::-1])) if not flat.all() else 0


def _whole_rows(one: NDArray[np.generic], shorter: NDArray[np.generic], *, bottom_first: bool) -> tuple[int, int]:
    """The first row, and the one after the last, that are whole: above those that differ, or below, where the bottom comes
    first in the file."""
    differs = np.flatnonzero((one != shorter).reshape(len(one), -1).any(axis=1))
    if not len(differs):
        return 0, len(one)
    return (int(differs[-1]) + 1, len(one)) if bottom_first else (0, int(differs[0]))


def _declared_end(data: bytes) -> int:
    """Where the file ends by what its containers say; three times as far where they say nothing."""
    if data[:4] == b"RIFF":
        return 8 + int.from_bytes(data[4:8], "little")
    if data[:2] == b"BM":
        return int.from_bytes(data[2:6], "little")
    if data[4:8] in (b"ftyp", b"jP  "):
        at = 0
        while at + 8 <= len(data):
            size = int.from_bytes(data[at : at + 4], "big")
            if size == 1:
                size = int.from_bytes(data[at + 8 : at + 16], "big")
            if size < 8:
                break
            at += size
        if at > len(data):
            return at
    return 3 * len(data)

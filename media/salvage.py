"""What can still be seen of a picture whose file ends early: the rows that are whole.

How many rows are whole is not asked of the codec, which hardly ever tells. JPEG and PNG leave what they do not reach in one
colour. Others are decoded twice, with something else in place of what is missing, or with a little less: the rows that this
changes are those that lack something. Where a file holds rows in another order (interlaced GIF and PNG) or all of them coarsely
before any finely (JPEG 2000), what is there is spread over the picture.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Literal

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
# An AV1 decoder refuses much of what follows a cut: so many decodings are tried, each a little shorter, and of so many pixels
# together.
_AVIF_TRIES, _AVIF_STEPS, _AVIF_PIXELS = 24, 64, 240_000_000
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError)
# Adam7: where the pixels of each pass begin, and how far apart they are, across and down.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_WHOLE_JXL = "damaged: a JPEG XL is decoded whole or not at all, and this one is cut off or broken"


def salvaged(data: bytes, prepare: Callable[[ImageFile.ImageFile], None]) -> tuple[Image.Image, float]:
    """A loaded image of the rows that are whole, and which share of all rows they are, 0 to 1. `prepare` is called with the
    opened image before its pixels are decoded; it may refuse it.

    Raises `MediaError` for less than a third, and what Pillow's plugins raise where nothing can be decoded.
    """
    kind = format_of(data)
    if kind == "JXL":
        raise MediaError("decode", _WHOLE_JXL)
    if kind == "TIFF" and _directory_is_lost(data):
        raise MediaError("decode", "damaged: it ends before the directory that says where in it the picture is")
    if kind in ("JPEG", "PNG"):
        # Without a mark of the end, libjpeg would wait for more, and show nothing of a progressive image.
        image = _loaded(data + (_END_OF_IMAGE if kind == "JPEG" else b""), prepare)
        if kind == "PNG" and data[28:29] == b"\1":
            return _coarse(image, data)
        return _cropped(image, 0, _rows_before_the_fill(np.asarray(image)))
    if kind == "GIF":
        image = _loaded(data, prepare)
        shorter = np.asarray(_loaded(data[:-_LESS_GIF], prepare))
        return _by_passes(image, shorter) if _is_interlaced(data) else _cropped(image, *_whole_rows(image, shorter))
    missing = _declared_end(data) - len(data)
    if not 0 <= missing <= _MOST_BYTES:
        raise MediaError("decode", "damaged")
    share = len(data) / (len(data) + missing)
    if kind == "JPEG2000":
        image = _loaded(data + bytes(missing), prepare)
        return _checked(image, min(share, _rows_before_the_fill(np.asarray(image)) / image.height))
    if kind == "AVIF":
        images = _decodable(data, missing, prepare)
        image, other = next(images), next(images, None)
        first, last = _whole_rows(image, np.asarray(other)) if other is not None else (0, int(_CAUTION * image.height))
        return _cropped(image, first, min(last, int(_GENEROUS * image.height * share)))
    image = _loaded(data + bytes(missing), prepare)
    try:
        # A WebP that is filled with anything but noughts is refused.
        less = _LESS if kind == "WEBP" else 0
        filled = bytes(missing + less) if less else b"\xff" * missing
        first, last = _whole_rows(image, np.asarray(_loaded(data[: len(data) - less] + filled, prepare)), kind)
    except _DAMAGE:
        # Some codecs notice; then the share of the bytes has to do.
        first, last = 0, int(_CAUTION * image.height * share)
    if kind in ("WEBP", "HEIF"):
        # Where a small file ends in its tables, no row may differ.
        last = min(last, int(_GENEROUS * image.height * share))
    return _cropped(image, first, last)


def _checked(image: Image.Image, share: float) -> tuple[Image.Image, float]:
    if share < LEAST_SHARE:
        raise MediaError("decode", f"damaged: only {share:.0%} of its rows can be decoded")
    return image, share


def _cropped(image: Image.Image, first: int, last: int) -> tuple[Image.Image, float]:
    """The rows from `first` to before `last`. Raises `MediaError` where they are too few."""
    _checked(image, (last - first) / image.height)
    whole = image.crop((0, first, image.width, last)) if last - first < image.height else image
    return whole, (last - first) / image.height


def _loaded(data: bytes, prepare: Callable[[ImageFile.ImageFile], None]) -> Image.Image:
    image = open_image(io.BytesIO(data))
    prepare(image)
    try:
        image.load()
    except _DAMAGE:
        # What was decoded before the error is in the image; without tiles it counts as loaded.
        image.tile = []
        image.load()
    return image


def _decodable(data: bytes, missing: int, prepare: Callable[[ImageFile.ImageFile], None]) -> Iterator[Image.Image]:
    """Decodings that succeed, of ever less of an AVIF. Raises what the last one raised where none does."""
    failed: Exception | None = None
    count = 0
    wide, high = open_image(io.BytesIO(data + bytes(missing))).size
    for number in range(min(_AVIF_TRIES, max(2, _AVIF_PIXELS // (wide * high)))):
        kept = len(data) - number // 2 * (len(data) // _AVIF_STEPS)
        fill = (b"\xff" if number % 2 else b"\0") * (missing + len(data) - kept)
        try:
            image = _loaded(data[:kept] + fill, prepare)
        except _DAMAGE as error:
            failed = error
            continue
        count += 1
        yield image
    if not count and failed is not None:
        raise failed


def _rows_before_the_fill(pixels: NDArray[np.generic]) -> int:
    """How many rows stand above those at the bottom that have the colour of the last pixel throughout."""
    flat = (pixels == pixels[-1, -1]).reshape(len(pixels), -1).all(axis=1)
    return len(pixels) - int(np.argmin(flat[::-1])) if not flat.all() else 0


def _whole_rows(image: Image.Image, other: NDArray[np.generic], kind: str = "") -> tuple[int, int]:
    """The first row, and the one after the last, that are whole: above those that differ, or, in a bitmap, whose last row comes
    first, below them."""
    pixels = np.asarray(image)
    differs = np.flatnonzero((pixels != other).reshape(len(pixels), -1).any(axis=1))
    if not len(differs):
        return 0, len(pixels)
    return (int(differs[-1]) + 1, len(pixels)) if kind in ("BMP", "DIB") else (0, int(differs[0]))


def _is_interlaced(data: bytes) -> bool:
    image = open_image(io.BytesIO(data))
    return bool(image.tile) and isinstance(image.tile[0][3], tuple) and bool(image.tile[0][3][1])


def _by_passes(image: Image.Image, shorter: NDArray[np.generic]) -> tuple[Image.Image, float]:
    """A GIF whose rows come in four passes: each row that is missing as the one above it."""
    pixels = np.asarray(image)
    height = len(pixels)
    order = [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
    differs = (pixels != shorter).reshape(height, -1).any(axis=1)[order]
    count = int(np.argmax(differs)) if differs.any() else height
    _checked(image, count / height)
    whole = np.sort(np.array(order[:count]))
    nearest = whole[np.searchsorted(whole, np.arange(height), "right") - 1]
    full = Image.fromarray(pixels[nearest], image.mode)
    if image.mode == "P":
        full.putpalette(image.getpalette("RGB") or [])
    full.info.update(image.info)
    return full, count / height


def _coarse(image: Image.Image, data: bytes) -> tuple[Image.Image, float]:
    """An interlaced PNG at half its size, whose pixels come before all others: one in two across and down."""
    depth, channels = data[24], {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(data[25], 1)
    sizes = [0]
    for left, top, across, down in _ADAM7:
        wide, high = -(-(image.width - left) // across), -(-(image.height - top) // down)
        sizes.append(high * (1 + -(-wide * channels * depth // 8)) if wide > 0 and high > 0 else 0)
    there = _inflated(data, sum(sizes))
    share = there / max(1, sum(sizes))
    if there < sum(sizes[:6]):
        raise MediaError("decode", f"damaged: only {share:.0%} of an interlaced picture can be decoded")
    pixels = np.asarray(image)[::2, ::2]
    half = Image.fromarray(np.ascontiguousarray(pixels), image.mode)
    if image.mode == "P":
        half.putpalette(image.getpalette("RGB") or [])
    half.info.update(image.info)
    return _checked(half, share)


def _inflated(data: bytes, most: int) -> int:
    """How many bytes of scanlines the chunks of a PNG still give, at most `most`."""
    unpacker, count, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(data) and count < most:
        size = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            try:
                count += len(unpacker.decompress(data[at + 8 : at + 8 + size]))
            except zlib.error:
                break
        at += 12 + size
    return count


def _directory_is_lost(data: bytes) -> bool:
    """Whether the first directory of a TIFF, which many programs write last, lies behind the end of the file."""
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    large = int.from_bytes(data[2:4], order) == 43
    place = int.from_bytes(data[8:16] if large else data[4:8], order)
    head, entry = (8, 20) if large else (2, 12)
    count = int.from_bytes(data[place : place + head], order)
    return place + head > len(data) or place + head + count * entry > len(data)


def whole_frames(data: bytes) -> bytes | None:
    """An animated WebP that ends early, as one of the frames that are whole; None for one that does not end early."""
    if len(data) >= 8 + int.from_bytes(data[4:8], "little"):
        return None
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > len(data):
            break
        at += 8 + size + size % 2
    return data[:4] + (min(at, len(data)) - 8).to_bytes(4, "little") + data[8:at]


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
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        # The first tile says how long it is; most pictures have one.
        tile = data.find(b"\xff\x90\0\x0a")
        length = int.from_bytes(data[tile + 6 : tile + 10], "big")
        if tile >= 0 and length and tile + length > len(data):
            return tile + length
    return 3 * len(data)

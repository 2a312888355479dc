"""Encoded bytes to Pillow's image by their own first bytes, with the plugin for just that format.

Pillow's `Image.open` asks every plugin that any library registered, one of which starts Ghostscript, and its bound on
pixels is a setting of the whole process. Here the formats are a closed list, and the bounds belong to the caller.
"""

from __future__ import annotations

import importlib
import io
import struct
from typing import IO, cast

from PIL import ImageFile

from media.errors import MediaError

# The module of each format's plugin, and the class in it.
_PLUGINS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "DIB": ("PIL.BmpImagePlugin", "DibImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "PSD": ("PIL.PsdImagePlugin", "PsdImageFile"),
    "JXL": ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile"),
}
_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"8BPS", "PSD"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)
_HEIF_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
# The sizes of a bitmap's header, which a DIB file begins with.
_DIB_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_HEAD = 512
_PNG, _MOST_CHUNKS = b"\x89PNG\r\n\x1a\n", 64 * 1024 * 1024


def open_image(content: IO[bytes]) -> ImageFile.ImageFile:
    """Pillow's image over `content`, its header read and nothing decoded.

    Raises `MediaError("decode", reason)` for what is no image of a known format, and whatever a plugin raises for a
    damaged header.
    """
    head = content.read(_HEAD)
    content.seek(0)
    if not head:
        raise MediaError("decode", "the file is empty")
    form = format_of(head)
    if form == "EPS":
        return open_image(_eps_preview(content))
    module, name = _PLUGINS[form]
    return cast(ImageFile.ImageFile, getattr(importlib.import_module(module), name)(content))


def _eps_preview(content: IO[bytes]) -> IO[bytes]:
    """The TIFF that an EPS file may hold beside its program, which nobody runs here."""
    head = content.read(32)
    place, size = int.from_bytes(head[20:24], "little"), int.from_bytes(head[24:28], "little")
    content.seek(place)
    preview = content.read(size)
    if not place or preview[:2] not in (b"II", b"MM"):
        raise MediaError("decode", "an EPS file without a preview")
    return io.BytesIO(preview)


def without_pixels(content: IO[bytes]) -> IO[bytes]:
    """A PNG whose chunks all stand before its pixels, which are left out: Pillow decodes them to read what stands behind. Any
    other file as it is."""
    start = content.read(len(_PNG))
    content.seek(0)
    if start != _PNG:
        return content
    kept, size, at = [start], 0, len(_PNG)
    while size < _MOST_CHUNKS:
        content.seek(at)
        head = content.read(8)
        length = int.from_bytes(head[:4], "big")
        if len(head) < 8 or head[4:] == b"IEND":
            break
        if head[4:] not in (b"IDAT", b"fdAT") and length < _MOST_CHUNKS:
            kept.append(head + content.read(length + 4))
            size += length
        at += 12 + length
    return io.BytesIO(b"".join(kept) + bytes(4) + b"IDAT" + bytes(4))


def too_large(size: tuple[int, int], bound: int) -> str:
    """What is said of a picture of more than `bound` pixels."""
    return f"{size[0]}×{size[1]} is more than {bound // 1_000_000} million pixels (--max-pixels)"


def reason_of(error: BaseException) -> str:
    """What is wrong with a file, by what a plugin made of it: many run over its end, and say so in their own terms."""
    own = error.__cause__ if isinstance(error, SyntaxError) and error.__cause__ is not None else error
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    # The last is all that libwebp's wrapper ever says.
    if isinstance(own, (struct.error, IndexError, EOFError, KeyError, TypeError)) or "decoder object" in text:
        return "it ends early, or what it says of itself makes no sense"
    return " ".join(str(text).split())[:150]


def format_of(head: bytes) -> str:
    """The format of a file that begins with `head`, by a name of Pillow's. Raises `MediaError("decode", reason)`."""
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), _HEAD)
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    if head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6", b"f", b"y", b"0", b"F"):
        return "PPM"
    if int.from_bytes(head[:4], "little") in _DIB_HEADERS:
        return "DIB"
    if head.startswith(b"%!PS"):
        raise MediaError("decode", "an EPS file without a preview")
    raise MediaError("decode", "not an image, or a format that is not known")

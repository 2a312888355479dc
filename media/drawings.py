"""SVG to pixels with resvg, which runs no script and fetches nothing from a network, and here opens no file either."""

from __future__ import annotations

import io
import re
import zlib

from PIL import Image

from media.errors import MediaError
from media.text import decode_text

_MOST_BYTES = 32 * 1024 * 1024
_MOST_PIXELS = 16_000_000
# What a drawing may refer to: a part of itself, or a picture inside of it that refers to nothing.
_HREF = re.compile(r"""(\bhref\s*=\s*)("[^"]*"|'[^']*')""", re.IGNORECASE)
_INSIDE = re.compile(r"""["']\s*(#|data:image/(png|jpe?g|gif|webp)[;,])""", re.IGNORECASE)
_ENTITY = re.compile(r"""<!ENTITY[^>]*?("[^"]*"|'[^']*')""", re.DOTALL)


def is_drawing(head: bytes) -> bool:
    """Whether a file that begins with `head` may be SVG, plain or packed."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        head = head.decode("utf-16", "ignore").encode("utf-8", "ignore")
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith(b"\x1f\x8b") or start.startswith((b"<svg", b"<?xml", b"<!DOCTYPE svg", b"<!--"))


def draw(data: bytes, min_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The drawing over white, its shorter side at `min_side` or more, and the size that it gives itself.

    Raises `MediaError("decode", reason)`, also for one whose entities hold markup: they may grow without bound.
    """
    import resvg_py

    text = decode_text(_unpacked(data), _MOST_BYTES)
    for entity in _ENTITY.finditer(text):
        if "<" in entity[1] or "&" in entity[1]:
            raise MediaError("decode", "an SVG whose entities hold markup is not read")
    text = _HREF.sub(lambda match: match[0] if _INSIDE.match(match[2]) else f'{match[1]}""', text)
    try:
        natural = _size(resvg_py.svg_to_bytes(svg_string=text, width=16, background="#ffffff"), text)
        zoom = max(1.0, min_side / min(natural))
        wide, high = natural[0] * zoom, natural[1] * zoom
        shrink = min(1.0, (_MOST_PIXELS / (wide * high)) ** 0.5)
        png = resvg_py.svg_to_bytes(svg_string=text, width=max(1, round(wide * shrink)), background="#ffffff")
    except ValueError as error:
        raise MediaError("decode", f"damaged SVG: {' '.join(str(error).split())[:150]}") from error
    return Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB"), natural


def _size(small: bytes, text: str) -> tuple[int, int]:
    """The size in pixels, from what the root says where that is in pixels, and from a rendering for the rest."""
    with Image.open(io.BytesIO(small), formats=["PNG"]) as image:
        ratio = image.height / image.width
    root = re.search(r"<svg\b[^>]*>", text, re.DOTALL)
    said = re.search(r"""\bwidth\s*=\s*["']\s*(\d+(?:\.\d+)?)(px)?\s*["']""", root[0]) if root else None
    box = (
        re.search(r"""\bviewBox\s*=\s*["']\s*[-\d.e]+[\s,]+[-\d.e]+[\s,]+(\d+(?:\.\d+)?)""", root[0]) if root else None
    )
    width = float((said or box)[1]) if said or box else 100.0  # type: ignore[index]
    wide = min(max(1, round(width)), 100_000)
    return wide, min(max(1, round(wide * ratio)), 100_000)


def _unpacked(data: bytes) -> bytes:
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        unpacker = zlib.decompressobj(31)
        text = unpacker.decompress(data, _MOST_BYTES)
    except zlib.error as error:
        raise MediaError("decode", f"damaged SVG: {error}") from error
    if unpacker.unconsumed_tail:
        raise MediaError("decode", f"an SVG of more than {_MOST_BYTES // 1_048_576} MB")
    return text

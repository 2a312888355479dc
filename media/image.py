"""Encoded images to upright 8-bit RGB. Every failure is a `MediaError`."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from media.colors import Signal, signal_of, to_srgb, tone_mapped
from media.drawings import draw, is_drawing
from media.errors import MediaError
from media.foreign import RAW_SUFFIXES, missing_extra
from media.opening import open_image, reason_of, too_large
from media.pages import page_picture
from media.raw import develop
from media.salvage import salvaged
from media.types import MAX_PIXELS

_JPEG_BOUND = 8
_LARGE = 20_000_000
_FRAMES_TRIED = 64
# Plugins of formats that are JPEG with more inside.
_JPEG = ("JPEG", "MPO")
# Large images are decoded one at a time, so that memory does not grow with the number of workers.
_one_large = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """`rgb` is upright and 8-bit, and may be smaller than the file's image, whose upright size is `width`×`height`. `missing`
    says what of a damaged file could not be decoded; `rgb` is the rest."""

    rgb: Image.Image
    width: int
    height: int
    dhash: int = 0
    missing: str | None = None


def decode_image(data: bytes, min_side: int, *, name: str = "", max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decode an image whose shorter side is wanted at `min_side` pixels or more, where the file has that many. `name` is that
    of its file, which tells raw files from TIFF.

    Raises `MediaError("decode", reason)` for anything of which less than a third can be decoded, or that is larger than
    `max_pixels` (JPEG: eight times that).
    """
    try:
        return _decoded(data, min_side, name, max_pixels)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError("decode", "the picture does not fit in memory") from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them raise
        raise MediaError("decode", f"damaged image: {reason_of(error)}") from error


def _decoded(data: bytes, min_side: int, name: str, max_pixels: int) -> DecodedImage:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in RAW_SUFFIXES and missing_extra(name) is None:
        raw, exif, size = develop(data, min_side, max_pixels)
        return _facts(_upright(_smaller(raw.convert("RGB"), min_side), exif), exif, *size)
    if is_drawing(data[:512]):
        if missing_extra("x.svg") is not None:
            raise MediaError("decode", "an SVG needs: pip install resvg-py")
        drawing, (width, height) = draw(data, min_side)
        return _facts(_smaller(drawing, min_side), Image.Exif(), width, height)

    if data[:1024].lstrip().startswith(b"%PDF-"):
        if missing_extra("x.pdf") is not None:
            raise MediaError("decode", "a PDF needs: pip install pypdfium2")
        page, (width, height) = page_picture(data, 1, min_side)
        return _facts(_smaller(page, min_side), Image.Exif(), width, height)
    header = _Header(min_side, max_pixels)
    missing = None
    with contextlib.ExitStack() as held:
        try:
            image = held.enter_context(open_image(io.BytesIO(data)))
            header.take(image)
            held.enter_context(header.turn())
            frame = _first_opaque(image) if getattr(image, "n_frames", 1) > 1 and image.format == "GIF" else image
            frame.load()
            if image.format == "PNG":
                # It may stand behind the pixels.
                header.exif = _exif(image)
        except (MediaError, MemoryError):
            raise
        except Exception as error:  # What Pillow's plugins raise for a damaged file
            frame, missing = _rescued(data, header.take, error)
        signal = signal_of(data) if header.format in ("HEIF", "AVIF") else None
        rgb = _pixels(frame, header.profile, signal, min_side)
    return _facts(_upright(rgb, header.exif), header.exif, *header.size, missing)


def decode_page(path: str, number: int, min_side: int) -> DecodedImage:
    """Page `number`, from 1, of the PDF at `path`, as `decode_image` gives a picture. Pages have no `dhash`: those of one form
    or one book look alike, and are no copies. Raises `MediaError`."""
    if missing_extra(path) is not None:
        raise MediaError("decode", "a PDF needs: pip install pypdfium2")
    page, (width, height) = page_picture(path, number, min_side)
    return DecodedImage(rgb=_smaller(page, min_side), width=width, height=height)


class _Header:
    """What an opened image says before its pixels are decoded."""

    def __init__(self, min_side: int, max_pixels: int) -> None:
        self._min_side, self._max_pixels = min_side, max_pixels
        self.format: str | None = None
        self.size = (0, 0)
        self.exif = Image.Exif()
        self.profile: bytes | None = None

    def take(self, image: ImageFile.ImageFile) -> None:
        """Read it; refuse what is too large, and let libjpeg decode at 1/2, 1/4 or 1/8 of the size."""
        jpeg = image.format in _JPEG
        self.format, self.size = image.format, image.size
        _check_size(image.size, (_JPEG_BOUND if jpeg else 1) * self._max_pixels)
        self.exif = _exif(image)
        self.profile = image.info.get("icc_profile")
        if jpeg:
            side = self._min_side
            image.draft("RGB" if image.mode in ("RGB", "YCbCr") else image.mode, (side, side))
            _check_size(image.size, self._max_pixels)

    def turn(self) -> threading.Lock | contextlib.nullcontext[None]:
        """What a large image waits for."""
        return _one_large if self.size[0] * self.size[1] > _LARGE else contextlib.nullcontext()


def _rescued(data: bytes, prepare: Callable[[ImageFile.ImageFile], None], cause: Exception) -> tuple[Image.Image, str]:
    """The rows of a damaged image that are whole, and a line that says what is missing. Raises `MediaError`."""
    try:
        image, share = salvaged(data, prepare)
    except MediaError:
        raise
    except Exception:
        raise MediaError("decode", f"damaged image: {reason_of(cause)}") from cause
    reason = reason_of(cause)
    lost = f"{1 - share:.0%} of its rows are missing" if round(100 * share) < 100 else "no row is missing"
    return image, f"damaged: {lost} ({reason})"


def _facts(rgb: Image.Image, exif: Image.Exif, width: int, height: int, missing: str | None = None) -> DecodedImage:
    if exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
        width, height = height, width
    return DecodedImage(rgb=rgb, width=width, height=height, dhash=difference_hash(rgb), missing=missing)


def crop(image: Image.Image, region: tuple[float, float, float, float]) -> Image.Image:
    """The part of an image that left, top, width and height, in fractions of its sides, name: a pixel at least."""
    left, top, width, height = region
    x, y = min(int(left * image.width), image.width - 1), min(int(top * image.height), image.height - 1)
    right, bottom = round((left + width) * image.width), round((top + height) * image.height)
    return image.crop((x, y, min(max(right, x + 1), image.width), min(max(bottom, y + 1), image.height)))


def difference_hash(rgb: Image.Image) -> int:
    """64 bits: whether each of 8×8 cells is darker than its right neighbour. A signed integer; near images differ in
    few bits (Krawetz's dHash)."""
    grey = np.asarray(rgb.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (grey[:, :-1] < grey[:, 1:]).reshape(-1)
    return int(np.packbits(bits).view(">i8")[0])


def _check_size(size: tuple[int, int], bound: int) -> None:
    if size[0] * size[1] > bound:
        raise MediaError("decode", too_large(size, bound))


def _pixels(frame: Image.Image, profile: bytes | None, signal: Signal | None, min_side: int) -> Image.Image:
    if signal is not None and signal.is_hdr:
        return tone_mapped(_smaller(frame.convert("RGB"), min_side), signal)
    if profile and frame.mode in ("RGB", "CMYK", "L"):
        # Colours are turned where there are few pixels left.
        return to_srgb(_smaller(frame, min_side), profile)
    return _smaller(to_srgb(frame, profile), min_side)


def _smaller(image: Image.Image, min_side: int) -> Image.Image:
    """A large image made smaller by boxes: the model's own resize then costs the same for every file."""
    factor = min(image.size) // (2 * min_side)
    return image.reduce(factor) if factor >= 2 else image


def _upright(rgb: Image.Image, exif: Image.Exif) -> Image.Image:
    if exif.get(ExifTags.Base.Orientation, 1) == 1:
        return rgb
    # The pixels that were decoded carry no orientation of their own any more; turn them as the file asked.
    rgb.getexif()[ExifTags.Base.Orientation] = exif[ExifTags.Base.Orientation]
    return ImageOps.exif_transpose(rgb)


def _first_opaque(image: Image.Image) -> Image.Image:
    """The first frame of an animation that shows something: many begin with a wholly transparent one."""
    for number in range(min(getattr(image, "n_frames", 1), _FRAMES_TRIED)):
        image.seek(number)
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getbbox() is not None:
            return rgba
    image.seek(0)
    return image


def _exif(image: Image.Image) -> Image.Exif:
    try:
        if image.format == "PNG" and "exif" not in image.info:
            # Pillow would decode the pixels to look behind them, and remember that there is none.
            return Image.Image.getexif(image) if "Raw profile type exif" in image.info else Image.Exif()
        return image.getexif()
    except Exception:  # A broken EXIF block must not cost the image.
        return Image.Exif()

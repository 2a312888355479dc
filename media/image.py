"""Encoded images to upright 8-bit RGB. Every failure is a `MediaError`."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps

from media.errors import MediaError
from media.opening import open_image

_JPEG_AND_WEB = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".gif")
_OTHERS = (".heic", ".heif", ".tif", ".tiff", ".bmp", ".dib", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm")
IMAGE_SUFFIXES = frozenset((*_JPEG_AND_WEB, *_OTHERS))
# A decoded image may take this many pixels. JPEG is decoded at a fraction of its size, so its own bound is wider.
MAX_PIXELS = 120_000_000
MAX_JPEG_PIXELS = 1_000_000_000
_LARGE = 20_000_000
_FRAMES_TRIED = 64
# Large images are decoded one at a time, so that memory does not grow with the number of workers.
_one_large = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class DecodedImage:
    """`rgb` is upright and 8-bit, and may be smaller than the file's image, whose upright size is `width`×`height`."""

    rgb: Image.Image
    width: int
    height: int
    dhash: int = 0


def decode_image(data: bytes, min_side: int) -> DecodedImage:
    """Decode an image whose shorter side is wanted at `min_side` pixels or more, where the file has that many.

    Raises `MediaError("decode", reason)` for anything that is not a whole image within the bounds.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            width, height = image.size
            _check_size(image, width, height)
            exif = _exif(image)
            if image.format == "JPEG":
                _scale_jpeg(image, min_side)
            if image.size[0] * image.size[1] > _LARGE:
                with _one_large:
                    rgb = _pixels(image, exif, min_side)
            else:
                rgb = _pixels(image, exif, min_side)
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError("decode", "the picture does not fit in memory") from error
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MediaError("decode", f"damaged image: {reason[:200]}") from error
    if exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8):
        width, height = height, width
    return DecodedImage(rgb=rgb, width=width, height=height, dhash=difference_hash(rgb))


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


def _check_size(image: Image.Image, width: int, height: int) -> None:
    bound = MAX_JPEG_PIXELS if image.format == "JPEG" else MAX_PIXELS
    if width * height > bound:
        raise MediaError("decode", f"{width}×{height} is more than {bound // 1_000_000} million pixels")


def _scale_jpeg(image: Image.Image, min_side: int) -> None:
    """Let libjpeg decode at 1/2, 1/4 or 1/8 of the size, keeping the shorter side at `min_side` or more."""
    image.draft("RGB" if image.mode in ("RGB", "YCbCr") else image.mode, (min_side, min_side))
    if image.size[0] * image.size[1] > MAX_PIXELS:
        raise MediaError(
            "decode", f"{image.size[0]}×{image.size[1]} is more than {MAX_PIXELS // 1_000_000} million pixels"
        )


def _pixels(image: Image.Image, exif: Image.Exif, min_side: int) -> Image.Image:
    frame = _first_opaque(image) if getattr(image, "n_frames", 1) > 1 and image.format == "GIF" else image
    frame.load()
    rgb = to_rgb(frame)
    # Halve a large image by boxes first: the model's own resize then costs the same for every file.
    factor = min(rgb.size) // (2 * min_side)
    if factor >= 2:
        rgb = rgb.reduce(factor)
    if exif.get(ExifTags.Base.Orientation, 1) != 1:
        # The pixels that were decoded carry no orientation of their own any more; turn them as the file asked.
        rgb.getexif()[ExifTags.Base.Orientation] = exif[ExifTags.Base.Orientation]
        rgb = ImageOps.exif_transpose(rgb)
    return rgb


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB: high bit depths scaled to their range, transparency over white."""
    mode = image.mode
    if mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        values = np.asarray(image).astype(np.float64)
        low, high = float(np.min(values)), float(np.max(values))
        if mode == "F" and low >= 0 and high <= 1.0:
            low, high = 0.0, 1.0
        elif mode != "F" and low >= 0 and high <= 65535:
            low, high = 0.0, 255.0 if mode == "I" and high <= 255 else 65535.0
        scale = 255.0 / (high - low) if high > low else 0.0
        return Image.fromarray(np.clip((values - low) * scale + 0.5, 0, 255).astype(np.uint8)).convert("RGB")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


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
        return image.getexif()
    except Exception:  # A broken EXIF block must not cost the image.
        return Image.Exif()

"""Encoded images to upright 8-bit RGB, with what the file says of itself. Every failure is a `MediaError`."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from datetime import datetime

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
    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
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
    latitude, longitude = _position(exif)
    return DecodedImage(
        rgb=rgb,
        width=width,
        height=height,
        taken_at=_taken_at(exif),
        camera=_camera(exif),
        latitude=latitude,
        longitude=longitude,
        dhash=difference_hash(rgb),
    )


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


def _taken_at(exif: Image.Exif) -> str | None:
    """ISO 8601 without a zone, as cameras write it."""
    try:
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        written = inner.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        return datetime.strptime(str(written).strip("\0 "), "%Y:%m:%d %H:%M:%S").isoformat()
    except Exception:  # Malformed EXIF raises struct, key, value and type errors alike.
        return None


def _camera(exif: Image.Exif) -> str | None:
    try:
        make = str(exif.get(ExifTags.Base.Make) or "").strip("\0 ")
        model = str(exif.get(ExifTags.Base.Model) or "").strip("\0 ")
    except Exception:
        return None
    if make and model.lower().startswith(make.lower()):
        make = ""
    return _clean(f"{make} {model}")


def _clean(text: str) -> str | None:
    printable = "".join(char for char in text if char.isprintable()).encode("utf-8", "ignore").decode().strip()
    return printable[:100] or None


def _position(exif: Image.Exif) -> tuple[float | None, float | None]:
    """Degrees north and east."""
    try:
        gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
        latitude = _degrees(gps[ExifTags.GPS.GPSLatitude], gps.get(ExifTags.GPS.GPSLatitudeRef), "S")
        longitude = _degrees(gps[ExifTags.GPS.GPSLongitude], gps.get(ExifTags.GPS.GPSLongitudeRef), "W")
    except Exception:
        return None, None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None, None
    return latitude, longitude


def _degrees(parts: tuple[float, float, float], reference: object, negative: str) -> float:
    degrees, minutes, seconds = (float(part) for part in parts)
    value = degrees + minutes / 60 + seconds / 3600
    text = reference.decode("ascii") if isinstance(reference, bytes) else str(reference)
    return round(-value if text.strip("\0 ").upper() == negative else value, 7)

"""Pixels as files hold them to 8-bit sRGB: any mode, colour profiles, and tone mapping of what is brighter than paper.

PQ and HLG signals (BT.2100) are made linear, relative to reference white at 203 cd/m² (BT.2408), moved from their primaries to
those of sRGB, and what is brighter than three quarters of white is rolled off, so that white stays near white.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

PQ, HLG = 16, 18
# Code points of ITU-T H.273 for primaries, and the matrices from linear light in them to linear sRGB.
_TO_SRGB: dict[int, NDArray[np.float64]] = {
    9: np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]),
    11: np.array([[1.1574, -0.1549, -0.0025], [-0.0416, 1.0456, -0.0040], [-0.0181, -0.0786, 1.0967]]),
    12: np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]]),
}
_REFERENCE_WHITE = 203.0
_HLG_PEAK = 1000.0
_KNEE = 0.75
_LUMA_2020 = np.array([0.2627, 0.6780, 0.0593])
# Values outside of these shares of a float image are highlights and dead pixels: they do not set its range.
_PERCENTILES = (0.1, 99.9)


class Signal(NamedTuple):
    """How values of a picture mean light: the code points of its primaries and of its transfer function."""

    primaries: int
    transfer: int

    @property
    def is_hdr(self) -> bool:
        """Whether it has to be tone-mapped."""
        return self.transfer in (PQ, HLG)


def signal_of(data: bytes) -> Signal | None:
    """What the `nclx` box of a HEIF or AVIF file says, None where there is none."""
    place = data.find(b"colrnclx")
    if place < 0 or place + 12 > len(data):
        return None
    return Signal(
        int.from_bytes(data[place + 8 : place + 10], "big"), int.from_bytes(data[place + 10 : place + 12], "big")
    )


def tone_mapped(rgb: Image.Image, signal: Signal) -> Image.Image:
    """An RGB image of PQ or HLG values as sRGB."""
    codes = np.arange(256) / 255.0
    values = np.asarray(rgb)
    if signal.transfer == PQ:
        light = (_pq(codes) / _REFERENCE_WHITE)[values]
    else:
        scene = _hlg(codes)[values]
        bright = np.maximum(scene @ _LUMA_2020, 1e-6)[..., None]
        light = scene * bright**0.2 * (_HLG_PEAK / _REFERENCE_WHITE)
    if signal.primaries in _TO_SRGB:
        light = light @ _TO_SRGB[signal.primaries].T
    light = np.maximum(light, 0.0)
    # By the strongest channel alone, so that colours keep their hue.
    peak = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    rolled = np.where(peak > _KNEE, 1 - (1 - _KNEE) * np.exp(-(peak - _KNEE) / (1 - _KNEE)), peak)
    return Image.fromarray(_encoded(light * (rolled / peak)))


def _encoded(linear: NDArray[np.float64]) -> NDArray[np.uint8]:
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)
    return np.asarray(np.clip(255 * values + 0.5, 0, 255), np.uint8)


def _pq(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signal to cd/m² (SMPTE ST 2084)."""
    power = values ** (1 / 78.84375)
    ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return np.asarray(10_000 * ratio ** (1 / 0.1593017578125), np.float64)


def _hlg(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signal to linear scene light, 0 to 1 (ARIB STD-B67)."""
    bright = (np.exp((values - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.asarray(np.where(values <= 0.5, values**2 / 3, bright), np.float64)


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Any image to 8-bit RGB, transparency over white, by its ICC profile where it has one that can be used."""
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L", "LA", "LAB"):
        return to_rgb(image)
    if image.mode in ("RGBA", "LA"):
        # What lies under the transparency is of the profile, too; white is white in each.
        image = to_rgb(image) if image.mode == "RGBA" else to_rgb(image).convert("L")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if _is_srgb(source):
            return to_rgb(image)
        target = ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        # A profile that is damaged or of other channels does not cost the picture.
        return to_rgb(image)
    return turned if turned is not None else to_rgb(image)


def _is_srgb(profile: Any) -> bool:
    name = str(profile.profile.profile_description or "")
    return name.startswith(("sRGB IEC61966-2.1", "sRGB built-in"))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB: high bit depths scaled to their range, transparency over white."""
    mode = image.mode
    if mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _scaled(np.asarray(image).astype(np.float64), mode)
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _scaled(values: NDArray[np.float64], mode: str) -> Image.Image:
    values = np.nan_to_num(values, nan=0.0)
    low, high = float(np.min(values)), float(np.max(values))
    if mode == "F" and low >= 0 and high <= 1.0:
        low, high = 0.0, 1.0
    elif mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 255.0 if mode == "I" and high <= 255 else 65535.0
    else:
        inner = np.percentile(values, _PERCENTILES)
        # One lamp a thousand times brighter than the room would leave the room black.
        if inner[1] > inner[0] and high - low > 4 * (inner[1] - inner[0]):
            low, high = float(inner[0]), float(inner[1])
    scale = 255.0 / (high - low) if high > low else 0.0
    return Image.fromarray(np.clip((values - low) * scale + 0.5, 0, 255).astype(np.uint8)).convert("RGB")

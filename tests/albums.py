"""Photos with the facts that cameras write: dates, cameras and places."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.conftest import picture


def _degrees(value: float) -> tuple[float, float, float]:
    whole = abs(value)
    return float(int(whole)), float(int(whole * 60) % 60), whole * 3600 % 60


def photo(
    file: Path,
    seed: int,
    day: str,
    place: tuple[float, float] | None = None,
    camera: tuple[str, str] | None = None,
    quality: int = 92,
) -> None:
    """A photo of a day such as 2024-01-31, at a latitude and longitude, by a camera of a maker and model."""
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = f"{day.replace('-', ':')} 12:00:00"
    if camera is not None:
        exif[0x10F], exif[0x110] = camera
    if place is not None:
        facts = exif.get_ifd(0x8825)
        facts[1], facts[2] = "N" if place[0] > 0 else "S", _degrees(place[0])
        facts[3], facts[4] = "E" if place[1] > 0 else "W", _degrees(place[1])
    picture(seed, 320, 240).save(file, exif=exif, quality=quality)

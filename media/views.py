"""A wide or tall picture as several squares of it: panoramas, scans and screenshots lose their ends to a crop of the middle."""

from __future__ import annotations

from PIL import Image

# More than twice as long as wide; a photo of 16:9 is one view.
_LONG = 2.0
_MOST = 8


def views_of(rgb: Image.Image) -> list[Image.Image]:
    """The squares, evenly apart, that together cover the picture; the picture itself where it is not long. Of a very long one
    they do not meet."""
    width, height = rgb.size
    short, long = min(width, height), max(width, height)
    if long <= _LONG * short:
        return [rgb]
    count = min(_MOST, -(-long // short))
    views = []
    for number in range(count):
        start = round(number * (long - short) / (count - 1))
        box = (start, 0, start + short, height) if width > height else (0, start, width, start + short)
        views.append(rgb.crop(box))
    return views

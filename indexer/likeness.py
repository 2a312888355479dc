"""Which pictures are likely to hold text, by the embeddings that an index has of them already: nothing is decoded for that.

An embedding lies between those of pages, screens and signs that are drawn here and those of the photos that come with the
models, both by the index's own model. Prompts in words ("a scanned document") were tried first, and told `mini` next to
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from retrieval.models.export import PHOTOS

Floats = NDArray[np.float32]
Color = tuple[int, int, int]

# Fitted with `python -m benchmarks.ocr --fit`: 0 is as the photos are, 1 as the drawn texts.
THRESHOLD = 0.45
_WHITE, _BLACK = (255, 255, 255), (20, 20, 20)
_LETTER = (
    "Dear Sir or Madam,",
    "we thank you for your order of 14 May",
    "and confirm the delivery to your address",
    "as agreed with our office in the city.",
    "Please note that the amount of 248.50",
    "is due within thirty days of receipt.",
    "For any question call 030 5551 2290",
    "or write to us at the address above.",
    "Kind regards,",
    "Head of Sales Department",
)


class ImageEncoder(Protocol):
    """The image half of a model."""

    def preprocess(self, image: Image.Image) -> Floats:
        """An RGB image to `(3, s, s) float32`."""

    def encode_pixels(self, pixels: Sequence[Floats]) -> Floats:
        """`(n, d) float32`, unit rows."""


@dataclass(frozen=True)
class TextLikeness:
    """`direction (d,)` leads from the middle of the photos to that of the texts; a photo's cosine along it is `photo` on
    average, a text's `text`."""

    direction: Floats
    photo: float
    text: float

    @staticmethod
    def of(encoder: ImageEncoder) -> TextLikeness:
        """By the model of an index."""
        photos = []
        for file in sorted(PHOTOS.glob("*.jpg")):
            with Image.open(file) as opened:
                photos.append(opened.convert("RGB"))
        of_texts = encoder.encode_pixels([encoder.preprocess(picture) for picture in drawn_texts()])
        of_photos = encoder.encode_pixels([encoder.preprocess(picture) for picture in photos])
        direction = np.asarray(of_texts.mean(0) - of_photos.mean(0), np.float32)
        return TextLikeness(direction, float((of_photos @ direction).mean()), float((of_texts @ direction).mean()))

    def scores(self, images: NDArray[np.float16] | Floats) -> Floats:
        """`(n,) float32` for unit rows of images `(n, d)`: about 0 for photos, about 1 for text."""
        along = np.asarray(images, np.float32) @ self.direction
        return np.asarray((along - self.photo) / max(self.text - self.photo, 1e-6), np.float32)


def drawn_texts() -> Iterator[Image.Image]:
    """Pictures of the kinds that hold text: letters, a receipt, screens, a pass, a page on a table, a book, a sign, a table."""
    yield _page((480, 640), _WHITE, (10, 10, 10), 20, 26)
    yield _page((480, 640), _WHITE, (40, 40, 40), 12, 17)
    yield _page((300, 640), (244, 244, 240), (80, 80, 84), 17, 24)
    yield _page((640, 400), (28, 30, 36), (205, 210, 220), 16, 24)
    yield _page((640, 400), (246, 247, 249), (50, 52, 60), 16, 24)
    card = _page((640, 300), (238, 241, 246), _BLACK, 26, 62)
    ImageDraw.Draw(card).rectangle((0, 0, 640, 54), fill=(25, 55, 115))
    yield card
    ground = Image.new("RGB", (520, 520), (96, 74, 58))
    sheet = _page((340, 440), (249, 245, 234), (60, 56, 52), 15, 21).convert("RGBA").rotate(9, expand=True)
    ground.paste(sheet, ((520 - sheet.width) // 2, (520 - sheet.height) // 2), sheet)
    yield ground
    yield _page((640, 480), (252, 248, 236), (60, 55, 50), 13, 18)
    sign = Image.new("RGB", (480, 320), (0, 92, 52))
    for place, words in enumerate(("City Centre", "Airport A9")):
        ImageDraw.Draw(sign).text((30, 50 + 120 * place), words, font=ImageFont.load_default(64), fill=_WHITE)
    yield sign
    yield _table()


def _page(size: tuple[int, int], paper: Color, ink: Color, points: int, step: int) -> Image.Image:
    picture = Image.new("RGB", size, paper)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(points)
    for row, top in enumerate(range(3 * step // 2, size[1] - step, step)):
        if row % 7 != 5:
            draw.text((size[0] // 14, top), _LETTER[row % len(_LETTER)], font=font, fill=ink)
    return picture


def _table() -> Image.Image:
    picture = Image.new("RGB", (560, 400), _WHITE)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for row in range(12):
        for column in range(6):
            number = (row * 7919 + column * 104_729) % 9973
            draw.text((14 + 92 * column, 10 + 32 * row), str(number), font=font, fill=_BLACK)
        draw.line((0, 32 * row, 560, 32 * row), fill=(180, 180, 180))
    return picture

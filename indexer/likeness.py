"""Which pictures are likely to hold text, by the embeddings that an index has of them already: nothing is decoded for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# What holds text, and what does not, as captions say it.
TEXT_PROMPTS = (
    "a scanned document",
    "a screenshot with text",
    "a sign with words",
    "a page of a book",
    "a receipt",
    "a boarding pass",
    "a letter with printed text",
    "a poster with words on it",
    "a table of numbers",
)
PHOTO_PROMPTS = (
    "a photo of a person",
    "a photo of people outdoors",
    "a photo of an animal",
    "a photo of food on a table",
    "a landscape with sky and trees",
    "a room with furniture",
    "a street with cars",
    "a close-up of a plant",
    "a building",
    "a texture",
    "a photo taken at night",
)
# Fitted by `python -m benchmarks.ocr --fit`: how much likelier than not text has to be, in units of `scores`.
THRESHOLD = 0.0
# How sharply the nearest of the prompts stands out, in units of the model's own spread of cosines between prompts.
_SHARPNESS = 4.0


class TextEncoder(Protocol):
    """The text half of a model."""

    def encode_texts(self, texts: Sequence[str]) -> Floats:
        """`(n, d) float32`, unit rows."""


@dataclass(frozen=True)
class TextLikeness:
    """`text (t, d)` and `photo (p, d)` are unit rows of the prompts."""

    text: Floats
    photo: Floats

    @staticmethod
    def of(encoder: TextEncoder) -> TextLikeness:
        """The prompts, embedded by the model of an index."""
        rows = encoder.encode_texts([*TEXT_PROMPTS, *PHOTO_PROMPTS])
        return TextLikeness(rows[: len(TEXT_PROMPTS)], rows[len(TEXT_PROMPTS) :])

    def scores(self, images: NDArray[np.float16] | Floats) -> Floats:
        """`(n,) float32` for unit rows of images `(n, d)`; higher is likelier to hold text.

        The soft maximum of the cosines to prompts with text, less that to the others, in standard deviations of the image's
        cosines, so that it means much the same for every model.
        """
        rows = np.asarray(images, np.float32)
        cosines = np.concatenate([rows @ self.text.T, rows @ self.photo.T], axis=1)
        spread = np.maximum(cosines.std(axis=1, keepdims=True), 1e-4)
        scaled = (cosines - cosines.mean(axis=1, keepdims=True)) / spread
        of_text, of_photo = scaled[:, : len(self.text)], scaled[:, len(self.text) :]
        return np.asarray(_soft_maximum(of_text) - _soft_maximum(of_photo), np.float32)


def _soft_maximum(values: Floats) -> Floats:
    return np.asarray(np.log(np.exp(_SHARPNESS * values).mean(axis=1)) / _SHARPNESS, np.float32)

"""The pages of a PDF as pictures and as text, by PDFium, where the extra `pdf` is installed; run where crashes cost nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from media.errors import MediaError

# Of a longer one the first so many are indexed.
MOST_PAGES = 200
_MOST_PIXELS = 16_000_000
_MOST_LETTERS = 20_000


@dataclass(frozen=True, kw_only=True)
class Document:
    """How many `pages` a PDF has, and the text of each of the first `MOST_PAGES`, empty where it is a picture alone."""

    pages: int
    texts: tuple[str, ...]


def read_document(path: str) -> Document:
    """The PDF at `path`. Raises `MediaError("decode", reason)`."""
    with _opened(path) as document:
        texts = []
        for number in range(min(len(document), MOST_PAGES)):
            page = document[number]
            layer = page.get_textpage()
            texts.append(layer.get_text_bounded()[:_MOST_LETTERS])
            layer.close()
            page.close()
        return Document(pages=len(document), texts=tuple(texts))


def page_picture(source: str | bytes, number: int, min_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """Page `number`, from 1, of a PDF by its path or its bytes: over white, its shorter side at `min_side` or more, and its
    size in points.

    Raises `MediaError("decode", reason)`.
    """
    with _opened(source) as document:
        if not 1 <= number <= len(document):
            raise MediaError("decode", f"a PDF without a page {number}")
        page = document[number - 1]
        width, height = page.get_size()
        if min(width, height) <= 0:
            raise MediaError("decode", "a page without a size")
        scale = min(max(1.0, min_side / min(width, height)), (_MOST_PIXELS / (width * height)) ** 0.5)
        # Forms and scripts are not loaded.
        image = page.render(scale=scale, may_draw_forms=False).to_pil().convert("RGB")
        page.close()
    return image, (max(1, round(width)), max(1, round(height)))


@contextlib.contextmanager
def _opened(source: str | bytes) -> Iterator[Any]:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(source)
        try:
            yield document
        finally:
            document.close()
    except (pypdfium2.PdfiumError, IndexError, ValueError, OSError) as error:
        raise MediaError("decode", f"damaged PDF: {' '.join(str(error).split())[:150]}") from error

"""The first page of a PDF as a picture, by PDFium, where the extra `pdf` is installed; run where a crash costs nothing."""

from __future__ import annotations

from PIL import Image

from media.errors import MediaError

_MOST_PIXELS = 16_000_000


def first_page(data: bytes, min_side: int) -> tuple[Image.Image, tuple[int, int]]:
    """The page over white, its shorter side at `min_side` or more, and its size in points.

    Raises `MediaError("decode", reason)`.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        try:
            page = document[0]
            width, height = page.get_size()
            if min(width, height) <= 0:
                raise MediaError("decode", "a PDF whose page has no size")
            scale = min(max(1.0, min_side / min(width, height)), (_MOST_PIXELS / (width * height)) ** 0.5)
            # Forms and scripts are not loaded.
            image = page.render(scale=scale, may_draw_forms=False).to_pil().convert("RGB")
        finally:
            document.close()
    except (pypdfium2.PdfiumError, IndexError, ValueError) as error:
        raise MediaError("decode", f"damaged PDF: {' '.join(str(error).split())[:150]}") from error
    return image, (max(1, round(width)), max(1, round(height)))

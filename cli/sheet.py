"""The contact sheet of a search: its hits with their scores, and why they match."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.terminal import clock, file_url, quiet_native_stderr, shown
from retrieval.errors import MediaError, MmsearchError
from retrieval.types import Hit, Item
from server.sheet import data_url, page

if TYPE_CHECKING:
    from PIL.Image import Image

    from media.reader import ImageReader
    from retrieval.models.loading import LoadedModel


def write_sheet(file: Path, title: str, hits: Sequence[Hit], why: tuple[LoadedModel, str] | None = None) -> None:
    """Write the sheet; an image that cannot be read is shown by its name. With `why`, a model and words, each image has
    an explanation to open. Raises `MmsearchError` on a bad path."""
    from media.reader import ImageReader

    images = ImageReader(320)
    with quiet_native_stderr():
        cards = "\n".join(_card(hit, images, why) for hit in hits)
    try:
        file.write_text(page(html.escape(title), f"<ol>\n{cards}\n</ol>"), "utf-8", errors="replace")
    except OSError as error:
        raise MmsearchError(f"cannot write {file}: {error.strerror}") from error


def _card(hit: Hit, images: ImageReader, why: tuple[LoadedModel, str] | None) -> str:
    from retrieval.ranking.relevance import BY_WORDS, in_words

    item = hit.item
    name = html.escape(shown(item.path.rsplit("/", 1)[-1]))
    body = f"<blockquote>{html.escape(item.text)}</blockquote>" if item.text is not None else ""
    more = ""
    if item.text is None:
        try:
            rgb = images.image(item.image_place)
        except MediaError:
            pass
        else:
            body = (
                _moment(item, data_url(rgb, 480))
                if item.kind == "video"
                else f'<img alt="{name}" src="{data_url(rgb, 480)}">'
            )
            more = _explanation(rgb, why) if why is not None else ""
    when = f"{clock(item.start)}–{clock(item.end)} · " if item.start is not None and item.end is not None else ""
    word = in_words(hit.relevance, hit.matched_words)
    relevance = f" · {word}{' relevant' if word != BY_WORDS else ''}" if word else ""
    return (
        f'<li>{body}<div><a href="{html.escape(file_url(item.source))}">{name}</a>'
        f"<br><small>{when}{hit.rank} · {hit.score:.4f}{relevance}</small></div>{more}</li>"
    )


def _moment(item: Item, poster: str) -> str:
    """The video itself, from the moment's start to its end, where the browser can play it; its frame until then."""
    address = f"{html.escape(file_url(item.source))}#t={item.start:.2f},{item.end:.2f}"
    return f'<video controls preload="none" poster="{poster}" src="{address}"></video>'


def _explanation(rgb: Image, why: tuple[LoadedModel, str]) -> str:
    from retrieval.crossmodal.explain import draw, explain

    loaded, words = why
    sheet = draw(rgb, explain(loaded, rgb, words), loaded.spec.resize_mode, width=160)
    alt = html.escape(f"which parts of the picture each word of {words} rests on")
    return f'<details><summary>why</summary><img alt="{alt}" src="{data_url(sheet, 1200)}"></details>'

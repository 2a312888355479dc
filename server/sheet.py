"""A contact sheet: one HTML file with its images inside it, readable anywhere and without a network."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

from media.names import printable
from retrieval.types import Item

if TYPE_CHECKING:
    from PIL.Image import Image

_STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; font-weight: 600; }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem; list-style: none; padding: 0; }
li { border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
img, video { display: block; width: 100%; height: 12rem; object-fit: cover; background: #8882; }
div { padding: .5rem .75rem; overflow-wrap: anywhere; }
small { opacity: .75; }
blockquote { margin: .75rem; }
details { padding: 0 .75rem .75rem; }
details img { height: auto; }
"""


def opening(title: str) -> str:
    """The beginning of a page that needs nothing from outside; the title is HTML already. `CLOSING` ends it."""
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="generator" content="mmsearch">\n'
        f"<title>{title} – mmsearch</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n"
    )


CLOSING = "\n</html>\n"


def page(title: str, body: str) -> str:
    """A whole page; both parts are HTML already."""
    return f"{opening(title)}{body}{CLOSING}"


def item_card(item: Item, jpeg: bytes | None) -> str:
    """An item in a list: its picture, or its words, with its name, its date and its place."""
    name = html.escape(printable(item.path.rsplit("/", 1)[-1]))
    picture = f'<img alt="{name}" src="{_as_address(jpeg)}">' if jpeg is not None else ""
    words = f"<blockquote>{html.escape(printable(item.text))}</blockquote>" if item.text is not None else ""
    times = f"{item.start:.1f}–{item.end:.1f} s" if item.start is not None and item.end is not None else None
    facts = (times, item.taken_at.replace("T", " ") if item.taken_at else None, item.place, item.camera)
    small = " · ".join(html.escape(printable(fact)) for fact in facts if fact)
    return f"<li>{picture}{words}<div>{name}<br><small>{small}</small></div></li>\n"


def data_url(rgb: Image, most: int) -> str:
    """An image as an address that holds it, its longer side at most `most` pixels."""
    small = rgb.copy()
    small.thumbnail((most, most))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=82)
    return _as_address(out.getvalue())


def _as_address(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.standard_b64encode(jpeg).decode()}"

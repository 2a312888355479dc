"""The storyboard of a summary: one HTML file with a picture, the times and the words of each moment."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.terminal import clock, file_url, shown
from server.sheet import data_url, page

if TYPE_CHECKING:
    from retrieval.crossmodal.summary import Segment
    from retrieval.crossmodal.viewing import ViewedVideo


def storyboard(video: str, viewed: ViewedVideo, picked: Sequence[int], segments: Sequence[Segment], text: str) -> str:
    """The page, with the whole video to play from each moment on where a browser can."""
    import os

    address = file_url(os.path.abspath(video))
    cards = []
    for number, segment in zip(picked, segments, strict=True):
        transcript = f"<blockquote>{html.escape(segment.transcript)}</blockquote>" if segment.transcript else ""
        times = f"{clock(segment.start)}–{clock(segment.end)}"
        cards.append(
            f'<li><a href="{html.escape(address)}#t={segment.start:.1f},{segment.end:.1f}">'
            f'<img alt="{html.escape(segment.caption)}" src="{data_url(viewed.image(number), 480)}"></a>'
            f"<div><strong>{times}</strong><br>{html.escape(segment.caption)}</div>{transcript}</li>"
        )
    name = html.escape(shown(os.path.basename(video)))
    body = f"<p>{html.escape(text)}</p>\n<p><small>{clock(viewed.duration)} · {len(viewed.moments)} moments</small></p>"
    return page(f"{name}", f"{body}\n<ol>\n" + "\n".join(cards) + "\n</ol>")

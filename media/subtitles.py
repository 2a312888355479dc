"""Subtitles as cues: read from files of any usual format, with the usual mistakes in them mended."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from media import storage
from media.errors import MediaError
from media.text import decode_text

SUBTITLE_SUFFIXES = frozenset((".srt", ".vtt", ".ass", ".ssa"))
_LONGEST = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Cue:
    """Words from `start` to `end`, in seconds: a subtitle, the title of a chapter, or transcribed speech."""

    start: float
    end: float
    text: str
    kind: Literal["subtitle", "chapter", "speech"] = "subtitle"

    @property
    def spoken(self) -> bool:
        """Whether somebody says it."""
        return self.kind != "chapter"


def read_subtitles(data: bytes, suffix: str) -> list[Cue]:
    """The cues of a subtitle file, in order of time. Raises `MediaError("decode", reason)` when it holds none."""
    import pysubs2

    text = decode_text(data)
    try:
        subtitles = pysubs2.SSAFile.from_string(text, format_=suffix.lower().lstrip(".") if suffix else None)
    except Exception as error:  # Its parsers raise what a malformed line makes them raise
        raise MediaError("decode", f"not subtitles: {' '.join(str(error).split())[:150]}") from error
    cues = mended(
        Cue(start=event.start / 1000, end=event.end / 1000, text=event.plaintext)
        for event in subtitles.events
        if not event.is_comment and not event.is_drawing
    )
    if not cues:
        raise MediaError("decode", "holds no subtitles")
    return cues


def subtitle_files(path: str) -> list[str]:
    """The subtitle files beside a video that are named like it, `video.srt` or `video.en.srt` for `video.mp4`, by name."""
    folder, name = os.path.split(storage.absolute(path))
    stem = os.path.splitext(name)[0]
    try:
        names = sorted(entry.name for entry in storage.entries(folder))
    except OSError:
        return []
    pairs = ((other, *os.path.splitext(other)) for other in names)
    return [
        os.path.join(folder, other)
        for other, stem_of_other, suffix in pairs
        if suffix.lower() in SUBTITLE_SUFFIXES and stem in (stem_of_other, os.path.splitext(stem_of_other)[0])
    ]


def mended(cues: Iterable[Cue]) -> list[Cue]:
    """Cues in order of time, without markup, empty or impossible ones left out, reversed times turned round, and the same
    words said on and on as one cue, as captions that roll up are written."""
    good: list[Cue] = []
    for cue in sorted(cues, key=lambda cue: (min(cue.start, cue.end), cue.start)):
        words = " ".join(re.sub(r"<[^>]*>|\{\\[^}]*\}", "", cue.text).split())
        start, end = sorted((max(0.0, cue.start), max(0.0, cue.end)))
        if not words or start > _LONGEST:
            continue
        if good and good[-1].text == words and start - good[-1].end < 0.5:
            good[-1] = replace(good[-1], end=max(end, good[-1].end))
            continue
        good.append(Cue(start=start, end=end, text=words, kind=cue.kind))
    return good

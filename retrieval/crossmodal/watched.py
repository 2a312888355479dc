"""One video seen from beginning to end, in memory: its moments with a picture and embedding each, and what is said."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from media.containers import read_bytes
from media.subtitles import Cue, mended, read_subtitles, subtitle_files
from media.video import Beat, Ending, Frame, SampleConfig, VideoDecoder
from retrieval.crossmodal.moments import Moment, Span, merge
from retrieval.errors import MediaError
from retrieval.models.encoder import Encoder

_BATCH = 32
_MIN_SIDE = 360


@dataclass(frozen=True, kw_only=True)
class Watched:
    """`pictures` holds the frame in the middle of each of `moments`. `stopped` says why the video was not read to its end."""

    moments: list[Moment]
    pictures: list[Image]
    cues: list[Cue]
    duration: float
    stopped: str | None

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Of the moments, `(n, d)`, unit rows."""
        return np.stack([moment.embedding for moment in self.moments])

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How long each moment is, `(n,)`."""
        return np.array([moment.end - moment.start for moment in self.moments])

    def transcript(self, number: int) -> str | None:
        """What is said in a moment, a cue belonging where its middle lies; None where nothing is."""
        moment = self.moments[number]
        said = [cue.text for cue in self.cues if cue.spoken and moment.start <= (cue.start + cue.end) / 2 < moment.end]
        return " ".join(said) or None


def watch(path: str, encoder: Encoder, fps: float = 1.0, tell: Callable[[float], None] = lambda _: None) -> Watched:
    """See a video; `tell` hears the time that was reached. Raises `MediaError` where nothing of it can be read."""
    spans: list[Span] = []
    pictures: list[Image] = []
    rows: list[NDArray[np.float32]] = []
    cues = _beside(path)
    ending: Ending | None = None
    with VideoDecoder() as decoder:
        for found in decoder.sample(os.path.abspath(path), SampleConfig(fps=fps, min_side=_MIN_SIDE)):
            if isinstance(found, Frame):
                spans.append(Span(start=found.start, end=found.end, shot=found.shot))
                pictures.append(found.rgb)
                if len(pictures) - len(rows) >= _BATCH:
                    rows += list(encoder.encode_images(pictures[len(rows) :]))
            elif isinstance(found, Cue):
                cues.append(found)
            elif isinstance(found, Beat):
                tell(found.time)
            else:
                ending = found
    rows += list(encoder.encode_images(pictures[len(rows) :]))
    if ending is None or not rows:
        raise MediaError("decode", "holds no frame")
    moments = merge(spans, np.stack(rows))
    middles = [
        min(range(len(spans)), key=lambda n: abs((spans[n].start + spans[n].end) - (moment.start + moment.end)))
        for moment in moments
    ]
    return Watched(
        moments=moments,
        pictures=[pictures[number] for number in middles],
        cues=mended(cues),
        duration=ending.duration,
        stopped=ending.stopped,
    )


def _beside(path: str) -> list[Cue]:
    """The cues of subtitle files that are named like the video; those that cannot be read are none."""
    for file in subtitle_files(path):
        try:
            return read_subtitles(read_bytes(file), os.path.splitext(file)[1])
        except MediaError:
            continue
    return []

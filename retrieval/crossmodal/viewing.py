"""One video read from beginning to end: its moments with an image and embedding each, and its subtitles.

Memory is bounded: of each moment one small frame is kept, compressed, and of the moment that goes on a handful.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from PIL.Image import open as open_image

from media import storage
from media.containers import read_bytes
from media.subtitles import Cue, mended, read_subtitles, subtitle_files
from media.video import Beat, Ending, Frame, SampleConfig, VideoDecoder
from retrieval.crossmodal.moments import FrameSpan, Grouping, Moment, merge
from retrieval.errors import MediaError
from retrieval.models.encoder import Encoder

_BATCH = 32
_MIN_SIDE = 360
_QUALITY = 92
_MOST_OPEN = 16


@dataclass(frozen=True, kw_only=True)
class ViewedVideo:
    """`frames` are JPEG files, one from the middle of each of `moments`. `stopped` says why the video was not read to its
    end."""

    moments: list[Moment]
    frames: list[bytes]
    cues: list[Cue]
    duration: float
    stopped: str | None

    def image(self, number: int) -> Image:
        """The frame of a moment, upright RGB."""
        with open_image(io.BytesIO(self.frames[number])) as frame:
            return frame.convert("RGB")

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Of the moments, `(n, d)`, unit rows."""
        return np.stack([moment.embedding for moment in self.moments])

    @property
    def seconds(self) -> NDArray[np.float64]:
        """How long each moment is, `(n,)`."""
        return np.array([moment.end - moment.start for moment in self.moments])

    def transcript(self, number: int) -> str | None:
        """The spoken cues whose middle lies in a moment, as one text; None without any."""
        moment = self.moments[number]
        lines = [cue.text for cue in self.cues if cue.spoken and moment.start <= (cue.start + cue.end) / 2 < moment.end]
        return " ".join(lines) or None


def view_video(
    path: str, encoder: Encoder, fps: float = 1.0, on_progress: Callable[[float], None] = lambda _: None
) -> ViewedVideo:
    """Read a video; `on_progress` is called with the seconds read so far. Raises `MediaError` where it
    holds no readable frame."""
    spans: list[FrameSpan] = []
    rows: list[NDArray[np.float32]] = []
    waiting: list[Image] = []
    middles = _Middles()
    cues = _beside(path)
    ending: Ending | None = None

    def encode() -> None:
        for frame, row in zip(waiting, encoder.encode_images(waiting), strict=True):
            middles.add(spans[len(rows)], row, frame)
            rows.append(row)
        waiting.clear()

    with VideoDecoder() as decoder:
        for event in decoder.sample(storage.absolute(path), SampleConfig(fps=fps, min_side=_MIN_SIDE)):
            if isinstance(event, Frame):
                spans.append(FrameSpan(start=event.start, end=event.end, shot=event.shot))
                waiting.append(event.rgb)
                if len(waiting) >= _BATCH:
                    encode()
            elif isinstance(event, Cue):
                cues.append(event)
            elif isinstance(event, Beat):
                on_progress(event.time)
            else:
                ending = event
    encode()
    if ending is None or not rows:
        raise MediaError("decode", "holds no frame")
    return ViewedVideo(
        moments=merge(spans, np.stack(rows)),
        frames=middles.close(),
        cues=mended(cues),
        duration=ending.duration,
        stopped=ending.stopped,
    )


class _Middles:
    """The frame nearest to the middle of each moment, kept while the video goes by.

    Where a moment's middle lies is known when it ends. Until then at most `_MOST_OPEN` of its frames are held, evenly apart:
    when there are more, every other one goes, and from then on every other one is left out.
    """

    def __init__(self) -> None:
        self._grouping = Grouping()
        self._done: list[bytes] = []
        self._open: list[tuple[FrameSpan, Image]] = []
        self._count, self._stride = 0, 1
        self._start, self._end = 0.0, 0.0

    def add(self, span: FrameSpan, row: NDArray[np.float32], frame: Image) -> None:
        if self._grouping.add(span, row):
            self._finish()
            self._open, self._count, self._stride, self._start = [], 0, 1, span.start
        if self._count % self._stride == 0:
            self._open.append((span, frame))
        if len(self._open) > _MOST_OPEN:
            self._open, self._stride = self._open[::2], 2 * self._stride
        self._count, self._end = self._count + 1, span.end

    def close(self) -> list[bytes]:
        """One JPEG file a moment."""
        self._finish()
        self._open = []
        return self._done

    def _finish(self) -> None:
        if not self._open:
            return
        _, frame = min(self._open, key=lambda entry: abs(entry[0].start + entry[0].end - self._start - self._end))
        out = io.BytesIO()
        frame.save(out, "JPEG", quality=_QUALITY)
        self._done.append(out.getvalue())


def _beside(path: str) -> list[Cue]:
    """The cues of subtitle files that are named like the video; empty where none can be read."""
    for file in subtitle_files(path):
        try:
            return read_subtitles(read_bytes(file), os.path.splitext(file)[1])
        except MediaError:
            continue
    return []

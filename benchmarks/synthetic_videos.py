"""Videos of known images at known times, to measure and test with: made with PyAV, in any codec that it brings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, kw_only=True)
class Shot:
    """An image shown for some seconds while the view drifts over it: by `drift` of its width, from left to right."""

    image: Image.Image
    seconds: float
    drift: float = 0.08


@dataclass(frozen=True, kw_only=True)
class VideoFormat:
    """How a video is written; `grain` is the standard deviation of its noise, of 255."""

    width: int = 320
    height: int = 240
    rate: int = 25
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    options: Mapping[str, str] = field(default_factory=dict)
    grain: float = 2.0
    container: str | None = None


def write_video(file: str | os.PathLike[str], shots: Sequence[Shot], how: VideoFormat = VideoFormat()) -> list[float]:
    """Write the shots one after the other; returns where each begins and the last ends, in seconds, `(len(shots) + 1,)`."""
    edges, count = [0.0], 0
    rng = np.random.default_rng(0)
    with av.open(os.fspath(file), "w", format=how.container) as opened:
        stream = opened.add_stream(how.codec, rate=how.rate, options=dict(how.options))
        if not isinstance(stream, av.VideoStream):
            raise ValueError(f"{how.codec} is not a video codec")
        stream.width, stream.height, stream.pix_fmt = how.width, how.height, how.pixel_format
        for shot in shots:
            for view in _views(shot, how, rng):
                frame = av.VideoFrame.from_ndarray(view, "rgb24")
                frame.pts, frame.time_base = count, Fraction(1, how.rate)
                count += 1
                opened.mux(stream.encode(frame))
            edges.append(count / how.rate)
        opened.mux(stream.encode(None))
    return edges


def _views(shot: Shot, how: VideoFormat, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    total = round(shot.seconds * how.rate)
    wide = round(how.width * (1 + shot.drift))
    canvas = np.asarray(shot.image.convert("RGB").resize((wide, how.height), Image.Resampling.BICUBIC))
    noise = rng.normal(0, how.grain, (how.height, wide, 1)) if how.grain else None
    for number in range(total):
        left = round((wide - how.width) * number / max(1, total - 1))
        view = canvas[:, left : left + how.width]
        if noise is not None:
            # The grain moves against the image, so that no frame repeats another.
            moved = np.roll(noise, (number * 7, number * 13), (0, 1))[:, : how.width]
            view = np.clip(view + moved, 0, 255).astype(np.uint8)
        yield np.ascontiguousarray(view)

"""`python -m media.preview VIDEO START END FILE`: a stretch of a video as a small MP4 that every browser plays.

Packets are copied where a browser plays what they hold and the stretch begins with a key frame. Anything else is decoded, shown
as players show it (`media.shown`), and encoded anew with H.264 and AAC. It runs as a process of its own, whose memory and time
have a bound; what goes wrong is one line on standard error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from media.child import bound_memory
from media.cutting import EARLIER, ERRORS, Source, copied, find_span
from media.errors import MediaError
from media.marks import COMMENT, MARK
from media.shown import Shown

# A longer stretch is cut off, in seconds.
LONGEST = 60.0
MEMORY_BYTES = 3 * 1024**3
_SIDE, _RATE, _SAMPLES = 480, 30, 48_000
_H264 = {"preset": "veryfast", "crf": "24", "bf": "0"}
_BASE = Fraction(1, 1000)
_EXACT = 0.0011
_PLAYED, _HEARD = frozenset(("yuv420p", "yuvj420p")), frozenset(("aac", "mp3"))


def write_preview(path: str, start: float, end: float, target: Path) -> None:
    """Write the stretch of the video at `path` from `start` to `end` seconds, at most `LONGEST`, to `target`, an MP4 whose time
    begins at nought. Raises `MediaError` where nothing of it can be shown."""
    end = min(end, start + LONGEST)
    try:
        span = find_span(path, start, end) if _is_played(path) else None
        if span is None or not (span.copyable and copied(path, span, target)):
            # A file may be sought to a place that is too late.
            shown = any(_encode(path, start, end, earlier, target) for earlier in EARLIER)
            if not shown:
                raise MediaError("decode", "cannot be shown: none of its frames can be decoded")
    except ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError("decode", f"cannot be shown: {' '.join(str(reason).split())[:150]}") from error


def _is_played(path: str) -> bool:
    """Whether browsers play the codecs of a video, whatever they lie in."""
    with Source(path) as source:
        context = source.video.codec_context
        sounds = [stream.codec_context.name if stream.codec_context else "" for stream in source.opened.streams.audio]
        return context.name == "h264" and context.pix_fmt in _PLAYED and set(sounds) <= _HEARD


def _encode(path: str, start: float, end: float, earlier: float | None, target: Path) -> bool:
    """Whether the stretch could be shown from its start on, or there is no more to find of it."""
    with Source(path) as source, av.open(os.fspath(target), "w", options={"movflags": "faststart"}) as out:
        out.metadata[COMMENT] = MARK
        first, last = start + source.origin, end + source.origin
        picture = _Pictures(out, source.video)
        sound = _sound(out, source)
        waiting: list[av.AudioFrame] = []
        begins, wanted = False, set[int]()
        for packet in source.packets(first, last, earlier, sound=True):
            if packet.stream is source.video:
                if packet.pts is not None:
                    time = float(packet.pts * source.time_base)
                    begins = begins or (packet.is_keyframe and time <= first + _EXACT)
                    wanted.update([packet.pts] if first - _EXACT <= time < last - _EXACT else [])
                picture.take(_decoded(packet.decode), first, last)
            elif sound is not None and packet.stream is sound.source:
                waiting += [frame for frame in _decoded(packet.decode) if isinstance(frame, av.AudioFrame)]
            # A container's header is written with the first packet, and needs the size of the pictures.
            while sound is not None and waiting and picture.begun:
                sound.write(waiting.pop(0), first, last)
        picture.take(_decoded(lambda: source.video.codec_context.decode(None)), first, last)
        picture.close(end - start)
        if sound is not None and picture.begun:
            for frame in waiting:
                sound.write(frame, first, last)
            sound.close()
        return picture.begun and (earlier is None or (begins and wanted <= picture.seen))


def _decoded(decode: Callable[[], Any]) -> Iterator[object]:
    """What a packet gives; a damaged one gives nothing."""
    with contextlib.suppress(av.error.InvalidDataError):
        yield from decode()


class _Pictures:
    """Frames to a stream of H.264, no more than `_RATE` a second; each is written when it is known how long it is shown."""

    def __init__(self, out: av.container.OutputContainer, source: av.VideoStream) -> None:
        self._out, self._shown = out, Shown(source, _SIDE)
        # Frames that a decoder still held at the end do not say theirs.
        self._time_base = Fraction(source.time_base or 1)
        self._stream: Any = out.add_stream("libx264", rate=_RATE, options=dict(_H264))
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = _BASE
        # The picture that is shown, and since when; and the frame before the stretch.
        self._now: tuple[Image.Image, float] | None = None
        self._before: av.VideoFrame | None = None
        self._durations: dict[int, int] = {}
        self.seen: set[int] = set()
        self.begun = False

    def take(self, frames: Iterator[object], first: float, last: float) -> None:
        """Those of the frames that are shown between two times, by the clock of the file."""
        for frame in frames:
            if not isinstance(frame, av.VideoFrame) or frame.pts is None:
                continue
            self.seen.add(frame.pts)
            time = float(frame.pts * self._time_base) - first
            if time < -_EXACT:
                # Shown where no frame of the stretch itself is.
                self._before = frame
            elif time < last - first - _EXACT:
                if self._now is None:
                    self._now = self._shown.image(frame), 0.0
                elif time >= self._now[1] + 1 / _RATE - _EXACT:
                    self._write(time)
                    self._now = self._shown.image(frame), time

    def close(self, length: float) -> None:
        """The rest; the last picture is shown until `length` seconds."""
        if self._now is None and self._before is not None:
            self._now = self._shown.image(self._before), 0.0
        if self._now is not None:
            self._write(length)
            self._mux(self._stream.encode(None))

    def _write(self, until: float) -> None:
        if self._now is None:
            raise AssertionError("a picture comes before the one that ends it")
        rgb, time = self._now
        if not self.begun:
            self._stream.width, self._stream.height = (max(2, side // 2 * 2) for side in rgb.size)
            self.begun = True
        size = (self._stream.width, self._stream.height)
        pixels = np.asarray(rgb if rgb.size == size else rgb.resize(size))
        frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = round(time / _BASE), _BASE
        self._durations[frame.pts] = max(1, round(until / _BASE) - frame.pts)
        self._mux(self._stream.encode(frame))

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts or 0, packet.duration or 1)
            self._out.mux(packet)


class _Sound:
    """Frames of sound to a stream of AAC."""

    def __init__(self, out: av.container.OutputContainer, source: Any) -> None:
        self._out, self.source = out, source
        self._stream: Any = out.add_stream("aac", rate=_SAMPLES)
        self._stream.layout = "stereo"
        self._resampler = av.AudioResampler(format="fltp", layout="stereo", rate=_SAMPLES)
        self._written = 0

    def write(self, frame: av.AudioFrame, first: float, last: float) -> None:
        """A frame, where it is heard between two times."""
        if frame.pts is None or frame.time_base is None:
            return
        time = float(frame.pts * frame.time_base)
        if not first - _EXACT <= time < last:
            return
        for part in self._resampler.resample(frame):
            part.pts, part.time_base = max(self._written, round((time - first) * _SAMPLES)), Fraction(1, _SAMPLES)
            self._written = part.pts + part.samples
            time += part.samples / _SAMPLES
            self._out.mux(self._stream.encode(part))

    def close(self) -> None:
        """The rest."""
        self._out.mux(self._stream.encode(None))


def _sound(out: av.container.OutputContainer, source: Source) -> _Sound | None:
    """The first stream of sound that can be decoded."""
    streams = [stream for stream in source.opened.streams.audio if stream.codec_context is not None]
    return _Sound(out, streams[0]) if streams else None


def main(arguments: list[str]) -> int:
    """Write a preview."""
    path, start, end, target = arguments
    bound_memory(MEMORY_BYTES)
    try:
        write_preview(path, float(start), float(end), Path(target))
    except MediaError as error:
        print(error.reason, file=sys.stderr)
        return 1
    except MemoryError:
        print("cannot be shown: it does not fit in memory", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

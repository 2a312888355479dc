"""Frames to a video stream of a container: H.264, or VP9 in WebM."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import av

# No frame refers to a later one, so that times begin at nought in every container.
_H264 = {"preset": "veryfast", "crf": "18", "bf": "0"}
_VP9 = {
    "crf": "20",
    "b": "0",
    "deadline": "realtime",
    "cpu-used": "8",
    "row-mt": "1",
    "lag-in-frames": "0",
    "auto-alt-ref": "0",
}
# The filters that turn a frame upright, by its rotation in degrees against the clock.
_TURNS = {90: (("transpose", "2"),), 180: (("hflip", None), ("vflip", None)), 270: (("transpose", "1"),)}


class VideoWriter:
    """Encodes frames, upright, in the colours of the stream that they come from. `close` writes what the encoder holds;
    `begun` says whether there was a frame."""

    def __init__(
        self, out: av.container.OutputContainer, source: av.VideoStream, time_base: Fraction, suffix: str
    ) -> None:
        self._out, self._source, self._time_base = out, source, time_base
        self._name, self._options = ("libvpx-vp9", _VP9) if suffix == ".webm" else ("libx264", _H264)
        rate = source.average_rate or source.guessed_rate or Fraction(25)
        self._stream: Any = out.add_stream(self._name, rate=rate, options=dict(self._options))
        self._durations: dict[int, int] = {}
        self._turn: Any = None
        self.begun = False

    def write(self, frame: av.VideoFrame, pts: int, duration: int) -> None:
        """The next frame, shown at `pts` for `duration`, both in the time base."""
        upright = self._upright(frame)
        if not self.begun:
            self._begin(upright, turned=frame.rotation % 180 != 0)
        stream = self._stream
        if (upright.width, upright.height, upright.format.name) != (stream.width, stream.height, stream.pix_fmt):
            upright = upright.reformat(stream.width, stream.height, stream.pix_fmt)
        upright.pts, upright.time_base = pts, self._time_base
        upright.pict_type = 0
        self._durations[pts] = duration
        self._mux(stream.encode(upright))

    def close(self) -> None:
        """The rest."""
        if self.begun:
            self._mux(self._stream.encode(None))

    def _begin(self, frame: av.VideoFrame, *, turned: bool) -> None:
        stream, context = self._stream, self._stream.codec_context
        stream.width, stream.height = frame.width, frame.height
        stream.pix_fmt = self._pixel_format(frame)
        stream.time_base = context.time_base = self._time_base
        aspect = self._source.sample_aspect_ratio
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if turned else aspect
        origin = self._source.codec_context
        for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
            setattr(context, name, getattr(origin, name))
        self.begun = True

    def _pixel_format(self, frame: av.VideoFrame) -> str:
        formats = [each.name for each in av.Codec(self._name, "w").video_formats or ()]
        name = frame.format.name
        odd = frame.width % 2 or frame.height % 2
        if name in formats and not (odd and self._name == "libx264" and "444" not in name):
            return name
        return "yuv444p" if odd and self._name == "libx264" else "yuv420p"

    def _upright(self, frame: av.VideoFrame) -> av.VideoFrame:
        turn = frame.rotation % 360
        if turn not in _TURNS:
            return frame
        if self._turn is None:
            graph = av.filter.Graph()
            begin = graph.add_buffer(template=self._source)
            filters = [graph.add(name, value) for name, value in _TURNS[turn]]
            nodes = [begin, *filters, graph.add("buffersink")]
            for before, after in itertools.pairwise(nodes):
                before.link_to(after)
            graph.configure()
            self._turn = graph
        self._turn.push(frame)
        turned = self._turn.pull()
        if not isinstance(turned, av.VideoFrame):
            raise ValueError("a frame could not be turned")
        return turned

    def _mux(self, packets: list[av.Packet[Any]]) -> None:
        for packet in packets:
            if packet.pts is not None:
                packet.duration = self._durations.pop(packet.pts, packet.duration or 0)
            self._out.mux(packet)

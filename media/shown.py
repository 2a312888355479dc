"""A decoded frame as a player shows it: upright, in its true shape and colours, of one field, as 8-bit sRGB."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from PIL import Image

from media.colors import Signal, tone_mapped

# Where a file does not say which matrix it means, players go by its height.
_HD_HEIGHT = 720
_UNSPECIFIED, _RGB = 2, 0
_MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601, 7: Colorspace.SMPTE240M,
             9: Colorspace.BT2020, 10: Colorspace.BT2020}  # fmt: skip
# The eight ways in which a right angle and a mirror can put a picture: where they send the axes x and y, in a matrix
# (a, b, c, d) with x' = ax + cy and y' = bx + dy, y pointing down.
_TURNS: dict[tuple[int, int, int, int], Image.Transpose | None] = {
    (1, 0, 0, 1): None,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
_SWAPS = frozenset((Image.Transpose.ROTATE_270, Image.Transpose.ROTATE_90, Image.Transpose.TRANSPOSE,
                    Image.Transpose.TRANSVERSE))  # fmt: skip


class Shown:
    """Turns frames of one stream to pictures whose shorter side is `min_side`, where they have that many pixels. `width` and
    `height` are those of the last one at full size."""

    def __init__(self, stream: av.VideoStream, min_side: int) -> None:
        self._min_side = min_side
        self._aspect = stream.sample_aspect_ratio or Fraction(1)
        self._reformatter = VideoReformatter()
        self._fields: _Fields | None = None
        self.width = self.height = 0

    def image(self, frame: av.VideoFrame) -> Image.Image:
        """Upright RGB."""
        wide, high = max(1, round(frame.width * self._aspect)) if self._aspect > 0 else frame.width, frame.height
        scale = min(1.0, self._min_side / min(wide, high))
        turn = turn_of(frame)
        field = self._field(frame) if frame.interlaced_frame and frame.height >= 4 else frame
        small = self._reformatter.reformat(
            field,
            width=max(1, round(wide * scale)),
            height=max(1, round(high * scale)),
            format="rgb24",
            src_colorspace=_matrix(frame),
            src_color_range=ColorRange.JPEG if frame.color_range == 2 else None,
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
        )
        rgb = Image.fromarray(small.to_ndarray())
        signal = Signal(int(frame.color_primaries), int(frame.color_trc))
        if signal.is_hdr:
            rgb = tone_mapped(rgb, signal)
        if turn is not None:
            rgb = rgb.transpose(turn)
        self.width, self.height = (high, wide) if turn in _SWAPS else (wide, high)
        return rgb

    def _field(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The lines that were taken at one time; between those of two times, what moves is combed."""
        if self._fields is None or not self._fields.takes(frame):
            self._fields = _Fields(frame)
        return self._fields.first(frame)


class _Fields:
    """FFmpeg's filter that takes every second line, for frames of one size and format."""

    def __init__(self, frame: av.VideoFrame) -> None:
        self._like = (frame.width, frame.height, frame.format.name)
        self._graph = av.filter.Graph()
        source = self._graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1, 1000)
        )
        self._graph.link_nodes(source, self._graph.add("field", "type=top"), self._graph.add("buffersink")).configure()

    def takes(self, frame: av.VideoFrame) -> bool:
        return self._like == (frame.width, frame.height, frame.format.name)

    def first(self, frame: av.VideoFrame) -> av.VideoFrame:
        self._graph.push(frame)
        field = self._graph.pull()
        if not isinstance(field, av.VideoFrame):
            raise AssertionError("a graph of video gives video")
        return field


def turn_of(frame: av.VideoFrame) -> Image.Transpose | None:
    """What makes a frame upright by its display matrix: the nearest of the eight ways, None where it is as stored."""
    side = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(side, SideData):
        return None
    values = np.frombuffer(bytes(side), np.int32)
    if len(values) < 9:
        return None
    matrix = values[[0, 1, 3, 4]].astype(np.float64)
    nearest = max(_TURNS, key=lambda turn: float(np.dot(turn, matrix)))
    return _TURNS[nearest]


def _matrix(frame: av.VideoFrame) -> Colorspace | None:
    code = int(frame.colorspace)
    if code == _UNSPECIFIED:
        return Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    return _MATRICES.get(code)

"""What a frame of a video looks like: its colours, its way up, its fields; and which files are videos at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from media.errors import MediaError
from media.frames import frame_at, sample
from media.suffixes import FORMATS, GENERATED, OTHERS
from media.video import Ending, Frame, SampleConfig
from media.walk import source_kind
from tests.conftest import picture
from tests.films import film

# Luma weights of red and blue, by the code point of the matrix.
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
COLOURS = [(200, 40, 40), (40, 180, 60), (50, 60, 200), (128, 128, 128), (240, 240, 240), (20, 20, 20)]


def yuv(rgb: tuple[int, int, int], matrix: int, *, full: bool) -> tuple[int, int, int]:
    """8-bit Y′CbCr of a colour, by the definition of the matrix."""
    red, blue = WEIGHTS[matrix]
    r, g, b = (value / 255 for value in rgb)
    luma = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - luma) / (2 * (1 - blue)), (r - luma) / (2 * (1 - red))
    if full:
        return round(255 * luma), round(128 + 255 * cb), round(128 + 255 * cr)
    return round(16 + 219 * luma), round(128 + 224 * cb), round(128 + 224 * cr)


def flat_film(file: Path, values: tuple[int, int, int], *, size: tuple[int, int] = (128, 96), **tags: int) -> None:
    """A second of one Y′CbCr colour, losslessly, with these tags of the stream."""
    with av.open(os.fspath(file), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"qp": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for number in range(10):
            frame = av.VideoFrame(*size, "yuv420p")
            for plane, value in zip(frame.planes, values, strict=True):
                plane.update(bytes([value]) * plane.buffer_size)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def colour(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    rgb = np.asarray(frame_at(str(file), 0.5, 64), np.int64)
    return np.asarray(rgb[rgb.shape[0] // 2, rgb.shape[1] // 2])


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", sorted(WEIGHTS))
def test_every_matrix_and_range_gives_back_its_colours(tmp_path: Path, matrix: int, full: bool) -> None:
    for number, rgb in enumerate(COLOURS):
        file = tmp_path / f"{number}.mp4"
        flat_film(file, yuv(rgb, matrix, full=full), colorspace=matrix, color_range=2 if full else 1)
        assert abs(colour(file) - rgb).max() <= 3, (rgb, colour(file))


@pytest.mark.parametrize(("size", "matrix"), [((320, 240), 5), ((1280, 720), 1)])
def test_a_matrix_that_is_not_said_goes_by_the_height(tmp_path: Path, size: tuple[int, int], matrix: int) -> None:
    flat_film(tmp_path / "x.mp4", yuv((200, 40, 40), matrix, full=False), size=size)
    assert abs(colour(tmp_path / "x.mp4") - (200, 40, 40)).max() <= 3


@pytest.mark.parametrize(("transfer", "signal"), [(16, 148), (18, 191)])
def test_reference_white_of_hdr_comes_out_near_white(tmp_path: Path, transfer: int, signal: int) -> None:
    values = yuv((signal,) * 3, 9, full=False)
    flat_film(tmp_path / "x.mp4", values, colorspace=9, color_primaries=9, color_trc=transfer, color_range=1)
    assert colour(tmp_path / "x.mp4").min() >= 235
    flat_film(tmp_path / "y.mp4", values, colorspace=9, color_primaries=9, color_trc=1, color_range=1)
    assert colour(tmp_path / "y.mp4").max() <= signal + 4


# What a matrix of a track does to the picture, written with the operations of Pillow.
T = Image.Transpose
MATRICES: list[tuple[Sequence[int], Image.Transpose | None]] = [
    ((1, 0, 0, 1), None),
    ((0, 1, -1, 0), T.ROTATE_270),
    ((-1, 0, 0, -1), T.ROTATE_180),
    ((0, -1, 1, 0), T.ROTATE_90),
    ((-1, 0, 0, 1), T.FLIP_LEFT_RIGHT),
    ((1, 0, 0, -1), T.FLIP_TOP_BOTTOM),
    ((0, 1, 1, 0), T.TRANSPOSE),
    ((0, -1, -1, 0), T.TRANSVERSE),
]


@pytest.mark.parametrize(("matrix", "turn"), MATRICES)
def test_every_display_matrix_shows_the_picture_upright(
    tmp_path: Path, matrix: Sequence[int], turn: Image.Transpose | None
) -> None:
    file = tmp_path / "x.mp4"
    film(file, (5,), 1.0)
    plain = frame_at(str(file), 0.5, 120)
    data = bytearray(file.read_bytes())
    place = data.index(b"tkhd") + 4
    start = place + (40 if data[place] == 0 else 52)
    for at, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[start + at : start + at + 4] = (value << 16).to_bytes(4, "big", signed=True)
    file.write_bytes(data)
    wanted = plain.transpose(turn) if turn is not None else plain
    shown = frame_at(str(file), 0.5, 120)
    assert shown.size == wanted.size
    assert float(np.abs(np.asarray(shown, float) - np.asarray(wanted, float)).mean()) < 2
    ending = next(event for event in sample(str(file), SampleConfig(min_side=120)) if isinstance(event, Ending))
    assert (ending.width > ending.height) == (shown.width > shown.height)


def test_what_moves_between_two_fields_is_not_combed(tmp_path: Path) -> None:
    file = tmp_path / "x.mpg"
    with av.open(os.fspath(file), "w") as out:
        stream = out.add_stream("mpeg2video", rate=25, options={"flags": "+ildct+ilme", "qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 352, 288, "yuv420p"
        graph = av.filter.Graph()
        source = graph.add_buffer(width=352, height=288, format=av.VideoFormat("yuv420p"), time_base=Fraction(1, 25))
        graph.link_nodes(source, graph.add("setfield", "mode=tff"), graph.add("buffersink")).configure()
        for number in range(25):
            picture_of = np.zeros((288, 352, 3), np.uint8)
            # The second field is taken when the bar has moved by forty pixels.
            picture_of[0::2, 100:160] = 255
            picture_of[1::2, 140:200] = 255
            frame = av.VideoFrame.from_ndarray(picture_of, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            graph.push(frame)
            field = graph.pull()
            assert isinstance(field, av.VideoFrame)
            out.mux(stream.encode(field))
        out.mux(stream.encode(None))
    with av.open(os.fspath(file)) as opened:
        assert next(opened.decode(video=0)).interlaced_frame
    column = np.asarray(frame_at(str(file), 0.5, 288))[:, 120, 0].astype(int)
    assert np.abs(np.diff(column[40:-40])).max() < 40
    assert column[40:-40].mean() > 200


def test_a_film_of_the_night_gives_its_best_frames_and_says_so(tmp_path: Path) -> None:
    from benchmarks.synthetic_videos import Shot, write_video
    from tests.films import SMALL

    night = [Image.fromarray(np.asarray(picture(seed, 320, 240)) // 32 + 4) for seed in (1, 2)]
    write_video(tmp_path / "night.mp4", [Shot(image=image, seconds=2.0) for image in night], SMALL)
    events = list(sample(str(tmp_path / "night.mp4"), SampleConfig(min_side=100)))
    assert any(isinstance(event, Frame) for event in events)
    (ending,) = [event for event in events if isinstance(event, Ending)]
    assert ending.stopped is not None and "nearly black" in ending.stopped
    black = [Shot(image=Image.new("RGB", (320, 240)), seconds=2.0)]
    write_video(tmp_path / "black.mp4", black, SMALL)
    with pytest.raises(MediaError, match="shows anything"):
        list(sample(str(tmp_path / "black.mp4"), SampleConfig()))


def test_the_suffixes_are_those_that_ffmpeg_gives_to_films() -> None:
    owned: set[str] = set()
    for name in FORMATS:
        for mode in ("r", "w"):
            try:
                owned |= {f".{suffix}" for suffix in av.ContainerFormat(name, mode).extensions}
            except ValueError:
                continue
    # Another FFmpeg may know a few more or less.
    assert len((owned - OTHERS) ^ GENERATED) <= 6, (owned - OTHERS) ^ GENERATED
    for suffix in ["vob", "mxf", "3g2", "divx", "rm", "asf", "m2v", "dv", "mod", "tod", "f4v", "mts", "wmv"]:
        assert source_kind(f"x.{suffix}") == "video", suffix

"""Clips: exactly the frames of a moment, told by numbers in the pictures, whatever the container and its frames' order."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from media.cutting import cut
from media.errors import MediaError
from media.marks import is_marked_container
from media.types import Place
from media.video import Ending, Frame, SampleConfig, VideoDecoder
from tests.films import rotated

RATE = 20
COUNT = 120
BLOCK = 16
WIDTH, HEIGHT = 8 * BLOCK, 4 * BLOCK


@dataclass(frozen=True, kw_only=True)
class How:
    """How a film is written; `late` are the seconds before its first frame."""

    suffix: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    late: float = 0.0
    sound: str | None = None


X264 = {"preset": "ultrafast", "g": "30", "keyint_min": "30", "sc_threshold": "0"}
B_FRAMES = {**X264, "bf": "3", "b_strategy": "0"}
OPEN = {"preset": "veryfast", "x264-params": "open-gop=1:keyint=30:min-keyint=30:bframes=3:b-adapt=0:scenecut=0"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "30", "crf": "20", "b": "0"}
FILMS = {
    "mp4": How(suffix=".mp4", options=X264, sound="aac"),
    "mp4, B-frames": How(suffix=".mp4", options=B_FRAMES, sound="aac"),
    "mp4, open GOP": How(suffix=".mp4", options=OPEN),
    "mp4, late": How(suffix=".mp4", options=B_FRAMES, late=3.0),
    "mov, B-frames": How(suffix=".mov", options=B_FRAMES, sound="pcm_s16le"),
    "mkv, B-frames": How(suffix=".mkv", options=B_FRAMES, sound="aac"),
    "mkv, open GOP": How(suffix=".mkv", options=OPEN),
    "mkv, late": How(suffix=".mkv", options=B_FRAMES, late=7.0),
    "mkv, HEVC": How(suffix=".mkv", codec="libx265", options={"preset": "ultrafast", "x265-params": "keyint=30:log-level=0"}),
    "webm": How(suffix=".webm", codec="libvpx-vp9", options=VP9, sound="libopus"),
    "webm, VP8": How(suffix=".webm", codec="libvpx", options={"deadline": "realtime", "cpu-used": "8", "g": "30"}, late=2.0),
    "ts, B-frames": How(suffix=".ts", options=B_FRAMES, sound="aac"),
    "ts, open GOP": How(suffix=".ts", options=OPEN),
    "ts, late": How(suffix=".ts", options=B_FRAMES, late=40.0),
    "avi": How(suffix=".avi", codec="mpeg4", options={"g": "30", "b": "2000000"}),
}  # fmt: skip
# Where key frames are (30, 60), just off them, between them, and the ends of the film.
SPANS = ((30, 60), (60, 85), (29, 31), (41, 77), (0, 30), (95, 120), (50, 51))


def numbered(number: int) -> NDArray[np.uint8]:
    """A picture of a number: a bit in each of eight blocks, and the same turned round below."""
    bits = np.array([number >> place & 1 for place in range(8)])
    rows = np.stack([bits, 1 - bits, bits, 1 - bits])
    grey = np.kron(rows * 200 + 25, np.ones((BLOCK, BLOCK))).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, 2)


def number_of(rgb: NDArray[np.uint8]) -> int:
    bits = (rgb.reshape(4, BLOCK, 8, BLOCK, 3).mean((1, 3, 4)) > 125).astype(int)
    assert (bits[0] == bits[2]).all() and (bits[0] == 1 - bits[1]).all(), "a picture that is no frame of the film"
    return int(sum(int(bit) << place for place, bit in enumerate(bits[0])))


def write(file: Path, how: How) -> Path:
    with av.open(os.fspath(file), "w") as out:
        stream = out.add_stream(how.codec, rate=RATE, options=dict(how.options))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = out.add_stream(how.sound, rate=48000) if how.sound else None
        step, done = 960, 0
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(numbered(number), "rgb24")
            frame.pts, frame.time_base = number + round(how.late * RATE), Fraction(1, RATE)
            out.mux(stream.encode(frame))
            while isinstance(sound, av.AudioStream) and done < (number + 1) * 48000 // RATE:
                tone = (8000 * np.sin(np.arange(done, done + step) / 20)).astype(np.int16)[None]
                heard = av.AudioFrame.from_ndarray(np.ascontiguousarray(tone), "s16", "mono")
                heard.sample_rate, heard.pts, heard.time_base = (
                    48000,
                    done + round(how.late * 48000),
                    Fraction(1, 48000),
                )
                out.mux(sound.encode(heard))
                done += step
        out.mux(stream.encode(None))
        if isinstance(sound, av.AudioStream):
            out.mux(sound.encode(None))
    return file


def shown(file: Path) -> tuple[list[int], list[float], float]:
    """The numbers of a clip's frames, their times, and how long the clip is."""
    with av.open(os.fspath(file)) as opened:
        origin = (opened.start_time or 0) / av.time_base
        numbers, times = [], []
        for frame in opened.decode(video=0):
            assert isinstance(frame, av.VideoFrame) and frame.time is not None
            numbers.append(number_of(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)))
            times.append(frame.time - origin)
        assert is_marked_container(opened.metadata)
        return numbers, times, (opened.duration or 0) / av.time_base


@pytest.mark.parametrize("name", FILMS)
def test_a_clip_has_the_frames_of_its_moment_and_no_other(name: str, tmp_path: Path) -> None:
    """It had frames of the next scene, or ran past its end."""
    film = write(tmp_path / f"film{FILMS[name].suffix}", FILMS[name])
    for rank, (first, stop) in enumerate(SPANS, 1):
        file = cut(
            Place(path=str(film), start=round(first / RATE, 3), end=round(stop / RATE, 3)), tmp_path / "clips", rank
        )
        numbers, times, duration = shown(file)
        assert numbers == list(range(first, stop)), (name, first, stop)
        assert times == pytest.approx([n / RATE for n in range(stop - first)], abs=0.06), (name, first, stop)
        assert np.diff(times) == pytest.approx(np.full(len(times) - 1, 1 / RATE), abs=0.003)
        assert (stop - first) / RATE - 0.05 <= duration <= (stop - first) / RATE + 0.12, (name, first, stop)
    assert not [entry for entry in os.listdir(tmp_path / "clips") if entry.startswith(".")]


def test_packets_are_copied_where_key_frames_allow(tmp_path: Path) -> None:
    """Copied, a clip loses nothing: its packets are those of the film."""
    film = write(tmp_path / "film.mp4", FILMS["mp4"])
    file = cut(Place(path=str(film), start=1.5, end=3.0), tmp_path, 1)

    def packets(path: Path) -> list[bytes]:
        with av.open(os.fspath(path)) as opened:
            return [bytes(packet) for packet in opened.demux(video=0) if packet.size]

    assert packets(file) == packets(film)[30:60]


def test_the_sound_of_a_clip_is_that_of_its_moment(tmp_path: Path) -> None:
    for name in ("mp4, B-frames", "mkv, B-frames", "ts, B-frames", "webm", "mov, B-frames"):
        film = write(tmp_path / f"film{FILMS[name].suffix}", FILMS[name])
        for start, end in ((1.5, 3.0), (2.05, 3.85)):
            file = cut(Place(path=str(film), start=start, end=end), tmp_path / "clips", 1)
            with av.open(os.fspath(file)) as opened:
                samples = sum(frame.samples for frame in opened.decode(audio=0))
            assert samples / 48000 == pytest.approx(end - start, abs=0.09), (name, start)


def test_a_clip_that_is_read_again_ends_where_its_moment_ends(tmp_path: Path) -> None:
    """A clip of four seconds had a moment after its end."""
    film = write(tmp_path / "film.mp4", FILMS["mp4, B-frames"])
    file = cut(Place(path=str(film), start=0.5, end=4.5), tmp_path, 1)
    with VideoDecoder() as decoder:
        events = list(decoder.sample(str(file), SampleConfig()))
    ending = events[-1]
    assert isinstance(ending, Ending) and ending.duration == pytest.approx(4.0, abs=0.06) and ending.stopped is None
    assert max(event.end for event in events if isinstance(event, Frame)) <= 4.06


def test_a_film_that_is_turned_stays_upright(tmp_path: Path) -> None:
    from media.frames import frame_at

    for degrees in (90, 180, 270):
        film = write(tmp_path / f"film{degrees}.mp4", FILMS["mp4"])
        rotated(film, degrees)
        for start in (1.5, 1.75):
            file = cut(Place(path=str(film), start=start, end=2.5), tmp_path, 1)
            for time in (0.0, 0.5):
                before = np.asarray(frame_at(str(film), start + time, 64), float)
                after = np.asarray(frame_at(str(file), time, 64), float)
                assert before.shape == after.shape
                assert abs(before - after).mean() < 12, (degrees, start, time)


def test_names_of_clips_are_never_longer_than_a_file_system_takes(tmp_path: Path) -> None:
    film = write(tmp_path / "film.mp4", FILMS["mp4"])
    for stem in ("x" * 250, "é" * 125, "日本" * 41):
        long = film.rename(tmp_path / f"{stem}.mp4")
        file = cut(Place(path=str(long), start=1.5, end=2.0), tmp_path / "clips", 12)
        assert len(os.fsencode(file.name)) <= 255 and file.name.startswith("12-") and file.name.endswith("-1.5-2.0.mp4")
        assert file.name.encode() and file.is_file()
        film = long.rename(tmp_path / "film.mp4")


def test_what_cannot_be_cut_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "words.mp4").write_text("no film")
    film = write(tmp_path / "film.mp4", FILMS["mp4"])
    (tmp_path / "clips").mkdir()
    for place in (
        Place(path=str(tmp_path / "words.mp4"), start=0.0, end=1.0),
        Place(path=str(tmp_path / "gone.mp4"), start=0.0, end=1.0),
        Place(path=str(film), start=None, end=None),
    ):
        with pytest.raises(MediaError):
            cut(place, tmp_path / "clips", 1)
    assert os.listdir(tmp_path / "clips") == []

"""Videos to frames: times, shots, formats, damage, and decoders that die or hang."""

from __future__ import annotations

import itertools
import os
import random
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks.synthetic_videos import VideoFormat
from media.frames import frame_at, sample
from media.sampling import SampledView, Sampler, View
from media.subtitles import Cue, mended, read_subtitles
from media.suffixes import is_animated
from media.video import Beat, Ending, Frame, SampleConfig, VideoDecoder
from retrieval.errors import MediaError
from tests.conftest import picture
from tests.films import SMALL, animation, film, rotated, same_picture, with_subtitles

CONFIG = SampleConfig(min_side=64)
FORMATS = [
    ("h264.mp4", replace(SMALL, codec="libx264")),
    ("h264.mov", replace(SMALL, codec="libx264", options={"preset": "medium"})),
    ("h264.ts", replace(SMALL, codec="libx264")),
    ("hevc.mkv", replace(SMALL, codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none"})),
    ("vp8.webm", replace(SMALL, codec="libvpx", options={"deadline": "realtime"})),
    ("vp9.webm", replace(SMALL, codec="libvpx-vp9", options={"deadline": "realtime"})),
    ("av1.mkv", replace(SMALL, codec="libsvtav1", options={"preset": "12", "svtav1-params": "enable-overlays=0"})),
    ("mpeg4.avi", replace(SMALL, codec="mpeg4", options={})),
    ("mpeg2.mpg", replace(SMALL, codec="mpeg2video", rate=25, options={})),
    ("mjpeg.avi", replace(SMALL, codec="mjpeg", pixel_format="yuvj420p", options={})),
    ("deep.mkv", replace(SMALL, codec="libx264", pixel_format="yuv420p10le")),
]
SEEDS = (1, 2, 3, 4)


def read(path: Path, config: SampleConfig = CONFIG) -> tuple[list[Frame], Ending]:
    found = list(sample(os.fspath(path), config))
    assert isinstance(found[-1], Ending)
    return [one for one in found if isinstance(one, Frame)], found[-1]


def check_shots(frames: list[Frame], edges: list[float], slack: float = 0.16) -> None:
    """Every shot has a frame that shows its picture, and its frames cover it."""
    for number, seed in enumerate(SEEDS):
        mine = [one for one in frames if one.shot == number]
        assert mine, f"shot {number} of {len(edges) - 1}"
        assert mine[0].start == pytest.approx(edges[number], abs=slack)
        assert mine[-1].end == pytest.approx(edges[number + 1], abs=slack)
        for one in mine:
            assert one.start <= one.time <= one.end
            assert same_picture(one.rgb, picture(seed, 320, 240)) < 30
    assert len({one.shot for one in frames}) == len(SEEDS)
    for one, after in itertools.pairwise(frames):
        assert one.end == after.start


@pytest.mark.parametrize(("name", "how"), FORMATS, ids=[name for name, _ in FORMATS])
def test_shots_are_found_in_every_format(tmp_path: Path, name: str, how: VideoFormat) -> None:
    edges = film(tmp_path / name, SEEDS, how=how)
    frames, ending = read(tmp_path / name)
    # MPEG-2 has a key frame every half second, and is read by those alone.
    check_shots(frames, edges, 0.26 if "mpeg2" in name else 0.16)
    assert (ending.width, ending.height, ending.stopped) == (160, 120, None)
    assert ending.duration == pytest.approx(edges[-1], abs=0.2)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_are_videos(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"moving{suffix}"
    animation(file, SEEDS)
    frames, ending = read(file)
    check_shots(frames, [1.5 * n for n in range(5)], 0.01)
    assert ending.duration == pytest.approx(6.0)
    assert is_animated(file.read_bytes()[:4096], suffix)
    picture(1).save(tmp_path / f"still{suffix}")
    assert not is_animated((tmp_path / f"still{suffix}").read_bytes()[:4096], suffix)
    assert same_picture(frame_at(os.fspath(file), 4.6, 64), picture(4, 320, 240)) < 30


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_applied(tmp_path: Path, degrees: int) -> None:
    file = tmp_path / "turned.mp4"
    film(file, SEEDS[:1])
    rotated(file, degrees)
    frames, ending = read(file)
    turned = picture(1, 320, 240).rotate(-degrees, expand=True)
    assert (ending.width, ending.height) == ((120, 160) if degrees != 180 else (160, 120))
    assert frames[0].rgb.size[0] < frames[0].rgb.size[1] or degrees == 180
    small = [np.asarray(one.resize((12, 12)), float) for one in (frames[0].rgb, turned)]
    assert abs(small[0] - small[1]).mean() < 30


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    file = tmp_path / "variable.mkv"
    with av.open(os.fspath(file), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for seed, gap in ((1, 33), (2, 200), (3, 66), (4, 400)):
            for _ in range(2000 // gap):
                frame = av.VideoFrame.from_ndarray(np.asarray(picture(seed, 160, 120)), "rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                out.mux(stream.encode(frame))
                time += gap
        out.mux(stream.encode(None))
    frames, _ = read(file)
    check_shots(frames, [0, 1.98, 3.98, 5.96, 7.96], 0.45)


def test_a_stream_that_starts_late_is_told_from_the_files_start(tmp_path: Path) -> None:
    plain, late = tmp_path / "plain.mkv", tmp_path / "late.ts"
    edges = film(plain, SEEDS)
    with av.open(os.fspath(plain)) as source, av.open(os.fspath(late), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux():
            if packet.dts is not None and packet.pts is not None and packet.time_base is not None:
                packet.pts += round(5 / packet.time_base)
                packet.dts += round(5 / packet.time_base)
                packet.stream = stream
                out.mux(packet)
    check_shots(read(late)[0], edges)


def test_few_key_frames_and_many_give_the_same_shots(tmp_path: Path) -> None:
    for name, gop in (("rare.mp4", "1000"), ("often.mp4", "5")):
        edges = film(tmp_path / name, SEEDS, how=replace(SMALL, options={"preset": "ultrafast", "g": gop}))
        check_shots(read(tmp_path / name)[0], edges, 0.26)


def test_more_frames_a_second_are_taken_where_they_are_asked_for(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", SEEDS, 4.0, replace(SMALL, grain=12))
    counts = [len(read(tmp_path / "a.mp4", replace(CONFIG, fps=fps))[0]) for fps in (0.25, 1.0, 4.0)]
    assert counts[0] == 4 and counts[0] < counts[1] < counts[2]
    frames, ending = read(tmp_path / "a.mp4", replace(CONFIG, max_frames=5))
    assert len(frames) <= 9 and len({one.shot for one in frames}) == 4
    assert ending.stopped is None or "--max-frames" in ending.stopped


def test_what_shows_nothing_or_nothing_new_is_left_out(tmp_path: Path) -> None:
    from benchmarks.synthetic_videos import Shot, write_video

    black = Image.new("RGB", (160, 120))
    still = Shot(image=picture(1, 160, 120), seconds=6, drift=0)
    how = replace(SMALL, grain=0)
    write_video(tmp_path / "a.mp4", [Shot(image=black, seconds=2), still, Shot(image=black, seconds=2)], how)
    frames, _ = read(tmp_path / "a.mp4")
    assert len(frames) == 1
    assert frames[0].start == pytest.approx(2, abs=0.2)
    assert frames[0].end == pytest.approx(8, abs=0.2)
    write_video(tmp_path / "black.mp4", [Shot(image=black, seconds=3)], how)
    with pytest.raises(MediaError, match="shows anything"):
        read(tmp_path / "black.mp4")


def test_the_sampler_takes_the_sharpest_of_each_window_and_no_blurred_one() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (36, 64, 3)).astype(np.uint8)
    sampler: Sampler[int] = Sampler(1.0)
    kept: list[SampledView[int]] = []
    for number in range(40):
        # The scene changes slowly; the third second is blurred throughout.
        scene = np.clip(scene.astype(int) + 2, 0, 255).astype(np.uint8)
        sharpness = 1.0 if 20 <= number < 30 else 10.0 + (number % 10 == 4)
        kept += sampler.add(View(time=number / 10, small=scene, sharpness=sharpness, payload=number))
    kept += sampler.finish(4.0)
    assert [one.view.payload for one in kept] == [4, 14, 34]
    assert [(one.start, one.end) for one in kept] == [(0.0, 1.0), (1.0, 3.0), (3.0, 4.0)]


def test_a_frame_can_be_had_by_its_time(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", SEEDS)
    for number, seed in enumerate(SEEDS):
        found = frame_at(os.fspath(tmp_path / "a.mp4"), 2 * number + 1.0, 64)
        assert same_picture(found, picture(seed, 320, 240)) < 30
    with pytest.raises(MediaError):
        frame_at(os.fspath(tmp_path / "gone.mp4"), 0, 64)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts", "cut.mp4"])
def test_truncation_gives_what_can_be_read_or_a_reason(tmp_path: Path, name: str) -> None:
    film(tmp_path / name, SEEDS)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(1)
    partly = 0
    for _ in range(12):
        (tmp_path / name).write_bytes(whole[: rng.randrange(1, len(whole))])
        try:
            frames, ending = read(tmp_path / name)
        except MediaError as error:
            assert error.stage == "decode" and error.reason
            continue
        partly += 1
        assert frames and frames[-1].end <= 8.2
        if name == "cut.mkv" and ending.duration < 5:
            assert ending.stopped is not None
    assert partly or name == "cut.mp4"


def test_noise_in_the_middle_does_not_end_a_film(tmp_path: Path) -> None:
    film(tmp_path / "a.ts", SEEDS)
    data = bytearray((tmp_path / "a.ts").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = os.urandom(600)
    (tmp_path / "a.ts").write_bytes(data)
    frames, _ = read(tmp_path / "a.ts")
    assert frames[-1].end > 7


def test_what_is_no_video_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mp4").write_text("no film")
    with av.open(os.fspath(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    for name, reason in (("empty", "empty"), ("words", "cannot|can be opened"), ("sound", "no video")):
        with pytest.raises(MediaError, match=reason):
            read(tmp_path / f"{name}.mp4")


def test_the_process_gives_what_the_function_gives(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", SEEDS)
    wanted, ending = read(tmp_path / "a.mp4")
    with VideoDecoder() as decoder:
        for _ in range(2):
            found = [one for one in decoder.sample(os.fspath(tmp_path / "a.mp4"), CONFIG) if not isinstance(one, Beat)]
            assert found[-1] == ending
            frames = [one for one in found if isinstance(one, Frame)]
            assert [(one.time, one.start, one.end, one.shot) for one in frames] == [
                (one.time, one.start, one.end, one.shot) for one in wanted
            ]
            assert all(one.rgb.tobytes() == two.rgb.tobytes() for one, two in zip(frames, wanted, strict=True))


def test_a_decoder_that_dies_or_hangs_costs_one_file(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", SEEDS)
    with VideoDecoder(patience=6.0) as decoder:
        stream = decoder.sample(os.fspath(tmp_path / "a.mp4"), CONFIG)
        next(stream)
        process = decoder._child._process
        assert process is not None
        os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(MediaError, match="crashed"):
            for _ in stream:
                pass
        process = decoder._child.started()
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(MediaError, match="no sign of life"):
            list(decoder.sample(os.fspath(tmp_path / "a.mp4"), CONFIG))
        assert isinstance(list(decoder.sample(os.fspath(tmp_path / "a.mp4"), CONFIG))[-1], Ending)


SRT = "1\n00:00:00,500 --> 00:00:01,500\nA <i>dog</i> barks\n\n2\n00:00:03,000 --> 00:00:02,200\nReversed\n\n"


def test_subtitles_inside_a_file_and_its_chapters_are_cues(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", SEEDS)
    words = "1\n00:00:00,500 --> 00:00:01,500\nA dog barks\n\n2\n00:00:04,000 --> 00:00:05,000\nIt is <i>cold</i>\n\n"
    with_subtitles(tmp_path / "a.mkv", words, tmp_path / "b.mkv", [(0, 4, "The start"), (4, 8, "The end")])
    found = list(sample(os.fspath(tmp_path / "b.mkv"), CONFIG))
    cues = mended([one for one in found if isinstance(one, Cue)])
    assert [(cue.text, cue.spoken) for cue in cues] == [
        ("The start", False), ("A dog barks", True), ("The end", False), ("It is cold", True)
    ]  # fmt: skip
    assert cues[1].start == pytest.approx(0.5, abs=0.05)
    assert cues[1].end == pytest.approx(1.5, abs=0.05)


def test_subtitle_files_of_any_kind_are_read_and_mended() -> None:
    cues = read_subtitles(SRT.encode(), ".srt")
    assert [(cue.text, cue.start, cue.end) for cue in cues] == [("A dog barks", 0.5, 1.5), ("Reversed", 2.2, 3.0)]
    vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\nSchöne Grüße\n"
    assert read_subtitles(vtt.encode("utf-16"), ".vtt")[0].text == "Schöne Grüße"
    assert read_subtitles(SRT.replace("barks", "café").encode("cp1252"), ".srt")[0].text == "A dog café"
    ass = (
        "[Script Info]\nScriptType: v4.00+\n\n[Events]\n"
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
        "Dialogue: 0,0:00:01.00,0:00:02.50,Default,,0,0,0,,{\\b1}Two\\Nlines\n"
    )
    assert read_subtitles(ass.encode(), ".ass") == [Cue(start=1.0, end=2.5, text="Two lines")]
    for bad in (b"", b"no times here", b"\x00\x01\x02" * 50):
        with pytest.raises(MediaError):
            read_subtitles(bad, ".srt")
    rolled = [Cue(start=0, end=1, text="on"), Cue(start=1.2, end=2, text="on"), Cue(start=5, end=6, text=" ")]
    assert mended(rolled) == [Cue(start=0, end=2, text="on")]

"""Videos for the tests: known pictures at known times."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
from PIL import Image

from benchmarks.synthetic_videos import Shot, VideoFormat, write_video
from tests.conftest import picture

SMALL = VideoFormat(width=160, height=120, rate=20, options={"preset": "ultrafast", "g": "40"})


# Photos inside scikit-image's package that a model tells apart.
_PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "horse.png", "coins.png", "moon.png", "brick.png",
           "motorcycle_left.png", "clock_motion.png")  # fmt: skip


def scene(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """What a shot shows: part of a photo, another photo for each of ten seeds that follow each other. Pictures of noise look
    alike to a model that has learnt to see things."""
    import skimage

    with Image.open(Path(skimage.__file__).with_name("data") / _PHOTOS[seed % len(_PHOTOS)]) as opened:
        photo = opened.convert("RGB")
    margin = 0.02 * (seed // len(_PHOTOS) % 8)
    left, top = int(margin * photo.width), int(margin * photo.height)
    return photo.crop((left, top, photo.width - left, photo.height - top)).resize((width, height))


def shots(
    seeds: Sequence[int], seconds: float = 2.0, draw: Callable[[int, int, int], Image.Image] = picture
) -> list[Shot]:
    return [Shot(image=draw(seed, 320, 240), seconds=seconds) for seed in seeds]


def film(
    file: Path,
    seeds: Sequence[int],
    seconds: float = 2.0,
    how: VideoFormat = SMALL,
    draw: Callable[[int, int, int], Image.Image] = picture,
) -> list[float]:
    """A film of one shot a seed, which `draw` makes; returns where shots begin and the last ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if how.codec == "libsvtav1":
        # As root it gives the thread that calls it real-time priority, which all that is started later would inherit.
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:
            return apart.submit(_write, file, shots(seeds, seconds, draw), how).result()
    return _write(file, shots(seeds, seconds, draw), how)


def _write(file: Path, shown: list[Shot], how: VideoFormat) -> list[float]:
    return write_video(file, shown, how)


def with_subtitles(
    video: Path, subtitles: str, target: Path, chapters: Sequence[tuple[float, float, str]] = ()
) -> None:
    """A copy of a video with a subtitle stream and chapters inside."""
    text = target.with_suffix(".tmp.srt")
    text.write_text(subtitles, "utf-8")
    with av.open(os.fspath(video)) as source, av.open(os.fspath(text)) as words, av.open(os.fspath(target), "w") as out:
        streams = {one: out.add_stream_from_template(one) for one in (*source.streams.video, *words.streams.subtitles)}
        if chapters:
            out.set_chapters(
                [
                    {"id": n, "start": int(1000 * start), "end": int(1000 * end), "time_base": Fraction(1, 1000),
                     "metadata": {"title": title}}
                    for n, (start, end, title) in enumerate(chapters, 1)
                ]
            )  # fmt: skip
        for opened in (source, words):
            for packet in opened.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream]
                    out.mux(packet)
    text.unlink()


def animation(file: Path, seeds: Sequence[int], milliseconds: int = 500, each: int = 3) -> None:
    """An animated GIF or WebP that shows each picture for `each` frames."""
    frames = [picture(seed, 160, 120) for seed in seeds for _ in range(each)]
    # Equal frames would be joined by the encoder: a dot that moves keeps them apart.
    for number, frame in enumerate(frames):
        frame.paste((255, 255, 255), (number, 0, number + 1, 1))
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def rotated(file: Path, degrees: int) -> None:
    """Write into an MP4's track header that players shall turn it clockwise by `degrees`."""
    one = 1 << 16
    turns = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    data = bytearray(file.read_bytes())
    place = data.index(b"tkhd") + 4
    matrix = place + (40 if data[place] == 0 else 52)
    for at, value in zip((0, 4, 12, 16), turns, strict=True):
        data[matrix + at : matrix + at + 4] = value.to_bytes(4, "big", signed=True)
    file.write_bytes(data)


def same_picture(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures at the size of a stamp, 0 to 255."""
    import numpy as np

    small = [np.asarray(image.convert("RGB").resize((16, 12)), float) for image in (one, other)]
    return float(abs(small[0] - small[1]).mean())

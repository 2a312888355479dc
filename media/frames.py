"""Video files to sampled frames, with FFmpeg's decoders through PyAV. Runs where a crash costs nothing: see `video`.

Decoding skips what sampling does not need: with key frames close enough all others, of codecs whose frames stand alone those
between two looks, and elsewhere the frames that no other frame refers to. Animated GIF and WebP go the same way, read
by Pillow.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from media import storage
from media.colors import to_rgb
from media.errors import MediaError, OwnOutputError
from media.marks import is_marked_container
from media.metadata import facts_of, opened_facts
from media.motion import open_video
from media.opening import open_image, reason_of
from media.salvage import whole_frames
from media.sampling import SampledView, Sampler, View
from media.shown import Shown
from media.subtitles import Cue
from media.suffixes import ANIMATED_SUFFIXES
from media.video import Beat, Ending, Frame, SampleConfig

# Frames are looked at no more often than this many times a second; a shot is found to that precision.
LOOKS = 12.0
_VIEW = (36, 64)
_SHARPNESS_ROWS = 67
_KEY_GAP = 0.5
_LATE_SECONDS = 2.0
# A decoder keeps several frames at once.
MAX_PIXELS = 120_000_000
_ERRORS_IN_A_ROW = 200
# With fewer cores, decoding frames side by side costs more than it gains: the others encode meanwhile.
_MANY_CORES = 4
_FFMPEG_ERRORS = (av.error.FFmpegError, ValueError, OverflowError)


def sample(path: str, config: SampleConfig) -> Iterator[Frame | Cue | Beat | Ending]:
    """The frames worth a model's time, in order, what chapters and subtitles inside the file say, and last an `Ending`.

    Raises `OwnOutputError`, and `MediaError("decode", reason)` for a file of which nothing can be read.
    """
    try:
        if not storage.stat(path).st_size:
            raise MediaError("decode", "the file is empty")
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error
    if os.path.splitext(path)[1].lower() in ANIMATED_SUFFIXES:
        yield from _animation(path, config)
        return
    with contextlib.ExitStack() as held:
        try:
            opened = held.enter_context(open_video(path))
        except (*_FFMPEG_ERRORS, OSError) as error:
            raise MediaError("decode", f"not a video that can be opened: {reason_of(error)}") from error
        if config.skip_own and is_marked_container(opened.metadata):
            raise OwnOutputError
        yield from _sampled(opened, _video_stream(opened), config)


def frame_at(path: str, time: float, min_side: int) -> Image.Image:
    """The frame shown at `time` seconds, upright RGB. Raises `MediaError` where there is none."""
    try:
        if os.path.splitext(path)[1].lower() in ANIMATED_SUFFIXES:
            return _animation_at(path, time)
        with open_video(path) as opened:
            stream = _video_stream(opened)
            origin = opened.start_time / av.time_base if opened.start_time is not None else 0.0
            if stream.time_base is not None:
                opened.seek(max(0, int((time + origin) / stream.time_base)), stream=stream)
            last = None
            for frame in opened.decode(stream):
                last = frame
                if frame.time is None or frame.time - origin >= time - 0.02:
                    break
            if last is None:
                raise MediaError("decode", f"no frame at {time:.1f} s")
            return Shown(stream, min_side).image(last)
    except (*_FFMPEG_ERRORS, OSError) as error:
        raise MediaError("decode", f"no frame at {time:.1f} s: {reason_of(error)}") from error


def _animation_at(path: str, time: float) -> Image.Image:
    with _opened_animation(path) as (opened, _):
        passed = 0.0
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            passed += _shown_for(opened)
            if passed > time:
                break
        return to_rgb(opened)


@contextlib.contextmanager
def _opened_animation(path: str) -> Iterator[tuple[Image.Image, str | None]]:
    """An animated image, and why it is not all there: of a WebP that ends early, libwebp would give nothing."""
    with storage.open_file(path) as content:
        whole = whole_frames(content.read()) if path.lower().endswith(".webp") else None
        content.seek(0)
        with open_image(io.BytesIO(whole) if whole is not None else content) as opened:
            yield opened, "the file ends early" if whole is not None else None


def _shown_for(image: Image.Image) -> float:
    """Seconds; browsers show a frame that asks for less than 20 ms for 100 ms."""
    duration = float(image.info.get("duration") or 0)
    return (duration if duration >= 20 else 100.0) / 1000


def _video_stream(opened: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a cover image. Raises `MediaError` where none can be decoded."""
    stream = next(
        (stream for stream in opened.streams.video if not stream.disposition & Disposition.attached_pic), None
    )
    if stream is None:
        raise MediaError("decode", "holds no video")
    if stream.codec_context is None:
        raise MediaError("decode", "its video codec is not known")
    return stream


def _sampled(
    opened: av.container.InputContainer, stream: av.VideoStream, config: SampleConfig
) -> Iterator[Frame | Cue | Beat | Ending]:
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise MediaError(
            "decode", f"{context.width}×{context.height} is more than {MAX_PIXELS // 1_000_000} million pixels"
        )
    announced = _announced(opened, stream)
    period = 1 / config.fps
    if announced is not None:
        period = max(period, announced / config.max_frames)
    min_gap = _choose_skipping(stream, period)
    if (os.cpu_count() or 1) >= _MANY_CORES:
        stream.thread_type = "FRAME"
    sampler: Sampler[av.VideoFrame] = Sampler(period, gaps=context.skip_frame == "NONKEY")
    shown = Shown(stream, config.min_side)
    looked, count, last_beat, end = -np.inf, 0, 0.0, 0.0
    stopped: str | None = None
    clock = _Clock(opened, stream)
    yield from _chapters(opened)
    try:
        for frame in _decoded(opened, stream, min_gap):
            if isinstance(frame, Cue):
                yield frame
                continue
            time = clock.time(frame)
            end = max(end, time + clock.step)
            if time - looked < 0.9 / LOOKS:
                continue
            looked = time
            if time - last_beat >= 1.0:
                last_beat = time
                yield Beat(time=time)
            for sampled in sampler.add(_view(frame, time)):
                yield _frame(shown, sampled)
                count += 1
            if count >= config.max_frames:
                stopped = f"more than {config.max_frames} frames; raise --max-frames or lower --fps"
                break
    except _Stopped as error:
        stopped = str(error)
    for sampled in sampler.finish(end):
        yield _frame(shown, sampled)
        count += 1
    if not count:
        for sampled in sampler.dimmest(end):
            yield _frame(shown, sampled)
            count += 1
        if not count:
            raise MediaError(
                "decode", stopped or ("no frame of it shows anything" if looked > -np.inf else "holds no frame")
            )
        stopped = stopped or "all of it is nearly black or without contrast; its best frames were taken"
    if stopped is None and announced is not None and announced - end > max(_LATE_SECONDS, 0.05 * announced):
        stopped = f"{announced:.0f} s were announced"
    facts = opened_facts(opened)
    yield Ending(width=shown.width, height=shown.height, duration=end, stopped=stopped, facts=facts)


class _Stopped(Exception):
    """Decoding cannot go on; the message says why."""


def _decoded(
    opened: av.container.InputContainer, stream: av.VideoStream, min_gap: float
) -> Iterator[av.VideoFrame | Cue]:
    """Frames in order of time, and subtitles as they come. Damaged ones are passed over; `_Stopped` where nothing more can
    be read."""
    wrong, taken = 0, -np.inf
    origin = opened.start_time / av.time_base if opened.start_time is not None else 0.0
    packets = opened.demux(stream, *opened.streams.subtitles)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except _FFMPEG_ERRORS as error:
            raise _Stopped(reason_of(error)) from error
        if packet.stream.type == "subtitle":
            yield from _cues(packet, origin)
            continue
        if min_gap and packet.pts is not None and packet.time_base is not None:
            time = float(packet.pts * packet.time_base)
            if 0 <= time - taken < min_gap:
                continue
            taken = time
        try:
            frames = packet.decode()
        except _FFMPEG_ERRORS as error:
            wrong += 1
            if wrong >= _ERRORS_IN_A_ROW:
                raise _Stopped(f"{wrong} damaged packets in a row: {reason_of(error)}") from error
            continue
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                wrong = 0
                yield frame


def _chapters(opened: av.container.InputContainer) -> Iterator[Cue]:
    for chapter in opened.chapters():
        title = str(chapter["metadata"].get("title", ""))
        base = float(chapter["time_base"] or 0)
        if title:
            yield Cue(
                start=float(chapter["start"]) * base, end=float(chapter["end"]) * base, text=title, kind="chapter"
            )


def _cues(packet: av.Packet[Any], origin: float) -> Iterator[Cue]:
    """The text of one packet of a subtitle stream; images of text, as on DVDs, give none."""
    if packet.pts is None or packet.time_base is None:
        return
    start = float(packet.pts * packet.time_base) - origin
    length = float((packet.duration or 0) * packet.time_base)
    try:
        subtitles = packet.decode()
    except _FFMPEG_ERRORS:
        return
    for subtitle in subtitles:
        words = getattr(subtitle, "dialogue", None)
        if words:
            text = words.decode("utf-8", "replace") if isinstance(words, bytes) else str(words)
            yield Cue(start=start, end=start + length, text=text.replace("\\N", " ").replace("\\n", " "))


def _choose_skipping(stream: av.VideoStream, period: float) -> float:
    """Set which frames the decoder may skip; returns the least gap in seconds between packets worth decoding, or 0."""
    context = stream.codec_context
    if context.codec.intra_only:
        return 0.9 / LOOKS
    keys = sorted(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)
    if len(keys) > 3 and stream.time_base is not None:
        gaps = np.diff(np.array(keys, np.float64)) * float(stream.time_base)
        # Cuts are found between key frames only, so those must be close enough to tell when.
        if float(gaps.max()) <= min(period, _KEY_GAP):
            context.skip_frame = "NONKEY"
            return 0.0
    if stream.average_rate is not None and stream.average_rate >= LOOKS * 1.6:
        context.skip_frame = "NONREF"
    return 0.0


def _announced(opened: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """The duration in seconds that the file announces, None where it announces none that can be true."""
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif opened.duration:
        seconds = opened.duration / av.time_base
    else:
        return None
    return seconds if 0 < seconds < 1e6 else None


class _Clock:
    """Times of frames from the start of the file, rising even where a file's own times do not."""

    def __init__(self, opened: av.container.InputContainer, stream: av.VideoStream) -> None:
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self.step = min(1.0, 1 / float(rate)) if rate > 0 else 0.04
        self._origin = opened.start_time / av.time_base if opened.start_time is not None else 0.0
        self._last = -self.step

    def time(self, frame: av.VideoFrame) -> float:
        stamp = frame.time - self._origin if frame.time is not None else self._last + self.step
        # A jump back is a broken clock: time goes on by one frame.
        self._last = stamp if stamp > self._last else self._last + self.step
        return max(0.0, self._last)


def _frame(shown: Shown, sampled: SampledView[av.VideoFrame]) -> Frame:
    rgb = shown.image(sampled.view.payload)
    return Frame(time=sampled.view.time, start=sampled.start, end=sampled.end, shot=sampled.shot, rgb=rgb)


def _view(frame: av.VideoFrame, time: float) -> View[av.VideoFrame]:
    """Every so many pixels of brightness and colour: the decoder's own planes, read in steps, cost next to nothing."""
    planes = _planes(frame)
    small = np.stack([_stepped(plane, *_VIEW) for plane in planes], -1)
    bright = planes[0]
    rows = bright[:: max(1, len(bright) // _SHARPNESS_ROWS)].astype(np.int16)
    return View(time=time, small=small, sharpness=float(np.abs(np.diff(rows, axis=1)).mean()), payload=frame)


def _planes(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """Brightness and two colour planes, or one plane, as 8-bit arrays of whatever size they have."""
    name = frame.format.name
    if name.startswith(("yuv4", "yuvj4")) and name.endswith(("p", "10le", "12le")):
        deep = int(name[-4:-2]) - 8 if name.endswith("le") else 0
        return [_values(plane, deep) for plane in list(frame.planes)[:3]]
    grey = np.asarray(frame.reformat(format="gray8").to_ndarray(), np.uint8)
    return [grey, grey, grey]


def _values(plane: Any, deep: int) -> NDArray[np.uint8]:
    """A plane of 8-bit values, or of such with `deep` more bits."""
    if not deep:
        return np.frombuffer(plane, np.uint8).reshape(plane.height, -1)[:, : plane.width]
    whole = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]
    return (whole >> deep).astype(np.uint8)


def _stepped(plane: NDArray[np.uint8], high: int, wide: int) -> NDArray[np.uint8]:
    rows = (np.arange(high) * plane.shape[0] + plane.shape[0] // 2) // high
    columns = (np.arange(wide) * plane.shape[1] + plane.shape[1] // 2) // wide
    return np.asarray(plane[rows[:, None], columns], np.uint8)


def _animation(path: str, config: SampleConfig) -> Iterator[Frame | Cue | Beat | Ending]:
    """An animated image: its frames at the times that it gives them."""
    sampler: Sampler[Image.Image] = Sampler(1 / config.fps)
    time, stopped = 0.0, None

    def frame(sampled: SampledView[Image.Image]) -> Frame:
        return Frame(
            time=sampled.view.time, start=sampled.start, end=sampled.end, shot=sampled.shot, rgb=sampled.view.payload
        )

    count = 0
    try:
        with _opened_animation(path) as (opened, stopped):
            if opened.width * opened.height > MAX_PIXELS:
                raise MediaError("decode", f"more than {MAX_PIXELS // 1_000_000} million pixels")
            width, height = opened.size
            facts = facts_of(opened)
            for image in ImageSequence.Iterator(opened):
                rgb = to_rgb(image)
                rgb.thumbnail((4 * config.min_side, 4 * config.min_side))
                grey = np.asarray(rgb.convert("L"))
                small = np.asarray(rgb)[..., [1, 0, 2]]
                small = np.stack([_stepped(small[..., band], *_VIEW) for band in range(3)], -1)
                sharpness = float(np.abs(np.diff(grey.astype(np.int16), axis=1)).mean()) if rgb.width > 1 else 0.0
                for sampled in sampler.add(View(time=time, small=small, sharpness=sharpness, payload=rgb)):
                    yield frame(sampled)
                    count += 1
                time += _shown_for(image)
                yield Beat(time=time)
    except MediaError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever a damaged file makes them raise
        stopped = reason_of(error)
    for sampled in sampler.finish(time):
        yield frame(sampled)
        count += 1
    if not count:
        raise MediaError("decode", stopped or "no frame of it shows anything")
    yield Ending(width=width, height=height, duration=time, stopped=stopped, facts=facts)

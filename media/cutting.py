"""A moment as a video file of its own, with exactly the frames that are shown in it.

Packets are copied where the moment begins with a key frame and none of its frames needs one outside of it; that is tried, and
kept where the copy decodes to the same pixels. Anything else is encoded anew. Sound is copied.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from media import storage
from media.encoding import VideoWriter
from media.errors import MediaError
from media.marks import COMMENT, MARK
from media.types import Place

# Containers that take what they gave, and a comment. Anything else goes into Matroska, which takes nearly all.
_SAME = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm"))
_LONGEST_NAME = 255
# Times of moments are rounded to thousandths of a second.
_EXACT = 0.0011
# How far before a moment decoding begins where it does not give every frame, in seconds; None is the file's beginning.
EARLIER: tuple[float | None, ...] = (0.0, 10.0, None)
_LATE = 2.0
ERRORS = (av.error.FFmpegError, ValueError, OverflowError, OSError)


def cut(place: Place, folder: Path, rank: int) -> Path:
    """Write the moment as a file in `folder`, and return that: its name has the rank, the video's name and the times.

    The first frame is the first that the video shows at the moment's start or later, the last the last before its end. Raises
    `MediaError` for what is no moment of a video, or cannot be read or written.
    """
    if place.start is None or place.end is None:
        raise MediaError("read", "only moments of videos can be cut out")
    target = folder / _name(place.path, place.start, place.end, rank)
    scratch = target.with_name(f".{target.stem}.partial{target.suffix}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        span = find_span(place.path, place.start, place.end)
        if not (span.copyable and copied(place.path, span, scratch)):
            _encode(place.path, span, scratch)
        os.replace(scratch, target)
    except ERRORS as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError("read", f"cannot be cut: {' '.join(str(reason).split())[:150]}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return target


def _name(path: str, start: float, end: float, rank: int) -> str:
    """A name that a file system takes, also while the file is being written."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    suffix = suffix.lower() if suffix.lower() in _SAME else ".mkv"
    before, after = f"{rank:02d}-", f"-{start:.1f}-{end:.1f}{suffix}"
    room = _LONGEST_NAME - len(f".{before}{after}.partial")
    short = os.fsencode(stem)[:room]
    while short and len(short) < len(os.fsencode(stem)) and os.fsencode(stem)[len(short)] & 0xC0 == 0x80:
        # Not in the middle of a letter.
        short = short[:-1]
    return f"{before}{os.fsdecode(short)}{after}"


@dataclass(frozen=True, kw_only=True)
class Span:
    """The frames of a moment, in order: `durations` by their times, and `digests` of their pixels. Times are in `time_base` by
    the clock of the file. Decoding that begins `earlier` seconds before gives them all."""

    durations: dict[int, int]
    digests: list[int]
    time_base: Fraction
    earlier: float | None
    copyable: bool

    @property
    def start(self) -> int:
        return next(iter(self.durations))

    @property
    def seconds(self) -> tuple[float, float]:
        """Start and end by the clock of the file."""
        return float(self.start * self.time_base), float((self.start + sum(self.durations.values())) * self.time_base)


class Source:
    """A video opened for reading some of it."""

    def __init__(self, path: str) -> None:
        self.opened = av.open(storage.source(path), "r", metadata_errors="ignore")
        video = [s for s in self.opened.streams.video if not s.disposition & Disposition.attached_pic]
        if not video or video[0].codec_context is None or video[0].time_base is None:
            self.opened.close()
            raise MediaError("read", "cannot be cut: it holds no video stream that can be decoded")
        self.video = video[0]
        self.video.thread_type = "AUTO"
        self.time_base = Fraction(video[0].time_base)
        start = self.opened.start_time
        self.origin = start / av.time_base if start is not None else 0.0

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.close()

    def packets(self, start: float, end: float, earlier: float | None, *, sound: bool) -> Iterator[av.Packet[Any]]:
        """Packets, from a key frame before `start` to where none that follows is shown before `end`, by the file's clock."""
        if earlier is not None:
            place = max(self.origin, start - earlier)
            self.opened.seek(int(place * av.time_base))
        streams = [self.video, *(self.opened.streams.audio if sound else ())]
        going_on = {stream.index for stream in streams}
        for packet in self.opened.demux(*streams):
            if not packet.size or packet.time_base is None:
                continue
            # Frames are stored out of order: only a decoding time past the end says that no earlier one follows.
            stamp = packet.dts if packet.dts is not None else packet.pts
            time = float(stamp * packet.time_base) if stamp is not None else start
            if time > end and packet.dts is not None:
                going_on.discard(packet.stream.index)
                if not going_on or time > end + _LATE:
                    return
            else:
                yield packet

    def frames(self, start: float, end: float, earlier: float | None) -> Iterator[av.Packet[Any] | av.VideoFrame]:
        """Packets of the video, and the frames that they give."""
        for packet in self.packets(start, end, earlier, sound=False):
            yield packet
            # A damaged packet costs its frames; whether one was needed is seen in the end.
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    if isinstance(frame, av.VideoFrame):
                        yield frame
        with contextlib.suppress(av.error.FFmpegError):
            yield from self.video.codec_context.decode(None)


def find_span(path: str, start: float, end: float) -> Span:
    """Find the frames of a moment, whose times count from the beginning of the file."""
    best: Span | None = None
    for earlier in EARLIER:
        with Source(path) as source:
            first, last = start + source.origin, end + source.origin
            span, whole = _read(source, first, last, earlier)
        if span is not None and (best is None or len(span.durations) > len(best.durations)):
            best = span
        if whole:
            break
    if best is None:
        raise MediaError("decode", "cannot be cut: none of its frames can be decoded")
    return best


def _read(source: Source, first: float, last: float, earlier: float | None) -> tuple[Span | None, bool]:
    """The frames between two times, and whether they are all that there are: decoding may have begun too late."""
    base = source.time_base
    packets: list[tuple[int, bool]] = []
    frames: dict[int, int] = {}
    before: tuple[int, int] | None = None
    for event in source.frames(first, last, earlier):
        if isinstance(event, av.Packet):
            if event.pts is not None:
                packets.append((event.pts, event.is_keyframe))
        elif event.pts is not None:
            time = float(event.pts * base)
            if time < first - _EXACT:
                before = event.pts, _digest(event)
            elif time < last - _EXACT:
                frames[event.pts] = _digest(event)
    inside = {pts for pts, _ in packets if first - _EXACT <= float(pts * base) < last - _EXACT}
    whole = inside <= set(frames) and any(key and float(pts * base) <= first + _EXACT for pts, key in packets)
    if not frames and before is not None:
        # A moment between two frames shows the one before it.
        frames = dict([before])
    if not frames:
        return None, False
    stamps = sorted(frames)
    end = max(round(last / base), stamps[-1] + 1)
    return (
        Span(
            durations={stamp: after - stamp for stamp, after in zip(stamps, [*stamps[1:], end], strict=True)},
            digests=[frames[stamp] for stamp in stamps],
            time_base=base,
            earlier=earlier,
            copyable=_stands_alone(packets, stamps),
        ),
        whole,
    )


def _stands_alone(packets: list[tuple[int, bool]], stamps: list[int]) -> bool:
    """Whether packets, in the order of decoding, hold a key frame at the first time, and all up to the last one after it
    without any that is shown later."""
    wanted = set(stamps)
    places = [place for place, (pts, key) in enumerate(packets) if key and pts == stamps[0]]
    if not places:
        return False
    seen: set[int] = set()
    for pts, _ in packets[places[-1] :]:
        if pts in wanted:
            seen.add(pts)
        elif pts > stamps[0] and seen != wanted:
            return False
    return seen == wanted


def _digest(frame: av.VideoFrame) -> int:
    """What tells a frame from another: its brightness, and how it is turned."""
    return zlib.crc32(frame.to_ndarray(format="gray").tobytes(), frame.rotation % 360)


def copied(path: str, span: Span, target: Path) -> bool:
    """Copy the packets; whether the copy shows the same."""
    start, end = span.seconds
    with contextlib.suppress(*ERRORS):
        with Source(path) as source, opened(target) as out:
            copies = {source.video.index: out.add_stream_from_template(source.video), **_sound(source, out)}
            begun = False
            for packet in source.packets(start, end, span.earlier, sound=True):
                if packet.stream is source.video:
                    begun = begun or (packet.is_keyframe and packet.pts == span.start)
                    if not begun or packet.pts not in span.durations:
                        continue
                    packet.duration = span.durations[packet.pts]
                elif not _within(packet, start, end):
                    continue
                _mux(out, packet, copies[packet.stream.index], start)
        with Source(os.fspath(target)) as written:
            shown = [
                (float(frame.pts * written.time_base), _digest(frame))
                for frame in written.frames(0, 1e9, None)
                if isinstance(frame, av.VideoFrame) and frame.pts is not None
            ]
        if [digest for _, digest in shown] != span.digests:
            return False
        times = [float((stamp - span.start) * span.time_base) for stamp in span.durations]
        return all(abs(time - shown[0][0] - due) < 0.003 for (time, _), due in zip(shown, times, strict=True))
    return False


def _encode(path: str, span: Span, target: Path) -> None:
    """Decode the frames and encode them anew."""
    start, end = span.seconds
    left = dict(span.durations)
    with Source(path) as source, opened(target) as out:
        writer = VideoWriter(out, source.video, span.time_base, target.suffix)
        copies = _sound(source, out)
        sound: list[av.Packet[Any]] = []

        def write(frames: Sequence[object]) -> None:
            for frame in frames:
                if isinstance(frame, av.VideoFrame) and frame.pts in left:
                    writer.write(frame, frame.pts - span.start, left.pop(frame.pts))

        for packet in source.packets(start, end, span.earlier, sound=True):
            if packet.stream is source.video:
                with contextlib.suppress(av.error.InvalidDataError):
                    write(packet.decode())
            elif _within(packet, start, end):
                sound.append(packet)
            # A container's header is written with the first packet, and needs the size of the frames.
            while sound and writer.begun:
                _mux(out, sound[0], copies[sound.pop(0).stream.index], start)
        write(source.video.codec_context.decode(None))
        writer.close()
        for packet in sound:
            _mux(out, packet, copies[packet.stream.index], start)
    if left:
        raise ValueError(f"{len(left)} of {len(span.durations)} frames could not be decoded")


def opened(target: Path) -> av.container.OutputContainer:
    out = av.open(os.fspath(target), "w")
    out.metadata[COMMENT] = MARK
    return out


def _sound(source: Source, out: av.container.OutputContainer) -> dict[int, Any]:
    return {stream.index: out.add_stream_from_template(stream) for stream in source.opened.streams.audio}


def _within(packet: av.Packet[Any], start: float, end: float) -> bool:
    """Whether a packet of sound is heard in the moment alone: a clip's sound ends with its pictures."""
    if packet.pts is None or packet.time_base is None:
        return False
    begins = float(packet.pts * packet.time_base)
    return begins >= start - _EXACT and begins + float((packet.duration or 0) * packet.time_base) <= end + _EXACT


def _mux(out: av.container.OutputContainer, packet: av.Packet[Any], stream: Any, start: float) -> None:
    """Write a packet, its times counted from `start`."""
    shift = round(start / packet.time_base)
    if packet.pts is not None:
        packet.pts -= shift
    packet.dts = packet.dts - shift if packet.dts is not None else packet.pts
    packet.stream = stream
    out.mux(packet)

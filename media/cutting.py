"""A moment as a file of its own: packets copied from the video, nothing encoded anew."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import av

from media.errors import MediaError
from media.types import Place

# Containers that take whatever streams they had; for others Matroska, which takes nearly all.
_SAME = frozenset((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".avi"))


def cut(place: Place, folder: Path, rank: int) -> Path:
    """Write the moment's packets to `folder`, from the key frame at or before its start to its end, and return the file.

    Raises `MediaError` for what is no moment of a video, or cannot be read or written.
    """
    if place.start is None or place.end is None:
        raise MediaError("read", "only moments of videos can be cut out")
    stem, suffix = os.path.splitext(os.path.basename(place.path))
    suffix = suffix.lower()
    target = folder / f"{rank:02d}-{stem}-{place.start:.1f}-{place.end:.1f}{suffix if suffix in _SAME else '.mkv'}"
    scratch = target.with_name(f".{target.name}.partial{target.suffix}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(place.path, place.start, place.end, scratch)
        os.replace(scratch, target)
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError("read", f"cannot be cut: {' '.join(str(error).split())[:150]}") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return target


def _copy(path: str, start: float, end: float, target: Path) -> None:
    with av.open(path, metadata_errors="ignore") as source, av.open(os.fspath(target), "w") as out:
        origin = source.start_time / av.time_base if source.start_time is not None else 0.0
        streams = [
            stream
            for stream in source.streams
            if stream.type in ("video", "audio") and not stream.disposition & av.stream.Disposition.attached_pic
        ]
        copies = {stream.index: out.add_stream_from_template(stream) for stream in streams}
        source.seek(int((start + origin) * av.time_base))
        first: float | None = None
        open_streams = {stream.index for stream in streams}
        for packet in source.demux(*streams):
            if packet.dts is None or packet.time_base is None:
                continue
            time = float((packet.pts if packet.pts is not None else packet.dts) * packet.time_base) - origin
            if time > end and float(packet.dts * packet.time_base) - origin > end:
                # Frames are stored out of order: only a decoding time past the end says that no earlier one follows.
                open_streams.discard(packet.stream.index)
                if not open_streams:
                    break
                continue
            if first is None:
                if packet.stream.type == "video" and not packet.is_keyframe:
                    continue
                first = float(packet.dts * packet.time_base)
            shift = round(first / packet.time_base)
            if packet.dts < shift:
                continue
            packet.dts -= shift
            packet.pts = packet.pts - shift if packet.pts is not None else None
            packet.stream = copies[packet.stream.index]
            out.mux(packet)

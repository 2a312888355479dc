"""Sampled frames of videos, decoded by a process apart: one that crashes or hangs on a hostile file is replaced."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from PIL import Image

from media.child import Child
from media.errors import MediaError, OwnOutputError
from media.facts import NO_FACTS, Facts
from media.subtitles import Cue

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """`fps` frames a second are kept of what moves on, at most `max_frames` of a file; the shorter side of each is
    `min_side` pixels where the video has that many. With `skip_own`, a clip that mmsearch wrote is not read."""

    fps: float = 1.0
    max_frames: int = 10_000
    min_side: int = 224
    skip_own: bool = False


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A sampled frame, upright RGB: seen at `time`, it stands for `start` to `end`; all in seconds. Shots count from 0."""

    time: float
    start: float
    end: float
    shot: int
    rgb: Image.Image


@dataclass(frozen=True, kw_only=True)
class Beat:
    """A sign of life from a long stretch without frames: decoding has come to `time` seconds."""

    time: float


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What there is to say at the end: upright size in pixels, seconds read, why it stopped early if it did, and what the file
    says of itself."""

    width: int
    height: int
    duration: float
    stopped: str | None = None
    facts: Facts = NO_FACTS


class VideoDecoder:
    """One decoding process, started when it is first needed. Belongs to one thread; use as a context manager."""

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        self._patience = patience
        self._child = Child("media.worker")

    def __enter__(self) -> VideoDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def sample(self, path: str, config: SampleConfig) -> Iterator[Frame | Cue | Beat | Ending]:
        """As `frames.sample`, from the other process.

        Raises what that raises, and `MediaError("decode", reason)` also where the decoder crashed, or gave no sign of life
        for `patience` seconds.
        """
        finished = False
        try:
            process = self._child.started()
            self._ask(process, path, config)
            if process.stdout is None:
                raise AssertionError("the process was started with a pipe")
            yield from self._answers(process, process.stdout)
            finished = True
        except MediaError as error:
            # What the decoder itself says leaves it ready for the next file.
            answered = error.stage == "decode" or isinstance(error, OwnOutputError)
            finished = answered and self._child.runs
            raise
        finally:
            if not finished:
                self.close()

    def facts(self, path: str) -> Facts:
        """What a video says of itself, without a frame being decoded; nothing of one that cannot be opened."""
        try:
            process = self._child.started()
            self._ask(process, path, None)
            if process.stdout is None:
                raise AssertionError("the process was started with a pipe")
            return _facts(json.loads(self._patiently(process, process.stdout, None))["facts"])
        except MediaError:
            return NO_FACTS

    def _ask(self, process: subprocess.Popen[bytes], path: str, config: SampleConfig | None) -> None:
        """Ask for the frames of a video, or without a configuration for its facts alone."""
        request: dict[str, str | int | float | bool] = {"path": os.fsencode(path).hex()}
        if config is not None:
            request |= {
                "fps": config.fps,
                "max_frames": config.max_frames,
                "min_side": config.min_side,
                "skip_own": config.skip_own,
            }
        try:
            if process.stdin is not None:
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
        except OSError as error:
            raise MediaError("decode", "the video decoder could not be started") from error

    def _answers(self, process: subprocess.Popen[bytes], pipe: IO[bytes]) -> Iterator[Frame | Cue | Beat | Ending]:
        while True:
            line = self._patiently(process, pipe, None)
            value = json.loads(line)
            if "frame" in value:
                time, start, end, shot, width, height = value["frame"]
                pixels = self._patiently(process, pipe, 3 * width * height)
                rgb = Image.frombytes("RGB", (width, height), pixels)
                yield Frame(time=time, start=start, end=end, shot=shot, rgb=rgb)
            elif "cue" in value:
                start, end, text, kind = value["cue"]
                yield Cue(start=start, end=end, text=text, kind=kind)
            elif "beat" in value:
                yield Beat(time=value["beat"])
            elif "own" in value:
                raise OwnOutputError
            elif "error" in value:
                raise MediaError(*value["error"])
            else:
                width, height, duration, stopped = value["ending"]
                yield Ending(
                    width=width, height=height, duration=duration, stopped=stopped, facts=_facts(value["facts"])
                )
                return

    def _patiently(self, process: subprocess.Popen[bytes], pipe: IO[bytes], size: int | None) -> bytes:
        """A line, or `size` bytes; kills a process that keeps silent for too long."""
        alarm = threading.Timer(self._patience, process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            data = pipe.readline() if size is None else pipe.read(size)
        finally:
            hung = not alarm.is_alive()
            alarm.cancel()
        if (size is None and not data.endswith(b"\n")) or (size is not None and len(data) < size):
            why = f"gave no sign of life for {self._patience:.0f} s" if hung else "crashed on this file"
            self.close()
            raise MediaError("decode", f"the video decoder {why}")
        return data


class VideoDecoders:
    """Several decoding processes; any thread may call it, and at most `processes` decode at once. They start when first needed.
    Use as a context manager."""

    def __init__(self, processes: int, patience: float = PATIENCE_SECONDS) -> None:
        self._all = [VideoDecoder(patience) for _ in range(max(1, processes))]
        self._idle: queue.LifoQueue[VideoDecoder] = queue.LifoQueue()
        for decoder in self._all:
            self._idle.put(decoder)

    def __enter__(self) -> VideoDecoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for decoder in self._all:
            decoder.close()

    def sample(self, path: str, config: SampleConfig) -> Iterator[Frame | Cue | Beat | Ending]:
        """As `VideoDecoder.sample`."""
        decoder = self._idle.get()
        try:
            yield from decoder.sample(path, config)
        finally:
            self._idle.put(decoder)


def _facts(value: dict[str, Any]) -> Facts:
    return Facts(**{**value, "words": tuple(value["words"])})

"""Videos beside the stream of images: sampled on a thread of their own, so that a long one holds nothing up.

The feed decodes one video after the other and hands over frames, ready for the model, through a queue with a bound.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from media import storage
from media.errors import MediaError
from media.sound import Recogniser
from media.subtitles import Cue, mended, subtitle_files
from media.types import Source
from media.video import Ending, Frame, SampleConfig, VideoDecoder
from retrieval.crossmodal.moments import FrameSpan


@dataclass(kw_only=True)
class VideoRead:
    """What was read of one video so far: `embeddings` are those of its frames, `(d,)` each, `spans` their times. At the end,
    `failure` says what could not be read, `ending` how it ended, and `heard` whether its speech is transcribed or subtitled."""

    source: Source
    content: bytes = b""
    spans: list[FrameSpan] = field(default_factory=list)
    embeddings: list[NDArray[np.float32]] = field(default_factory=list)
    cues: list[Cue] = field(default_factory=list)
    ending: Ending | None = None
    failure: MediaError | None = None
    heard: bool = False


@dataclass(frozen=True, kw_only=True)
class VideoFrame:
    """One frame of a video, preprocessed `(3, s, s)`."""

    video: VideoRead
    span: FrameSpan
    pixels: NDArray[np.float32]


class VideoFeed:
    """Decodes the videos that are added, in order. `poll` gives the frames of a video and then the video itself."""

    def __init__(
        self,
        config: SampleConfig,
        preprocess: Callable[[Image], NDArray[np.float32]],
        ahead: int,
        recogniser: Recogniser | None = None,
    ) -> None:
        self._config, self._preprocess, self._recogniser = config, preprocess, recogniser
        self._videos: queue.SimpleQueue[VideoRead | None] = queue.SimpleQueue()
        self._ready: queue.Queue[VideoFrame | VideoRead | BaseException | None] = queue.Queue(max(2, ahead))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> VideoFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._videos.put(None)
        while self._thread is not None and self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)

    def add(self, source: Source, content: bytes) -> None:
        """One more video, or sound file, with the digest of its content."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="videos", daemon=True)
            self._thread.start()
        self._videos.put(VideoRead(source=source, content=content))

    def end(self) -> None:
        """Nothing more will be added."""
        self._videos.put(None)

    def poll(self, *, wait: bool) -> VideoFrame | VideoRead | None:
        """What came next; None where nothing is ready, or with `wait` where nothing more will come."""
        if self._thread is None:
            return None
        try:
            ready = self._ready.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(ready, BaseException):
            raise ready
        return ready

    def _drain(self) -> None:
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                return

    def _run(self) -> None:
        try:
            with VideoDecoder() as decoder:
                while not self._stop.is_set():
                    video = self._videos.get()
                    if video is None:
                        break
                    self._read(decoder, video)
        except BaseException as error:  # What ends the thread must reach the one who waits for it
            self._ready.put(error)
        self._ready.put(None)

    def _read(self, decoder: VideoDecoder, video: VideoRead) -> None:
        try:
            # Of a sound file there is nothing to see.
            for part in decoder.sample(video.source.path, self._config) if video.source.kind == "video" else ():
                if self._stop.is_set():
                    return
                if isinstance(part, Frame):
                    span = FrameSpan(start=part.start, end=part.end, shot=part.shot)
                    self._ready.put(VideoFrame(video=video, span=span, pixels=self._preprocess(part.rgb)))
                elif isinstance(part, Cue):
                    video.cues.append(part)
                elif isinstance(part, Ending):
                    video.ending = part
            video.cues = mended(video.cues)
            self._hear(video)
            _check_unchanged(video.source)
        except MediaError as error:
            video.failure = error
        except Exception as error:  # Whatever one video does, the next one is read
            reason = " ".join(str(error).split())[:200]
            video.failure = MediaError("decode", f"{type(error).__name__}: {reason}")
        self._ready.put(video)

    def _hear(self, video: VideoRead) -> None:
        """Transcribe a video without subtitles."""
        video.heard = any(cue.spoken for cue in video.cues) or bool(subtitle_files(video.source.path))
        if self._recogniser is not None and not video.heard:
            video.cues = mended([*video.cues, *self._recogniser.transcribe(video.source.path)])
            video.heard = True


def _check_unchanged(source: Source) -> None:
    """Raises `MediaError` for a file that somebody still writes. What was read of it is kept; the next run reads it again."""
    try:
        stat = storage.stat(source.path)
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error
    if (stat.st_size, stat.st_mtime_ns) != (source.size, source.mtime_ns):
        raise MediaError("read", "changed while it was read")

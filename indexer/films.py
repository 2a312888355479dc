"""Videos beside the stream of pictures: sampled on a thread of their own, so that a long film holds nothing up.

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

from media.sound import Recogniser
from media.subtitles import Cue, mended
from media.types import Source
from media.video import Ending, Frame, SampleConfig, VideoDecoder
from retrieval.crossmodal.moments import Span
from retrieval.errors import MediaError


@dataclass(kw_only=True)
class Film:
    """What is known of one video so far. Once `done`, `failure` says what could not be read, `ending` how it ended."""

    source: Source
    spans: list[Span] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    cues: list[Cue] = field(default_factory=list)
    ending: Ending | None = None
    failure: MediaError | None = None


@dataclass(frozen=True, kw_only=True)
class FilmFrame:
    """One frame of a film, preprocessed `(3, s, s)`."""

    film: Film
    span: Span
    pixels: NDArray[np.float32]


class FilmFeed:
    """Decodes the videos that are added, in order. `poll` gives frames of a film and then the film itself."""

    def __init__(
        self,
        config: SampleConfig,
        preprocess: Callable[[Image], NDArray[np.float32]],
        ahead: int,
        recogniser: Recogniser | None = None,
    ) -> None:
        self._config, self._preprocess, self._recogniser = config, preprocess, recogniser
        self._sources: queue.SimpleQueue[Source | None] = queue.SimpleQueue()
        self._found: queue.Queue[FilmFrame | Film | BaseException | None] = queue.Queue(max(2, ahead))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> FilmFeed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._sources.put(None)
        while self._thread is not None and self._thread.is_alive():
            self._drain()
            self._thread.join(0.05)

    def add(self, source: Source) -> None:
        """One more video, or sound file."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="films", daemon=True)
            self._thread.start()
        self._sources.put(source)

    def end(self) -> None:
        """Nothing more will be added."""
        self._sources.put(None)

    def poll(self, *, wait: bool) -> FilmFrame | Film | None:
        """What came next; None where nothing is ready, or with `wait` where nothing more will come."""
        if self._thread is None:
            return None
        try:
            found = self._found.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        return found

    def _drain(self) -> None:
        while True:
            try:
                self._found.get_nowait()
            except queue.Empty:
                return

    def _run(self) -> None:
        try:
            with VideoDecoder() as decoder:
                while not self._stop.is_set():
                    source = self._sources.get()
                    if source is None:
                        break
                    self._film(decoder, source)
        except BaseException as error:  # What ends the thread must reach the one who waits for it
            self._found.put(error)
        self._found.put(None)

    def _film(self, decoder: VideoDecoder, source: Source) -> None:
        film = Film(source=source)
        try:
            # Of a sound file there is nothing to see.
            for found in decoder.sample(source.path, self._config) if source.kind == "video" else ():
                if self._stop.is_set():
                    return
                if isinstance(found, Frame):
                    span = Span(start=found.start, end=found.end, shot=found.shot)
                    self._found.put(FilmFrame(film=film, span=span, pixels=self._preprocess(found.rgb)))
                elif isinstance(found, Cue):
                    film.cues.append(found)
                elif isinstance(found, Ending):
                    film.ending = found
        except MediaError as error:
            film.failure = error
        film.cues = mended(film.cues)
        if self._recogniser is not None and film.failure is None and not any(cue.spoken for cue in film.cues):
            try:
                film.cues = mended([*film.cues, *self._recogniser.transcribe(source.path)])
            except MediaError as error:
                film.failure = error
        self._found.put(film)

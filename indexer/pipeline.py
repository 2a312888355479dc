"""Read, decode and preprocess ahead of the model, on a few threads, a bounded way: memory has a limit, the model no wait.

Decoders release Python's lock, so threads are enough. Results come in the order of the records.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from media.containers import read_bytes
from media.errors import MediaError, OwnOutputError
from media.facts import NO_FACTS, Facts, completed, with_sidecars
from media.image import DecodedImage
from media.marks import is_marked_image
from media.metadata import file_facts, image_facts
from media.motion import film_in
from media.sidecars import sidecar_facts
from media.subtitles import Cue, read_subtitles
from media.text import caption_lines, decode_text, passages
from media.types import Passage, Record
from media.video import Beat, Ending, Frame, SampleConfig
from media.views import views_of
from retrieval.crossmodal.moments import FrameSpan

Mark = TypeVar("Mark")
# Frames of the film in a photo, which lasts some seconds: they wait in memory with the photo.
_FILM_FRAMES = 32


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One record, ready for the model: the `views` of an image, `(3, s, s)` each and more than one of a long one, `texts` of a
    document, or the `failure`.

    An image whose content the index holds already has neither views nor a decoded image: its embedding is copied. `facts` are
    those of the image, or of the image that a text is about. `wrong` says what beside or inside of it could not be used: its
    sidecars, and the film in a photo. With `holds_film` there is one, and `film` is what was seen of it, where it was looked
    at.
    """

    record: Record
    sha256: str = ""
    decoded: DecodedImage | None = None
    views: tuple[NDArray[np.float32], ...] = ()
    texts: tuple[Passage, ...] = ()
    facts: Facts = NO_FACTS
    wrong: tuple[tuple[str, MediaError], ...] = ()
    failure: MediaError | None = None
    holds_film: bool = False
    film: SeenFilm | None = None


@dataclass(frozen=True, kw_only=True)
class SeenFilm:
    """The film in a photo: its frames, preprocessed `(3, s, s)` each, what they stand for, and its upright size in pixels."""

    pixels: tuple[NDArray[np.float32], ...]
    spans: tuple[FrameSpan, ...]
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What the workers need: the model's preprocessing, the side that it wants, whether the index holds a content, what
    decodes images (bytes, least side, name of the file) and pages of a PDF (its path, number, least side), and what samples the
    film in a photo, `fps` frames a second."""

    preprocess: Callable[[Image], NDArray[np.float32]]
    min_side: int
    holds: Callable[[str], bool]
    decode: Callable[[bytes, int, str], DecodedImage]
    page: Callable[[str, int, int], DecodedImage]
    sample: Callable[[str, SampleConfig], Iterator[Frame | Cue | Beat | Ending]]
    fps: float = 1.0


def prepare(
    records: Iterable[Record | Mark], how: Preparation, workers: int, ahead: int
) -> Generator[Prepared | Mark, None, None]:
    """Prepare records on `workers` threads, at most `ahead` of them before they are asked for, in their order. Whatever else
    stands among the records comes out as it is, in its place."""
    waiting: deque[Future[Prepared] | Mark] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for record in records:
            waiting.append(pool.submit(prepare_record, record, how) if isinstance(record, Record) else record)
            if len(waiting) >= ahead:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(value: Future[Prepared] | Mark) -> Prepared | Mark:
    return value.result() if isinstance(value, Future) else value


def prepare_record(record: Record, how: Preparation) -> Prepared:
    """One record, read and decoded now. Whatever is wrong with it is its `failure`, never an exception."""
    try:
        return _prepared(record, how)
    except MediaError as error:
        return Prepared(record=_light(record), failure=error)
    except Exception as error:  # Decoders raise what a damaged file makes them raise; it costs that file alone
        reason = " ".join(str(error).split())[:200]
        failure = MediaError("decode", f"{type(error).__name__}: {reason}" if reason else type(error).__name__)
        return Prepared(record=_light(record), failure=failure)


def _prepared(record: Record, how: Preparation) -> Prepared:
    if record.failure is not None:
        return Prepared(record=record, failure=record.failure)
    if record.texts:
        return Prepared(record=record, texts=record.texts, facts=_facts_of_text(record))
    if record.page:
        return _prepared_page(record, how)
    data = record.data if record.data is not None else read_bytes(record.source.path)
    if record.source.kind in ("document", "sidecar", "subtitles"):
        return _prepared_text(record, data)
    if is_marked_image(data):
        raise OwnOutputError
    digest = hashlib.sha256(data).hexdigest()
    beside, wrong = sidecar_facts(record.source.sidecars)
    facts = completed(with_sidecars(image_facts(data), beside), record.path, record.source.mtime_ns)
    holds_film, film, stopped = False, None, None
    try:
        # The film of a photo in a container is no file that could be played.
        holds_film = record.data is None and film_in(io.BytesIO(data)) is not None
    except MediaError as error:
        wrong.append((record.path, error))
    # A member of a container keeps its bytes: where the copy turns out not to be of use, they are read again.
    known = Prepared(record=record, sha256=digest, facts=facts, wrong=tuple(wrong), holds_film=holds_film)
    if how.holds(digest):
        return known
    decoded = how.decode(data, how.min_side, os.path.basename(record.path))
    del data
    if holds_film:
        try:
            film, stopped = _seen(record.source.path, how)
        except MediaError as error:
            stopped = error.reason
        if stopped is not None:
            wrong.append((record.path, MediaError("decode", f"the film inside of it: {stopped}")))
    views = tuple(map(how.preprocess, views_of(decoded.rgb)))
    return replace(known, record=_light(record), decoded=decoded, views=views, wrong=tuple(wrong), film=film)


def _prepared_page(record: Record, how: Preparation) -> Prepared:
    beside, wrong = sidecar_facts(record.source.sidecars)
    facts = completed(beside, record.source.path, record.source.mtime_ns)
    known = Prepared(record=record, sha256=record.digest, facts=facts, wrong=tuple(wrong))
    if how.holds(record.digest):
        return known
    decoded = how.page(record.source.path, record.page, how.min_side)
    return replace(known, decoded=decoded, views=tuple(map(how.preprocess, views_of(decoded.rgb))))


def _seen(path: str, how: Preparation) -> tuple[SeenFilm, str | None]:
    """The film in the photo at `path`, and why not all of it was read. Raises `MediaError` for one of which nothing can be
    shown."""
    pixels: list[NDArray[np.float32]] = []
    spans: list[FrameSpan] = []
    width = height = 0
    stopped: str | None = None
    for part in how.sample(path, SampleConfig(fps=how.fps, max_frames=_FILM_FRAMES, min_side=how.min_side)):
        if isinstance(part, Frame):
            pixels.append(how.preprocess(part.rgb))
            spans.append(FrameSpan(start=part.start, end=part.end, shot=part.shot))
        elif isinstance(part, Ending):
            width, height = part.width, part.height
            if len(pixels) >= _FILM_FRAMES:
                stopped = f"read up to {part.duration:.0f} s: it is long for a film in a photo"
            elif part.stopped is not None:
                stopped = f"read up to {part.duration:.0f} s: {part.stopped}"
    return SeenFilm(pixels=tuple(pixels), spans=tuple(spans), width=width, height=height), stopped


def _prepared_text(record: Record, data: bytes) -> Prepared:
    about = record.source.about
    if record.source.kind == "subtitles":
        cues = read_subtitles(data, os.path.splitext(record.source.path)[1])
        path = about or record.path
        texts = tuple(Passage(path, cue.text, cue.kind, cue.start, cue.end) for cue in cues)
        return Prepared(record=record, texts=texts, facts=_facts_of_text(record))
    text = decode_text(data)
    lines = caption_lines(text) if about else passages(text)
    if not lines:
        raise MediaError("decode", "holds no text")
    texts = tuple(Passage(about or record.path, line, "caption" if about else "passage") for line in lines)
    return Prepared(record=record, texts=texts, facts=_facts_of_text(record))


def _facts_of_text(record: Record) -> Facts:
    """The facts of a text: those of the image or video that it is about, where that is a file of its own."""
    about = record.source.about
    beside, _ = sidecar_facts(record.source.sidecars)
    facts = with_sidecars(file_facts(about) if about is not None else NO_FACTS, beside)
    return completed(facts, about or record.path, record.source.mtime_ns)


def _light(record: Record) -> Record:
    """The record without its bytes, which nothing needs any more."""
    return record if record.data is None else Record(path=record.path, source=record.source)

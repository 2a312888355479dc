"""Read, decode and preprocess ahead of the model, on a few threads, a bounded way: memory has a limit, the model no wait.

Decoders release Python's lock, so threads are enough. Results come in the order of the records.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
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
from media.sidecars import sidecar_facts
from media.subtitles import read_subtitles
from media.text import caption_lines, decode_text, passages
from media.types import Passage, Record
from media.views import views_of

Mark = TypeVar("Mark")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One record, ready for the model: the `views` of an image, `(3, s, s)` each and more than one of a long one, `texts` of a
    document, or the `failure`.

    An image whose content the index holds already has neither views nor a decoded image: its embedding is copied. `facts` are
    those of the image, or of the image that a text is about. `wrong` are sidecars that could not be used, and why.
    """

    record: Record
    sha256: str = ""
    decoded: DecodedImage | None = None
    views: tuple[NDArray[np.float32], ...] = ()
    texts: tuple[Passage, ...] = ()
    facts: Facts = NO_FACTS
    wrong: tuple[tuple[str, MediaError], ...] = ()
    failure: MediaError | None = None


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What the workers need: the model's preprocessing, the side that it wants, whether the index holds a content, and what
    decodes images (bytes, least side, name of the file)."""

    preprocess: Callable[[Image], NDArray[np.float32]]
    min_side: int
    holds: Callable[[str], bool]
    decode: Callable[[bytes, int, str], DecodedImage]


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
    data = record.data if record.data is not None else read_bytes(record.source.path)
    if record.source.kind in ("document", "sidecar", "subtitles"):
        return _prepared_text(record, data)
    if is_marked_image(data):
        raise OwnOutputError
    digest = hashlib.sha256(data).hexdigest()
    beside, wrong = sidecar_facts(record.source.sidecars)
    facts = completed(with_sidecars(image_facts(data), beside), record.path, record.source.mtime_ns)
    # A member of a container keeps its bytes: where the copy turns out not to be of use, they are read again.
    known = Prepared(record=record, sha256=digest, facts=facts, wrong=tuple(wrong))
    if how.holds(digest):
        return known
    decoded = how.decode(data, how.min_side, os.path.basename(record.path))
    return replace(
        known, record=_light(record), decoded=decoded, views=tuple(map(how.preprocess, views_of(decoded.rgb)))
    )


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

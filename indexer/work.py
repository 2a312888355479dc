"""Units of a plan to their results: images, texts and videos are read, decoded and embedded beside each other."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from indexer.config import BuildConfig
from indexer.copies import Copies, sampled_digest
from indexer.encode import Embedder, UnitEncoder
from indexer.pipeline import Preparation, Prepared, prepare
from indexer.plan import Unit
from indexer.videos import VideoFeed, VideoFrame, VideoRead
from media.containers import expand
from media.errors import MediaError
from media.isolated import ImageDecoder
from media.types import CONTAINERS, Record, Source
from media.video import SampleConfig, VideoDecoder, VideoDecoders
from retrieval.store.journal import UnitResult
from retrieval.store.roots import Roots

# Records of a container, each image with its captions, that make a slice: a killed run goes on after the last whole one.
# Slices that an index holds were counted with this number.
SLICE = 256


@dataclass(frozen=True, kw_only=True)
class Step:
    """Work went on at `path`, and `files` of the plan are done with it; `nodes` machines of a cluster are at work."""

    path: str
    files: int = 1
    nodes: int = 0


@dataclass(frozen=True)
class _End:
    """Stands among the records where a unit, or one slice of a container, is complete."""

    unit: Unit
    slice: int | None = None
    last: bool = True


class Work:
    """Does units. Iterate over it for their results, and for a step wherever there is progress to show; what one unit gives may
    come as several results. `encoded` and `own` are counted meanwhile, as `UnitEncoder` counts them; `began` is when it was
    made, in seconds of the monotonic clock.

    Rows whose content the index holds already are taken from its `copies`, where there are any.
    """

    def __init__(
        self, units: Iterator[Unit], roots: Roots, embedder: Embedder, config: BuildConfig, copies: Copies | None
    ) -> None:
        self._units, self._config = units, config
        self.began = time.monotonic()
        self._decoder = ImageDecoder(decoding_threads(config), config.max_pixels)
        self._films = VideoDecoders(decoding_threads(config))
        self._encoder = UnitEncoder(
            embedder=embedder,
            roots=roots,
            batch_size=config.batch_size,
            how=Preparation(
                preprocess=embedder.preprocess,
                min_side=embedder.spec.image_size,
                decode=self._decoder.decode,
                page=self._decoder.page,
                holds=copies.may_hold_image if copies is not None and copies.table.manifest.shards else _never,
                sample=self._films.sample,
                fps=config.fps,
            ),
            fusion=config.moment_fusion,
            copies=copies,
        )
        self._frames: list[VideoFrame] = []

    @property
    def encoded(self) -> int:
        """Images and frames that went through the model."""
        return self._encoder.encoded

    @property
    def own(self) -> int:
        """Files that were left out since mmsearch wrote them."""
        return self._encoder.own

    def __iter__(self) -> Generator[UnitResult | Step, None, None]:
        with self._decoder, self._films:
            yield from self._results()

    def _results(self) -> Iterator[UnitResult | Step]:
        config, how = self._config, self._encoder.how
        frames = SampleConfig(fps=config.fps, max_frames=config.max_frames, min_side=how.min_side, skip_own=True)
        gathered: list[Prepared] = []
        with (
            VideoFeed(frames, how.preprocess, config.batch_size, config.recogniser) as videos,
            closing(prepare(self._records(videos), how, decoding_threads(config), 2 * config.batch_size)) as stream,
        ):
            for ready in stream:
                if isinstance(ready, Prepared):
                    gathered.append(ready)
                    yield Step(path=ready.record.path, files=0 if ready.record.source.kind in CONTAINERS else 1)
                elif isinstance(ready, UnitResult):
                    yield ready
                    yield Step(path=ready.items[0].path)
                elif isinstance(ready, _End):
                    yield self._encoder.result(ready.unit, gathered, slice=ready.slice, last=ready.last)
                    gathered = []
                    if ready.slice is not None and ready.last:
                        yield Step(path=ready.unit.sources[0].path)
                # Whatever videos have ready meanwhile, so that neither kind waits for the other.
                while (part := videos.poll(wait=False)) is not None:
                    yield from self._video(part)
            videos.end()
            while (part := videos.poll(wait=True)) is not None:
                yield from self._video(part)

    def _records(self, videos: VideoFeed) -> Iterator[Record | _End | UnitResult]:
        """The records of every unit, each unit's followed by its end; videos go to their own feed, unless they are copied."""
        with VideoDecoder() as tags:
            for unit in self._units:
                if unit.sources[0].kind in ("video", "sound"):
                    copied = self._add_video(unit, videos, tags)
                    if copied is not None:
                        yield copied
                elif unit.first_slice is not None:
                    yield from _slices(unit, unit.first_slice, self._expanded(unit.sources[0]))
                else:
                    for source in unit.sources:
                        yield from self._expanded(source)
                    yield _End(unit)

    def _expanded(self, source: Source) -> Iterator[Record]:
        return expand(source, self._encoder.roots.paths, self._decoder.document)

    def _add_video(self, unit: Unit, videos: VideoFeed, tags: VideoDecoder) -> UnitResult | None:
        """Have the video decoded; or its result at once, where the index holds the same content."""
        source = unit.sources[0]
        try:
            content = sampled_digest(source)
        except MediaError:
            # Decoding it reports what is wrong.
            content = b""
        if source.kind == "video" and content:
            heard = self._config.recogniser is not None
            copied = self._encoder.copied_video(source, content, heard=heard, facts_of=tags.facts)
            if copied is not None:
                return copied
        videos.add(source, content)
        return None

    def _video(self, part: VideoRead | VideoFrame) -> Iterator[UnitResult | Step]:
        """Take a frame, or end a video: its frames become moments, and its cues texts, in one step."""
        if isinstance(part, VideoFrame):
            self._frames.append(part)
            if len(self._frames) >= self._config.batch_size:
                self._encode_frames()
                yield Step(path=part.video.source.path, files=0)
            return
        self._encode_frames()
        yield self._encoder.video(part)
        yield Step(path=part.source.path)

    def _encode_frames(self) -> None:
        """Embed the waiting frames; a frame whose embedding is not finite is left out."""
        frames, self._frames = self._frames, []
        embeddings, places = self._encoder.frames([frame.pixels for frame in frames])
        for embedding, place in zip(embeddings, places, strict=True):
            frames[place].video.spans.append(frames[place].span)
            frames[place].video.embeddings.append(embedding)


def decoding_threads(config: BuildConfig) -> int:
    """How many threads decode images."""
    return config.workers or min(8, os.cpu_count() or 1)


def _slices(unit: Unit, first: int, records: Iterator[Record]) -> Iterator[Record | _End]:
    """The `records` of a container from slice number `first` on, an end after each slice. Captions stay with their image."""
    count, before = 0, None
    for record in records:
        apart = before is None or not record.texts or bool(before.texts) or record.path != before.path
        count, before = count + apart, record
        if count > first * SLICE:
            if apart and (count - 1) % SLICE == 0 and count - 1 > first * SLICE:
                yield _End(unit, (count - 1) // SLICE - 1, False)
            yield record
    yield _End(unit, max(first, max(0, count - 1) // SLICE), True)


def _never(_: str) -> bool:
    return False

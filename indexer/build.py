"""build_index: find what changed, encode it, and commit; whatever happens, nothing that was done is lost."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from indexer.films import Film, FilmFeed, FilmFrame
from indexer.known import KnownState
from indexer.pipeline import Preparation, Prepared, prepare
from indexer.roots import roots_of
from indexer.rows import item_id, moment_items, picture_item, text_items
from media.containers import expand
from media.image import register_decoders
from media.sound import Recogniser
from media.types import CONTAINERS, Passage, Record, Source
from media.video import SampleConfig
from media.walk import walk
from retrieval.crossmodal.moments import Fusion, merge
from retrieval.errors import IndexNotFoundError, MediaError
from retrieval.models.encoder import Encoder
from retrieval.store.shards import SHARD_ROWS
from retrieval.store.writer import IndexWriter, hold_open
from retrieval.types import Item

COMMIT_ROWS = SHARD_ROWS // 2
COMMIT_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build. `workers` are decoding threads; 0 means one for each CPU, at most eight.

    Of videos, `fps` frames a second are taken where they move on, at most `max_frames` of one; `moment_fusion` makes one
    embedding of a moment's frames. With a `recogniser`, what is said in videos without subtitles and in sound files is
    transcribed.
    """

    batch_size: int = 32
    workers: int = 0
    retry_failed: bool = False
    fps: float = 1.0
    max_frames: int = 10_000
    moment_fusion: Fusion = "mean"
    recogniser: Recogniser | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a build is: media files done of `total`, those encoded, and the file that came last."""

    done: int
    total: int
    failed: int
    path: str


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The contract's counts. `encoded` are pictures and frames that went through the model; `seconds` leave out loading it."""

    indexed: int
    unchanged: int
    removed: int
    failed: int
    items: int
    encoded: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """ImageSource and frames encoded over the time from the first read to the last commit."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


class IndexBuild:
    """One run over some paths. Iterate over it to do the work; `report` is there afterwards.

    Ctrl-C (`KeyboardInterrupt`) commits what is done and is raised again. Raises `IndexNotFoundError` when nothing
    under the paths can be indexed, and what `IndexWriter` raises.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], folder: Path, encoder: Encoder, config: BuildConfig
    ) -> None:
        self._roots = roots_of(paths)
        self._folder = folder
        self._encoder = encoder
        self._config = config
        self.report: BuildReport | None = None

    def __iter__(self) -> Iterator[Progress]:
        register_decoders()
        fresh = not (self._folder / "manifest.json").exists()
        there = walk(self._roots, sound=self._config.recogniser is not None)
        if fresh and not any(isinstance(found, Source) for found in there):
            raise IndexNotFoundError(f"nothing to index in {_shown(self._roots)}: no pictures, videos or texts there")
        with IndexWriter(self._folder, self._encoder.spec) as writer:
            # Held open, so that the rows this run may copy stay on disk while it commits.
            with hold_open(self._folder):
                run = _Run(writer, self._encoder, self._config, self._roots)
                run.compare()
                try:
                    yield from run.work()
                except BaseException:
                    run.commit()
                    raise
                run.finish()
            self.report = run.report()
            if not self.report.items and not self.report.indexed:
                raise IndexNotFoundError(
                    f"nothing in {_shown(self._roots)} could be indexed; see: mmsearch failures --index {self._folder}"
                )


class _Run:
    """The state of one build."""

    def __init__(self, writer: IndexWriter, encoder: Encoder, config: BuildConfig, roots: Sequence[str]) -> None:
        self._writer = writer
        self._encoder = encoder
        self._config = config
        self._roots = roots
        self._known = KnownState(
            writer, roots, retry_failed=config.retry_failed, transcribe=config.recogniser is not None
        )
        self._open: list[str] = []
        self._count = self._known.count
        self._done = 0
        self._frames: list[FilmFrame] = []
        self._began = self._committed_at = time.monotonic()

    def compare(self) -> None:
        """Find what changed and what is gone."""
        self._known.compare()

    def _changed(self, films: FilmFeed) -> Iterator[Record]:
        """The records of every changed source, videos handed to their own feed."""
        for source in self._known.changed():
            if source.kind in ("video", "sound"):
                films.add(source)
                continue
            if source.kind in CONTAINERS:
                self._open.append(source.path)
                self._writer.mark_open([*self._known.half_done, *self._open])
            yield from expand(source)

    def work(self) -> Iterator[Progress]:
        """Encode what changed, a batch at a time."""
        if not self._known.changed_total:
            return
        config, side = self._config, self._encoder.spec.image_size
        self._encoder.warm()
        self._began = time.monotonic()
        how = Preparation(preprocess=self._encoder.preprocess, min_side=side, known=self._known.holds)
        workers = config.workers or min(8, os.cpu_count() or 1)
        frames = SampleConfig(fps=config.fps, max_frames=config.max_frames, min_side=side)
        pictures: list[Prepared] = []
        with (
            FilmFeed(frames, how.preprocess, config.batch_size, config.recogniser) as films,
            closing(prepare(self._changed(films), how, workers, 2 * config.batch_size)) as stream,
        ):
            for ready in stream:
                if ready.failure is not None:
                    self._fail(ready.record, ready.failure)
                elif ready.texts:
                    self._write_texts(ready)
                elif ready.pixels is None:
                    self._copy(ready)
                else:
                    pictures.append(ready)
                    if len(pictures) >= config.batch_size:
                        self._write_pictures(pictures)
                        pictures = []
                self._commit_sometimes()
                yield self._progress(ready.record.path)
                # Whatever films have ready meanwhile, so that neither kind waits for the other.
                while (found := films.poll(wait=False)) is not None:
                    yield from self._film(found)
            if pictures:
                self._write_pictures(pictures)
            films.end()
            while (found := films.poll(wait=True)) is not None:
                yield from self._film(found)

    def _progress(self, path: str, done: int = 1) -> Progress:
        self._done += done
        total = max(self._done, self._known.changed_total)
        return Progress(done=self._done, total=total, failed=self._count["failed"], path=path)

    def _film(self, found: Film | FilmFrame) -> Iterator[Progress]:
        """Take a frame, or end a film: its frames become moments, and its cues texts, in one step."""
        if isinstance(found, FilmFrame):
            self._frames.append(found)
            if len(self._frames) >= self._config.batch_size:
                self._encode_frames()
                yield self._progress(found.film.source.path, 0)
            return
        self._encode_frames()
        source, failure = found.source, found.failure
        items: list[Item] = []
        embeddings = [np.empty((0, self._encoder.spec.dim), np.float32)]
        if found.rows and found.ending is not None:
            moments = merge(found.spans, np.stack(found.rows), self._config.moment_fusion)
            items += moment_items(moments, source, (found.ending.width, found.ending.height))
            embeddings += [one.embedding[None] for one in moments]
            if found.ending.stopped is not None and failure is None:
                failure = MediaError("decode", f"read up to {found.ending.duration:.0f} s: {found.ending.stopped}")
        passages = [Passage(source.path, cue.text, cue.start, cue.end) for cue in found.cues]
        if passages:
            items += text_items(passages, source)
            embeddings.append(self._encoder.encode_texts([passage.text for passage in passages]))
        # In one part: a run that is killed leaves all of a film or nothing.
        self._writer.append(items, np.concatenate(embeddings))
        if failure is not None:
            self._known.note(source.path, source, failure.stage, failure.reason)
        if items:
            self._count["indexed"] += 1
        self._commit_sometimes()
        yield self._progress(source.path)

    def _encode_frames(self) -> None:
        """Embed the frames that wait; one that the model makes nothing finite of is left out."""
        frames, self._frames = self._frames, []
        if not frames:
            return
        try:
            rows = self._encoder.encode_pixels([frame.pixels for frame in frames])
        except FloatingPointError:
            for frame in frames if len(frames) > 1 else ():
                self._frames = [frame]
                self._encode_frames()
            return
        for frame, row in zip(frames, rows, strict=True):
            frame.film.spans.append(frame.span)
            frame.film.rows.append(row)
        self._count["encoded"] += len(frames)

    def _write_pictures(self, batch: Sequence[Prepared]) -> None:
        pixels = [ready.pixels for ready in batch if ready.pixels is not None]
        try:
            rows = self._encoder.encode_pixels(pixels)
        except FloatingPointError as error:
            if len(batch) == 1:
                self._fail(batch[0].record, MediaError("encode", str(error)))
                return
            for ready in batch:
                self._write_pictures([ready])
            return
        items = [
            picture_item(ready.record.path, ready.record.source, ready.sha256, ready.decoded)
            for ready in batch
            if ready.decoded is not None
        ]
        self._writer.append(items, rows)
        self._count["indexed"] += len(batch)
        self._count["encoded"] += len(batch)

    def _write_texts(self, ready: Prepared) -> None:
        source = ready.record.source
        first = self._count[f"texts of {source.path}"]
        rows = self._encoder.encode_texts([passage.text for passage in ready.texts])
        self._writer.append(text_items(ready.texts, source, first), rows)
        if source.kind in CONTAINERS:
            self._count[f"texts of {source.path}"] += len(ready.texts)
        if source.kind not in ("tar", "parquet") and not first:
            self._count["indexed"] += 1

    def _copy(self, ready: Prepared) -> None:
        """A picture whose content is in the index: a new row with the old embedding and facts."""
        old, row = self._known.picture(ready.sha256)
        source = ready.record.source
        item = replace(
            old,
            id=item_id(ready.record.path, "image", ""),
            path=ready.record.path,
            source=source.path,
            size=source.size,
            mtime_ns=source.mtime_ns,
        )
        self._writer.append([item], row)
        self._count["indexed"] += 1

    def _fail(self, record: Record, failure: MediaError) -> None:
        self._known.note(record.path, record.source, failure.stage, failure.reason)

    def _commit_sometimes(self) -> None:
        waited = time.monotonic() - self._committed_at
        if self._writer.pending >= COMMIT_ROWS or (self._writer.pending and waited > COMMIT_SECONDS):
            self.commit()

    def commit(self, *, last: bool = False) -> None:
        """Publish what is done."""
        self._known.publish(last=last)
        self._committed_at = time.monotonic()

    def finish(self) -> None:
        """The last commit: every source that was begun is whole now."""
        self.commit(last=True)
        self._writer.mark_open([])

    def report(self) -> BuildReport:
        """The counts of this run."""
        return BuildReport(
            indexed=self._count["indexed"],
            unchanged=self._count["unchanged"],
            removed=self._count["removed"],
            failed=self._count["failed"],
            items=sum(shard.alive for shard in self._writer.manifest.shards),
            encoded=self._count["encoded"],
            seconds=time.monotonic() - self._began,
        )


def _shown(paths: Sequence[str]) -> str:
    return ", ".join(path.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n") for path in paths)

"""IndexBuild: one run over some paths, in three steps: plan what changed, encode it unit by unit, publish the results."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from indexer.copies import Copies, sampled_digest
from indexer.encode import Embedder, UnitEncoder
from indexer.ocr import OcrConfig, OcrCounts, PictureTexts
from indexer.pipeline import Preparation, Prepared, prepare
from indexer.plan import Plan, PlanConfig, Unit
from indexer.progress import Progress
from indexer.videos import VideoFeed, VideoFrame, VideoRead
from media.containers import expand
from media.errors import MediaError
from media.excludes import Excludes
from media.foreign import hint_of
from media.image import MAX_PIXELS
from media.isolated import ImageDecoder
from media.names import printable
from media.sound import Recogniser
from media.types import CONTAINERS, Record, Source
from media.video import SampleConfig, VideoDecoder
from media.walk import WalkConfig, walk
from retrieval.crossmodal.moments import MomentFusion
from retrieval.errors import IndexNotFoundError
from retrieval.store.journal import UnitResult
from retrieval.store.leases import open_state
from retrieval.store.manifest import Manifest
from retrieval.store.shards import SHARD_ROWS, ShardReader
from retrieval.store.sources import SourceTable, Touched
from retrieval.store.writer import IndexWriter

COMMIT_ROWS = SHARD_ROWS // 2
COMMIT_SECONDS = 600.0
# Records of a container, each image with its captions, that make a slice: a killed run goes on after the last whole one.
# Slices that an index holds were counted with this number.
SLICE = 256


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build. `workers` are decoding threads; 0 means one for each CPU, at most eight.

    Of videos, `fps` frames a second are taken where they move on, at most `max_frames` of one; `moment_fusion` makes one
    embedding of a moment's frames. With a `recogniser`, the speech of videos without subtitles and of sound files is
    transcribed. `prune` lets a folder that is empty now lose its files. An image of more than `max_pixels` is refused.
    `exclude` are globs that the index leaves out from now on, beside those that it remembers; `default_excludes` (None: as
    before) whether it leaves out what nobody means. `reread` reads the facts of unchanged photos and videos again, whose
    embeddings are taken from the index. With `ocr`, the text in pictures is read once all else is published.
    """

    batch_size: int = 32
    workers: int = 0
    retry_failed: bool = False
    reread: bool = False
    fps: float = 1.0
    max_frames: int = 10_000
    moment_fusion: MomentFusion = "mean"
    recogniser: Recogniser | None = None
    prune: bool = False
    max_pixels: int = MAX_PIXELS
    exclude: tuple[str, ...] = ()
    default_excludes: bool | None = None
    ocr: OcrConfig | None = None


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The contract's counts. `encoded` are images and frames that went through the model; `seconds` leave out loading it.
    `touched` counts what was read of the index; `notices` are lines that the user should see; `links` says that some folder
    was reached by a link, so that the path of a change does not tell which indexed files it concerns. `skipped` counts, by
    suffix, the files below the paths that are of no kind that is indexed. `ocr` is there where text in pictures was to be
    read; its time is not in `seconds`."""

    indexed: int
    unchanged: int
    removed: int
    failed: int
    items: int
    encoded: int
    seconds: float
    touched: Touched
    notices: tuple[str, ...] = ()
    links: bool = False
    skipped: Mapping[str, int] = field(default_factory=dict)
    ocr: OcrCounts | None = None

    def with_texts(self, counts: OcrCounts, items: int) -> BuildReport:
        """The same after the text in pictures was read."""
        return replace(self, ocr=counts, failed=self.failed + counts.failed, items=items)

    @property
    def images_per_second(self) -> float:
        """Images and frames encoded over the time from the first read to the last publication."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class _End:
    """Stands among the records where a unit, or one slice of a container, is complete."""

    unit: Unit
    slice: int | None = None
    last: bool = True


class IndexBuild:
    """One run over some paths. Iterate over it to do the work; `report` is there afterwards.

    A folder is read with all that is below it, a file with its sidecars and subtitles. A path below an indexed root that no
    longer exists removes the file or folder from the index.

    Ctrl-C (`KeyboardInterrupt`) publishes what is done and is raised again. Raises `IndexNotFoundError` when nothing
    under the paths can be indexed, and what `IndexWriter` raises.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], folder: Path, embedder: Embedder, config: BuildConfig
    ) -> None:
        self._paths = [os.path.abspath(os.fspath(path)) for path in paths]
        self._folder = folder
        self._embedder = embedder
        self._config = config
        self.report: BuildReport | None = None

    def __iter__(self) -> Iterator[Progress]:
        fresh = not (self._folder / "manifest.json").exists()
        begun = WalkConfig(sound=self._hears, excludes=self._excludes(Excludes()))
        if fresh and not any(isinstance(entry, Source) for entry in walk(self._paths, begun)):
            raise IndexNotFoundError(f"nothing to index in {_shown(self._paths)}: no pictures, videos or texts there")
        with IndexWriter(self._folder, self._embedder.spec) as writer:
            for path in self._paths:
                if os.path.lexists(path):
                    writer.add_root(path if os.path.isdir(path) else os.path.dirname(path))
            anew = writer.set_excludes(self._excludes(writer.manifest.excludes))
            # The journal of a killed run: from here on the table of sources is complete.
            writer.publish()
            # Held open, so that the rows this run may copy stay on disk while it publishes.
            with ImageDecoder(_workers(self._config), self._config.max_pixels) as decoder:
                with closing(open_state(self._folder)) as lease:
                    run = _Run(
                        writer, lease.manifest, self._paths, self._embedder, self._config, decoder, exclude_anew=anew
                    )
                    yield from run.work()
                self.report = run.report()
                if self._config.ocr is not None:
                    texts = PictureTexts(writer, self._paths, self._embedder, self._config.ocr, decoder.decode)
                    yield from texts
                    self.report = self.report.with_texts(texts.counts, searchable(writer.manifest))
        if not self.report.items and not self.report.indexed:
            raise IndexNotFoundError(
                f"nothing in {_shown(self._paths)} could be indexed; see: mmsearch failures --index {self._folder}"
            )

    def _excludes(self, before: Excludes) -> Excludes:
        return before.with_more(self._config.exclude, self._config.default_excludes)

    @property
    def _hears(self) -> bool:
        return self._config.recogniser is not None


class _Run:
    """The state of one build."""

    def __init__(
        self, writer: IndexWriter, state: Manifest, paths: Sequence[str], embedder: Embedder, config: BuildConfig,
        decoder: ImageDecoder, *, exclude_anew: bool,
    ) -> None:  # fmt: skip
        self._writer, self._embedder, self._config, self._decoder = writer, embedder, config, decoder
        self._touched = Touched()
        table = SourceTable(writer.folder, state, self._touched)
        self._encoder = UnitEncoder(
            embedder=embedder,
            roots=state.roots,
            batch_size=config.batch_size,
            decode=decoder.decode,
            copies=Copies(
                ShardReader(writer.folder, state, self._touched), SourceTable(writer.folder, state, self._touched)
            ),
        )
        self._plan = Plan(
            table,
            paths,
            PlanConfig(
                unit_size=config.batch_size,
                retry_failed=config.retry_failed,
                reread=config.reread,
                transcribe=config.recogniser is not None,
                prune=config.prune,
                exclude_anew=exclude_anew,
            ),
            writer.waiting(),
        )
        self._units = _Ahead(self._plan)
        self._indexed = self._failed = self._done = 0
        self._frames: list[VideoFrame] = []
        self._began = self._published_at = time.monotonic()

    def work(self) -> Iterator[Progress]:
        """Encode what changed and publish it, now and then and at the end."""
        try:
            first = next(self._units, None)
            if first is not None:
                self._embedder.warm()
                self._began = time.monotonic()
                yield from self._encode(itertools.chain([first], self._units))
        except BaseException:
            self._writer.publish()
            raise
        finally:
            self._units.close()
        notes = list(self._plan.notes.values())
        if notes:
            self._journal(UnitResult(items=(), embeddings=self._encoder.none(), lines=tuple(notes)))
        self._writer.publish(self._plan.gone, merge=True)

    def _encode(self, units: Iterator[Unit]) -> Iterator[Progress]:
        config, side = self._config, self._embedder.spec.image_size
        copies = self._encoder.copies
        how = Preparation(
            preprocess=self._embedder.preprocess,
            min_side=side,
            decode=self._decoder.decode,
            holds=copies.may_hold_image if copies is not None and copies.table.manifest.shards else _never,
        )
        workers = _workers(config)
        frames = SampleConfig(fps=config.fps, max_frames=config.max_frames, min_side=side, skip_own=True)
        gathered: list[Prepared] = []
        with (
            VideoFeed(frames, how.preprocess, config.batch_size, config.recogniser) as videos,
            closing(prepare(self._records(units, videos), how, workers, 2 * config.batch_size)) as stream,
        ):
            for ready in stream:
                if isinstance(ready, Prepared):
                    gathered.append(ready)
                    yield self._progress(ready.record.path, 0 if ready.record.source.kind in CONTAINERS else 1)
                elif isinstance(ready, UnitResult):
                    self._journal(ready)
                    yield self._progress(ready.items[0].path)
                elif isinstance(ready, _End):
                    self._journal(self._encoder.result(ready.unit, gathered, slice=ready.slice, last=ready.last))
                    gathered = []
                    if ready.slice is not None and ready.last:
                        yield self._progress(ready.unit.sources[0].path)
                # Whatever videos have ready meanwhile, so that neither kind waits for the other.
                while (part := videos.poll(wait=False)) is not None:
                    yield from self._video(part)
            videos.end()
            while (part := videos.poll(wait=True)) is not None:
                yield from self._video(part)

    def _records(self, units: Iterator[Unit], videos: VideoFeed) -> Iterator[Record | _End | UnitResult]:
        """The records of every unit, each unit's followed by its end; videos go to their own feed, unless they are copied."""
        with VideoDecoder() as tags:
            yield from self._records_of(units, videos, tags)

    def _records_of(
        self, units: Iterator[Unit], videos: VideoFeed, tags: VideoDecoder
    ) -> Iterator[Record | _End | UnitResult]:
        roots = self._encoder.roots.paths
        for unit in units:
            source = unit.sources[0]
            if source.kind in ("video", "sound"):
                try:
                    content = sampled_digest(source)
                except MediaError:
                    # Decoding it reports what is wrong.
                    content = b""
                heard = self._config.recogniser is not None
                copied = None
                if source.kind == "video" and content:
                    copied = self._encoder.copied_video(source, content, heard=heard, facts_of=tags.facts)
                if copied is not None:
                    yield copied
                else:
                    videos.add(source, content)
            elif unit.first_slice is not None:
                yield from _slices(unit, unit.first_slice, roots)
            else:
                for part_source in unit.sources:
                    yield from expand(part_source, roots)
                yield _End(unit)

    def _progress(self, path: str, done: int = 1) -> Progress:
        self._done += done
        return Progress(done=self._done, total=max(self._done, self._plan.changed), failed=self._failed, path=path)

    def _video(self, part: VideoRead | VideoFrame) -> Iterator[Progress]:
        """Take a frame, or end a video: its frames become moments, and its cues texts, in one step."""
        if isinstance(part, VideoFrame):
            self._frames.append(part)
            if len(self._frames) >= self._config.batch_size:
                self._encode_frames()
                yield self._progress(part.video.source.path, 0)
            return
        self._encode_frames()
        self._journal(self._encoder.video(part, self._config.moment_fusion))
        yield self._progress(part.source.path)

    def _encode_frames(self) -> None:
        """Embed the waiting frames; a frame whose embedding is not finite is left out."""
        frames, self._frames = self._frames, []
        embeddings, places = self._encoder.frames([frame.pixels for frame in frames])
        for embedding, place in zip(embeddings, places, strict=True):
            frames[place].video.spans.append(frames[place].span)
            frames[place].video.embeddings.append(embedding)

    def _journal(self, result: UnitResult) -> None:
        self._writer.journal(result)
        self._indexed += sum(line.media for line in result.lines)
        self._failed += sum(len(line.failures) for line in result.lines)
        waited = time.monotonic() - self._published_at
        if self._writer.pending >= COMMIT_ROWS or (self._writer.pending and waited > COMMIT_SECONDS):
            self._writer.publish()
            self._published_at = time.monotonic()

    def report(self) -> BuildReport:
        """The counts of this run."""
        return BuildReport(
            indexed=self._indexed,
            unchanged=self._plan.unchanged,
            removed=self._plan.removed,
            failed=self._failed + self._plan.failed,
            items=searchable(self._writer.manifest),
            encoded=self._encoder.encoded,
            seconds=time.monotonic() - self._began,
            touched=self._touched,
            notices=(*self._writer.notices, *hint_of(self._plan.skipped), *self._left_out()),
            links=bool(self._plan.links),
            skipped=dict(self._plan.skipped.most_common()),
        )

    def _left_out(self) -> list[str]:
        own = self._encoder.own
        return [f"{own} new file(s) left out: mmsearch itself wrote them"] if own else []


def searchable(manifest: Manifest) -> int:
    """How many rows a search may return."""
    return sum(shard.alive for shard in manifest.shards)


def _slices(unit: Unit, first: int, roots: Sequence[str]) -> Iterator[Record | _End]:
    """The records of a container from slice number `first` on, an end after each slice. Captions stay with their image."""
    count, before = 0, None
    for record in expand(unit.sources[0], roots):
        apart = before is None or not record.texts or bool(before.texts) or record.path != before.path
        count, before = count + apart, record
        if count > first * SLICE:
            if apart and (count - 1) % SLICE == 0 and count - 1 > first * SLICE:
                yield _End(unit, (count - 1) // SLICE - 1, False)
            yield record
    yield _End(unit, max(first, max(0, count - 1) // SLICE), True)


class _Ahead:
    """The units of a plan, made on a thread of its own: encoding begins while folders are still being listed."""

    def __init__(self, plan: Plan) -> None:
        self._queue: queue.SimpleQueue[Unit | BaseException | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(plan,), name="plan", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Unit]:
        return self

    def __next__(self) -> Unit:
        unit = self._queue.get()
        if unit is None:
            self._queue.put(None)
            raise StopIteration
        if isinstance(unit, BaseException):
            raise unit
        return unit

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _run(self, plan: Plan) -> None:
        try:
            for unit in plan:
                if self._stop.is_set():
                    return
                self._queue.put(unit)
            self._queue.put(None)
        except BaseException as error:  # It belongs to the one who waits for units
            self._queue.put(error)


def _workers(config: BuildConfig) -> int:
    return config.workers or min(8, os.cpu_count() or 1)


def _never(_: str) -> bool:
    return False


def _shown(paths: Sequence[str]) -> str:
    return ", ".join(map(printable, paths))

"""IndexBuild: one run over some paths, in three steps: plan what changed, encode it unit by unit, publish the results."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from indexer.config import BuildConfig, BuildReport
from indexer.plan import Plan, PlanConfig, Unit
from indexer.progress import Progress
from media.excludes import Excludes
from media.foreign import hint_of
from media.names import printable
from media.types import Source
from media.walk import WalkConfig, walk
from retrieval.errors import IndexNotFoundError
from retrieval.store.journal import UnitResult
from retrieval.store.leases import open_state
from retrieval.store.manifest import Manifest
from retrieval.store.shards import SHARD_ROWS
from retrieval.store.source_keys import Touched
from retrieval.store.sources import SourceTable
from retrieval.store.writer import IndexWriter

if TYPE_CHECKING:
    from indexer.encode import Embedder

COMMIT_ROWS = SHARD_ROWS // 2
COMMIT_SECONDS = 600.0
# The first publication of a run whose results somebody waits for.
EAGER_SECONDS = 5.0


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
        if fresh and not has_media(self._paths, begun):
            raise IndexNotFoundError(f"nothing to index in {_shown(self._paths)}: no pictures, videos or texts there")
        with IndexWriter(self._folder, self._embedder.spec) as writer:
            for path in self._paths:
                if os.path.lexists(path):
                    writer.add_root(path if os.path.isdir(path) else os.path.dirname(path))
            anew = writer.set_excludes(self._excludes(writer.manifest.excludes))
            # The journal of a killed run: from here on the table of sources is complete.
            writer.publish()
            # Held open, so that the rows this run may copy stay on disk while it publishes.
            with closing(open_state(self._folder)) as lease:
                run = _Run(writer, lease.manifest, self._paths, self._embedder, self._config, exclude_anew=anew)
                yield from run.work()
            self.report = run.report()
            if self._config.ocr is not None:
                yield from self._read_texts(writer, self.report)
        if not self.report.items and not self.report.indexed:
            raise IndexNotFoundError(
                f"nothing in {_shown(self._paths)} could be indexed; see: mmsearch failures --index {self._folder}"
            )

    def _read_texts(self, writer: IndexWriter, report: BuildReport) -> Iterator[Progress]:
        """Read the text in pictures, which the report then has as well."""
        # Imported here, as all that decodes: a run that finds nothing to do needs none of it.
        from indexer.ocr import PictureTexts

        if self._config.ocr is not None:
            texts = PictureTexts(writer, self._paths, self._embedder, self._config.ocr, self._config.max_pixels)
            yield from texts
            self.report = report.with_texts(texts.counts, searchable(writer.manifest))

    def _excludes(self, before: Excludes) -> Excludes:
        return before.with_more(self._config.exclude, self._config.default_excludes)

    @property
    def _hears(self) -> bool:
        return self._config.recogniser is not None


class _Run:
    """The state of one build."""

    def __init__(
        self, writer: IndexWriter, state: Manifest, paths: Sequence[str], embedder: Embedder, config: BuildConfig,
        *, exclude_anew: bool,
    ) -> None:  # fmt: skip
        self._writer, self._state, self._embedder, self._config = writer, state, embedder, config
        self._touched = Touched()
        table = SourceTable(writer.folder, state, self._touched)
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
        self._indexed = self._failed = self._done = self._encoded = self._own = 0
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
            none = np.empty((0, self._embedder.spec.dim), np.float32)
            self._journal(UnitResult(items=(), embeddings=none, lines=tuple(notes)))
        self._writer.publish(self._plan.gone, merge=True)

    def _encode(self, units: Iterator[Unit]) -> Iterator[Progress]:
        from indexer.work import Step, Work

        work = Work(units, self._writer.folder, self._state, self._embedder, self._config, self._touched)
        try:
            with closing(iter(work)) as outputs:
                for output in outputs:
                    if isinstance(output, Step):
                        yield self._progress(output.path, output.files)
                    else:
                        self._journal(output)
        finally:
            self._encoded, self._own = work.encoded, work.own

    def _progress(self, path: str, done: int) -> Progress:
        self._done += done
        return Progress(done=self._done, total=max(self._done, self._plan.changed), failed=self._failed, path=path)

    def _journal(self, result: UnitResult) -> None:
        self._writer.journal(result)
        self._indexed += sum(line.media for line in result.lines)
        self._failed += sum(len(line.failures) for line in result.lines)
        now = time.monotonic()
        patience = COMMIT_SECONDS
        if self._config.eager:
            # Ever longer apart, so that they are few however long the run is.
            patience = min(COMMIT_SECONDS, max(EAGER_SECONDS, (now - self._began) / 4))
        waited = now - self._published_at
        if self._writer.pending >= COMMIT_ROWS or (self._writer.pending and waited > patience):
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
            encoded=self._encoded,
            seconds=time.monotonic() - self._began,
            touched=self._touched,
            notices=(*self._writer.notices, *hint_of(self._plan.skipped), *self._left_out()),
            links=bool(self._plan.links),
            skipped=dict(self._plan.skipped.most_common()),
        )

    def _left_out(self) -> list[str]:
        return [f"{self._own} new file(s) left out: mmsearch itself wrote them"] if self._own else []


def has_media(paths: Sequence[str], how: WalkConfig | None = None) -> bool:
    """Whether there is anything to index below some paths."""
    return any(isinstance(entry, Source) for entry in walk(paths, how or WalkConfig()))


def searchable(manifest: Manifest) -> int:
    """How many rows a search may return."""
    return sum(shard.alive for shard in manifest.shards)


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


def _shown(paths: Sequence[str]) -> str:
    return ", ".join(map(printable, paths))

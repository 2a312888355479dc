"""What a node of a cluster does: units to their results, by the same `Work` that a build on one machine does them with.

A `NodeWorker` lives in a process of its own, on whatever node Ray puts it. What goes in and out are plain values.
"""

from __future__ import annotations

import platform
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from indexer.config import BuildConfig
from indexer.copies import Copies
from indexer.encode import Embedder
from indexer.plan import Unit
from indexer.work import Step, Work
from media import storage
from media.types import CONTAINERS
from retrieval.errors import MmsearchError
from retrieval.store.journal import UnitResult
from retrieval.store.manifest import Manifest
from retrieval.store.source_keys import Touched

# A container is answered for after so many slices at most, so that what a worker takes with it when it dies has a bound.
SLICES_A_REPLY = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every worker of a build is told: the `embedder`, the `state` of the index at `folder` that the run began with, how
    to build, and the `paths` that it has to see."""

    embedder: Embedder
    folder: Path
    state: Manifest
    config: BuildConfig
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Greeting:
    """What a worker that is ready says of itself; `problem` is why it cannot work, in one line."""

    host: str
    version: str
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came of some units: `results` to be made durable, and `files` of the plan that are done, `path` the last of them.
    `rest` is a container whose next slices are to be asked for. `encoded` and `own` are counted as `Work` counts them."""

    results: tuple[UnitResult, ...]
    files: int
    path: str
    encoded: int
    own: int
    rest: Unit | None = None


@dataclass
class _Open:
    """Units that are being done; of a container, all is answered for up to before the slice that `rest` begins with, with what
    was counted until then."""

    rest: Unit
    work: Work
    outputs: Generator[UnitResult | Step, None, None]
    encoded: int = 0
    own: int = 0


class NodeWorker:
    """One process that encodes, with `threads` to decode. One call at a time, the first is `greet`."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._open: _Open | None = None
        self._copies: Copies | None = None
        self._job: Job

    def greet(self, job: Job) -> Greeting:
        """Take the job, load its model, and look whether this node has what is needed."""
        self._job = replace(job, config=replace(job.config, workers=job.config.workers or self._threads))
        problem = None
        try:
            self._prepare()
        except MmsearchError as error:
            problem = str(error)
        return Greeting(host=socket.gethostname(), version=version_here(), problem=problem)

    def _prepare(self) -> None:
        job = self._job
        for path in job.paths:
            if not storage.exists(path):
                raise MmsearchError(f"{path} is not there; every node has to see the files at the same path")
        job.embedder.warm()
        # Where the index itself is out of sight, what it holds already is encoded once more, with the same result.
        if all((job.folder / entry.file).is_file() for entry in job.state.files()):
            self._copies = Copies.of(job.folder, job.state, Touched())

    def encode(self, units: Sequence[Unit]) -> Reply:
        """Do some units, or the next slices of one container."""
        first = units[0]
        if first.sources[0].kind in CONTAINERS:
            return self._slices(first)
        work = self._work(units)
        with closing(iter(work)) as outputs:
            return _reply(_Open(first, work, outputs), list(outputs))

    def _work(self, units: Sequence[Unit]) -> Work:
        return Work(iter(units), self._job.state.roots, self._job.embedder, self._job.config, self._copies)

    def _slices(self, unit: Unit) -> Reply:
        opened, self._open = self._open, None
        if opened is not None and opened.rest != unit:
            opened.outputs.close()
            opened = None
        if opened is None:
            work = self._work([unit])
            opened = _Open(unit, work, iter(work))
        outputs: list[UnitResult | Step] = []
        results = 0
        for output in opened.outputs:
            outputs.append(output)
            results += isinstance(output, UnitResult)
            if isinstance(output, UnitResult) and not output.last and results == SLICES_A_REPLY:
                rest = replace(unit, first_slice=(output.slice or 0) + 1)
                self._open = replace(opened, rest=rest, encoded=opened.work.encoded, own=opened.work.own)
                return _reply(opened, outputs, rest)
        return _reply(opened, outputs)


def _reply(opened: _Open, outputs: Sequence[UnitResult | Step], rest: Unit | None = None) -> Reply:
    steps = [output for output in outputs if isinstance(output, Step)]
    return Reply(
        results=tuple(output for output in outputs if isinstance(output, UnitResult)),
        files=sum(step.files for step in steps),
        path=steps[-1].path if steps else "",
        encoded=opened.work.encoded - opened.encoded,
        own=opened.work.own - opened.own,
        rest=rest,
    )


def version_here() -> str:
    """The versions that must be the same everywhere: of mmsearch and of Python."""
    return f"mmsearch {metadata.version('mmsearch')} with Python {platform.python_version()}"


def sources_of(units: Sequence[Unit]) -> Iterator[Unit]:
    """The same work with a unit for each source, so that what harms a worker is alone."""
    for unit in units:
        for source in unit.sources:
            yield Unit(sources=(source,), first_slice=unit.first_slice)

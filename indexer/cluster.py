"""The units of a plan on the nodes of a cluster. Ray places workers, starts dead ones again and carries the values.

The driver, which holds the index, gives each worker a few units at a time and takes results as they come. Whatever a worker
takes with it when it dies is given to another. What kills a worker again and again is tried alone, and then goes in the ledger.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from indexer.config import ClusterConfig
from indexer.encode import source_line
from indexer.node import Greeting, Job, NodeWorker, Reply, sources_of, version_here
from indexer.plan import Unit
from indexer.work import Step
from media.errors import MediaError
from media.types import CONTAINERS
from retrieval.errors import MmsearchError
from retrieval.store.journal import UnitResult

# A worker's share of a node without GPUs, and of one with some; it has the memory of a model, its runtime and pictures at work.
CPUS_A_WORKER = 8
WORKER_MEMORY = 2 * 1024**3
# Calls that wait at a worker, so that it never does; files that a call brings at most, a video counting as several.
CALLS_A_WORKER = 2
FILES_A_CALL = 128
FILES_A_VIDEO = 16
# So often may a worker die of what it was given: together, before each source is tried alone, and then alone.
TRIES_TOGETHER = 2
TRIES_ALONE = 3
# So many files one after the other that no worker can do mean that something else is wrong than the files.
HOPELESS = 20
# Ray's own store of values, on this machine: results pass through it, a few at a time.
STORE_BYTES = 200 * 1024**2
# Seconds until the cluster is looked at again, and without any worker until the run gives up.
LOOK_SECONDS = 10.0
PATIENCE_SECONDS = 600.0
# How often Ray asks a worker that it starts again whether it is ready.
_GREETINGS = 20
_KNOCK_SECONDS = 10.0
_TOKEN_VARIABLES = frozenset(("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
_TOKEN_FILE = Path("~/.ray/auth_token")


@dataclass(frozen=True)
class _Shape:
    """What a worker asks of its node."""

    cpus: int
    gpus: int = 0


@dataclass
class _Batch:
    """Units that go to a worker together, and how often a worker died of them."""

    units: tuple[Unit, ...]
    tries: int = 0

    @property
    def is_single(self) -> bool:
        return len(self.units) == 1 and len(self.units[0].sources) == 1


@dataclass
class _Worker:
    """A process of the cluster: the call that tells when it is ready, None once it is, and the calls that it has."""

    actor: Any
    shape: _Shape
    greeting: Any
    calls: dict[Any, _Batch] = field(default_factory=dict)

    @property
    def has_room(self) -> bool:
        return self.greeting is None and len(self.calls) < CALLS_A_WORKER


class ClusterWork:
    """Does units on a cluster. As `indexer.work.Work`: iterate over it for their results and steps; `began` is when the first
    worker was ready. Raises `MmsearchError` where there is no such cluster, or where a node cannot do the work."""

    def __init__(self, units: Iterator[Unit], config: ClusterConfig, job: Job) -> None:
        self._units, self._config, self._job = units, config, job
        self._again: deque[_Batch] = deque()
        self._workers: list[_Worker] = []
        self._shapes: Counter[_Shape] = Counter()
        self._looked = 0.0
        self._last_answer = time.monotonic()
        self._ended = False
        self._lost = "its nodes have no room for one"
        self._given_up = 0
        self.began: float | None = None
        self.nodes = 0
        self.encoded = 0
        self.own = 0

    def __iter__(self) -> Generator[UnitResult | Step, None, None]:
        with connected(self._config.address) as ray:
            self._ray = ray
            self._told = ray.put(self._job)
            self._last_answer = time.monotonic()
            try:
                while True:
                    self._look()
                    self._give()
                    if not self._again and self._ended and not any(worker.calls for worker in self._workers):
                        return
                    yield from self._take()
            finally:
                for worker in self._workers:
                    ray.kill(worker.actor)

    def _look(self) -> None:
        """Start the workers that the nodes have room for, also those of nodes that came meanwhile."""
        if self._looked and time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        per_node = [shapes_of(node, self._config.device) for node in self._ray.nodes() if node["Alive"]]
        self.nodes = sum(bool(shapes) for shapes in per_node)
        wanted = sum(per_node, Counter[_Shape]())
        if not wanted and not self._workers:
            what = "a GPU" if self._config.device == "cuda" else f"a CPU and {WORKER_MEMORY >> 30} GiB of memory"
            raise MmsearchError(f"no node of the cluster {self._config.address} has {what} for a worker")
        for shape, count in (wanted - self._shapes).items():
            for _ in range(count):
                self._start(shape)
        self._shapes |= wanted

    def _start(self, shape: _Shape) -> None:
        actor = (
            self._ray.remote(NodeWorker)
            .options(
                num_cpus=shape.cpus, num_gpus=shape.gpus, memory=WORKER_MEMORY, max_restarts=-1, max_task_retries=0
            )
            .remote(shape.cpus)
        )
        self._workers.append(_Worker(actor, shape, self._greet(actor)))

    def _greet(self, actor: Any) -> Any:
        """Tell a worker what the job is, and ask whether it is ready. Ray says so again, and nothing else, to a worker that it
        starts again."""
        return actor.greet.options(max_task_retries=_GREETINGS).remote(self._told)

    def _give(self) -> None:
        """Give every worker that is ready what it has room for, first those that have least."""
        for room in range(CALLS_A_WORKER):
            for worker in self._workers:
                if worker.has_room and len(worker.calls) == room:
                    batch = self._again.popleft() if self._again else self._next()
                    if batch is None:
                        return
                    worker.calls[worker.actor.encode.remote(batch.units)] = batch

    def _next(self) -> _Batch | None:
        """The next units of the plan: one container, or some files."""
        units: list[Unit] = []
        files = 0
        while not self._ended and files < FILES_A_CALL:
            unit = next(self._units, None)
            if unit is None:
                self._ended = True
            elif unit.sources[0].kind in CONTAINERS:
                # Alone, so that it can be answered for slice by slice.
                if not units:
                    return _Batch((unit,))
                self._again.append(_Batch((unit,)))
                break
            else:
                units.append(unit)
                files += FILES_A_VIDEO if unit.sources[0].kind in ("video", "sound") else len(unit.sources)
        return _Batch(tuple(units)) if units else None

    def _take(self) -> Iterator[UnitResult | Step]:
        """Wait for a worker to answer, and take what it says."""
        waiting = [worker.greeting for worker in self._workers if worker.greeting is not None]
        waiting += [call for worker in self._workers for call in worker.calls]
        ready, _ = self._ray.wait(waiting, timeout=1.0) if waiting else ([], [])
        for worker in list(self._workers):
            if worker.greeting in ready:
                self._meet(worker)
            elif any(call in ready for call in worker.calls):
                yield from self._answers(worker)
        if any(worker.greeting is None for worker in self._workers):
            self._last_answer = time.monotonic()
        elif time.monotonic() - self._last_answer > PATIENCE_SECONDS or (not self._workers and self.began is None):
            raise MmsearchError(
                f"no worker of the cluster {self._config.address} is ready: {self._lost}; what was done is kept, run the same "
                "command to go on"
            )

    def _meet(self, worker: _Worker) -> None:
        """Hear whether a worker is ready."""
        try:
            greeting: Greeting = self._ray.get(worker.greeting)
        except self._ray.exceptions.RayTaskError as error:
            raise MmsearchError(
                f"a node cannot run mmsearch: {_in_short(error)}; install {version_here()} on every node"
            ) from error
        except self._ray.exceptions.RayError as error:
            # Another is started in its place when the cluster is looked at next.
            self._workers.remove(worker)
            self._shapes[worker.shape] -= 1
            self._ray.kill(worker.actor)
            self._lost = _in_short(error)
            return
        if greeting.version != version_here():
            raise MmsearchError(
                f"node {greeting.host} has {greeting.version}, this machine {version_here()}; "
                "install the same on all of them"
            )
        if greeting.problem is not None:
            raise MmsearchError(f"node {greeting.host}: {greeting.problem}")
        worker.greeting = None
        self.began = self.began or time.monotonic()

    def _answers(self, worker: _Worker) -> Iterator[UnitResult | Step]:
        """Take what a worker has done. Calls are done in order: where it died, it died of the first that has no answer, and
        those behind that were not begun."""
        died = False
        for call, batch in list(worker.calls.items()):
            if not died and not self._ray.wait([call], timeout=0)[0]:
                return
            del worker.calls[call]
            try:
                reply: Reply = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                if died:
                    self._again.append(batch)
                    continue
                cause = getattr(error, "cause", None)
                if isinstance(cause, MmsearchError) and not isinstance(cause, MediaError):
                    # No fault of a file, as when the index cannot be read on a node.
                    raise MmsearchError(f"a node of the cluster: {cause}") from error
                yield from self._failed(batch, _in_short(error))
                if not isinstance(error, self._ray.exceptions.RayTaskError):
                    died = True
                    worker.greeting = self._greet(worker.actor)
                continue
            yield from self._done(worker, reply)

    def _done(self, worker: _Worker, reply: Reply) -> Iterator[UnitResult | Step]:
        self._given_up = 0
        self.encoded += reply.encoded
        self.own += reply.own
        if reply.rest is not None:
            # The worker that has it open goes on with it, unless it died meanwhile.
            rest = _Batch((reply.rest,))
            if worker.has_room:
                worker.calls[worker.actor.encode.remote(rest.units)] = rest
            else:
                self._again.appendleft(rest)
        yield from reply.results
        yield Step(path=reply.path, files=reply.files, nodes=self.nodes)

    def _failed(self, batch: _Batch, reason: str) -> Iterator[UnitResult | Step]:
        """Units of which a worker died are tried again, then each of their sources alone; what is left goes in the ledger."""
        batch.tries += 1
        if not batch.is_single:
            if batch.tries < TRIES_TOGETHER:
                self._again.append(batch)
            else:
                self._again.extend(_Batch((unit,)) for unit in sources_of(batch.units))
        elif batch.tries < TRIES_ALONE:
            self._again.append(batch)
        else:
            self._given_up += 1
            if self._given_up >= HOPELESS:
                raise MmsearchError(
                    f"{HOPELESS} files one after the other failed on every worker, the last one so: {reason}; try them without "
                    "--cluster to see more"
                )
            unit = batch.units[0]
            source = unit.sources[0]
            error = MediaError("encode", f"{TRIES_ALONE} workers failed at it, the last one so: {reason}")
            line = source_line(self._job.state.roots, source, [(source.path, error)])
            none = np.empty((0, self._job.embedder.spec.dim), np.float32)
            # Of a container, the slices before stay as they are.
            yield UnitResult(items=(), embeddings=none, lines=(line,), slice=unit.first_slice)
            yield Step(path=source.path, nodes=self.nodes)


def shapes_of(node: Mapping[str, Any], device: str) -> Counter[_Shape]:
    """How many workers of which shape a node of Ray's list has room for: one for each GPU, else by its CPUs and memory."""
    resources = node["Resources"]
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    room = int(resources.get("memory", 0)) // WORKER_MEMORY
    if gpus and device != "cpu":
        count = min(gpus, cpus, room)
        return Counter({_Shape(min(CPUS_A_WORKER, cpus // count), 1): count}) if count else Counter()
    count = min(max(1, round(cpus / CPUS_A_WORKER)), cpus, room) if device != "cuda" else 0
    return Counter({_Shape(cpus // count): count}) if count else Counter()


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, or to one of its own on this machine that ends with it. Raises `MmsearchError`."""
    # Ray tells its makers of its use unless this says otherwise before it is loaded.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address != "local" and (_TOKEN_VARIABLES & os.environ.keys() or _TOKEN_FILE.expanduser().is_file()):
        # A head asks for the token that Ray keeps here, and a driver shows it only where it is told to.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MmsearchError("a cluster needs Ray; install it with: pip install 'ray[client]'") from error
    with contextlib.ExitStack() as stack:
        try:
            if address == "local":
                # Short, since sockets lie in it.
                folder = tempfile.mkdtemp(prefix="mmsearch")
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                stack.callback(ray.shutdown)
                ray.init(
                    address="local",
                    num_cpus=os.cpu_count(),
                    object_store_memory=STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _temp_dir=folder,
                )
            else:
                # Ray would try for half a minute where nobody listens.
                place = urlsplit(address)
                socket.create_connection((place.hostname or "", place.port or 0), _KNOCK_SECONDS).close()
                stack.callback(ray.shutdown)
                with warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Ray Client", UserWarning)
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError) as error:
            raise MmsearchError(
                f"no connection to the cluster {address}: {_in_short(error)}; its head is started with: "
                "ray start --head --ray-client-server-port PORT, and has the same ~/.ray/auth_token as this machine"
            ) from error
        yield ray


def _in_short(error: BaseException) -> str:
    """The line of an error of Ray's that says what happened; a traceback of another process ends with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) or "ray::" in lines[0] else 0][:300]

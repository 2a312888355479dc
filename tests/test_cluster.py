"""Units on a cluster: the same index as on one machine, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import indexer.cluster
import indexer.node
import indexer.work
from benchmarks.samples import copy_samples
from indexer.build import IndexBuild
from indexer.cluster import shapes_of
from indexer.config import BuildConfig, BuildReport, ClusterConfig, cluster_config
from indexer.copies import Copies
from indexer.node import Job, NodeWorker
from indexer.plan import Unit
from indexer.work import Work
from media.walk import walk
from retrieval.errors import IndexLockedError, MmsearchError, UsageError
from retrieval.models.encoder import Encoder
from retrieval.results import Failure
from retrieval.store.journal import UnitResult
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import Manifest, read_manifest
from retrieval.store.roots import Roots
from retrieval.store.source_keys import Touched
from retrieval.store.writer import IndexWriter
from tests.clusters import (
    FILES_A_CALL,
    HopelessEncoder,
    LoggedEncoder,
    PoisonedEncoder,
    end_agents,
    kill,
    make_small,
    marked,
    processes,
    times_encoded,
    workers_below,
)
from tests.conftest import ROOT, Command, write_photos
from tests.libraries import Library, Row, rows_of, write_moving, write_tar
from tests.stores import PlainEncoder
from tests.test_kill import check_whole

SLOW = pytest.mark.timeout(300)


pytestmark = pytest.mark.usefixtures("ray_token")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPUS_A_WORKER", "WORKER_MEMORY", "STORE_BYTES", "FILES_A_CALL"):
        monkeypatch.setattr(indexer.cluster, name, getattr(indexer.cluster, name))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    make_small()


def build(index: Path, roots: Sequence[Path], encoder: PlainEncoder, address: str | None = "local") -> BuildReport:
    cluster = ClusterConfig(address=address) if address is not None else None
    run = IndexBuild(roots, index, encoder, BuildConfig(batch_size=4, workers=2, cluster=cluster))
    for _ in run:
        pass
    assert run.report is not None
    return run.report


def assert_same(rows: Sequence[Row], wanted: Sequence[Row]) -> None:
    """The same ids, paths, texts and sources, and the same embeddings to half precision."""
    assert [row[:5] for row in rows] == [row[:5] for row in wanted]
    assert np.allclose([row[5] for row in rows], [row[5] for row in wanted], atol=2e-3)


def failures_of(index: Path) -> list[Failure]:
    return sorted(read_failures(index, read_manifest(index)), key=lambda failure: (failure.path, failure.reason))


@contextmanager
def killing_workers(seed: int) -> Iterator[list[int]]:
    """Kill a worker of this process now and then; gives those that were killed."""
    stop, killed, chance = threading.Event(), [], random.Random(seed)

    def run() -> None:
        while not stop.wait(chance.uniform(3.0, 6.0)):
            if workers := workers_below(os.getpid()):
                killed.append(chance.choice(workers))
                kill(killed[-1])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        stop.set()
        thread.join()


@SLOW
def test_the_index_is_that_of_a_local_run_although_workers_are_killed(tmp_path: Path, small: None) -> None:
    library = Library(tmp_path, seed=5)
    for root in library.roots:
        write_photos(root / "more", 60)
        write_moving(root / "moving.gif", [1, 60, 90])
        (root / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    log = tmp_path / "encoded"
    with killing_workers(seed=2) as killed:
        report = build(tmp_path / "cluster", library.roots, LoggedEncoder(str(log), seconds=0.25))
    assert len(killed) >= 2, "nothing was killed, so nothing was tested"
    wanted = build(tmp_path / "local", library.roots, PlainEncoder(), None)
    assert_same(check_whole(tmp_path / "cluster"), check_whole(tmp_path / "local"))
    assert (report.indexed, report.failed, report.items, report.encoded) == (
        wanted.indexed, wanted.failed, wanted.items, wanted.encoded
    )  # fmt: skip
    assert failures_of(tmp_path / "cluster") == failures_of(tmp_path / "local")
    again = sum(times_encoded(log).values()) - wanted.encoded
    in_flight = indexer.cluster.CALLS_A_WORKER * FILES_A_CALL
    assert again <= len(killed) * (in_flight + 300), "a container of up to 256 may be begun again, no more"


@SLOW
def test_a_driver_that_is_killed_and_started_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    media, index, log = tmp_path / "media", tmp_path / "index", tmp_path / "encoded"
    write_photos(media, 150)
    log.touch()
    mark = f"TEST_MARK={uuid.uuid4()}"
    environment = {**os.environ, "ENCODED_LOG": str(log), "TEST_MARK": mark.partition("=")[2]}
    command = [sys.executable, "-m", "tests.killed", "cluster", str(index), str(media)]
    chance, killed = random.Random(4), 0
    for _ in range(2):
        before = len(log.read_text().splitlines())
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        while len(log.read_text().splitlines()) < before + 20 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        assert end_agents(mark) == [], "a cluster of this machine ends with its driver"
        check_whole(index)
    assert killed == 2
    assert 0 < len(times_encoded(log)) < 150
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    assert marked(mark) == [], "a run that ends by itself leaves nothing"
    build(tmp_path / "local", [media], PlainEncoder(), None)
    assert_same(check_whole(index), check_whole(tmp_path / "local"))
    times = times_encoded(log)
    assert len(times) == 150
    workers = os.cpu_count() or 1
    in_flight = killed * workers * indexer.cluster.CALLS_A_WORKER * FILES_A_CALL
    assert sum(times.values()) - 150 <= in_flight, "only what was in flight is encoded again"


@SLOW
def test_what_kills_every_worker_is_in_the_ledger_alone(tmp_path: Path, small: None) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media, 20)
    Image.new("RGB", (64, 48), (255, 0, 0)).save(media / "poison.png")
    write_tar(media / "fine.tar", [40, 41])
    report = build(index, [media], PoisonedEncoder())
    failures = failures_of(index)
    assert [Path(failure.path).name for failure in failures] == ["poison.png"]
    assert failures[0].stage == "encode" and "3 workers failed at it" in failures[0].reason
    assert (report.indexed, report.failed) == (22, 1)
    assert len(check_whole(index)) == 24
    again = build(index, [media], PoisonedEncoder())
    assert (again.indexed, again.unchanged, again.failed, again.encoded) == (0, 22, 1, 0), "it is not tried again"


@SLOW
def test_where_nothing_can_be_encoded_the_run_ends_and_fills_no_ledger(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.cluster, "HOPELESS", 3)
    write_photos(tmp_path / "media", 12)
    with pytest.raises(MmsearchError, match=r"3 files one after the other failed on every worker.*no memory is left"):
        build(tmp_path / "index", [tmp_path / "media"], HopelessEncoder())
    assert len(failures_of(tmp_path / "index")) < 3


@SLOW
def test_the_command_prints_json_alone_and_finds_what_a_local_index_finds(
    tmp_path: Path, mini: Encoder, command: Command
) -> None:
    photos = tmp_path / "photos"
    copy_samples(photos)
    shutil.copytree(photos, tmp_path / "other")
    reports = []
    for folder, more in ((photos, ("--cluster", "local")), (tmp_path / "other", ())):
        done = command(
            "index", str(folder), "--model", "mini", "--device", "cpu", "--precision", "fp32", "--json", *more
        )
        assert done.returncode == 0, done.stderr
        reports.append(json.loads(done.stdout))
    assert reports[0]["indexed"] == reports[1]["indexed"] > 10
    cluster, local = rows_of(photos / ".mmsearch"), rows_of(tmp_path / "other" / ".mmsearch")
    assert [row[1:4] for row in cluster] == [row[1:4] for row in local]
    assert np.allclose([row[5] for row in cluster], [row[5] for row in local], atol=2e-3)
    again = command("index", str(photos), "--cluster", "local", "--json")
    assert json.loads(again.stdout)["indexed"] == 0, "a run with nothing to do starts no cluster"


def test_a_cluster_that_is_not_there_is_said_in_one_line(tmp_path: Path, mini: Encoder, command: Command) -> None:
    write_photos(tmp_path / "photos", 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{taken.getsockname()[1]}"
        done = command("index", str(tmp_path / "photos"), "--model", "mini", "--cluster", address)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert address in line and "ray start --head" in line


def test_an_index_that_another_writes_starts_no_cluster(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2)
    with (
        IndexWriter(tmp_path / "index", PlainEncoder().spec),
        pytest.raises(IndexLockedError, match="being written by"),
    ):
        build(tmp_path / "index", [tmp_path / "photos"], PlainEncoder(), "ray://127.0.0.1:1")


@pytest.mark.parametrize("address", ["", "remote", "ray://", "ray://host", "ray://host:x", "http://host:1"])
def test_an_address_that_makes_no_sense_is_wrong_usage(address: str) -> None:
    with pytest.raises(UsageError, match="cluster must be local or ray://HOST:PORT"):
        cluster_config(address, "auto")


def test_a_device_by_its_number_makes_no_sense_on_a_cluster() -> None:
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        cluster_config("local", "cuda:1")
    assert cluster_config("ray://host:10001", "cuda") == ClusterConfig(address="ray://host:10001", device="cuda")
    assert cluster_config(None, "cuda:1") is None


@pytest.mark.parametrize(
    ("resources", "device", "workers"),
    [
        ({"CPU": 2, "memory": 8 << 30}, "auto", [(2, 0)]),
        ({"CPU": 64, "memory": 256 << 30}, "auto", [(8, 0)] * 8),
        ({"CPU": 64, "memory": 7 << 30}, "auto", [(21, 0)] * 3),
        ({"CPU": 32, "GPU": 4, "memory": 64 << 30}, "auto", [(8, 1)] * 4),
        ({"CPU": 32, "GPU": 4, "memory": 64 << 30}, "cpu", [(8, 0)] * 4),
        ({"CPU": 64, "memory": 64 << 30}, "cuda", []),
        ({"CPU": 1, "memory": 1 << 30}, "auto", []),
        ({"memory": 64 << 30}, "auto", []),
    ],
)
def test_workers_follow_what_a_node_has(resources: dict[str, float], device: str, workers: list[Any]) -> None:
    shapes = shapes_of({"Resources": resources}, device)
    assert [(shape.cpus, shape.gpus) for shape in shapes.elements()] == workers


@pytest.mark.parametrize("dies_after", [None, 1, 2])
def test_a_container_is_answered_for_a_few_slices_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int | None
) -> None:
    monkeypatch.setattr(indexer.work, "SLICE", 6)
    monkeypatch.setattr(indexer.node, "SLICES_A_REPLY", 2)
    write_tar(tmp_path / "big.tar", list(range(40)))
    (source,) = walk([str(tmp_path / "big.tar")])
    unit = Unit(sources=(source,), first_slice=0)  # type: ignore[arg-type]
    encoder = PlainEncoder()
    state = Manifest(model=encoder.spec, roots=Roots(written=(str(tmp_path),), paths=(str(tmp_path),)))
    whole = [
        r for r in Work(iter([unit]), state.roots, PlainEncoder(), BuildConfig(), None) if isinstance(r, UnitResult)
    ]
    job = Job(embedder=encoder, folder=tmp_path / "index", state=state, config=BuildConfig(), paths=(str(tmp_path),))
    worker = NodeWorker(2)
    assert worker.greet(job).problem is None
    results: list[UnitResult] = []
    rest: Unit | None = unit
    counted = replies = files = 0
    while rest is not None:
        if replies == dies_after:
            worker = NodeWorker(2)
            worker.greet(job)
        reply = worker.encode([rest])
        assert len(reply.results) <= 2
        results += reply.results
        rest, counted, files, replies = reply.rest, counted + reply.encoded, files + reply.files, replies + 1
    assert (counted, files, replies) == (40, 1, 4)
    assert [(r.slice, r.last, [i.id for i in r.items]) for r in results] == [
        (r.slice, r.last, [i.id for i in r.items]) for r in whole
    ]
    assert encoder.encoded <= 40 + (12 if dies_after else 0) + 64, (
        "what was read ahead, and no more, is lost with a worker"
    )


def test_a_worker_takes_what_the_index_holds_where_it_sees_the_index(tmp_path: Path) -> None:
    files = write_photos(tmp_path / "photos", 3)
    index = tmp_path / "photos" / ".mmsearch"
    build(index, [tmp_path / "photos"], PlainEncoder(), None)
    with IndexWriter(index) as writer:
        state = writer.manifest
    for number, file in enumerate(files):
        file.rename(file.with_name(f"renamed{number}.jpg"))
    units = [Unit(sources=(source,)) for source in walk([str(tmp_path / "photos")])]  # type: ignore[arg-type]
    for folder, encoded in ((index, 0), (tmp_path / "elsewhere", 3)):
        worker = NodeWorker(1)
        config = BuildConfig()
        worker.greet(Job(embedder=PlainEncoder(), folder=folder, state=state, config=config, paths=()))
        reply = worker.encode(units)
        assert (reply.encoded, len(reply.results), reply.files) == (encoded, 3, 3)
    assert Copies.of(index, state, Touched()).may_hold_image(reply.results[0].items[0].sha256 or "")


def test_a_node_says_what_it_does_not_see_and_which_model_it_lacks(tmp_path: Path, mini: Encoder) -> None:
    state = Manifest(model=mini.spec, roots=Roots())
    for embedder, paths, problem in (
        (PlainEncoder(), ("/no/such/mount",), "/no/such/mount is not there"),
        (Encoder("ViT-B-32/openai", mini.spec, "cpu", "fp32"), (), "fetch it with: mmsearch models pull"),
    ):
        job = Job(embedder=embedder, folder=tmp_path, state=state, config=BuildConfig(), paths=paths)
        assert problem in (NodeWorker(1).greet(job).problem or "")


def free_ports(count: int) -> list[str]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [str(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


# Ray gives up on the process that serves a client after half a minute, which a busy machine may need.
_PATIENT = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "120"}


@contextmanager
def node(mark: str, *arguments: str, home: str = str(ROOT)) -> Iterator[None]:
    """A node of Ray with one CPU, whose processes have `mark` in their environment and all end with this."""
    bounds = ["--num-cpus", "1", "--memory", str(1 << 30), "--object-store-memory", str(100 << 20)]
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), "start", *arguments, *bounds, "--disable-usage-stats", "--block"],
        env={**os.environ, "PYTHONPATH": home, "TEST_MARK": mark, **_PATIENT},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        while marked(mark):
            for pid in marked(mark):
                kill(pid)
            # One that is killed is there until it is waited for.
            process.poll()
            time.sleep(0.1)
        process.wait()


@contextmanager
def head(home: str = str(ROOT)) -> Iterator[tuple[str, str]]:
    """The head of a cluster: where nodes join, and where a driver connects."""
    port, client = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        more = ["--head", "--port", port, "--ray-client-server-port", client, "--temp-dir", folder]
        with node(str(uuid.uuid4()), *more, "--include-dashboard=false", home=home):
            for place in (port, client):
                wait_for(place)
            yield f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}"


def wait_for(port: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(port)), 1).close()
        except OSError:
            assert time.monotonic() < until, "Ray does not start"
            time.sleep(0.2)
        else:
            return


@SLOW
def test_a_node_that_is_lost_costs_no_file(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer.cluster, "LOOK_SECONDS", 0.5)
    media, index, log = tmp_path / "media", tmp_path / "index", tmp_path / "encoded"
    write_photos(media, 120)
    log.touch()
    mark, lost = str(uuid.uuid4()), 0
    with head() as (address, driver), node(mark, "--address", address):
        cluster = ClusterConfig(address=driver)
        encoder = LoggedEncoder(str(log), seconds=0.2)
        for step in IndexBuild([media], index, encoder, BuildConfig(batch_size=4, workers=2, cluster=cluster)):
            if step.done >= 24 and not lost:
                assert step.nodes == 2
                lost = sum(process.startswith("ray::NodeWorker") for process in processes(mark).values())
                for pid in marked(mark):
                    kill(pid)
    assert lost == 1, "a worker was lost with its node"
    build(tmp_path / "local", [media], PlainEncoder(), None)
    assert_same(check_whole(index), rows_of(tmp_path / "local"))
    assert sum(times_encoded(log).values()) <= 120 + indexer.cluster.CALLS_A_WORKER * FILES_A_CALL


@SLOW
def test_another_version_on_a_node_is_said_in_one_line(tmp_path: Path, small: None) -> None:
    write_photos(tmp_path / "photos", 2)
    other = tmp_path / "other" / "mmsearch-99.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: mmsearch\nVersion: 99.0\n")
    with head(f"{other.parent}{os.pathsep}{ROOT}") as (_, driver), pytest.raises(MmsearchError) as caught:
        build(tmp_path / "index", [tmp_path / "photos"], PlainEncoder(), driver)
    (line,) = str(caught.value).splitlines()
    assert "has mmsearch 99.0" in line and "install the same on all of them" in line

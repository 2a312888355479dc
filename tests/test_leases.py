"""Leases: a reader's files stay for as long as it reads, and no longer."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from retrieval.engine import Engine
from retrieval.errors import MmsearchError
from retrieval.store import leases as module
from retrieval.store.leases import open_state
from retrieval.store.manifest import Manifest, read_manifest
from retrieval.store.shards import ShardReader
from retrieval.store.writer import IndexWriter
from tests.stores import items, make_index, result, spec, unit_rows


def add(writer: IndexWriter, number: int) -> Manifest:
    writer.journal(result(writer, items(3, start=100 + 3 * number), unit_rows(3, seed=number)))
    return writer.publish()


def test_a_reader_that_is_always_there_keeps_its_own_state_and_no_other(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 20)])
    lease = open_state(tmp_path)
    own = {entry.file for entry in lease.manifest.files()}
    with IndexWriter(tmp_path) as writer:
        states = [writer.compact() for _ in range(4)]
    parts = ("shards", "vectors", "sources", "copies")
    here = {f"{part}/{file.name}" for part in parts for file in (tmp_path / part).iterdir()}
    here = {name for name in here if not name.endswith((".keys", ".words", ".facts"))}
    assert here == own | {entry.file for entry in states[-1].files()}
    assert len(list((tmp_path / "leases").iterdir())) == 2
    found = ShardReader(tmp_path, lease.manifest).items(np.array([0]), np.array([3]))
    assert found[0].id == "image-3"
    lease.close()
    with IndexWriter(tmp_path):
        assert not any((tmp_path / name).exists() for name in own)
    assert len(list((tmp_path / "leases").iterdir())) == 1


def test_two_readers_of_one_state_hold_it_until_the_last_is_gone(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 5)])
    one, other = open_state(tmp_path), open_state(tmp_path)
    old = one.manifest.shards[0].file
    with IndexWriter(tmp_path) as writer:
        writer.compact()
    one.close()
    with IndexWriter(tmp_path):
        assert (tmp_path / old).exists()
    other.close()
    with IndexWriter(tmp_path):
        assert not (tmp_path / old).exists()


def test_a_reader_that_opens_during_a_sweep_gets_a_state_that_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the manifest and taking its lease, the writer publishes and sweeps."""
    make_index(tmp_path, [("image", 5)])
    real = read_manifest
    moves = [0]

    def interrupted(folder: Path) -> Manifest:
        state = real(folder)
        if moves[0] < 3:
            moves[0] += 1
            monkeypatch.setattr(module, "read_manifest", real)
            with IndexWriter(tmp_path) as writer:
                writer.compact()
            monkeypatch.setattr(module, "read_manifest", interrupted)
        return state

    monkeypatch.setattr(module, "read_manifest", interrupted)
    lease = open_state(tmp_path)
    assert lease.manifest.generation == real(tmp_path).generation
    with IndexWriter(tmp_path) as writer:
        add(writer, 9)
    assert all((tmp_path / entry.file).exists() for entry in lease.manifest.files())
    lease.close()


def test_readers_and_a_writer_at_once_never_miss_a_file(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 30)])
    errors: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                lease = open_state(tmp_path)
                reader = ShardReader(tmp_path, lease.manifest)
                assert len(reader.items(*reader.living())) >= 30
                lease.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    with IndexWriter(tmp_path) as writer:
        for number in range(25):
            add(writer, number) if number % 2 else writer.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert not errors


def test_an_index_on_read_only_media_opens_without_a_lease(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 5)])
    for file in (tmp_path / "leases").iterdir():
        file.unlink()
    lease = open_state(tmp_path)
    assert lease.manifest == read_manifest(tmp_path)
    lease.close()


def test_an_index_that_is_never_still_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_index(tmp_path, [("image", 5)])
    state = read_manifest(tmp_path)
    numbers = iter(range(10_000))

    def restless(_: Path) -> Manifest:
        from dataclasses import replace

        return replace(state, generation=next(numbers) + 10)

    monkeypatch.setattr(module, "read_manifest", restless)
    with pytest.raises(MmsearchError, match="changes faster"):
        open_state(tmp_path)


def test_an_engine_that_failed_to_open_holds_no_lease(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 5)])
    with pytest.raises(MmsearchError):
        Engine.open(tmp_path, device="nonsense")
    with IndexWriter(tmp_path, spec()) as writer:
        writer.compact()
    assert [file.name for file in (tmp_path / "leases").iterdir()] == [str(read_manifest(tmp_path).generation)]
    assert os.listdir(tmp_path / "journal") == []

"""A writer killed at random moments: the index always opens, and in the end nothing is lost or doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import indexer.build
from retrieval.store.leases import open_state
from retrieval.store.manifest import read_manifest
from retrieval.store.selection import Selections
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex
from retrieval.types import Filter
from tests.conftest import ROOT
from tests.libraries import Library, Row, rows_of, run, write_moving

# 200 rounds take some minutes: MMSEARCH_KILL_ROUNDS=200 python -m pytest tests/test_kill.py
ROUNDS = int(os.environ.get("MMSEARCH_KILL_ROUNDS", "40"))


def check_whole(index: Path) -> list[Row]:
    """Open the index as a reader would: every row is there once, and the vectors are those of the rows."""
    if not (index / "manifest.json").exists():
        return []
    rows = rows_of(index)
    ids = [row[2] for row in rows]
    assert len(set(ids)) == len(ids)
    lease = open_state(index)
    reader, vectors = ShardReader(index, lease.manifest), VectorIndex(index, lease.manifest)
    selections = Selections(lease.manifest)
    shards, places = reader.living()
    for number in range(0, len(places), 29):
        query = reader.embeddings(shards[[number]], places[[number]])[0].astype(np.float32)
        kind = lease.manifest.shards[shards[number]].kind
        scores, _, _ = vectors.search(query / np.linalg.norm(query), 1, selections.select(Filter(kinds=(kind,))))
        assert scores[0] == pytest.approx(1, abs=2e-3)
    lease.close()
    return rows


def test_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(11)
    library = Library(tmp_path, seed=3)
    for root in library.roots:
        for number in range(3):
            write_moving(root / f"moving{number}.gif", [number, 50 + number, 100 + number])
        for _ in range(40):
            library.edit()
    index = library.roots[0] / ".mmsearch"
    killed, before = 0, [] if ROUNDS else rows_of(index)
    for _ in range(ROUNDS):
        act = ["index", str(index), *map(str, chance.choice([library.roots, library.roots[:1], library.roots[1:]]))]
        if before and chance.random() < 0.15:
            act = ["compact", str(index)]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed", *act], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(chance.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += process.returncode == -signal.SIGKILL
        process.stdout.close()
        after = check_whole(index)
        had, has = {row[4] for row in before}, {row[4] for row in after}
        lost = [source for source in had - has if os.path.exists(source) and not source.endswith((".tar", ".parquet"))]
        assert not lost, "a file that is there has no rows any more"
        before = after
        for _ in range(8):
            library.edit()
    assert killed >= ROUNDS * 2 // 3
    monkeypatch.setattr(indexer.build, "SLICE", 6)
    run(index, *library.roots)
    run(tmp_path / "fresh", *library.roots)
    kept, fresh = check_whole(index), check_whole(tmp_path / "fresh")
    assert [(*row[:2], *row[3:5]) for row in kept] == [(*row[:2], *row[3:5]) for row in fresh]
    assert np.allclose([row[5] for row in kept], [row[5] for row in fresh], atol=2e-3)
    assert read_manifest(index).counts == read_manifest(tmp_path / "fresh").counts

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
from indexer.build import IndexBuild
from indexer.config import BuildConfig
from retrieval.store.facts import Facts
from retrieval.store.leases import open_state
from retrieval.store.manifest import read_manifest
from retrieval.store.selection import Selections
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from retrieval.types import Filter
from tests.conftest import ROOT, write_photos
from tests.libraries import Library, Row, rows_of, run, write_moving, write_tar
from tests.stores import PlainEncoder

# 200 rounds take some minutes: MMSEARCH_KILL_ROUNDS=200 python -m pytest tests/test_kill.py
ROUNDS = int(os.environ.get("MMSEARCH_KILL_ROUNDS", "25"))


def check_whole(index: Path) -> list[Row]:
    """Open the index as a reader would: every row is there once, and the vectors are those of the rows."""
    if not (index / "manifest.json").exists():
        return []
    rows = rows_of(index)
    ids = [row[2] for row in rows]
    assert len(set(ids)) == len(ids)
    lease = open_state(index)
    reader, vectors = ShardReader(index, lease.manifest), VectorIndex(index, lease.manifest)
    selections = Selections(lease.manifest, Facts(lease.manifest, reader))
    shards, places = reader.living()
    for number in range(0, len(places), 29):
        query = reader.embeddings(shards[[number]], places[[number]])[0].astype(np.float32)
        kind = lease.manifest.shards[shards[number]].kind
        scores, _, _ = vectors.search(query / np.linalg.norm(query), 1, selections.select(Filter(kinds=(kind,))))
        assert scores[0] == pytest.approx(1, abs=2e-3)
    lease.close()
    return rows


def has_content(source: str) -> bool:
    """Whether a file must have rows: it is there, and no container that may be empty now, or name images that are gone."""
    if source.endswith(".csv") and os.path.exists(source):
        lines = Path(source).read_text().splitlines()[1:]
        return any((Path(source).parent / line.split(",")[0]).exists() for line in lines)
    return os.path.exists(source) and not source.endswith((".tar", ".parquet"))


def killed_after(steps: int, index: Path, *roots: Path) -> None:
    """A build that ends without a word after so many steps."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", "index", str(index), *map(str, roots)],
        cwd=ROOT, env={**os.environ, "KILLED_AFTER": str(steps)}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr.decode()


def test_a_tar_that_was_half_read_is_finished_although_another_root_was_indexed_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, index = tmp_path / "first", tmp_path / "second", tmp_path / "index"
    first.mkdir()
    write_tar(first / "big.tar", list(range(30)))
    write_photos(second, 3)
    killed_after(40, index, first)
    run(index, second)
    partly = {row[0] for row in check_whole(index) if row[1].startswith("image") and "::" in row[0]}
    assert 6 <= len(partly) < 30, "the slices that were whole are there, and searchable"
    monkeypatch.setattr(indexer.work, "SLICE", 6)
    encoder = PlainEncoder()
    report = run(index, first, encoder=encoder)
    assert len({row[0] for row in check_whole(index) if "::" in row[0]}) == 30
    assert encoder.encoded == 30 - len(partly), "no member is encoded twice"
    assert report.items == 30 + 30 + 3


def test_a_changed_tar_keeps_its_old_rows_until_the_new_ones_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.work, "SLICE", 6)
    media, index = tmp_path / "media", tmp_path / "index"
    media.mkdir()
    write_tar(media / "big.tar", list(range(30)))
    run(index, media)
    write_tar(media / "big.tar", list(range(20, 60)))
    before = check_whole(index)
    killed_after(40, index, media)
    with IndexWriter(index) as writer:
        writer.publish()
        assert writer.waiting()
    assert check_whole(index) == before
    with IndexWriter(index) as writer:
        writer.compact()
    assert [row[0] for row in check_whole(index)] == [row[0] for row in before]
    report = run(index, media)
    assert report.items == 80
    assert {row[3] for row in check_whole(index) if row[1].startswith("text")} == {f"member {n}" for n in range(20, 60)}


def test_a_container_that_is_gone_leaves_nothing_of_what_was_read_of_it(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media, 2)
    write_tar(media / "big.tar", list(range(30)))
    run(index, media)
    write_tar(media / "big.tar", list(range(20, 60)))
    killed_after(40, index, media)
    (media / "big.tar").unlink()
    report = run(index, media)
    assert (report.items, report.removed) == (2, 30)
    with IndexWriter(index) as writer:
        assert (writer.waiting(), writer.pending) == ({}, 0)


def test_compacting_after_a_kill_doubles_no_row(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    files = write_photos(media, 12)
    run(index, media)
    for file in files:
        os.utime(file)
    killed_after(9, index, media)
    with IndexWriter(index) as writer:
        assert writer.pending
        writer.compact()
    assert len(check_whole(index)) == 12
    run(index, media)
    assert len(check_whole(index)) == 12


@pytest.mark.parametrize("signal_or_kill", ["interrupt", "kill"])
def test_videos_that_wait_to_be_read_again_stay_where_they_are(tmp_path: Path, signal_or_kill: str) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    media.mkdir()
    for number in range(12):
        write_moving(media / f"moving{number:02d}.gif", [number, 40 + number])
    run(index, media)
    before = {row[0] for row in check_whole(index)}
    for file in media.iterdir():
        file.write_bytes(file.read_bytes() + b"\0")
    if signal_or_kill == "kill":
        killed_after(8, index, media)
    else:
        build = IndexBuild([media], index, PlainEncoder(), BuildConfig(batch_size=2))
        with pytest.raises(KeyboardInterrupt):
            for step, _ in enumerate(build):
                if step == 8:
                    raise KeyboardInterrupt
    assert {row[0] for row in check_whole(index)} == before
    assert run(index, media).items == len(check_whole(index))
    assert {row[0] for row in check_whole(index)} == before


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
        lost = [source for source in had - has if has_content(source)]
        assert not lost, "a file that is there has no rows any more"
        before = after
        for _ in range(8):
            library.edit()
    assert killed >= ROUNDS * 2 // 3
    monkeypatch.setattr(indexer.work, "SLICE", 6)
    run(index, *library.roots)
    run(tmp_path / "fresh", *library.roots)
    kept, fresh = check_whole(index), check_whole(tmp_path / "fresh")
    assert [(*row[:2], *row[3:5]) for row in kept] == [(*row[:2], *row[3:5]) for row in fresh]
    assert np.allclose([row[5] for row in kept], [row[5] for row in fresh], atol=2e-3)
    assert read_manifest(index).counts == read_manifest(tmp_path / "fresh").counts

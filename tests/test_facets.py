"""Facets against counting item by item, with the files of facts beside the shards, without them, and with damaged ones."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from retrieval.results import Facets
from retrieval.state import IndexState
from retrieval.store.facets import count_facets
from retrieval.store.keys import facts_file
from retrieval.store.manifest import VectorPolicy, read_manifest
from retrieval.store.shard_facts import ShardFacts
from retrieval.store.writer import IndexWriter
from retrieval.types import Filter
from tests.test_filters import Library

FILTERS = [
    Filter(),
    Filter(kinds=("image",)),
    Filter(kinds=("video",)),
    Filter(kinds=("text",)),
    Filter(after=datetime(2022, 6, 1)),
    Filter(folders=("holiday",)),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("facets"), VectorPolicy(type="flat"))


def facets(folder: Path, wanted: Filter) -> Facets:
    state = IndexState(folder, read_manifest(folder), "cpu")
    return count_facets(state.manifest, state.facts, state.selections.select(wanted), state.videos.numbers)


def counted(library: Library, wanted: Filter) -> Facets:
    """Item by item."""
    years: Counter[str] = Counter()
    months: Counter[str] = Counter()
    folders: Counter[str] = Counter()
    cameras: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    met = set()
    for item in library.items:
        if not library.passes(item, wanted) or (item.kind == "video" and item.source in met):
            continue
        met.add(item.source)
        kinds[item.kind] += 1
        moment = library.moment(item)
        if moment is not None:
            years[f"{moment:%Y}"] += 1
            months[f"{moment:%Y-%m}"] += 1
        parts = item.path.split("/")[3:-1]
        for size in range(1, len(parts) + 1):
            folders["/".join(parts[:size])] += 1
        about = library.by_path.get(item.path, item)
        if about.camera:
            cameras[about.camera] += 1
    return Facets(years=years, months=months, folders=folders, cameras=cameras, places={}, kinds=kinds)


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_facets_are_what_counting_item_by_item_gives(library: Library, wanted: Filter) -> None:
    right = counted(library, wanted)
    answer = facets(library.state.folder, wanted)
    for name in ("years", "months", "folders", "cameras", "places", "kinds"):
        assert dict(getattr(answer, name)) == dict(getattr(right, name)), name
    assert list(answer.years) == sorted(answer.years, reverse=True)


def test_a_file_of_facts_that_is_missing_damaged_or_of_another_zone_changes_no_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Library(tmp_path, VectorPolicy(type="flat"))
    right = [facets(tmp_path, wanted) for wanted in FILTERS]
    shards = [shard.file for shard in read_manifest(tmp_path).shards if shard.kind != "text"]
    files = {name: (tmp_path / facts_file(name)).read_bytes() for name in shards}
    rows = {shard.file: shard.rows for shard in read_manifest(tmp_path).shards}
    for name in shards:
        assert ShardFacts.open(tmp_path, name, rows[name]) is not None
        assert ShardFacts.open(tmp_path, name, rows[name] + 1) is None
    for damage in (b"", files[shards[0]][:-40], b"X" * 500, files[shards[1]]):
        (tmp_path / facts_file(shards[0])).write_bytes(damage)
        assert ShardFacts.open(tmp_path, shards[0], rows[shards[0]]) is None
        assert [facets(tmp_path, wanted) for wanted in FILTERS] == right
    wild = bytearray(files[shards[0]])
    codes = pa.ipc.open_file(files[shards[0]]).read_all().column("camera").chunk(0).buffers()[1].to_pybytes()
    wild[bytes(wild).index(codes) + 2] = 0x70
    (tmp_path / facts_file(shards[0])).write_bytes(wild)
    assert [facets(tmp_path, wanted) for wanted in FILTERS] == right
    for name, data in files.items():
        (tmp_path / facts_file(name)).write_bytes(data)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        assert ShardFacts.open(tmp_path, shards[0], rows[shards[0]]) is None
        elsewhere = [facets(tmp_path, wanted) for wanted in FILTERS]
        assert elsewhere != right, "fourteen hours later some files are of another month"
        # Who writes there makes files for that zone, which say the same.
        with IndexWriter(tmp_path) as writer:
            writer.publish()
        assert ShardFacts.open(tmp_path, shards[0], rows[shards[0]]) is not None
        assert [facets(tmp_path, wanted) for wanted in FILTERS] == elsewhere
    finally:
        monkeypatch.undo()
        time.tzset()
    with IndexWriter(tmp_path) as writer:
        writer.publish()
    assert {name: (tmp_path / facts_file(name)).read_bytes() for name in shards} == files
    for name in shards:
        (tmp_path / facts_file(name)).unlink()
    assert [facets(tmp_path, wanted) for wanted in FILTERS] == right


def test_an_index_of_an_earlier_version_gets_its_facts_in_the_next_run(tmp_path: Path) -> None:
    Library(tmp_path, VectorPolicy(type="flat"))
    files = [tmp_path / facts_file(shard.file) for shard in read_manifest(tmp_path).shards if shard.kind != "text"]
    made = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    with IndexWriter(tmp_path) as writer:
        writer.publish()
    assert [file.read_bytes() for file in files] == made

"""Which vector files there are: new rows join lists, and nobody who adds a little waits for a training."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import FormatError, MmsearchError
from retrieval.models.encoder import Encoder
from retrieval.store import vector_files as module
from retrieval.store.manifest import Manifest, VectorPolicy, VectorType, read_manifest, write_manifest
from retrieval.store.row_offsets import read_layout, read_offsets
from retrieval.store.selection import Selection
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from tests.stores import clustered, items, make_index, result, spec, unit_rows


@pytest.fixture(autouse=True)
def small_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an inverted file take over at a size that a test can build."""
    monkeypatch.setattr(module, "EXACT_WORK", 1000 * 24)


def add(writer: IndexWriter, count: int, start: int, seed: int) -> Manifest:
    writer.journal(result(writer, items(count, start=start), clustered(count, seed)))
    return writer.publish()


INVERTED: tuple[tuple[VectorType, str], ...] = (("ivf", "sq8"), ("auto", "pq6x4fs"), ("rabitq", "rabitq"))


def start(folder: Path, kind: VectorType, count: int) -> Manifest:
    """An index of `count` rows in lists with codes of one kind."""
    with IndexWriter(folder, spec()) as writer:
        add(writer, count, 0, 1)
        return writer.rebuild_vectors(VectorPolicy(type=kind))


@pytest.mark.parametrize(("kind", "codes"), INVERTED)
def test_new_rows_join_lists_without_training_once_scanning_them_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: VectorType, codes: str
) -> None:
    before = start(tmp_path, kind, 4000).vectors
    with IndexWriter(tmp_path) as writer:
        little = add(writer, 100, 5000, 50)
        assert little.vectors[0] == before[0]
        assert little.vectors[1].type == "flat"
        monkeypatch.setattr(module, "TAIL_WORK", 1000 * 24)
        much = add(writer, 1500, 6000, 51)
        monkeypatch.setattr(module, "MERGE_ROWS", 2800)
        more = add(writer, 1100, 8000, 52)
        most = add(writer, 1100, 9500, 53)
        whole = writer.compact()
    assert [(entry.type, entry.rows) for entry in much.vectors] == [
        (f"ivf128,{codes}", 4000),
        (f"ivf128,{codes}", 1600),
    ]
    assert much.vectors[0] == before[0]
    assert [entry.rows for entry in more.vectors] == [4000, 2700]
    assert [entry.rows for entry in most.vectors] == [4000, 2700, 1100]
    assert [entry.rows for entry in whole.vectors] == [7800]


@pytest.mark.parametrize(("kind", "codes"), INVERTED)
def test_rows_in_lists_that_they_joined_are_found_as_well_as_in_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: VectorType, codes: str
) -> None:
    monkeypatch.setattr(module, "TAIL_WORK", 1000 * 24)
    start(tmp_path, kind, 4000)
    with IndexWriter(tmp_path) as writer:
        state = add(writer, 2000, 5000, 2)
    assert len(state.vectors) == 2
    matrix = np.concatenate([clustered(4000, 1), clustered(2000, 2)]).astype(np.float16).astype(np.float32)
    index, selection = VectorIndex(tmp_path, state), Selection.of_kinds(state, ["image"])
    hits = 0
    for query in clustered(40, 77):
        _, shards, places = index.search(query, 10, selection)
        best = np.argsort(-(matrix @ query), kind="stable")[:10]
        hits += len(set((4000 * shards + places).tolist()) & set(best.tolist()))
    assert hits >= 380


def test_a_flat_policy_has_no_lists_and_another_brings_them_back(tmp_path: Path) -> None:
    with IndexWriter(tmp_path, spec()) as writer:
        add(writer, 2000, 0, 1)
        writer.rebuild_vectors(VectorPolicy(type="flat"))
        assert [entry.type for entry in read_manifest(tmp_path).vectors] == ["flat"]
        writer.rebuild_vectors(VectorPolicy(type="auto"))
    assert read_manifest(tmp_path).vectors[0].type.startswith("ivf")


def test_who_brings_most_of_the_rows_waits_for_the_training_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TAIL_WORK", 100 * 24)
    with IndexWriter(tmp_path, spec()) as writer:
        add(writer, 1500, 0, 1)
        add(writer, 3000, 2000, 2)
        add(writer, 3000, 6000, 3)
        writer.publish(merge=True)
        assert [entry.rows for entry in writer.manifest.vectors] == [7500]
    with IndexWriter(tmp_path) as writer:
        monkeypatch.setattr(module, "OUTGROWN", 1.01)
        add(writer, 300, 12_000, 4)
        state = writer.publish(merge=True)
        assert [entry.rows for entry in state.vectors] == [7500, 300]
        assert any("mmsearch compact" in notice for notice in writer.notices)


def test_rows_of_another_kind_that_joined_lists_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained by itself; the hint names the command, and following it ends the hint."""
    monkeypatch.setattr(module, "TAIL_WORK", 100 * 24)
    topics = unit_rows(40, seed=1234)

    def photos(count: int, seed: int) -> NDArray[np.float32]:
        near = np.tile(topics, (count // 40, 1)) + 0.5 * unit_rows(count, seed=seed)
        return np.asarray(near / np.linalg.norm(near, axis=1, keepdims=True), np.float32)

    with IndexWriter(tmp_path, spec()) as writer:
        writer.journal(result(writer, items(4000), photos(4000, 1)))
        writer.publish()
        writer.journal(result(writer, items(1000, start=5000), photos(1000, 2)))
        state = writer.publish()
        assert len(state.vectors) == 2 and module.retraining_hint(state) is None
        spreads = [entry.spread or 0 for entry in state.vectors]
        assert 0 < spreads[0] <= spreads[1] < module.DRIFTED * spreads[0]
        writer.journal(result(writer, items(3000, start=7000), unit_rows(3000, seed=9)))
        state = writer.publish()
        hint = module.retraining_hint(state)
        assert hint is not None and "--rebuild-vectors" in hint and hint in writer.notices
        assert state.vectors[0].rows == 4000 and read_manifest(tmp_path) == state
        state = writer.rebuild_vectors()
        assert module.retraining_hint(state) is None and [entry.rows for entry in state.vectors] == [8000]


def test_commands_tell_of_drift_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], mini: Encoder) -> None:
    from cli.admin import status_command
    from cli.doctor import _advice

    folder = tmp_path / ".mmsearch"
    with IndexWriter(folder, mini.spec) as writer:
        writer.journal(result(writer, items(10), unit_rows(10, mini.spec.dim)))
        state = writer.publish()
        near, far = (
            replace(state.vectors[0], file=f"vectors/{name}", type="ivf4,pq64x4fs", spread=spread)
            for name, spread in (("a", 0.5), ("b", 0.8))
        )
        moved = replace(state, shards=(state.shards[0], replace(state.shards[0], file="shards/b.parquet")))
        moved = replace(moved, vectors=(near, replace(far, shards=("shards/b.parquet",))))
        write_manifest(folder, moved)
    status_command(index=str(folder))
    assert capsys.readouterr().out.count("mmsearch index FOLDER --rebuild-vectors") == 1
    assert "--rebuild-vectors" in "".join(_advice([], [], moved))


def test_an_older_index_knows_no_spread_and_asks_for_nothing(tmp_path: Path) -> None:
    state = start(tmp_path, "ivf", 3000)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for entry in manifest["vectors"]:
        del entry["spread"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / f"{state.vectors[0].file}.rows").unlink()
    older = read_manifest(tmp_path)
    assert older.vectors[0].spread is None and module.retraining_hint(older) is None
    query, every = unit_rows(1, seed=4)[0], Selection.of_kinds(state, ["image"])
    for nprobe in (None, 5):
        new, old = (VectorIndex(tmp_path, each).search(query, 20, every, nprobe) for each in (state, older))
        for number in range(3):
            assert np.array_equal(new[number], old[number])


@pytest.mark.parametrize("kind", ["pq4", "rabitq"])
def test_readers_map_one_copy_of_the_codes(tmp_path: Path, kind: VectorType) -> None:
    import faiss

    state = start(tmp_path, kind, 3000)
    index = VectorIndex(tmp_path, state)
    part = index._parts[0]
    assert isinstance(faiss.downcast_InvertedLists(part.index.invlists), faiss.OnDiskInvertedLists)
    if sys.platform == "linux":
        assert state.vectors[0].file in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("kind", ["pq4", "rabitq"])
@pytest.mark.parametrize("damage", ["end", "start", "middle", "empty", "gone"])
def test_damaged_codes_name_the_remedy(tmp_path: Path, kind: VectorType, damage: str) -> None:
    state = start(tmp_path, kind, 1500)
    file = tmp_path / state.vectors[0].file
    data = file.read_bytes()
    broken = {
        "end": data[:-8],
        "start": b"x" * 64 + data[64:],
        "middle": data[:5000] + data[5100:],
        "empty": b"",
        "gone": None,
    }[damage]
    file.unlink() if broken is None else file.write_bytes(broken)
    with pytest.raises(FormatError, match="--rebuild-vectors"):
        VectorIndex(tmp_path, state)


def test_offsets_of_rows_are_those_of_the_shards_and_go_with_their_vector_file(tmp_path: Path) -> None:
    state = start(tmp_path, "auto", 3000)
    entry = state.vectors[0]
    offsets = read_offsets(tmp_path, entry)
    for name in entry.shards:
        layout = read_layout(tmp_path / name, state.model.dim)
        assert layout is not None
        assert np.array_equal(offsets[name].offsets, layout.offsets)
        assert np.array_equal(offsets[name].firsts, layout.firsts)
    file = tmp_path / f"{entry.file}.rows"
    file.write_bytes(file.read_bytes()[:40])
    assert read_offsets(tmp_path, entry) == {}
    with IndexWriter(tmp_path) as writer:
        after = writer.rebuild_vectors()
    names = {path.name for path in (tmp_path / "vectors").iterdir()}
    assert names == {Path(after.vectors[0].file).name, Path(after.vectors[0].file).name + ".rows"}


def test_a_disk_that_is_full_leaves_no_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = start(tmp_path, "auto", 1500)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retrieval.store.inverted.write_coded_lists", full)
    with IndexWriter(tmp_path) as writer, pytest.raises(MmsearchError, match="No space left"):
        writer.rebuild_vectors()
    assert read_manifest(tmp_path) == state
    assert not list((tmp_path / "vectors").glob("*.partial"))


def test_vector_files_are_made_again_from_the_shards(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 50), ("text", 20)])
    state = read_manifest(tmp_path)
    query = unit_rows(1, seed=4)[0]
    before = VectorIndex(tmp_path, state).search(query, 20, Selection.of_kinds(state, ["image"]))
    (tmp_path / state.vectors[0].file).write_bytes(b"damaged")
    with pytest.raises(FormatError, match="--rebuild-vectors"):
        VectorIndex(tmp_path, state)
    with IndexWriter(tmp_path) as writer:
        state = writer.rebuild_vectors()
    after = VectorIndex(tmp_path, state).search(query, 20, Selection.of_kinds(state, ["image"]))
    for number in range(3):
        assert np.array_equal(before[number], after[number])

"""Vector files: when they are made, and made again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import FormatError
from retrieval.store import vectors as vec
from retrieval.store.manifest import read_manifest
from retrieval.store.selection import Selection
from retrieval.store.vector_index import VectorIndex
from retrieval.store.writer import IndexWriter
from tests.stores import clustered, clustered_index, items, make_index, unit_rows


@pytest.fixture
def small_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an inverted file take over at a size that a test can build."""
    monkeypatch.setattr(vec, "EXACT_WORK", 1000 * 24)


@pytest.mark.usefixtures("small_exact")
def test_adding_a_little_leaves_the_inverted_file_alone_and_much_rebuilds_it(tmp_path: Path) -> None:
    clustered_index(tmp_path, [4000])
    before = read_manifest(tmp_path).vectors
    with IndexWriter(tmp_path) as writer:
        writer.append(items(100, start=5000), clustered(100, 50))
        little = writer.commit()
        assert little.vectors[0] == before[0]
        assert little.vectors[1].type == "flat"
        writer.append(items(1500, start=6000), clustered(1500, 51))
        much = writer.commit()
    assert len(much.vectors) == 1
    assert much.vectors[0].rows == 5600


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

"""Embeddings read where they lie, against Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import FormatError
from retrieval.store.embeddings import StoredEmbeddings
from retrieval.store.manifest import Manifest, read_manifest
from retrieval.store.shards import ShardReader
from tests.stores import make_index


def opened(folder: Path, state: Manifest) -> StoredEmbeddings:
    return StoredEmbeddings(folder, state, ShardReader(folder, state))


@pytest.mark.parametrize(("dim", "mapped"), [(24, True), (7, True), (1024, True), (1200, False)])
def test_rows_are_those_that_parquet_gives(tmp_path: Path, dim: int, mapped: bool) -> None:
    """Of more dimensions than fit a page, the rows of a row group lie on several pages, and are read through Parquet."""
    make_index(tmp_path, [("image", 1300), ("text", 3)], dim)
    state = read_manifest(tmp_path)
    stored = opened(tmp_path, state)
    rng = np.random.default_rng(dim)
    shards = rng.integers(0, 2, 400)
    rows = rng.integers(0, [state.shards[shard].rows for shard in shards])
    wanted = ShardReader(tmp_path, state).embeddings(shards, rows)
    assert np.array_equal(stored.take(shards, rows), wanted)
    assert (stored._data[0] is not None) == mapped
    assert stored.take(shards[:0], rows[:0]).shape == (0, dim)


def test_a_shard_that_is_gone_is_a_format_error(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 3)])
    state = read_manifest(tmp_path)
    (tmp_path / state.shards[0].file).unlink()
    with pytest.raises(FormatError, match="damaged or missing"):
        opened(tmp_path, state).take(np.array([0]), np.array([0]))

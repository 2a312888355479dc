"""Selections against sets, and made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.store.facts import Facts
from retrieval.store.manifest import read_manifest
from retrieval.store.selection import Selection, Selections
from retrieval.store.shards import ShardReader
from retrieval.store.writer import IndexWriter
from retrieval.types import Filter
from tests.stores import make_index, remove_rows


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    chosen=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 19))),
    gone=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 19))),
)
def test_a_selection_is_a_set_of_rows(
    sizes: list[int], chosen: set[tuple[int, int]], gone: set[tuple[int, int]]
) -> None:
    """Sizes that fill no byte are where bitmaps go wrong."""
    every = {(shard, row) for shard, size in enumerate(sizes) for row in range(size)}
    masks = [np.array([(shard, row) in chosen for row in range(size)], np.bool_) for shard, size in enumerate(sizes)]
    selection = Selection.of_masks(masks)
    held = every & chosen
    assert selection.count == len(held)
    assert {(s, int(r)) for s in range(len(sizes)) for r in selection.rows(s)} == held
    inside = every & gone
    rows = {
        shard: np.array([row for s, row in inside if s == shard], np.int64) for shard in {shard for shard, _ in inside}
    }
    left = selection.without(rows)
    assert {(s, int(r)) for s in range(len(sizes)) for r in left.rows(s)} == held - gone
    assert left.count == len(held - gone) and left.root is selection and selection.root is selection
    assert {(s, int(r)) for s in range(len(sizes)) for r in selection.rows(s)} == held, "the first is as it was"


def selections_of(folder: Path) -> Selections:
    manifest = read_manifest(folder)
    return Selections(manifest, Facts(manifest, ShardReader(folder, manifest)))


def test_a_filter_is_made_into_a_selection_once(tmp_path: Path) -> None:
    make_index(tmp_path, [("image", 9), ("text", 5), ("video", 3)])
    with IndexWriter(tmp_path) as writer:
        number = next(number for number, entry in enumerate(writer.manifest.shards) if entry.kind == "image")
        remove_rows(writer, number, np.array([2, 3]))
    selections = selections_of(tmp_path)
    assert selections.select(Filter(kinds=("image",))).count == 7
    assert selections.select(Filter(kinds=("image", "text"))).count == 12
    assert selections.select(Filter()).count == 10
    assert selections.select(Filter(kinds=("text",))) is selections.select(Filter(kinds=("text",)))


def test_without_media_texts_are_searched(tmp_path: Path) -> None:
    make_index(tmp_path, [("text", 5)])
    assert selections_of(tmp_path).kinds(Filter()) == ("text",)

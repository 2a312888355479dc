"""The table of sources: order of keys, and segments against a dictionary."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.store import sources as module
from retrieval.store.manifest import Manifest, SourceSegment
from retrieval.store.rewrite import merge_sources
from retrieval.store.roots import Roots
from retrieval.store.source_keys import folder_key, key_of, place_of
from retrieval.store.sources import RowSpan, SourceLine, SourceTable, to_lines, to_table, write_segment
from tests.stores import spec

names = st.binary(min_size=1, max_size=6).filter(lambda raw: not set(raw) & {0, 47} and raw not in (b".", b".."))
paths = st.lists(names, min_size=1, max_size=4).map(lambda parts: os.fsdecode(b"/".join(parts)))


@given(paths, st.integers(0, 2**32 - 1))
def test_a_key_gives_its_place_back(path: str, root: int) -> None:
    assert place_of(key_of(root, path)) == (root, path)
    assert key_of(root, path).startswith(folder_key(root, os.path.dirname(path)))
    assert key_of(root, path).startswith(folder_key(root, ""))


@given(st.lists(paths, unique=True, max_size=20))
def test_keys_sort_as_a_walk_lists(many: list[str]) -> None:
    def walk_order(path: str) -> list[tuple[int, bytes]]:
        *folders, name = os.fsencode(path).split(b"/")
        # The files of a folder come before its subfolders, each in the order of their bytes.
        return [*((1, folder) for folder in folders), (0, name)]

    assert sorted(many, key=lambda path: key_of(0, path)) == sorted(many, key=walk_order)


def line(path: str, number: int) -> SourceLine:
    return SourceLine(
        key=key_of(0, path),
        kind="image",
        size=number,
        mtime_ns=number,
        content=bytes([number % 256]) * 32,
        spans=(RowSpan(kind="image", start=number, count=1), RowSpan(kind="text", start=2 * number, count=2)),
        failures=(("caf\udce9.jpg", "read", "no"),) if number % 5 == 0 else (),
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_segments_hold_what_a_dictionary_holds(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("table")
    (folder / "sources").mkdir()
    chance = random.Random(seed)
    wanted: dict[bytes, SourceLine] = {}
    state = Manifest(model=spec(), roots=Roots())
    for step in range(12):
        lines = [
            line(f"{chance.choice('abc')}/{chance.randrange(30)}", 100 * step + n) for n in range(chance.randrange(9))
        ]
        lines = list({one.key: one for one in lines}.values())
        left = sorted(set(wanted) - {one.key for one in lines})
        removed = chance.sample(left, min(len(left), chance.randrange(4)))
        for key in removed:
            del wanted[key]
        wanted.update((one.key, one) for one in lines)
        if lines or removed:
            segment = write_segment(folder, f"sources/{step}.parquet", [to_table(lines, removed)])
            state = merge_sources(folder, replace(state, generation=step, sources=(*state.sources, segment)))
        table = SourceTable(folder, state)
        for prefix in (b"", folder_key(0, "a"), folder_key(0, "b"), key_of(0, "c/3")):
            held = [one for part in table.below(prefix) for one in to_lines(part)]
            assert held == [wanted[key] for key in sorted(wanted) if key.startswith(prefix)]
        keys = [*wanted, key_of(0, "nowhere"), *removed]
        assert table.find(keys) == wanted
    assert len(state.sources) <= 5


def test_segments_are_few_and_each_line_is_rewritten_rarely(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    state = Manifest(model=spec(), roots=Roots())
    written = 0
    for step in range(300):
        segment = write_segment(tmp_path, f"sources/{step:06d}.parquet", [to_table([line(f"{step:06d}", step)])])
        state = merge_sources(tmp_path, replace(state, generation=step, sources=(*state.sources, segment)))
        written += sum(one.lines for one in state.sources if f"{step:06d}" in one.file)
        assert len(state.sources) <= 7
    assert sum(one.lines for one in state.sources) == 300
    assert written <= 300 * 12


def test_only_the_part_below_a_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_LINES", 10)
    (tmp_path / "sources").mkdir()
    lines = [line(f"f{folder:02d}/{n}", n) for folder in range(20) for n in range(10)]
    segment: SourceSegment = write_segment(tmp_path, "sources/0.parquet", [to_table(lines)])
    table = SourceTable(tmp_path, Manifest(model=spec(), roots=Roots(), sources=(segment,)))
    assert len([one for part in table.below(folder_key(0, "f07")) for one in to_lines(part)]) == 10
    assert table.touched.lines <= 30
    assert set(table.find([key_of(0, "f11/3")])) == {key_of(0, "f11/3")}
    assert table.touched.lines <= 40

"""Planning: what changed costs what changed, and an index after any edits is the one that would be built anew."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import indexer.work
from indexer.config import BuildConfig
from indexer.plan import Plan, PlanConfig
from media import walk as walk_module
from media.types import Source, SourceKind, Unreadable
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.sources import SourceTable
from tests.conftest import write_photos
from tests.libraries import Library, jpeg, rows_of, run, write_moving, write_table, write_tar
from tests.stores import PlainEncoder

EDITS = 1000
EVERY = 40


def test_a_thousand_random_edits_give_the_index_that_building_anew_gives(tmp_path: Path) -> None:
    library = Library(tmp_path, seed=5)
    index = library.roots[0] / ".mmsearch"
    for number in range(EDITS // EVERY):
        for _ in range(EVERY):
            library.edit()
        # Sometimes one root alone; then the other's rows have to stay as they are.
        run(index, *(library.roots if number % 3 else library.roots[:1]))
    run(index, *library.roots)
    run(tmp_path / "fresh", *library.roots)
    kept, fresh = rows_of(index), rows_of(tmp_path / "fresh")
    # An id names the root: one that moves with its index is nameless, here in the first index only.
    assert [(*row[:2], *row[3:5]) for row in kept] == [(*row[:2], *row[3:5]) for row in fresh]
    # A product of matrices rounds by the size of its batch.
    assert np.allclose([row[5] for row in kept], [row[5] for row in fresh], atol=2e-3)
    assert len({row[2] for row in kept}) == len(kept)
    state, anew = read_manifest(index), read_manifest(tmp_path / "fresh")
    assert state.counts == anew.counts
    assert sorted((one.path, one.reason) for one in read_failures(index, state)) == sorted(
        (one.path, one.reason) for one in read_failures(tmp_path / "fresh", anew)
    )


def snapshot(roots: tuple[Path, ...]) -> dict[str, tuple[int, int] | None]:
    """Size and time of every file, None for a folder."""
    seen: dict[str, tuple[int, int] | None] = {}
    for root in roots:
        for path in root.rglob("*"):
            if ".mmsearch" not in path.parts:
                seen[str(path)] = None if path.is_dir() else (path.stat().st_size, path.stat().st_mtime_ns)
    return seen


def test_runs_over_the_paths_that_changed_find_all_that_a_whole_run_finds(tmp_path: Path) -> None:
    library = Library(tmp_path, seed=9)
    for number in range(3):
        write_moving(library.roots[0] / "sub" / f"moving{number}.gif", [number, 50 + number])
        (library.roots[0] / "sub" / f"moving{number}.en.srt").write_text(
            f"1\n00:00:00,000 --> 00:00:01,000\nCue {number}\n"
        )
    index = library.roots[0] / ".mmsearch"
    run(index, *library.roots)
    for _ in range(40):
        before = snapshot(library.roots)
        for _ in range(6):
            library.edit()
        after = snapshot(library.roots)
        changed = [path for path in {**before, **after} if before.get(path, 0) != after.get(path, 0)]
        run(index, *map(Path, changed))
    counts = read_manifest(index).counts
    kept = rows_of(index)
    whole = run(index, *library.roots)
    assert (whole.indexed, whole.removed) == (0, 0)
    run(tmp_path / "fresh", *library.roots)
    assert [(*row[:2], *row[3:5]) for row in kept] == [(*row[:2], *row[3:5]) for row in rows_of(tmp_path / "fresh")]
    assert counts == read_manifest(tmp_path / "fresh").counts


def test_a_run_over_named_paths_looks_at_those_and_what_belongs_to_them_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    files = write_photos(media, 30)
    files[4].with_suffix(".txt").write_text("about the fifth\n")
    run(index, media)
    looked: list[str] = []
    plain = walk_module._Listing.source

    def counted(self: walk_module._Listing, entry: os.DirEntry[str], kind: SourceKind) -> Source | Unreadable:
        looked.append(entry.name)
        return plain(self, entry, kind)

    monkeypatch.setattr(walk_module._Listing, "source", counted)
    files[7].write_bytes(files[8].read_bytes() + b"\0")
    report = run(index, files[7])
    assert (report.indexed, report.unchanged, looked) == (1, 0, [files[7].name])
    looked.clear()
    files[4].unlink()
    report = run(index, files[4])
    assert (report.removed, looked) == (1, [files[4].with_suffix(".txt").name])
    assert "about the fifth" in {row[3] for row in rows_of(index)}, "a text without its image is a document"
    looked.clear()
    shutil.copyfile(files[5], files[4])
    run(index, files[4])
    assert looked == [files[4].name, files[4].with_suffix(".txt").name]
    assert ("about the fifth", str(files[4])) in {(row[3], row[0]) for row in rows_of(index)}


def test_a_named_file_leaves_files_alone_whose_names_go_on_after_its_own(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    media.mkdir()
    write_tar(media / "set.tar", [1, 2])
    (media / "set.tar.jpg").write_bytes(jpeg(3))
    run(index, media)
    assert (run(index, media / "set.tar").removed, read_manifest(index).counts.files) == (0, 3)


def test_a_folder_that_is_gone_is_found_gone_by_its_name_but_not_where_its_root_is_gone(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media / "a" / "b", 4)
    write_photos(media, 2, start=50)
    run(index, media)
    shutil.rmtree(media / "a")
    assert run(index, media / "a" / "b" / "photo0001.jpg").removed == 4, "and so is all of the folder that went"
    (tmp_path / "away").mkdir()
    media.rename(tmp_path / "away" / "media")
    report = run(index, media / "photo0050.jpg")
    assert (report.removed, report.failed, report.items) == (0, 1, 2)


def test_a_caption_table_above_is_read_again_when_an_image_of_it_comes(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media / "sub", 2)
    (media / "captions.csv").write_text("path,caption\nsub/photo0000.jpg,the first\nsub/late.jpg,the late one\n")
    run(index, media)
    (media / "sub" / "late.jpg").write_bytes(jpeg(77))
    run(index, media / "sub" / "late.jpg")
    assert ("the late one", str(media / "sub" / "late.jpg")) in {(row[3], row[0]) for row in rows_of(index)}


def test_what_a_run_touches_follows_the_change_and_not_the_index(tmp_path: Path) -> None:
    write_photos(tmp_path / "big", 400)
    write_photos(tmp_path / "small", 3, start=900)
    index = tmp_path / "index"
    first = run(index, tmp_path / "big")
    assert (first.touched.rows, first.touched.items, first.touched.lines) == (0, 0, 0)
    added = run(index, tmp_path / "small")
    assert (added.indexed, added.touched.rows, added.touched.items) == (3, 0, 0)
    assert added.touched.lines == 0, "no line of the other folder is read"
    again = run(index, tmp_path / "small")
    assert (again.unchanged, again.touched.rows, again.touched.items, again.touched.lines) == (3, 0, 0, 3)
    (tmp_path / "small" / "photo0901.jpg").unlink()
    fewer = run(index, tmp_path / "small")
    assert (fewer.removed, fewer.items, fewer.touched.rows, fewer.touched.items) == (1, 402, 0, 0)
    assert fewer.touched.lines <= 3
    (tmp_path / "small" / "photo0900.jpg").rename(tmp_path / "small" / "renamed.jpg")
    encoder = PlainEncoder()
    renamed = run(index, tmp_path / "small", encoder=encoder)
    assert (renamed.indexed, renamed.removed, encoder.encoded, renamed.touched.items) == (1, 1, 0, 1)
    whole = run(index, tmp_path / "big")
    assert (whole.unchanged, whole.touched.rows, whole.touched.items, whole.touched.lines) == (400, 0, 0, 400)


def test_a_folder_that_is_renamed_as_a_whole_encodes_nothing(tmp_path: Path) -> None:
    write_photos(tmp_path / "media" / "a" / "b", 12)
    run(tmp_path / "media" / ".mmsearch", tmp_path / "media")
    (tmp_path / "media" / "a").rename(tmp_path / "media" / "z")
    encoder = PlainEncoder()
    report = run(tmp_path / "media" / ".mmsearch", tmp_path / "media", encoder=encoder)
    assert (report.indexed, report.removed, report.items, encoder.encoded) == (12, 12, 12, 0)


def test_a_copied_video_counts_as_one_that_was_read(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    media.mkdir()
    write_moving(media / "first.gif", [1, 50, 100])
    run(index, media)
    shutil.copyfile(media / "first.gif", media / "second.gif")
    encoder = PlainEncoder()
    report = run(index, media, encoder=encoder)
    assert (report.indexed, report.unchanged, encoder.encoded) == (1, 1, 0)
    counts = read_manifest(index).counts
    assert (counts.files, counts.videos) == (2, 2)


@pytest.mark.parametrize("size", [1, 3, 4, 256])
def test_an_image_and_its_captions_are_in_one_slice_and_count_once(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexer.work, "SLICE", size)
    (tmp_path / "media").mkdir()
    write_tar(tmp_path / "media" / "set.tar", list(range(7)))
    write_table(tmp_path / "media" / "set.parquet", list(range(20, 29)))
    report = run(tmp_path / "index", tmp_path / "media")
    assert (report.indexed, report.items) == (16, 7 * 2 + 9 * 3)
    assert read_manifest(tmp_path / "index").counts.files == 16


def test_a_folder_that_moved_with_its_index_is_not_touched(tmp_path: Path) -> None:
    write_photos(tmp_path / "here" / "sub", 5)
    run(tmp_path / "here" / ".mmsearch", tmp_path / "here")
    before = rows_of(tmp_path / "here" / ".mmsearch")
    (tmp_path / "here").rename(tmp_path / "there")
    encoder = PlainEncoder()
    report = run(tmp_path / "there" / ".mmsearch", tmp_path / "there", encoder=encoder)
    assert (report.unchanged, report.indexed, report.removed, encoder.encoded) == (5, 0, 0, 0)
    after = rows_of(tmp_path / "there" / ".mmsearch")
    assert [row[0] for row in after] == [row[0].replace("/here/", "/there/") for row in before]
    assert [row[2] for row in after] == [row[2] for row in before]


def test_an_empty_root_that_had_files_loses_none_unless_it_is_pruned(tmp_path: Path) -> None:
    write_photos(tmp_path / "drive", 4)
    write_photos(tmp_path / "home", 2, start=50)
    index = tmp_path / "index"
    run(index, tmp_path / "drive", tmp_path / "home")
    shutil.rmtree(tmp_path / "drive")
    (tmp_path / "drive").mkdir()
    report = run(index, tmp_path / "drive", tmp_path / "home")
    assert (report.removed, report.items, report.failed) == (0, 6, 1)
    reason = read_failures(index, read_manifest(index))[0].reason
    assert "4 files" in reason and "--prune" in reason
    again = run(index, tmp_path / "drive")
    assert (again.removed, again.items, again.failed) == (0, 6, 1)
    generation = read_manifest(index).generation
    run(index, tmp_path / "drive")
    assert read_manifest(index).generation == generation, "the same note is not written again"
    pruned = run(index, tmp_path / "drive", config=BuildConfig(prune=True))
    assert (pruned.removed, pruned.items, pruned.failed) == (4, 2, 0)
    assert read_failures(index, read_manifest(index)) == []


def test_a_drive_that_is_back_loses_its_note(tmp_path: Path) -> None:
    write_photos(tmp_path / "drive", 4)
    index = tmp_path / "index"
    run(index, tmp_path / "drive")
    (tmp_path / "drive").rename(tmp_path / "away")
    (tmp_path / "drive").mkdir()
    assert run(index, tmp_path / "drive").failed == 1
    (tmp_path / "drive").rmdir()
    (tmp_path / "away").rename(tmp_path / "drive")
    back = run(index, tmp_path / "drive")
    assert (back.unchanged, back.items, back.failed, back.removed) == (4, 4, 0, 0)


def test_a_root_inside_a_root_keeps_its_own_names(tmp_path: Path) -> None:
    write_photos(tmp_path / "all" / "inner", 3)
    write_photos(tmp_path / "all", 2, start=20)
    index = tmp_path / "index"
    run(index, tmp_path / "all" / "inner")
    encoder = PlainEncoder()
    report = run(index, tmp_path / "all", encoder=encoder)
    assert (report.indexed, report.unchanged, report.items, encoder.encoded) == (2, 3, 5, 2)
    (tmp_path / "all" / "inner" / "photo0000.jpg").unlink()
    (tmp_path / "all" / "photo0020.jpg").unlink()
    report = run(index, tmp_path / "all")
    assert (report.removed, report.items) == (2, 3)
    only = run(index, tmp_path / "all" / "inner", tmp_path / "all" / "photo0021.jpg")
    assert (only.unchanged, only.removed) == (3, 0)


@pytest.mark.parametrize("name", ["a.jpg", "a/b.jpg", "a!/b.jpg", "a/b/c.jpg", "ab/c.jpg"])
def test_one_file_is_planned_alone(tmp_path: Path, name: str) -> None:
    for other in ("a.jpg", "a/b.jpg", "a!/b.jpg", "a/b/c.jpg", "ab/c.jpg"):
        file = tmp_path / other
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(write_photos(tmp_path / "spare", 1)[0], file)
    shutil.rmtree(tmp_path / "spare")
    run(tmp_path / "index", tmp_path)
    table = SourceTable(tmp_path / "index", read_manifest(tmp_path / "index"))
    plan = Plan(table, [str(tmp_path / name)], PlanConfig())
    assert list(plan) == []
    assert (plan.unchanged, plan.gone) == (1, [])


def test_a_caption_table_follows_the_images_that_it_names(tmp_path: Path) -> None:
    write_photos(tmp_path / "sub", 3)
    (tmp_path / "captions.csv").write_text("path,caption\nsub/photo0001.jpg,a dog\nsub/late.jpg,a cat\n")
    index = tmp_path / ".mmsearch"
    assert run(index, tmp_path).failed == 1
    assert [row[3] for row in rows_of(index) if row[1].startswith("text")] == ["a dog"]
    (tmp_path / "sub" / "photo0001.jpg").unlink()
    shutil.copyfile(tmp_path / "sub" / "photo0000.jpg", tmp_path / "sub" / "late.jpg")
    report = run(index, tmp_path)
    assert [row[3] for row in rows_of(index) if row[1].startswith("text")] == ["a cat"]
    assert (report.unchanged, report.removed, report.failed) == (2, 1, 1)
    settled = run(index, tmp_path)
    assert (settled.indexed, settled.unchanged, settled.failed) == (0, 4, 1)


def test_a_folder_that_is_as_it_was_is_passed_over_whole_and_any_change_in_it_is_met(tmp_path: Path) -> None:
    """With a million unchanged files, most of the time went into looking at each of them."""
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media / "a", 5)
    write_photos(media / "b" / "c", 4, start=20)
    write_photos(media / "z", 1, start=90)
    run(index, media)

    def planned(*, passes_over: bool = True) -> tuple[list[str], int, list[bytes], int]:
        table = SourceTable(index, read_manifest(index))
        plan = Plan(table, [str(media)], PlanConfig())
        if not passes_over:
            plan.config = PlanConfig(retry_failed=True)
        names = [os.path.basename(source.path) for unit in plan for source in unit.sources]
        return names, plan.unchanged, plan.gone, table.touched.lines

    def looked_at() -> list[str]:
        """The files that the walk gives to a plan."""
        walked: list[str] = []
        table = SourceTable(index, read_manifest(index))
        plan = Plan(table, [str(media)], PlanConfig())
        original = walk_module.walk

        def listening(*arguments: object) -> Iterator[object]:
            for entry in original(*arguments):  # type: ignore[arg-type]
                if isinstance(entry, Source):
                    walked.append(os.path.basename(entry.path))
                yield entry

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("indexer.plan.walk", listening)
            list(plan)
        return walked

    # The last folder of a part of the table is looked at, since its lines may go on in the next.
    assert looked_at() == ["photo0090.jpg"]
    assert planned()[:3] == ([], 10, [])
    photo = media / "a" / "photo0002.jpg"
    before = photo.stat()

    def check(names: list[str], unchanged: int, gone: int) -> None:
        fast, slow = planned(), planned(passes_over=False)
        assert fast[:3] == slow[:3]
        assert (fast[0], fast[1], len(fast[2])) == (names, unchanged, gone)

    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    check(["photo0002.jpg"], 9, 0)
    os.utime(photo, ns=(before.st_atime_ns, before.st_mtime_ns))
    check([], 10, 0)
    photo.rename(media / "a" / "photo9.jpg")
    check(["photo9.jpg"], 9, 1)
    (media / "a" / "photo9.jpg").rename(photo)
    check([], 10, 0)
    for extra, names, unchanged, gone in (
        ("photo0002.txt", ["photo0002.txt"], 10, 0),
        ("photo0002.jpg.xmp", ["photo0002.jpg"], 9, 0),
        ("thing.xyz", [], 10, 0),
        (".hidden.jpg", [], 10, 0),
        (".nomedia", [], 5, 5),
        (".mmsearchignore", [], 9, 1),
    ):
        (media / "a" / extra).write_text("photo0001.jpg\n" if extra == ".mmsearchignore" else "x")
        check(names, unchanged, gone)
        (media / "a" / extra).unlink()
    (media / "a" / "link.jpg").symlink_to(photo)
    check([], 10, 0)
    (media / "a" / "link.jpg").unlink()
    shutil.rmtree(media / "a")
    check([], 5, 5)

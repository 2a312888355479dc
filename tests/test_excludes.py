"""What a walk leaves out: what nobody means, what the user named, and what is no file at all."""

from __future__ import annotations

import json
import os
import socket
import unicodedata
from pathlib import Path

import pytest

from indexer.build import IndexBuild
from indexer.config import BuildConfig, BuildReport
from media.excludes import Excludes
from media.snapshot import is_placeholder
from media.types import Source, Unreadable
from media.walk import WalkConfig, look, walk
from retrieval.store.manifest import read_manifest
from tests.conftest import Command, picture, write_photos
from tests.libraries import rows_of
from tests.stores import PlainEncoder


def photo(file: Path, seed: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(file, "JPEG")
    return file


def paths_below(folder: Path, config: WalkConfig | None = None) -> list[str]:
    entries = [entry for entry in walk([str(folder)], config) if isinstance(entry, Source)]
    return [str(Path(entry.path).relative_to(folder)) for entry in entries]


def refused(folder: Path) -> dict[str, Unreadable]:
    entries = [entry for entry in walk([str(folder)]) if isinstance(entry, Unreadable)]
    return {os.path.relpath(entry.path, folder): entry for entry in entries}


def indexed(
    index: Path, *paths: Path, exclude: tuple[str, ...] = (), default_excludes: bool | None = None
) -> BuildReport:
    config = BuildConfig(exclude=exclude, default_excludes=default_excludes)
    build = IndexBuild(list(paths), index, PlainEncoder(), config)
    for _ in build:
        pass
    assert build.report is not None
    return build.report


@pytest.mark.parametrize(
    "name",
    ["@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information", "lost+found", "node_modules",
     "__MACOSX", "Old.lrdata"],
)  # fmt: skip
def test_folders_that_nobody_means_are_left_out(tmp_path: Path, name: str) -> None:
    photo(tmp_path / "a.jpg")
    photo(tmp_path / "deep" / name / "below" / "b.jpg")
    assert paths_below(tmp_path) == ["a.jpg"]
    assert len(paths_below(tmp_path, WalkConfig(excludes=Excludes(defaults=False)))) == 2


def test_a_folder_of_such_a_name_that_was_named_itself_is_walked(tmp_path: Path) -> None:
    photo(tmp_path / "node_modules" / "a.jpg")
    assert paths_below(tmp_path / "node_modules") == ["a.jpg"]


def test_marked_folders_are_left_out(tmp_path: Path) -> None:
    for name, mark, text in (("one", ".nomedia", ""), ("two", ".ignore", "\n"), ("three", ".ignore", "b.jpg\n")):
        photo(tmp_path / name / "a.jpg")
        photo(tmp_path / name / "b.jpg")
        (tmp_path / name / mark).write_text(text)
    assert paths_below(tmp_path) == ["three/a.jpg"]


def test_an_ignore_file_speaks_gitignore(tmp_path: Path) -> None:
    for name in ("keep.jpg", "draft1.jpg", "draft2.jpg", "sub/draft3.jpg", "sub/raw/a.jpg", "raw/b.jpg", "x/raw.jpg"):
        photo(tmp_path / name)
    (tmp_path / ".mmsearchignore").write_text("# drafts\ndraft*.jpg\n!draft2.jpg\n/raw/\n\\\n")
    (tmp_path / "sub" / ".mmsearchignore").write_text("!draft3.jpg\nraw\n")
    assert paths_below(tmp_path) == ["draft2.jpg", "keep.jpg", "sub/draft3.jpg", "x/raw.jpg"]
    # A file that is looked at alone is left out by what lies above it, too.
    config = WalkConfig(roots=[str(tmp_path)])
    assert not list(walk([str(tmp_path / "draft1.jpg")], config))
    assert not list(look(str(tmp_path / "raw"), {"b.jpg"}, config))
    assert not list(walk([str(tmp_path / "raw")], config))


def test_an_exclusion_is_remembered_and_removes_what_it_covers(tmp_path: Path) -> None:
    media, other, index = tmp_path / "media", tmp_path / "other", tmp_path / "index"
    for name in ("a.jpg", "private/b.jpg", "sub/private/c.jpg"):
        photo(media / name)
    photo(other / "private" / "d.jpg")
    assert indexed(index, media, other).items == 4
    # Also in a folder that this run does not walk.
    report = indexed(index, media, exclude=("private/",))
    assert (report.removed, report.items) == (3, 1)
    report = indexed(index, media, other)
    assert (report.removed, report.indexed, report.items) == (0, 0, 1)
    assert read_manifest(index).excludes == Excludes(globs=("private/",))
    assert indexed(index, media, exclude=(f"{media}/a.jpg", "!private/")).items == 2
    assert indexed(index, media, other, exclude=(f"!{media}/a.jpg",)).items == 4
    assert read_manifest(index).excludes == Excludes()


def test_a_root_that_is_left_out_whole_is_no_drive_that_is_not_mounted(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media / "in", 3)
    photo(tmp_path / "b" / "b.jpg")
    assert indexed(index, media, tmp_path / "b").items == 4
    report = indexed(index, media, exclude=("in/*",))
    assert (report.removed, report.items, report.failed) == (3, 1, 0)


def test_a_named_path_that_is_left_out_stays_out(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media, 2)
    indexed(index, media)
    late = photo(media / "@eaDir" / "thumb.jpg", 9)
    assert indexed(index, late).items == 2
    assert indexed(index, late.parent).items == 2
    assert indexed(index, media, default_excludes=False).items == 3
    assert indexed(index, media).items == 3
    assert indexed(index, media, default_excludes=True).items == 2


def test_the_command_takes_globs_and_counts_what_it_passes_over(command: Command, tmp_path: Path) -> None:
    photo(tmp_path / "m" / "a.jpg")
    photo(tmp_path / "m" / "tmp" / "b.jpg")
    for name in ("x.docx", "y.DOCX", "z.zip", "README", "song.mp3"):
        (tmp_path / "m" / name).write_bytes(b"other")
    done = command("index", "m", "--model", "mini", "--exclude", "tmp/", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["skipped"] == {".docx": 2, ".zip": 1, "": 1, ".mp3": 1}
    assert (report["indexed"], report["items"]) == (1, 1)
    again = command("index", "m")
    assert "2 .docx" in again.stdout
    assert "1 unchanged" in again.stdout
    wrong = command("index", "m", "--exclude", "!")
    assert wrong.returncode == 2
    assert "--exclude" in wrong.stderr


def test_a_link_to_what_is_walked_anyway_is_no_second_item(tmp_path: Path) -> None:
    photo(tmp_path / "album" / "a.jpg")
    photo(tmp_path / "album" / ".hidden" / "b.jpg")
    (tmp_path / "a-link.jpg").symlink_to(tmp_path / "album" / "a.jpg")
    (tmp_path / "album" / "shown.jpg").symlink_to(tmp_path / "album" / ".hidden" / "b.jpg")
    (tmp_path / "a-folder").symlink_to(tmp_path / "album")
    (tmp_path / "album" / "loop").symlink_to(tmp_path)
    (tmp_path / "album" / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "broken.jpg").symlink_to("nowhere.jpg")
    assert paths_below(tmp_path) == ["album/a.jpg", "album/shown.jpg"]
    assert set(refused(tmp_path)) == {"album/itself.jpg", "broken.jpg"}


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    for name in ("pipe.gif", "pipe.jpg", "pipe.ts", "pipe.mp4"):
        os.mkfifo(tmp_path / name)
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(tmp_path / "socket.png"))
    photo(tmp_path / "folder.jpg" / "inside.jpg")
    assert paths_below(tmp_path) == ["folder.jpg/inside.jpg"]
    assert {entry.reason for entry in refused(tmp_path).values()} == {"not a regular file"}
    assert len(refused(tmp_path)) == 5


def test_two_spellings_of_a_name_belong_together(tmp_path: Path) -> None:
    photo(tmp_path / (unicodedata.normalize("NFC", "café") + ".jpg"))
    (tmp_path / (unicodedata.normalize("NFD", "café") + ".txt")).write_text("coffee")
    kinds = {entry.kind: entry.about for entry in walk([str(tmp_path)]) if isinstance(entry, Source)}
    assert kinds["sidecar"] == str(tmp_path / "café.jpg")


def test_names_at_the_limit_of_the_file_system_are_indexed(tmp_path: Path) -> None:
    long = photo(tmp_path / "m" / ("ü" * 125 + "a.jpg"))
    assert len(os.fsencode(long.name)) == 255
    indexed(tmp_path / "index", tmp_path / "m")
    assert [row[0] for row in rows_of(tmp_path / "index")] == [str(long)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission_keeps_its_rows(tmp_path: Path) -> None:
    photo(tmp_path / "m" / "a.jpg")
    photo(tmp_path / "m" / "locked" / "b.jpg")
    indexed(tmp_path / "index", tmp_path / "m")
    (tmp_path / "m" / "locked").chmod(0)
    report = indexed(tmp_path / "index", tmp_path / "m")
    (tmp_path / "m" / "locked").chmod(0o700)
    assert (report.items, report.failed) == (2, 1)


def test_a_folder_called_like_an_ignore_file_holds_no_patterns(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    (tmp_path / ".mmsearchignore").mkdir()
    assert paths_below(tmp_path) == ["a.jpg"]


def test_what_lies_in_a_cloud_is_told_by_what_the_system_says() -> None:
    class Status:
        st_file_attributes, st_flags = 0x400000, 0

    class Apple:
        st_flags = 0x40000000

    assert is_placeholder(Status())  # type: ignore[arg-type]
    assert is_placeholder(Apple())  # type: ignore[arg-type]
    assert not is_placeholder(os.stat(__file__))


def test_a_sidecar_of_nothing_is_counted_and_one_in_a_cloud_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `.json` or `.xmp` that belongs to no photo was passed over in silence."""
    for name in ("a.jpg", "a.xmp", "a.jpg.json", "package.json", "other.XMP", "film.ts"):
        (tmp_path / name).write_bytes(b"G" + bytes(187) + b"G" if name == "film.ts" else b"x")
    config = WalkConfig()
    entries = list(walk([str(tmp_path)], config))
    assert config.skipped == {".json": 1, ".xmp": 1}
    assert [len(entry.sidecars) for entry in entries if isinstance(entry, Source) and entry.kind == "image"] == [2]
    monkeypatch.setattr("media.walk.is_placeholder", lambda stat: True)
    monkeypatch.setattr("media.walk._head", lambda _: pytest.fail("a file in a cloud was opened"))
    entries = list(walk([str(tmp_path)], WalkConfig()))
    assert {os.path.basename(entry.path) for entry in entries} == {
        "a.jpg", "a.xmp", "a.jpg.json", "package.json", "other.XMP", "film.ts"
    }  # fmt: skip
    assert all(isinstance(entry, Unreadable) and "in the cloud" in entry.reason for entry in entries)

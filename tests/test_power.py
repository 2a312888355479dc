"""Power loss: every prefix of what the writer did to the disk, as a disk may have kept it, opens and goes on.

A recorder under the file operations keeps what was durable: the bytes of a file from its last fsync, and the entries of a
folder from its last fsync. After each operation two disks are possible, one that lost all that was not synced, and one
that lost nothing; the index must open on both, hold whole publications only, and the next run must come to the right end.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retrieval.store.copy_groups import CopyGroups
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from tests.conftest import write_photos
from tests.libraries import Row, rows_of, run, write_tar


class Disk:
    """What would be left of `folder` after a power loss: relative paths with their bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = [file for file in folder.rglob("*") if file.is_file()]
        self._synced = {file.stat().st_ino: file.read_bytes() for file in files}
        self._durable: dict[str, bytes] = self.now()
        self.states: list[tuple[str, dict[str, bytes], dict[str, bytes]]] = []

    def now(self) -> dict[str, bytes]:
        """Everything as it is."""
        return {
            str(file.relative_to(self.folder)): file.read_bytes() for file in self.folder.rglob("*") if file.is_file()
        }

    def sync_file(self, handle: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        self._synced[os.fstat(handle).st_ino] = path.read_bytes()

    def sync_folder(self, handle: int) -> None:
        """Names in this folder are as they are now; a file that was never synced has no bytes to speak of."""
        path = Path(os.readlink(f"/proc/self/fd/{handle}"))
        if self.folder not in (path, *path.parents):
            return
        here = {
            str(file.relative_to(self.folder)): self._synced.get(file.stat().st_ino, b"")
            for file in path.iterdir()
            if file.is_file()
        }
        inside = str(path.relative_to(self.folder))
        kept = {
            name: data for name, data in self._durable.items() if os.path.dirname(name) != inside.replace(".", "", 1)
        }
        self._durable = {**kept, **here}

    def note(self, what: str) -> None:
        """One more point at which the power may go."""
        self.states.append((what, dict(self._durable), self.now()))


@contextmanager
def recorded(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """While this is held, every fsync, rename and deletion is a point at which the power may go."""
    fsync, rename, unlink = os.fsync, os.replace, os.unlink

    def recorded_fsync(handle: int) -> None:
        fsync(handle)
        is_folder = os.path.isdir(f"/proc/self/fd/{handle}")
        (disk.sync_folder if is_folder else disk.sync_file)(handle)
        disk.note("fsync")

    def recorded_rename(old: str | Path, new: str | Path) -> None:
        rename(old, new)
        disk.note(f"rename {os.path.basename(new)}")

    def recorded_unlink(path: str | Path) -> None:
        unlink(path)
        disk.note(f"delete {os.path.basename(path)}")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recorded_fsync)
        patch.setattr(os, "replace", recorded_rename)
        patch.setattr(os, "unlink", recorded_unlink)
        yield


def restore(folder: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def plain(rows: list[Row]) -> list[tuple[str, str, str | None]]:
    return [(row[0], row[1], row[3]) for row in rows]


def test_every_prefix_of_what_a_run_writes_opens_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    files = write_photos(media, 8)
    write_tar(media / "set.tar", [70, 71])
    (media / "bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    run(index, media)
    before = plain(rows_of(index))
    files[0].write_bytes(files[1].read_bytes())
    files[2].unlink()
    write_photos(media, 3, start=40)
    write_tar(media / "set.tar", [70, 72, 73])
    (media / "bad.jpg").unlink()
    (media / "worse.jpg").write_bytes(b"\xff\xd8\xff nothing at all")
    disk = Disk(index)
    with recorded(disk, monkeypatch):
        run(index, media)
    after = plain(rows_of(index))
    assert before != after
    assert len(disk.states) > 40
    for what, lost, kept in disk.states:
        for state in (lost, kept):
            restore(index, state)
            assert plain(rows_of(index)) in (before, after), what
            read_failures(index, read_manifest(index))
            CopyGroups.open(index, read_manifest(index))
    for what, lost, kept in disk.states[::4]:
        for state in (lost, kept):
            restore(index, state)
            report = run(index, media)
            assert plain(rows_of(index)) == after, what
            assert (report.items, report.failed) == (len(after), 1), what
            ledger = read_failures(index, read_manifest(index))
            assert [Path(failure.path).name for failure in ledger] == ["worse.jpg"], what


def test_a_disk_that_is_full_at_any_write_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write of a run fails once: the index keeps its state, and the next run goes on."""
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media, 5)
    run(index, media)
    before = plain(rows_of(index))
    write_photos(media, 3, start=40)
    fsync = os.fsync
    failed = 0
    for number in range(60):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(index, tmp_path / "copy")
        done = 0

        def full(handle: int, stop: int = number) -> None:
            nonlocal done
            done += 1
            if done > stop:
                raise OSError(28, "No space left on device")
            fsync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                run(tmp_path / "copy", media)
            except Exception as error:
                failed += 1
                assert "free some space" in str(error), error
        assert plain(rows_of(tmp_path / "copy"))[: len(before)] == before or len(rows_of(tmp_path / "copy")) == 8
        run(tmp_path / "copy", media)
        assert len(rows_of(tmp_path / "copy")) == 8
        if done <= number:
            break
    assert failed > 8

"""Atomic writes and the disk cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retrieval.files import DiskCache, replacing, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_scrap(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, b"old")
    with pytest.raises(RuntimeError), replacing(file) as scratch:
        scratch.write_bytes(b"ne")
        raise RuntimeError
    assert file.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_write_is_synced_before_and_its_folder_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.replace

    def recorded_fsync(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        fsync(handle)

    def recorded_rename(old: Path, new: Path) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    write_atomically(tmp_path / "state", b"new")
    assert done == ["file", "rename", "folder"]


def test_a_cache_stays_within_its_bound_and_keeps_what_was_used_last(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path / "cache", 1000)
    for number in range(8):
        cache.put(f"{number:02d}", bytes(110))
        os.utime(tmp_path / "cache" / f"{number:02d}" / f"{number:02d}", (number, number))
    assert cache.get("00") is not None
    cache.put("08", bytes(220))
    assert cache.get("00") is not None
    assert cache.get("08") is not None
    assert cache.get("01") is None
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 900


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = DiskCache(tmp_path / "file", 1000)
    cache.put("key", b"data")
    assert cache.get("key") is None

"""Files that are whole or not there: atomic writes, and a disk cache with a bound."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"


def write_atomically(file: Path, data: bytes) -> None:
    """Replace `file` by `data`: a reader sees the old bytes or the new ones, also after a power cut. Raises `OSError`."""
    with replacing(file) as scratch:
        scratch.write_bytes(data)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary name beside `file` to write to. Afterwards it is synced and takes the place of `file`; where the block
    raises, it is deleted and `file` stays as it was. Raises `OSError`."""
    scratch = file.with_name(file.name + PARTIAL)
    try:
        yield scratch
        sync_file(scratch)
        os.replace(scratch, file)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_file(file: Path) -> None:
    """Make the bytes of `file` durable."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames and deletions inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class DiskCache:
    """Bytes by key in the files of one folder, at most `limit` bytes; what was used longest ago goes first.

    It may be lost at any time and shared by threads and processes: whatever cannot be read or written costs only time, so
    a full disk is no error here. Keys are plain file names.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._written = limit
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """What was kept under `key`; None where nothing is."""
        file = self._file(key)
        try:
            data = file.read_bytes()
            os.utime(file)
        except OSError:
            return None
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`."""
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=PARTIAL, delete=False) as scratch:
                scratch.write(data)
            os.replace(scratch.name, file)
        except OSError:
            return
        with self._lock:
            self._written += len(data)
            due = self._written >= self._limit // 16
            if due:
                self._written = 0
        if due:
            self.trim()

    def trim(self) -> None:
        """Delete what was used longest ago until the rest takes nine tenths of the limit. `put` calls it now and then."""
        files: list[tuple[float, int, str]] = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    stat = os.stat(path)
                except OSError:
                    continue
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        if total <= self._limit:
            return
        for _, size, path in sorted(files):
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
            if total <= 0.9 * self._limit:
                return

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / key

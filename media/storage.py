"""Files of this machine and objects of a store by one kind of path: `/photos/a.jpg`, `s3://bucket/photos/a.jpg`, `gs://…`.

An object has a size and a time like a file, and what stands before the last `/` of its key is its folder. Stores are reached
by pyarrow, which asks again, a few times and ever later, where one is busy. What goes wrong is an `OSError` whose `strerror`
is one sentence.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat as modes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

SCHEMES = ("s3://", "gs://")
# How often a request is made at most, where a store is busy or a connection breaks.
ATTEMPTS = 5
# Seconds before a range is asked for again.
_WAITS = (0.2, 1.0)
_CONNECT_SECONDS, _REQUEST_SECONDS = 10.0, 60.0
# What one request of a file that is read from its beginning on fetches.
_PIECE = 1 << 20


class Stat(Protocol):
    """What `os.stat` says of a file, as far as an object has it."""

    @property
    def st_size(self) -> int: ...

    @property
    def st_mtime_ns(self) -> int: ...

    @property
    def st_mode(self) -> int: ...


class Entry(Protocol):
    """One name of a folder: `os.DirEntry`, or an object of a store."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def is_dir(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_file(self, *, follow_symlinks: bool = True) -> bool: ...

    def is_symlink(self) -> bool: ...

    def stat(self, *, follow_symlinks: bool = True) -> Stat: ...


@dataclass(frozen=True)
class ObjectStat:
    """Size in bytes, the time of the last change in nanoseconds, and whether it is a folder."""

    st_size: int
    st_mtime_ns: int
    st_mode: int


@dataclass(frozen=True)
class _ObjectEntry:
    path: str
    _stat: ObjectStat

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return modes.S_ISDIR(self._stat.st_mode)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return modes.S_ISREG(self._stat.st_mode)

    def is_symlink(self) -> bool:
        return False

    def stat(self, *, follow_symlinks: bool = True) -> ObjectStat:
        return self._stat


def is_object(path: str) -> bool:
    """Whether a path names something in a store."""
    return path.startswith(SCHEMES)


def absolute(path: str) -> str:
    """A path as it is written everywhere: whole, without a `/` at its end. `file://` names a file of this machine."""
    if path.startswith("file://"):
        path = unquote(urlsplit(path).path)
    if is_object(path):
        scheme, _, place = path.partition("://")
        return f"{scheme}://{'/'.join(part for part in place.split('/') if part)}"
    return os.path.abspath(os.path.expanduser(path))


def real(path: str) -> str:
    """Where a path leads to when links are followed; a store has none."""
    return path if is_object(path) else os.path.realpath(path)


def stat(path: str) -> Stat:
    """Raises `OSError`."""
    if not is_object(path):
        return os.stat(path)
    with _told(path):
        info = _store(path).get_file_info(_key(path))
        if info.type.name == "NotFound":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return _stat_of(info)


def exists(path: str) -> bool:
    """Whether there is something at a path, be it a link that leads nowhere. A store that does not answer raises `OSError`."""
    if not is_object(path):
        return os.path.lexists(path)
    try:
        stat(path)
    except FileNotFoundError:
        return False
    return True


def is_folder(path: str) -> bool:
    """Whether a folder is there. A store that does not answer raises `OSError`."""
    return os.path.isdir(path) if not is_object(path) else exists(path) and modes.S_ISDIR(stat(path).st_mode)


def is_file(path: str) -> bool:
    """Whether a regular file is there. A store that does not answer raises `OSError`."""
    return os.path.isfile(path) if not is_object(path) else exists(path) and modes.S_ISREG(stat(path).st_mode)


def identity(folder: str) -> object:
    """What tells a folder from every other one, by whatever name it was reached. Raises `OSError`."""
    if is_object(folder):
        return folder
    there = os.stat(folder)
    return there.st_dev, there.st_ino


def entries(folder: str) -> list[Entry]:
    """What a folder holds, by the bytes of its names. Raises `OSError`."""
    if not is_object(folder):
        with os.scandir(folder) as opened:
            return sorted(opened, key=lambda entry: os.fsencode(entry.name))
    from pyarrow.fs import FileSelector

    scheme = folder.partition("://")[0]
    with _told(folder):
        # Asked for page by page, as the store gives them.
        found = _store(folder).get_file_info(FileSelector(_key(folder)))
    listed: list[Entry] = [_ObjectEntry(f"{scheme}://{info.path}", _stat_of(info)) for info in found]
    return sorted(listed, key=lambda entry: os.fsencode(entry.name))


def open_file(path: str, piece: int = _PIECE) -> BinaryIO:
    """A file to read, at any place. Of an object, `piece` bytes are fetched at a time. Opening never waits for a pipe's writer.
    Raises `OSError`."""
    if not is_object(path):
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        return open(handle, "rb")
    with _told(path):
        return cast(BinaryIO, io.BufferedReader(_Ranges(path, _store(path).open_input_file(_key(path))), piece))


def read(path: str, most: int) -> bytes:
    """A whole object, at most `most` bytes. Raises `OSError`, also where it ends before its end."""
    with _told(path), _store(path).open_input_file(_key(path)) as opened:
        size = opened.size()
        data: bytes = _read_at(path, opened, 0, size) if size <= most else b""
    if size > most:
        raise OSError(errno.EFBIG, f"larger than {most >> 30} GiB", path)
    if len(data) != size:
        raise OSError(errno.EIO, f"ends after {len(data)} of {size} bytes", path)
    return data


def inside(folder: str, name: str) -> str:
    """The path of what lies at `name` seen from a folder, which may lead out of it."""
    scheme, mark, place = folder.partition("://") if is_object(folder) else ("", "", folder)
    return scheme + mark + os.path.normpath(os.path.join(place, name))


def source(path: str) -> str | BinaryIO:
    """What libraries open that take a path or a file: a path where it is one of this machine."""
    return open_file(path) if is_object(path) else path


class _Ranges(io.RawIOBase):
    """An object: each read asks for a range of it."""

    def __init__(self, path: str, opened: NativeFile) -> None:
        self._path, self._opened, self._place = path, opened, 0
        self.name = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = _read_at(self._path, self._opened, self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._opened.size()}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "a place before the beginning", self._path)
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def close(self) -> None:
        if not self.closed:
            self._opened.close()
        super().close()


def _read_at(path: str, opened: NativeFile, place: int, count: int) -> bytes:
    """A range of an object; fewer bytes at its end. An answer that breaks off is asked for again here: what the library does so
    for is an answer that tells of an error."""
    count = min(count, opened.size() - place)
    if count <= 0:
        return b""
    for wait in (*_WAITS, None):
        try:
            with _told(path):
                return bytes(opened.read_at(count, place))
        except OSError as error:
            if wait is None or isinstance(error, (FileNotFoundError, PermissionError)):
                raise
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _key(path: str) -> str:
    return path.partition("://")[2]


def _stat_of(info: FileInfo) -> ObjectStat:
    mode = modes.S_IFDIR if info.type.name == "Directory" else modes.S_IFREG
    return ObjectStat(info.size or 0, info.mtime_ns or 0, mode)


def _store(path: str) -> FileSystem:
    scheme, _, place = path.partition("://")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
    region = os.environ.get("AWS_REGION", os.environ.get("AWS_DEFAULT_REGION"))
    return _connected(scheme, place.partition("/")[0], endpoint, region)


@cache
def _connected(scheme: str, bucket: str, endpoint: str | None, region: str | None) -> FileSystem:
    from pyarrow import fs

    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_REQUEST_SECONDS))
    where = urlsplit(endpoint) if endpoint else None
    if where is None and region is None:
        # A request that goes to another region than the bucket's is refused.
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=where.netloc if where is not None else None,
        scheme=where.scheme if where is not None else "https",
        region=region,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
    )


@contextmanager
def _told(path: str) -> Iterator[None]:
    """Say what a store's library says, which is long, in one sentence."""
    bucket = "/".join(path.split("/")[:3])
    try:
        yield
    except OSError as error:
        if error.filename == path:
            # Said in one sentence already.
            raise
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
        said = " ".join(str(error).split())
        if re.search(r"ACCESS_DENIED|AccessDenied|HTTP status 403|INVALID_ACCESS_KEY|SIGNATURE", said, re.IGNORECASE):
            reason = (
                f"{bucket} gives no access to it: let AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name "
                "somebody who may list and read it"
            )
            raise PermissionError(errno.EACCES, reason, path) from error
        if "NO_SUCH_BUCKET" in said:
            raise FileNotFoundError(errno.ENOENT, f"there is no bucket {bucket}", path) from error
        if re.search(r"SLOW_DOWN|THROTTL|HTTP status (429|503)", said, re.IGNORECASE):
            raise OSError(errno.EAGAIN, f"{bucket} was too busy {ATTEMPTS} times", path) from error
        if "NETWORK_CONNECTION" in said:
            raise OSError(errno.EIO, f"{bucket} cannot be reached", path) from error
        raise OSError(errno.EIO, said.partition(" (Request ID")[0][:200], path) from error

"""What a server writes down for who runs it: an access log, and its own messages from a level on."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from retrieval.errors import MmsearchError

LEVELS = ("debug", "info", "warning", "error", "critical")
LOGGER = "mmsearch"


class AccessLog:
    """One line a request: time, method, path, status, milliseconds, bytes of the answer's body.

    A path is without what follows its `?`, so neither tokens nor words that were searched for are in it. Where a tool
    moves the file away, the next line begins a new one. Not for several threads.
    """

    def __init__(self, file: Path | None) -> None:
        """Append to `file`; None stands for standard output. Raises `MmsearchError` where it cannot be written."""
        self._file = file
        self._inode = 0
        try:
            self._stream = self._open()
        except OSError as error:
            raise MmsearchError(f"--access-log: cannot write {file}: {error.strerror}") from error

    def request(self, method: str, path: str, status: int, seconds: float, size: int) -> None:
        """Write a line; where the disk is full it is lost, and the request is not."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        line = f"{when} {quote(method)} {quote(path)} {status} {1000 * seconds:.1f} {size}\n"
        with contextlib.suppress(OSError):
            if self._file is not None and _inode(self._file) != self._inode:
                self._stream.close()
                self._stream = self._open()
            self._stream.write(line)

    def close(self) -> None:
        """Take no more lines."""
        self._stream.close()

    def _open(self) -> TextIO:
        if self._file is None:
            # Lines, also into a pipe or a journal.
            return open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
        stream = open(self._file, "a", encoding="utf-8", buffering=1)
        self._inode = os.fstat(stream.fileno()).st_ino
        return stream


def start_messages(level: str) -> None:
    """Send the server's own messages of a level of `LEVELS`, and above it, to standard error."""
    logger = logging.getLogger(LOGGER)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(level.upper())


def _inode(file: Path) -> int:
    try:
        return os.stat(file).st_ino
    except OSError:
        return 0

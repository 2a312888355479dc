"""The folders and files that a user names, as absolute paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from stat import S_ISDIR

from media import storage
from media.names import printable
from media.walk import source_kind
from retrieval.errors import IndexNotFoundError


def roots_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Absolute forms of the paths that a user gave.

    Raises `IndexNotFoundError` for one that is not there or is not of a kind that can be indexed.
    """
    roots: list[str] = []
    for given in paths:
        path = storage.absolute(os.fspath(given))
        shown = printable(path)
        try:
            there = storage.stat(path)
        except OSError as error:
            raise IndexNotFoundError(f"{shown}: {error.strerror or error}") from error
        if not S_ISDIR(there.st_mode) and source_kind(path) is None:
            raise IndexNotFoundError(f"{shown}: not a kind of file that can be indexed")
        if path not in roots:
            roots.append(path)
    return roots

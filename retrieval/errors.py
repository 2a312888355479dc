"""Every error that a caller may meet. Each message says what happened, with which value, and what to do."""

from __future__ import annotations

__all__ = [
    "FormatError",
    "IndexLockedError",
    "IndexNotFoundError",
    "ItemNotFoundError",
    "MediaError",
    "MmsearchError",
    "ModelError",
    "QueryError",
]


class MmsearchError(Exception):
    """Root of the tree; its text is one line that can be shown to a user as it is."""


class IndexNotFoundError(MmsearchError):
    """There is no index where one was expected, or nothing that could go into one."""


class FormatError(MmsearchError):
    """An index on disk is of a later format, damaged, or not what its manifest says."""


class IndexLockedError(MmsearchError):
    """Another process is writing to this index."""


class ModelError(MmsearchError):
    """A model is unknown, not available here, or not the one that an index was made with."""


class QueryError(MmsearchError):
    """A query that cannot be answered: empty, or with settings out of range."""


class ItemNotFoundError(QueryError):
    """The index has no item of the id that was asked for."""


class MediaError(MmsearchError):
    """One file could not be read, decoded or encoded. `stage` is `read`, `decode` or `encode`."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason

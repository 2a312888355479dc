"""Every error that a caller may meet. Each message says what happened, with which value, and what to do."""

from __future__ import annotations

from media.errors import MediaError, MmsearchError, ModelChoiceError, ModelError, UsageError

__all__ = [
    "FormatError",
    "IndexLockedError",
    "IndexNotFoundError",
    "ItemNotFoundError",
    "MediaError",
    "MmsearchError",
    "ModelChoiceError",
    "ModelError",
    "OldFormatError",
    "QueryError",
    "UsageError",
]


class IndexNotFoundError(MmsearchError):
    """There is no index where one was expected, or nothing that could go into one."""


class FormatError(MmsearchError):
    """An index on disk is of a later format, damaged, or not what its manifest says."""


class OldFormatError(FormatError):
    """An index on disk is of an earlier format, which the next `index` run brings up to date."""


class IndexLockedError(MmsearchError):
    """Another process is writing to this index."""


class QueryError(UsageError):
    """A query that cannot be answered: empty, or with settings out of range."""


class ItemNotFoundError(QueryError):
    """The index has no item of the id that was asked for."""

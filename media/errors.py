"""The root of every error, and what can go wrong with one file. Each message says what happened and with which value."""

from __future__ import annotations

__all__ = ["MediaError", "MmsearchError", "ModelError", "ModelChoiceError", "OwnOutputError", "UsageError"]


class MmsearchError(Exception):
    """Root of the tree; its text is one line that can be shown to a user as it is."""


class UsageError(MmsearchError):
    """A value that a caller gave makes no sense, whatever the state of the machine."""


class ModelError(MmsearchError):
    """A model is unknown, not available here, or not the one that an index was made with."""


class ModelChoiceError(ModelError, UsageError):
    """The name of a model, a device, a precision or a fusion that there is not, or not here."""


class MediaError(MmsearchError):
    """One file could not be read, decoded or encoded. `stage` is `read`, `decode` or `encode`."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason


class OwnOutputError(MediaError):
    """A file that mmsearch wrote itself: an index leaves it out, and it is no failure."""

    def __init__(self) -> None:
        super().__init__("read", "was written by mmsearch itself")

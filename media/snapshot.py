"""Folders that are as they were: told by a listing and the state of each file, without finding out what the files are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from stat import S_ISREG
from typing import Protocol

from media.excludes import MARKS
from media.storage import Entry, Stat

# What systems say of a file that is in a cloud alone: reading it would fetch it.
_OFFLINE_ATTRIBUTES = 0x1000 | 0x40000 | 0x400000
_DATALESS_FLAG = 0x40000000
_HAS_CLOUDS = hasattr(os.stat_result, "st_file_attributes") or hasattr(os.stat_result, "st_flags")


class Snapshot(Protocol):
    """What some folders held before, for a walk that need not look at each file of a folder that is as it was."""

    def holds(self, folder: str, names: Sequence[bytes], sizes: Sequence[int], times: Sequence[int]) -> bool:
        """Whether a folder had just these files, by name: their sizes in bytes, and when they last changed, in nanoseconds. It
        is asked about folders in the order of the walk."""


def is_same(folder: str, entries: Sequence[Entry], snapshot: Snapshot) -> bool:
    """Whether nothing here has to be looked at: all are files that the snapshot has, or plain folders, or hidden."""
    names, sizes, times = [], [], []
    for entry in entries:
        name = entry.name
        if name.startswith("."):
            if name in MARKS:
                return False
        elif entry.is_symlink():
            return False
        elif not entry.is_dir(follow_symlinks=False):
            try:
                stat = entry.stat(follow_symlinks=False)
            except OSError:
                return False
            if not S_ISREG(stat.st_mode) or (_HAS_CLOUDS and is_placeholder(stat)):
                return False
            names.append(os.fsencode(name))
            sizes.append(stat.st_size)
            times.append(stat.st_mtime_ns)
    return bool(names) and snapshot.holds(folder, names, sizes, times)


def is_placeholder(stat: Stat) -> bool:
    """Whether a file's content is in a cloud alone, as OneDrive and iCloud leave them: reading it would download it."""
    attributes: int = getattr(stat, "st_file_attributes", 0)
    flags: int = getattr(stat, "st_flags", 0)
    return bool(attributes & _OFFLINE_ATTRIBUTES or flags & _DATALESS_FLAG)

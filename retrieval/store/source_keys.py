"""Keys of sources, by which their table is sorted.

The key of a source sorts as the walk lists it, a folder's files before its subfolders: the number of its root in four
bytes, the folders of its path each followed by a zero byte, one more zero byte, and its name.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass


@dataclass
class Touched:
    """How many lines of sources, rows of shards and `Item`s were read: cost is tested by counting, not by a clock."""

    lines: int = 0
    rows: int = 0
    items: int = 0


def key_of(root: int, path: str) -> bytes:
    """The key of the file at `path` below the root of this number."""
    folder, _, name = os.fsencode(path).rpartition(b"/")
    return folder_key(root, os.fsdecode(folder)) + b"\0" + name


def folder_key(root: int, path: str) -> bytes:
    """What the key of everything below the folder `path` of a root begins with."""
    folder = os.fsencode(path)
    return struct.pack(">I", root) + (folder.replace(b"/", b"\0") + b"\0" if folder else b"")


def folder_of(prefix: bytes) -> tuple[int, str]:
    """The root number and the folder below it: the inverse of `folder_key`."""
    return struct.unpack(">I", prefix[:4])[0], os.fsdecode(prefix[4:].rstrip(b"\0").replace(b"\0", b"/"))


def place_of(key: bytes) -> tuple[int, str]:
    """The root number and the path below it: the inverse of `key_of`."""
    prefix, _, name = key.rpartition(b"\0")
    root, folder = folder_of(prefix)
    return root, os.path.join(folder, os.fsdecode(name))

"""Beside each shard, its keys: sorted 64-bit hashes of ids and of contents, mapped, so that a look-up reads a few pages.

A hash only says where to look: callers compare the row itself.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.files import write_atomically

_HEAD = np.dtype("<u8")
_HASH = np.dtype("<u8")
_ROW = np.dtype("<u4")
# Of the files of facts; another one is made anew.
_FACTS_VERSION = 1
_HALF_A_YEAR = 15_768_000


def keys_file(shard: str) -> str:
    """The file of keys that belongs to a shard's file."""
    return f"{shard}.keys"


def words_file(shard: str) -> str:
    """The file of words that belongs to a shard's file."""
    return f"{shard}.words"


def offsets_file(vectors: str) -> str:
    """The file that belongs to an inverted file and says where the rows under it lie in their shards."""
    return f"{vectors}.rows"


def facts_file(shard: str) -> str:
    """The file of facts that belongs to a shard's file of media, for this machine's time zone: dates that come from a file's
    time are in local time."""
    return f"{shard}.{_FACTS_VERSION}-{_zone(time.tzname)}.facts"


@lru_cache(maxsize=4)
def _zone(_: tuple[str, str]) -> str:
    """What tells the machine's time zone from others: its offsets in the middle of winters and summers, in eight letters."""
    offsets = []
    for half in range(136):
        try:
            offsets.append(time.localtime(half * _HALF_A_YEAR).tm_gmtoff)
        except (OverflowError, OSError, ValueError):
            offsets.append(0)
    return hashlib.blake2b(repr(offsets).encode(), digest_size=4).hexdigest()


def hash_of(name: str | bytes) -> int:
    """A 64-bit hash, the same in every process."""
    data = name.encode("utf-8", "surrogatepass") if isinstance(name, str) else name
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def write_keys(folder: Path, shard: str, ids: Sequence[str], contents: Sequence[tuple[int, int]]) -> None:
    """Write the keys of a shard whose rows have these `ids`; `contents` are rows where a content begins, with its hash."""
    parts = [np.array([len(ids), len(contents)], _HEAD).tobytes()]
    for hashes, rows in (
        (np.fromiter((hash_of(name) for name in ids), _HASH, len(ids)), np.arange(len(ids), dtype=_ROW)),
        (np.array([value for _, value in contents], _HASH), np.array([row for row, _ in contents], _ROW)),
    ):
        order = np.argsort(hashes, kind="stable")
        parts += [hashes[order].tobytes(), rows[order].tobytes()]
    write_atomically(folder / keys_file(shard), b"".join(parts))


@dataclass(frozen=True)
class ShardKeys:
    """The keys of one shard: hashes sorted, and the row of each."""

    ids: NDArray[np.uint64]
    id_rows: NDArray[np.uint32]
    contents: NDArray[np.uint64]
    content_rows: NDArray[np.uint32]

    @staticmethod
    def open(folder: Path, shard: str) -> ShardKeys:
        """Map the keys of a shard. Raises `FormatError` where they are damaged or missing."""
        file = folder / keys_file(shard)
        try:
            data = np.memmap(file, np.uint8, "r")
            count, contents = (int(value) for value in data[:16].view(_HEAD))
            sizes = [count * 8, count * 4, contents * 8, contents * 4]
            if len(data) != 16 + sum(sizes):
                raise ValueError
        except (OSError, ValueError) as error:
            raise FormatError(
                f"{file} is damaged or missing; mend it with: mmsearch index FOLDER --rebuild-vectors"
            ) from error
        at = np.cumsum([16, *sizes])
        return ShardKeys(
            np.asarray(data[at[0] : at[1]]).view(_HASH),
            np.asarray(data[at[1] : at[2]]).view(_ROW),
            np.asarray(data[at[2] : at[3]]).view(_HASH),
            np.asarray(data[at[3] : at[4]]).view(_ROW),
        )

    def rows_of_id(self, key_hash: int) -> list[int]:
        """Rows whose id has this hash."""
        return _rows(self.ids, self.id_rows, key_hash)

    def rows_of_content(self, key_hash: int) -> list[int]:
        """First rows of sources whose content has this hash."""
        return _rows(self.contents, self.content_rows, key_hash)


def _rows(hashes: NDArray[np.uint64], rows: NDArray[np.uint32], key_hash: int) -> list[int]:
    wanted = np.uint64(key_hash)
    low, high = np.searchsorted(hashes, wanted, "left"), np.searchsorted(hashes, wanted, "right")
    return [int(row) for row in rows[low:high]]

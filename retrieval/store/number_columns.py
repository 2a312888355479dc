"""Files of columns of numbers, which are mapped and searched where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import FormatError
from retrieval.files import write_atomically
from retrieval.store.manifest import CopiesFile

_ALIGNED = 8
_HEAD = np.dtype("<u8")


def write_columns(
    folder: Path, name: str, rows: int, head: Sequence[int], columns: Sequence[NDArray[Any]]
) -> CopiesFile:
    """Write what `Columns` reads, durably. Raises `OSError`."""
    parts = [np.array(head, _HEAD).tobytes(), *(column.tobytes() for column in columns)]
    data = b"".join(part + bytes(-len(part) % _ALIGNED) for part in parts)
    write_atomically(folder / name, data)
    return CopiesFile(file=name, rows=rows, bytes=len(data))


class Columns:
    """A mapped file of numbers: a head of a few counts, then one column after the other, each at a multiple of eight bytes, so
    that they are searched where they lie."""

    def __init__(self, file: Path, data: NDArray[np.uint8], head: list[int]) -> None:
        self._file, self._data, self.head = file, data, head
        self._at = 8 * len(head)

    @staticmethod
    def open(folder: Path, entry: CopiesFile, counts: int) -> Columns:
        """Map a file whose head has so many `counts`. Raises `FormatError` where its size is not the one that was written."""
        file = folder / entry.file
        try:
            data = np.asarray(np.memmap(file, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise _damaged(file) from error
        if len(data) != entry.bytes or len(data) < 8 * counts:
            raise _damaged(file)
        return Columns(file, data, [int(count) for count in data[: 8 * counts].view(_HEAD)])

    def next(self, kind: str | np.dtype[Any], count: int) -> NDArray[Any]:
        """The next column. Raises `FormatError` beyond the end."""
        size = np.dtype(kind).itemsize * count
        if self._at + size > len(self._data):
            raise _damaged(self._file)
        column = self._data[self._at : self._at + size].view(kind)
        self._at += size + -size % _ALIGNED
        return column

    def finish(self) -> None:
        """Raise `FormatError` where something is left."""
        if self._at != len(self._data):
            raise _damaged(self._file)


def _damaged(file: Path) -> FormatError:
    return FormatError(f"{file} is damaged or missing; mend it with: mmsearch index FOLDER --rebuild-vectors")

"""Inverted lists of compressed codes in one file, mapped by all of its readers.

Faiss reads the lists of its fast-scan indexes into memory, a copy a process: at ten million rows of 512 dimensions three
quarters of a gigabyte before the first answer. So the file is laid out to be searched where it lies: what Faiss writes of the
trained index with empty lists, then each list's blocks of 32 codes and its row numbers, then a table of them. Faiss's lists on
disk address them, and its search finds them as it would its own. Memory that a row takes in the cache of the disk: its code
(half a byte for each four dimensions, or an eighth of a byte each and eight bytes) and eight bytes of row number.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.files import replacing

# Rows that Faiss's kernels take at once, and where lists may start.
BLOCK = 32
_ALIGNMENT = 64
_FOOTER = struct.Struct("<8sQQ")
_MAGIC = b"mmslists"
# Codes are gathered from the scratch file so many bytes at a time before their pages are let go.
_STEP = 256 * 1024**2


@dataclass(frozen=True)
class CodedLists:
    """A trained Faiss index of inverted lists, and the rotation that rows and queries pass before it, None for none. `owner`
    holds what both lie in."""

    index: Any
    rotation: Any = None
    owner: Any = None

    def rotated(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows `(n, d) float32` as the index takes them."""
        if self.rotation is None:
            return np.ascontiguousarray(rows, np.float32)
        return np.asarray(self.rotation.apply(np.ascontiguousarray(rows, np.float32)), np.float32)


def encode(lists: CodedLists, rows: NDArray[np.float32], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The codes `(n, bytes) uint8` of rotated rows `(n, d)` in the lists `numbers (n,)`."""
    import faiss

    codes = np.empty((len(rows), lists.index.code_size), np.uint8)
    numbers = np.ascontiguousarray(numbers, np.int64)
    lists.index.encode_vectors(len(rows), *(faiss.swig_ptr(array) for array in (rows, numbers, codes)), False)
    return codes


def write_coded_lists(file: Path, lists: CodedLists, numbers: NDArray[np.int32], codes: Path) -> int:
    """Write the file of rows whose lists are `numbers (n,)` and whose codes, row after row, are the bytes of the file `codes`;
    returns its size. Memory: twelve bytes a row, and some blocks. Raises `OSError`."""
    import faiss

    sizes = np.bincount(numbers, minlength=lists.index.nlist)
    order = np.argsort(numbers, kind="stable")
    with replacing(file) as scratch, open(scratch, "wb") as out:
        out.write(faiss.serialize_index(_emptied(lists)).tobytes())
        table = np.zeros((lists.index.nlist, 3), np.uint64)
        stored = (
            np.memmap(codes, np.uint8, "r").reshape(len(numbers), -1) if len(numbers) else np.empty((0, 1), np.uint8)
        )
        packer = lists.index.get_CodePacker()
        at = since = 0
        for number, size in enumerate(sizes.tolist()):
            rows = order[at : at + size]
            at += size
            out.write(bytes(-out.tell() % _ALIGNMENT))
            table[number] = size, -(-size // BLOCK) * BLOCK, out.tell()
            for block in _blocks(packer, stored[rows]):
                out.write(block)
            out.write(np.pad(rows, (0, -size % BLOCK)).astype(np.int64).tobytes())
            since += size * stored.shape[1]
            if since > _STEP and isinstance(stored.base, np.memmap):
                since = 0
                _let_go(stored.base)
        start = out.tell()
        out.write(table.tobytes())
        out.write(_FOOTER.pack(_MAGIC, start, len(table)))
    return file.stat().st_size


def open_coded_lists(file: Path) -> CodedLists:
    """The lists of a file, mapped. Raises `OSError` for a file that is missing, `ValueError` for one that is not whole."""
    import faiss

    with open(file, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        opened.seek(max(0, size - _FOOTER.size))
        footer = opened.read()
        if len(footer) < _FOOTER.size:
            raise ValueError("no footer")
        magic, start, count = _FOOTER.unpack(footer)
        if magic != _MAGIC or start + 24 * count + _FOOTER.size != size:
            raise ValueError("no footer, or not of this size")
        opened.seek(start)
        table = np.frombuffer(opened.read(24 * count), np.uint64)
    try:
        index: Any = faiss.read_index(os.fspath(file))
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    whole, rotation = index, None
    if isinstance(index, faiss.IndexPreTransform):
        chain: Any = index.chain
        rotation, index = faiss.downcast_VectorTransform(chain.at(0)), faiss.downcast_index(index.index)
    if index.nlist != count:
        raise ValueError(f"{count} lists for {index.nlist}")
    mapped: Any = faiss.OnDiskInvertedLists(count, index.code_size, "")
    mapped.filename, mapped.totsize, mapped.read_only = os.fspath(file), size, True
    mapped.do_mmap()
    # A thread for each list costs more than it brings once the file is in memory.
    mapped.prefetch_nthread = 0
    faiss.memcpy(mapped.lists.data(), faiss.swig_ptr(table), table.nbytes)
    index.replace_invlists(mapped, False)
    index.ntotal = int(table.reshape(count, 3)[:, 0].sum())
    return CodedLists(index, rotation, (whole, mapped))


def _emptied(lists: CodedLists) -> Any:
    """The index as it is written: no rows, the rotation before it."""
    import faiss

    empty: Any = faiss.ArrayInvertedLists(lists.index.nlist, lists.index.code_size)
    empty.this.disown()
    lists.index.replace_invlists(empty, True)
    lists.index.ntotal = 0
    return lists.index if lists.rotation is None else faiss.IndexPreTransform(lists.rotation, lists.index)


def _blocks(packer: Any, codes: NDArray[np.uint8]) -> Iterator[bytes]:
    """Codes `(n, bytes)` as Faiss's kernels want them, 32 together."""
    import faiss

    padded = np.zeros((-(-len(codes) // BLOCK) * BLOCK, codes.shape[1]), np.uint8)
    padded[: len(codes)] = codes
    block = np.zeros(packer.block_size, np.uint8)
    for start in range(0, len(padded), BLOCK):
        packer.pack_all(faiss.swig_ptr(padded[start : start + BLOCK]), faiss.swig_ptr(block))
        yield block.tobytes()


def _let_go(mapped: np.memmap[Any, Any]) -> None:
    """Take the pages of a mapped file out of this process; the system's cache keeps them."""
    pages = getattr(mapped, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)

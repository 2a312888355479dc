"""Beside each shard, its words: an inverted file of the terms of its rows, mapped, so that a look-up reads a few pages.

It is made from the columns of the shard alone and can be made again from them at any time. It holds counts and no weights, so
that those of BM25 can be computed over all shards together.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from media.types import MEMBER
from retrieval.errors import FormatError
from retrieval.files import write_atomically
from retrieval.store.keys import hash_of, words_file
from retrieval.terms import Spans, tokens

if TYPE_CHECKING:
    import pyarrow as pa

# Marks a term that is a whole name: no word has this byte in it.
WHOLE = b"\x01"
# What a row needs of its shard to be found by words; a shard of an older version may lack the last three.
COLUMNS = ("root", "path", "path_raw", "source_root", "source", "kind", "start", "text", "place", "words", "text_kind")
NEVER = 0xFFFFFFFF
_MAGIC = b"MMSWORD1"
_BATCH = 4096
_ROW_BITS = 32


def media_key(root: int, path: str, path_raw: bytes | None) -> int:
    """A 64-bit hash of a media file by its place, never 0, the same in every process."""
    name = path.encode("utf-8", "surrogatepass") if path_raw is None else path_raw
    return hash_of(b"%d\0" % root + name) or 1


def write_words(folder: Path, shard: str, table: pa.Table) -> None:
    """Write the words of a shard whose rows are `table`; of its columns those of `COLUMNS` are read."""
    # A search maps what is here and needs neither.
    import pyarrow as pa
    import pyarrow.compute as pc

    batches = [_batch_terms(batch, first) for batch, first in _batches(table)]
    terms = pa.chunked_array([part for part, _, _ in batches], pa.binary()).dictionary_encode()
    rows = np.concatenate([np.empty(0, np.int64), *(numbers for _, numbers, _ in batches)])
    lengths = np.concatenate([np.empty(0, np.uint16), *(counts for _, _, counts in batches)])
    encoded = terms.combine_chunks() if isinstance(terms, pa.ChunkedArray) else terms
    dictionary = encoded.dictionary
    order = pc.sort_indices(dictionary).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    keys = np.sort((rank[encoded.indices.to_numpy(zero_copy_only=False)] << _ROW_BITS) | rows)
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    counts = np.diff(np.append(firsts, len(keys)))
    keys = keys[firsts]
    dictionary = dictionary.take(pa.array(order))
    sizes = pc.binary_length(dictionary).to_numpy(zero_copy_only=False).astype(np.int64)
    about, starts = _about(table)
    parts: list[NDArray[Any]] = [
        about,
        np.argsort(about, kind="stable").astype(np.uint32),
        starts,
        _ends(sizes),
        _ends(np.bincount(keys >> _ROW_BITS, minlength=len(sizes))),
        (keys & ((1 << _ROW_BITS) - 1)).astype(np.uint32),
        lengths,
        np.minimum(counts, 255).astype(np.uint8),
        np.frombuffer(b"".join(dictionary.to_pylist()), np.uint8),
    ]
    head = np.array([table.num_rows, int(lengths.sum()), len(sizes), len(keys), int(sizes.sum())], "<u8")
    data = b"".join([_MAGIC, head.tobytes(), *(part.tobytes() for part in parts)])
    write_atomically(folder / words_file(shard), data)


@dataclass(frozen=True)
class ShardWords:
    """The words of one shard of n rows.

    `about (n,) uint64` is the `media_key` of what a row is about, 0 for a passage of a document; `by_media (n,) uint32` are
    the rows in the order of these keys; `starts (n,) uint32` milliseconds, `NEVER` for what has no time; `lengths (n,)
    uint16` how many terms a row has. Of term t, sorted by bytes, the postings are `rows[a:b]`, ascending, with `counts[a:b]`,
    at most 255.
    """

    size: int
    total: int
    about: NDArray[np.uint64]
    by_media: NDArray[np.uint32]
    starts: NDArray[np.uint32]
    lengths: NDArray[np.uint16]
    rows: NDArray[np.uint32]
    counts: NDArray[np.uint8]
    _term_ends: NDArray[np.uint32]
    _posting_ends: NDArray[np.uint32]
    _terms: NDArray[np.uint8]

    @staticmethod
    def open(folder: Path, shard: str, rows: int) -> ShardWords | None:
        """Map the words of a shard of so many rows; None where there are none. Raises `FormatError` for a damaged file."""
        file = folder / words_file(shard)
        try:
            data = np.memmap(file, np.uint8, "r")
            head = [int(value) for value in data[8:48].view("<u8")]
            size, total, terms, postings, letters = head
            shapes: list[tuple[str, int]] = [
                ("<u8", size), ("<u4", size), ("<u4", size), ("<u4", terms + 1), ("<u4", terms + 1), ("<u4", postings),
                ("<u2", size), ("u1", postings), ("u1", letters),
            ]  # fmt: skip
            ends = np.cumsum([48, *(np.dtype(kind).itemsize * count for kind, count in shapes)]).tolist()
            if bytes(data[:8]) != _MAGIC or size != rows or len(data) != ends[-1]:
                raise ValueError
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FormatError(f"{file} is damaged; mend it with: mmsearch index FOLDER --rebuild-vectors") from error
        plain = np.asarray(data)
        parts = [plain[a:b].view(kind) for (kind, _), a, b in zip(shapes, ends, ends[1:], strict=False)]
        about, by_media, starts, term_ends, posting_ends, places, lengths, counts, letters_of = parts
        return ShardWords(
            size, total, about, by_media, starts, lengths, places, counts, term_ends, posting_ends, letters_of
        )

    def term_range(self, term: bytes) -> tuple[int, int]:
        """The number of a term and the one after it; twice the same where it is not there."""
        first = bisect_left(_Terms(self), term)
        return first, first + (first < len(self._term_ends) - 1 and self.term(first) == term)

    def prefix_range(self, prefix: bytes) -> tuple[int, int]:
        """The numbers of the terms that begin with `prefix`, from the first to before the last."""
        terms = _Terms(self)
        return bisect_left(terms, prefix), bisect_left(terms, prefix + b"\xff")

    def term(self, number: int) -> bytes:
        """The bytes of a term."""
        return self._terms[self._term_ends[number] : self._term_ends[number + 1]].tobytes()

    def postings(self, first: int, stop: int) -> tuple[int, int]:
        """Where the postings of the terms from number `first` to before `stop` lie."""
        return int(self._posting_ends[first]), int(self._posting_ends[stop])

    def about_range(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where in `by_media` the rows about each of `keys (m,)` begin and end: two `(m,) int64`."""
        low = np.searchsorted(self.about, keys, "left", sorter=self.by_media)
        high = np.searchsorted(self.about, keys, "right", sorter=self.by_media)
        return low.astype(np.int64), high.astype(np.int64)


class _Terms:
    """The terms of a shard, as `bisect` wants them."""

    def __init__(self, words: ShardWords) -> None:
        self._words = words

    def __len__(self) -> int:
        return len(self._words._term_ends) - 1

    def __getitem__(self, number: int) -> bytes:
        return self._words.term(number)


def _batches(table: pa.Table) -> Iterator[tuple[dict[str, list[object]], int]]:
    for first in range(0, table.num_rows, _BATCH):
        piece = table.slice(first, _BATCH)
        yield {name: piece.column(name).to_pylist() for name in COLUMNS if name in table.column_names}, first


def _batch_terms(
    columns: dict[str, list[object]], first: int
) -> tuple[pa.Array, NDArray[np.int64], NDArray[np.uint16]]:
    """The terms of some rows, the row of each, and how many words each row has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    paths = [str(path) for path in columns["path"]]
    size = len(paths)
    nothing: list[object] = [None] * size
    texts, names, owners = [], [], []
    before = None
    for row, (path, kind, text, place, words, text_kind) in enumerate(
        zip(
            paths, columns["kind"], columns["text"], columns.get("place", nothing), columns.get("words", nothing),
            columns.get("text_kind", nothing), strict=True,
        )
    ):  # fmt: skip
        # The name of a video or a document is a matter of its first row.
        first_of_file = path != before and (kind == "video" or columns["source"][row] == path)
        own = kind == "image" or (first_of_file and text_kind != "ocr")
        before = path
        texts.append("\n".join(str(value) for value in (path if own else None, text, place, words) if value))
        if own:
            parts = path.replace(MEMBER, "/").replace(os.sep, "/").split("/")
            names += [*parts[:-1], os.path.splitext(parts[-1])[0]]
            owners += [row] * len(parts)
    cut, wholes = tokens(texts), tokens(names).wholes
    sorts = [cut.parts, cut.compounds, cut.characters, cut.pairs]
    rows = [spans.texts[spans.keep] for spans in sorts]
    lengths = np.minimum(np.bincount(np.concatenate(rows), minlength=size), 0xFFFF).astype(np.uint16)
    marked = pc.binary_join_element_wise(pa.scalar(WHOLE), _array(wholes), pa.scalar(b""))
    arrays = pa.concat_arrays([*(_array(spans) for spans in sorts), marked])
    of_wholes = np.array(owners, np.int64)[wholes.texts[wholes.keep]]
    return arrays, np.concatenate([*rows, of_wholes]) + first, lengths


def _array(spans: Spans) -> pa.Array:
    import pyarrow as pa

    offsets = pa.py_buffer(spans.offsets.astype(np.int32).tobytes())
    whole = pa.Array.from_buffers(pa.binary(), len(spans.offsets) - 1, [None, offsets, pa.py_buffer(spans.data)])
    return whole.filter(pa.array(spans.keep))


def _about(table: pa.Table) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """What each row is about, and when, as `ShardWords` holds them."""
    names = ("root", "path", "path_raw", "source_root", "source", "kind", "start")
    keys: dict[tuple[int, str, bytes | None], int] = {}
    about, starts = [], []
    known = "text_kind" in table.column_names
    text_kinds = table.column("text_kind").to_pylist() if known else [None] * table.num_rows
    for root, path, raw, source_root, source, kind, start, text_kind in zip(
        *(table.column(name).to_pylist() for name in names), text_kinds, strict=True
    ):
        starts.append(NEVER if start is None else min(round(1000 * start), NEVER - 1))
        if kind == "text" and start is None and (source_root, source) == (root, path) and text_kind != "ocr":
            about.append(0)
            continue
        place = (root, path, raw)
        if place not in keys:
            keys[place] = media_key(*place)
        about.append(keys[place])
    return np.array(about, np.uint64), np.array(starts, np.uint32)


def _ends(sizes: NDArray[np.int64]) -> NDArray[np.uint32]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint32)

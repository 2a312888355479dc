"""Making inverted files: what their lists and codes are trained on, and which rows lie in which list.

Three kinds of codes. `sq8` has a byte a dimension, in a file of Faiss's own. `pq4` has half a byte for each few dimensions of
what a row differs from the centroid of its list by, and `rabitq` one bit for each dimension of it, rotated at random (an axis
of embeddings may carry much of them); both are searched by Faiss's fast-scan kernels, in files of `coded_lists`. Centroids of
the latter are means, not unit rows: that makes differences smaller, and codes true.

Training sees at most 48 rows a list and a gigabyte of them, drawn evenly from all shards. They are rows of the kind that is
searched: with a fifth or a half of texts joined to them, where they lie or moved to the mean of the pictures, queries that are
texts find no more of the exact first ten, and of made-up rows somewhat less (`mini` on Flickr8k, and `benchmarks.made_up`).

Memory while a file is made: that sample (twice where it is rotated or k-means copies it), one shard, and twenty-four bytes a
row: its list, and the order of all rows by their lists. That is under three gigabytes for ten million rows of 512 dimensions.
For `sq8` the codes come to it; those of the other kinds wait in a scratch file of their size, so that each shard is read once
for training and once for filling.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.files import PARTIAL, replacing
from retrieval.store.coded_lists import CodedLists, encode, open_coded_lists, write_coded_lists
from retrieval.store.manifest import ShardEntry, VectorEntry

Codes = Literal["sq8", "pq4", "rabitq"]
_BATCH = 8192
_TRAINING_ROWS = 48
_TRAINING_BYTES = 1024**3
_ROUNDS = 8
# Codes of four bits have sixteen centroids, which Faiss wants as many rows for.
_LEAST_SAMPLE = 16

Load = Callable[[ShardEntry], NDArray[np.float16]]


def codes_of(entry: VectorEntry) -> Codes:
    """The codes of an inverted file, by its type."""
    codes = entry.type.partition(",")[2]
    return "pq4" if codes.startswith("pq") else "rabitq" if codes == "rabitq" else "sq8"


def write_ivf(
    folder: Path, name: str, shards: Sequence[ShardEntry], load: Load, codes: Codes = "pq4", seed: int = 7
) -> VectorEntry:
    """An inverted file over `shards`, with lists of its own.

    The number of lists is the power of two next to 2√n (Faiss's guidance for 10⁶ rows). Rows are drawn with `seed`, so the same
    shards give the same file. Raises `OSError` for a disk that is full or fails.
    """
    rows = sum(shard.rows for shard in shards)
    nlist = max(1, min(2 ** round(float(np.log2(2 * np.sqrt(rows)))), rows // 8))
    lists = _trained(_sample(shards, load, nlist, seed), nlist, codes, seed)
    return _filled(folder, name, lists, codes, shards, load)


def write_more(folder: Path, name: str, trained: VectorEntry, shards: Sequence[ShardEntry], load: Load) -> VectorEntry:
    """An inverted file over `shards` with the centroids and the codes of one that is there."""
    import faiss

    codes = codes_of(trained)
    if codes != "sq8":
        return _filled(folder, name, open_coded_lists(folder / trained.file), codes, shards, load)
    old: Any = faiss.read_index(os.fspath(folder / trained.file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    index = _scalar_quantizer(faiss.clone_index(old.quantizer), old.d, old.nlist)
    index.by_residual, index.is_trained = old.by_residual, True
    index.sq.trained = old.sq.trained
    return _filled(folder, name, CodedLists(index), codes, shards, load)


def _sample(shards: Sequence[ShardEntry], load: Load, nlist: int, seed: int) -> NDArray[np.float32]:
    """The rows that lists are trained on, `(n, d)`."""
    rows = sum(shard.rows for shard in shards)
    rng = np.random.default_rng(seed)
    sample, taken, share = np.empty((0, 0), np.float32), 0, 0.0
    for shard in shards:
        vectors = load(shard)
        if not share:
            dim = vectors.shape[1]
            share = min(1.0, min(_TRAINING_ROWS * nlist, _TRAINING_BYTES // (4 * dim)) / rows)
            sample = np.empty((sum(_share_of(each.rows, share) for each in shards), dim), np.float32)
        count = _share_of(len(vectors), share)
        sample[taken : taken + count] = vectors[np.sort(rng.choice(len(vectors), count, replace=False))]
        taken += count
        del vectors
    return sample


def _share_of(rows: int, share: float) -> int:
    return min(rows, max(1, round(rows * share)))


def _trained(sample: NDArray[np.float32], nlist: int, codes: Codes, seed: int) -> CodedLists:
    import faiss

    dim, rotation = sample.shape[1], None
    if codes == "sq8":
        index: Any = _scalar_quantizer(faiss.IndexFlatIP(dim), dim, nlist)
    elif codes == "pq4":
        # Four dimensions a code, or the nearest number that divides them.
        size = next(size for size in (4, 3, 5, 2, 6, 7, 1) if dim % size == 0)
        index = faiss.IndexIVFPQFastScan(faiss.IndexFlatIP(dim), dim, nlist, dim // size, 4, faiss.METRIC_INNER_PRODUCT)
        index.by_residual = True
        index.pq.cp.min_points_per_centroid, index.pq.cp.seed = 1, seed
    else:
        rotation = faiss.RandomRotationMatrix(dim, dim)
        rotation.init(seed)
        index = faiss.IndexIVFRaBitQFastScan(faiss.IndexFlatIP(dim), dim, nlist, faiss.METRIC_INNER_PRODUCT)
    lists = CodedLists(index, rotation)
    index.cp.niter, index.cp.seed, index.cp.spherical = _ROUNDS, seed, codes == "sq8"
    index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = _TRAINING_ROWS, 1
    if len(sample) < _LEAST_SAMPLE:
        sample = np.resize(sample, (_LEAST_SAMPLE, dim))
    index.train(lists.rotated(sample))
    return lists


def _scalar_quantizer(quantizer: Any, dim: int, nlist: int) -> Any:
    import faiss

    return faiss.IndexIVFScalarQuantizer(
        quantizer, dim, nlist, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )


def _filled(
    folder: Path, name: str, lists: CodedLists, codes: Codes, shards: Sequence[ShardEntry], load: Load
) -> VectorEntry:
    """Write the rows of `shards` into trained lists."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    norms = _square_norms(lists.index)
    numbers: list[NDArray[np.int32]] = []
    spread = 0.0

    def assigned() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        """Batches of rows as the lists take them, and their lists; added up on the way."""
        nonlocal spread
        for rows in _batches(shards, load):
            batch = lists.rotated(rows)
            products, nearest = lists.index.quantizer.search(batch, 1)
            number = nearest[:, 0]
            spread += float(np.sum(1 + norms[number] - 2 * products[:, 0], dtype=np.float64))
            numbers.append(number.astype(np.int32))
            yield batch, number

    if codes == "sq8":
        for _ in assigned():
            pass
        size = _write_sq8(file, lists.index, numbers, _batches(shards, load))
    else:
        scratch = file.with_name(file.name + ".codes" + PARTIAL)
        try:
            with open(scratch, "wb") as out:
                for batch, number in assigned():
                    out.write(encode(lists, batch, number).tobytes())
            size = write_coded_lists(file, lists, np.concatenate(numbers), scratch)
        finally:
            scratch.unlink(missing_ok=True)
    rows = sum(len(number) for number in numbers)
    kind = f"pq{lists.index.pq.M}x4fs" if codes == "pq4" else codes
    return VectorEntry(
        file=name,
        type=f"ivf{lists.index.nlist},{kind}",
        kind=shards[0].kind,
        shards=tuple(shard.file for shard in shards),
        rows=rows,
        bytes=size,
        spread=round(spread / rows, 6),
    )


def _batches(shards: Sequence[ShardEntry], load: Load) -> Iterator[NDArray[np.float32]]:
    for shard in shards:
        vectors = load(shard)
        for start in range(0, len(vectors), _BATCH):
            yield np.ascontiguousarray(vectors[start : start + _BATCH], np.float32)
        del vectors


def _square_norms(index: Any) -> NDArray[np.float32]:
    """The squared lengths of the centroids `(nlist,)`."""
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    return np.asarray(np.einsum("ij,ij->i", centroids, centroids), np.float32)


def _write_sq8(
    file: Path, index: Any, numbers: Sequence[NDArray[np.int32]], batches: Iterator[NDArray[np.float32]]
) -> int:
    """Add rows to a trained index and write it. Memory holds the codes once, at their exact size: the list of every row is
    known before the first is added."""
    import faiss

    sizes = np.bincount(np.concatenate(numbers), minlength=index.nlist)
    for number in np.flatnonzero(sizes).tolist():
        index.invlists.resize(number, int(sizes[number]))
        index.invlists.resize(number, 0)
    for batch, chosen in zip(batches, numbers, strict=True):
        chosen = np.ascontiguousarray(chosen, np.int64)
        index.add_core(len(batch), faiss.swig_ptr(batch), None, faiss.swig_ptr(chosen))
    return write_faiss(file, index)


def write_faiss(file: Path, index: Any) -> int:
    """Faiss files go through a temporary name as well; returns the size."""
    import faiss

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(file) as scratch:
            faiss.write_index(index, os.fspath(scratch))
    except RuntimeError as error:
        raise OSError(f"cannot write {file}: {str(error).strip().splitlines()[-1]}") from error
    return file.stat().st_size

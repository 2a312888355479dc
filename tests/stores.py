"""Rows, models and indexes made for tests: real Parquet and Faiss, with embeddings that need no model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from media.errors import MediaError
from media.image import difference_hash
from media.recognition import TextLine
from retrieval.store.journal import UnitResult
from retrieval.store.manifest import Manifest
from retrieval.store.shards import ShardReader
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, Kind, ModelSpec

DIM = 24


def spec(dim: int = DIM, sha: str = "f" * 64) -> ModelSpec:
    return ModelSpec(
        name="test",
        architecture="test",
        weights_sha256=sha,
        dim=dim,
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        resize_mode="shortest",
        tokenizer="none",
        context_length=8,
        clean="lower",
    )


def unit_rows(count: int, dim: int = DIM, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def items(count: int, kind: Kind = "image", start: int = 0) -> list[Item]:
    return [
        Item(
            id=f"{kind}-{number}",
            path=f"/media/{kind}{number}",
            source=f"/media/{kind}{number}",
            kind=kind,
            text=f"text {number}" if kind == "text" else None,
            size=number,
            mtime_ns=number,
            sha256=f"{number:064d}",
        )
        for number in range(start, start + count)
    ]


def result(writer: IndexWriter, batch: Sequence[Item], embeddings: NDArray[np.float32]) -> UnitResult:
    """These rows as the result of a unit that read their sources, whose roots the index learns."""
    for folder in sorted({os.path.dirname(item.source) for item in batch}):
        writer.add_root(folder)
    return UnitResult.of_rows(batch, embeddings, writer.manifest.roots)


def remove_rows(writer: IndexWriter, shard: int, rows: NDArray[np.int64]) -> Manifest:
    """Let the sources of these rows of a shard go."""
    reader = ShardReader(writer.folder, writer.manifest)
    return writer.publish([reader.source_key(shard, row) for row in rows.tolist()])


def make_index(folder: Path, groups: Sequence[tuple[Kind, int]], dim: int = DIM) -> dict[str, NDArray[np.float32]]:
    """An index of one commit a group; returns each id's row as it is stored."""
    rows: dict[str, NDArray[np.float32]] = {}
    counts: dict[str, int] = {}
    with IndexWriter(folder, spec(dim)) as writer:
        for seed, (kind, count) in enumerate(groups):
            start = counts.get(kind, 0)
            counts[kind] = start + count
            vectors = unit_rows(count, dim, seed)
            batch = items(count, kind, start)
            writer.journal(result(writer, batch, vectors))
            writer.publish()
            stored = vectors.astype(np.float16).astype(np.float32)
            rows.update({item.id: row for item, row in zip(batch, stored, strict=True)})
    return rows


def clustered(count: int, seed: int, dim: int = DIM) -> NDArray[np.float32]:
    """Unit rows around forty topics."""
    centres = unit_rows(40, dim, seed=1234)
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(0, 40, count)] + 0.35 * rng.standard_normal((count, dim)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def clustered_index(folder: Path, sizes: Sequence[int]) -> NDArray[np.float32]:
    """An index of images, one commit a size; returns its rows in order, as they are stored."""
    matrix = []
    with IndexWriter(folder, spec()) as writer:
        for seed, size in enumerate(sizes):
            rows = clustered(size, seed)
            writer.journal(result(writer, items(size, start=sum(sizes[:seed])), rows))
            writer.publish()
            matrix.append(rows.astype(np.float16).astype(np.float32))
    return np.concatenate(matrix)


class PlainEncoder:
    """Stands where a model would: an embedding is a fixed random projection of the pixels, or of a text's letters.

    Storage, recovery and incremental runs are tested with it, many times over, at the speed of numpy.
    """

    def __init__(self) -> None:
        self.spec = spec()
        self.encoded = 0
        self._pixels = np.random.default_rng(1).standard_normal((32 * 32 * 3, DIM)).astype(np.float32)
        self._letters = np.random.default_rng(2).standard_normal((256, DIM)).astype(np.float32)

    def warm(self) -> None:
        """Nothing to load."""

    def release(self) -> None:
        """Nothing to give back."""

    def preprocess(self, image: Image) -> NDArray[np.float32]:
        return np.asarray(np.asarray(image.resize((32, 32)), np.float32).transpose(2, 0, 1) / 255 - 0.5, np.float32)

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        self.encoded += len(pixels)
        return _unit(np.stack([one.reshape(-1) for one in pixels]) @ self._pixels)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts = [np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256) for text in texts]
        return _unit(np.stack(counts).astype(np.float32) @ self._letters)


class OtherEncoder(PlainEncoder):
    """Another model: other weights, other embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = spec(sha="e" * 64)
        self._pixels = np.random.default_rng(3).standard_normal((32 * 32 * 3, DIM)).astype(np.float32)


class LettersRecogniser:
    """Stands where a recogniser would: a light picture says a word of its own, a dark one nothing, a blue one fails."""

    def __init__(self) -> None:
        self.read_pictures = 0

    def read(self, image: Image) -> list[TextLine]:
        self.read_pictures += 1
        red, _, blue = np.asarray(image.resize((1, 1)), np.float32)[0, 0].tolist()
        if blue > red + 60:
            raise MediaError("decode", "its text cannot be read: too blue")
        return [TextLine(text=f"the word {word_of(image)}", confidence=0.9)] if red > 150 else []


def word_of(image: Image) -> str:
    """What `LettersRecogniser` reads in a light picture."""
    return "".join("bcdfghklmnprstvz"[int(digit, 16)] for digit in f"{difference_hash(image) % 2**64:016x}")


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

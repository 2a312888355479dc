"""The lexical index by itself: how long it takes to make, to open and to ask, beside SQLite's FTS5 over the same texts.

    python -m benchmarks.words --rows 1000000
    python -m benchmarks.words --rows 500000 --sqlite

Half of the rows are names of images, half captions of them, of made-up words that are as frequent as words are (Zipf).
"""

from __future__ import annotations

import argparse
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from retrieval.ranking.words import find_words
from retrieval.store.keys import words_file
from retrieval.store.lexicon import Lexicon
from retrieval.store.manifest import Manifest, ShardEntry
from retrieval.store.roots import Roots
from retrieval.store.selection import Selection
from retrieval.store.shards import SHARD_ROWS
from retrieval.store.words_file import write_words
from retrieval.types import KINDS, Kind, ModelSpec

_WORDS = 60_000
_SPEC = ModelSpec(
    name="none", architecture="none", weights_sha256="0" * 64, dim=1, image_size=1, mean=(0, 0, 0), std=(1, 1, 1),
    interpolation="bicubic", resize_mode="shortest", tokenizer="none", context_length=1, clean="lower",
)  # fmt: skip


def vocabulary() -> list[str]:
    """Distinct made-up words, the most frequent first."""
    chance = np.random.default_rng(1)
    letters = np.frombuffer(b"etaoinshrdlcumwfgypbvk", np.uint8)
    words = (bytes(chance.choice(letters, chance.integers(3, 10))).decode() for _ in range(2 * _WORDS))
    return list(dict.fromkeys(words))[:_WORDS]


def tables(rows: int, words: list[str]) -> Iterator[tuple[Kind, pa.Table]]:
    """Shards of names, then of captions, as the columns that words are made from."""
    chance = np.random.default_rng(2)
    share = 1 / (np.arange(len(words)) + 3.0)
    kinds: tuple[Kind, ...] = ("image", "text")
    for kind in kinds:
        for start in range(0, rows // 2, SHARD_ROWS):
            count = min(SHARD_ROWS, rows // 2 - start)
            paths = [f"{2000 + n % 20}/{words[n % 3000]} trip/IMG_{n}.jpg" for n in range(start, start + count)]
            drawn = chance.choice(len(words), (count, 10), p=share / share.sum())
            texts = [" ".join(words[w] for w in line) for line in drawn.tolist()] if kind == "text" else [None] * count
            yield (
                kind,
                pa.table(
                    {
                        "root": pa.array([0] * count, pa.int32()),
                        "path": paths,
                        "path_raw": pa.nulls(count, pa.binary()),
                        "source_root": pa.array([0] * count, pa.int32()),
                        "source": paths if kind == "image" else ["captions.csv"] * count,
                        "kind": [kind] * count,
                        "start": pa.nulls(count, pa.float64()),
                        "text": pa.array(texts, pa.string()),
                    }
                ),
            )


def ours(folder: Path, rows: int, words: list[str], queries: list[str]) -> None:
    """Make, open and ask the words of shards."""
    (folder / "shards").mkdir()
    entries, seconds = [], 0.0
    for number, (kind, table) in enumerate(tables(rows, words)):
        name = f"shards/{kind}-{number:04d}.parquet"
        began = time.perf_counter()
        write_words(folder, name, table)
        seconds += time.perf_counter() - began
        entries.append(ShardEntry(file=name, kind=kind, rows=table.num_rows, sha256="", bytes=0))
    size = sum((folder / words_file(entry.file)).stat().st_size for entry in entries)
    state = Manifest(model=_SPEC, roots=Roots(), shards=tuple(entries))
    began = time.perf_counter()
    lexicon = Lexicon(folder, state)
    opened = lexicon.size == rows and time.perf_counter() - began
    living = Selection.of_kinds(state, KINDS)
    times = []
    for query in queries:
        began = time.perf_counter()
        find_words(lexicon, living, query, ("image", "video"))
        times.append(1000 * (time.perf_counter() - began))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _tell("words files", seconds, size, 1000 * opened, times)
    print(f"largest memory of the process: {peak} MB")


def fts5(folder: Path, rows: int, words: list[str], queries: list[str]) -> None:
    """The same texts in SQLite's FTS5."""
    file, seconds = folder / "words.sqlite", 0.0
    base = sqlite3.connect(file)
    base.execute("CREATE VIRTUAL TABLE words USING fts5(text, content='', detail=none)")
    for kind, table in tables(rows, words):
        lines = [(line,) for line in table.column("path" if kind == "image" else "text").to_pylist()]
        began = time.perf_counter()
        base.executemany("INSERT INTO words(text) VALUES (?)", lines)
        seconds += time.perf_counter() - began
    began = time.perf_counter()
    base.commit()
    seconds += time.perf_counter() - began
    base.close()
    began = time.perf_counter()
    base = sqlite3.connect(file)
    base.execute("SELECT rowid FROM words WHERE words MATCH 'img' LIMIT 1").fetchall()
    opened, times = time.perf_counter() - began, []
    for query in queries:
        began = time.perf_counter()
        any_of = " OR ".join(query.split())
        base.execute("SELECT rowid, rank FROM words WHERE words MATCH ? ORDER BY rank LIMIT 1000", (any_of,)).fetchall()
        times.append(1000 * (time.perf_counter() - began))
    base.close()
    _tell("SQLite FTS5", seconds, file.stat().st_size, 1000 * opened, times)


def _tell(name: str, seconds: float, size: int, opened: float, times: list[float]) -> None:
    print(
        f"{name}: made in {seconds:.1f} s, {size / 1e6:.0f} MB, opened in {opened:.1f} ms; a query takes "
        f"{statistics.median(times):.1f} ms (median), {max(times):.1f} ms (most)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="half of them names, half captions")
    parser.add_argument("--sqlite", action="store_true", help="SQLite's FTS5 as well")
    asked = parser.parse_args()
    words = vocabulary()
    chance = np.random.default_rng(3)
    # Two words that many texts have and one that few have, as in a sentence.
    queries = [
        f"{words[chance.integers(5, 100)]} {words[chance.integers(100, 2000)]} {words[chance.integers(2000, 30_000)]}"
        for _ in range(40)
    ]
    with tempfile.TemporaryDirectory(prefix="mmsearch-words-") as scratch:
        ours(Path(scratch), asked.rows, words, queries)
        if asked.sqlite:
            fts5(Path(scratch), asked.rows, words, queries)


if __name__ == "__main__":
    main()

"""The words, and the facts of media, that lie in files beside each shard: made of its rows, at any time anew."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from retrieval.store.keys import facts_file, words_file
from retrieval.store.manifest import Manifest
from retrieval.store.shards import ShardReader
from retrieval.types import Kind


def write_words_and_facts(folder: Path, shard: str, kind: Kind, table: pa.Table) -> None:
    """Write the words of a shard whose rows are `table`, and, of media, its facts."""
    _write_words(folder, shard, table)
    if kind != "text":
        _write_facts(folder, shard, table)


def make_words_and_facts(folder: Path, state: Manifest, *, anew: bool = False) -> None:
    """Make the words and facts that are missing, as they are in an index of an earlier version or of another time zone; `anew`
    makes all of them."""
    reader = ShardReader(folder, state)
    for number, shard in enumerate(state.shards):
        if anew or not (folder / words_file(shard.file)).exists():
            from retrieval.store.words_file import COLUMNS as WORDS

            _write_words(folder, shard.file, reader.columns(number, WORDS))
        if shard.kind != "text" and (anew or not (folder / facts_file(shard.file)).exists()):
            from retrieval.store.shard_facts import COLUMNS as FACTS

            _write_facts(folder, shard.file, reader.columns(number, FACTS))


def _write_words(folder: Path, shard: str, table: pa.Table) -> None:
    # Imported here, as below: a run that finds nothing to do needs neither.
    from retrieval.store.words_file import write_words

    write_words(folder, shard, table)


def _write_facts(folder: Path, shard: str, table: pa.Table) -> None:
    from retrieval.store.shard_facts import write_facts

    write_facts(folder, shard, table)

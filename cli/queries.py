"""`mmsearch search --queries`: many searches in one process, their words embedded together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from retrieval.engine import Engine
from retrieval.errors import MmsearchError, QueryError
from retrieval.types import Hit, Query

# As many as an engine remembers texts for, with room for words that a query excludes.
_AT_ONCE = 64


def read_lines(file: Path) -> list[tuple[int, str]]:
    """The lines of a file (`-`: standard input) that have words, each with its number, from 1. Raises `MmsearchError`."""
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise MmsearchError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MmsearchError(f"{file} is not UTF-8; write one query a line, as plain text") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def answers(
    engine: Engine,
    lines: Sequence[tuple[int, str]],
    query_of: Callable[[str], Query],
    search: Callable[[Query], Sequence[Hit]],
) -> Iterator[tuple[int, str, Sequence[Hit]]]:
    """Each line with its number and its hits, in order. Raises `QueryError`, with the line's number, before the first of them
    is searched where a line is no query."""
    queries = []
    for number, line in lines:
        try:
            queries.append((number, line, query_of(line)))
        except QueryError as error:
            raise QueryError(f"line {number}: {error}") from error
    for start in range(0, len(queries), _AT_ONCE):
        part = queries[start : start + _AT_ONCE]
        engine.embed_texts([query.text for _, _, query in part if query.text is not None])
        for number, line, query in part:
            yield number, line, search(query)

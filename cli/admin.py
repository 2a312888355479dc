"""`mmsearch status`, `failures` and `compact`."""

from __future__ import annotations

import os
from pathlib import Path

from cli.options import IndexOption, JsonOption
from cli.terminal import busy, interruptible, print_json, shown, size_name, write_lines


def status_command(index: IndexOption = None, as_json: JsonOption = False) -> None:
    """What an index holds."""
    from retrieval.engine import Engine

    with Engine.open(index) as engine:
        status = engine.status()
        folder = engine.folder
    if as_json:
        print_json(status)
        return
    print(f"index         {shown(str(folder))}")
    for key, value in status.items():
        text = size_name(value) if key == "bytes" and isinstance(value, int) else value
        print(f"{key.replace('_', ' '):<13} {text}")


def failures_command(index: IndexOption = None, as_json: JsonOption = False) -> None:
    """Files that could not be indexed, and why."""
    from retrieval.engine import Engine

    with Engine.open(index) as engine:
        failures = engine.failures()
    if as_json:
        write_lines({"path": failure.path, "stage": failure.stage, "reason": failure.reason} for failure in failures)
        return
    for failure in failures:
        print(f"{shown(failure.path)}: {failure.stage}: {shown(failure.reason)}")
    if not failures:
        print("no failures")


def compact_command(index: IndexOption = None) -> None:
    """Rewrite an index at full shard size, without the rows of files that are gone."""
    from retrieval.store.manifest import find_index
    from retrieval.store.writer import IndexWriter

    folder = find_index(index, os.environ, Path.cwd())
    with interruptible(), busy("rewriting the shards"), IndexWriter(folder) as writer:
        before = sum(entry.bytes for entry in writer.manifest.files())
        shards = len(writer.manifest.shards)
        state = writer.compact()
    after = sum(entry.bytes for entry in state.files())
    print(f"{shards} shards to {len(state.shards)}, {size_name(before)} to {size_name(after)}")

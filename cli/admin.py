"""`mmsearch status`, `failures` and `compact`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.options import IndexOption, JsonOption
from cli.terminal import busy, byte_count, interruptible, near, print_json, shown, write_lines

FolderArgument = Annotated[
    Optional[str],
    typer.Argument(metavar="FOLDER", help="The indexed folder; else the nearest one upwards.", show_default=False),
]


def named_index(folder: str | None, index: str | None) -> str | None:
    """The index that a command was told of: by `--index`, or by the folder that it is of, or a part of that. Raises
    `typer.BadParameter` where both were given, and `IndexNotFoundError`."""
    if folder is not None and index is not None:
        raise typer.BadParameter("name the folder or --index, not both")
    if folder is None:
        return index
    from retrieval.store.manifest import find_index

    place = Path(os.path.abspath(Path(folder).expanduser()))
    if (place / "manifest.json").is_file() or not place.is_dir():
        return str(place)
    return str(find_index(None, {}, place))


def status_command(folder: FolderArgument = None, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """What an index holds."""
    from retrieval.engine import Engine
    from retrieval.store.vector_files import retraining_hint

    with Engine.open(named_index(folder, index)) as engine:
        status = engine.status()
        place = engine.folder
        hint = retraining_hint(engine.manifest)
    if as_json:
        print_json(status)
        return
    print(f"index         {shown(str(place))}")
    for key, value in status.items():
        text = byte_count(value) if key == "bytes" and isinstance(value, int) else value
        print(f"{key.replace('_', ' '):<13} {text}")
    if hint is not None:
        print(f"better: {hint}")


def failures_command(folder: FolderArgument = None, index: IndexOption = None, as_json: JsonOption = False) -> None:
    """Files that could not be indexed, and why."""
    from retrieval.engine import Engine

    with Engine.open(named_index(folder, index)) as engine:
        failures = engine.failures()
    if as_json:
        write_lines({"path": failure.path, "stage": failure.stage, "reason": failure.reason} for failure in failures)
        return
    for failure in failures:
        print(f"{near(failure.path)}: {failure.stage}: {shown(failure.reason)}")
    if not failures:
        print("no failures")


def compact_command(folder: FolderArgument = None, index: IndexOption = None) -> None:
    """Rewrite an index at full shard size, without the rows of files that are gone."""
    from retrieval.store.manifest import find_index
    from retrieval.store.writer import IndexWriter

    place = find_index(named_index(folder, index), os.environ, Path.cwd())
    with interruptible(), busy("rewriting the shards"), IndexWriter(place) as writer:
        before = sum(entry.bytes for entry in writer.manifest.files())
        shards = len(writer.manifest.shards)
        state = writer.compact()
    after = sum(entry.bytes for entry in state.files())
    print(f"{shards} shards to {len(state.shards)}, {byte_count(before)} to {byte_count(after)}")

"""Another model's index in the place of one: the successor grows in a folder inside the index that it follows, and takes its
place in one step once it is whole.

Until then, and wherever the process is killed, the old index is what `manifest.json` says. The step has a plan on disk,
`succession.json`: the manifest that shall be. From the moment that the plan is there, whoever writes next carries it out
first: it moves the successor's files, under names that the old index has none of, and then writes the manifest. Readers keep
the old files by their leases.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from retrieval.errors import FormatError, MmsearchError
from retrieval.files import sync_folder, write_atomically
from retrieval.store.journal import part_numbers
from retrieval.store.leases import write_lease
from retrieval.store.manifest import Manifest, read_manifest, write_manifest
from retrieval.store.roots import SUCCESSOR
from retrieval.types import ModelSpec

PLAN = "succession.json"
# What belongs to a run or to readers, and not to a state.
_PASSING = ("journal", "leases")


def successor_model(folder: Path) -> ModelSpec | None:
    """The model of the successor that a run began and did not finish; None where there is none. Raises `FormatError`."""
    if not (folder / SUCCESSOR / "manifest.json").is_file():
        return None
    return read_manifest(folder / SUCCESSOR).model


def begin_succession(folder: Path, manifest: Manifest, spec: ModelSpec) -> Path:
    """The folder of the successor of the index at `folder`, whose state is `manifest`, made by the model `spec`: the one that
    was begun, or a new one, without rows. The caller holds the index's lock. Raises `OSError`."""
    successor = folder / SUCCESSOR
    try:
        begun = successor_model(folder)
    except MmsearchError:
        begun = None
    if begun is None or (begun.weights_sha256, begun.dim) != (spec.weights_sha256, spec.dim):
        give_up_succession(folder)
        successor.mkdir()
        state = Manifest(model=spec, roots=manifest.roots, policy=replace(manifest.policy, nprobe=None))
        write_lease(successor, state)
        write_manifest(successor, state)
    return successor


def give_up_succession(folder: Path) -> None:
    """Delete a successor that was begun. The caller holds the index's lock."""
    # The manifest first: what is left by a kill is then no successor.
    (folder / SUCCESSOR / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder / SUCCESSOR, ignore_errors=True)


def plan_succession(folder: Path, manifest: Manifest) -> None:
    """Decide that the successor, whole now, takes the place of the state `manifest`. The caller holds the index's lock.

    Slices of containers that were not read to their end stay behind: the next run reads those again. Raises `OSError`.
    """
    successor = folder / SUCCESSOR
    following = read_manifest(successor)
    generation = max(manifest.generation, following.generation) + 1
    names = {f"{file.parent.name}/{file.name}": _moved(file, generation) for file in _files(successor)}
    value = _renamed(json.loads((successor / "manifest.json").read_text("utf-8")), names)
    if not isinstance(value, dict):
        raise FormatError(f"{successor / 'manifest.json'} is damaged; delete {successor} and change the model again")
    # No part of the old index's journal may be taken for one of the new.
    value |= {"generation": generation, "journal": max([manifest.journal, *part_numbers(folder)]), "held": []}
    write_atomically(folder / PLAN, (json.dumps(value, indent=1) + "\n").encode())


def carry_out_succession(folder: Path) -> bool:
    """Carry out a plan, where there is one: it may have been begun by a process that was killed. Says whether there was one.
    The caller holds the index's lock, and sweeps afterwards. Raises `FormatError` and `OSError`."""
    plan = folder / PLAN
    if not plan.is_file():
        return False
    state = read_manifest(folder, PLAN)
    touched = set()
    for file in _files(folder / SUCCESSOR):
        target = folder / _moved(file, state.generation)
        target.parent.mkdir(exist_ok=True)
        os.replace(file, target)
        touched.add(target.parent)
    for parent in touched:
        sync_folder(parent)
    missing = [entry.file for entry in state.files() if not (folder / entry.file).is_file()]
    if missing:
        raise FormatError(f"{folder} cannot change its model: {missing[0]} is gone; delete {plan} and change it again")
    write_lease(folder, state)
    write_manifest(folder, state)
    give_up_succession(folder)
    plan.unlink()
    sync_folder(folder)
    return True


def _files(successor: Path) -> Iterator[Path]:
    """The files of the successor's state."""
    folders = sorted(successor.iterdir()) if successor.is_dir() else []
    for folder in folders:
        if folder.is_dir() and folder.name not in _PASSING:
            yield from sorted(folder.iterdir())


def _moved(file: Path, generation: int) -> str:
    """The name of a file of the successor in the index that it becomes."""
    return f"{file.parent.name}/{generation:06d}-{file.name}"


def _renamed(value: object, names: dict[str, str]) -> object:
    """A manifest with the files in it called by their new names, wherever it names them."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(part, names) for key, part in value.items()}
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value

"""Leases: a reader holds the generation that it opened, and the writer deletes what no lease needs.

Each generation has a file in `leases/` that names its files. A reader keeps a shared lock on it; the writer deletes the
files of an older generation once it gets that lock for itself, together with the lease.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import portalocker

from retrieval.errors import MmsearchError
from retrieval.files import PARTIAL, write_atomically
from retrieval.store.keys import facts_file, keys_file, offsets_file, words_file
from retrieval.store.manifest import Manifest, read_manifest

_FOLDER = "leases"
_ATTEMPTS = 100


@dataclass(frozen=True)
class Lease:
    """One committed state, whose files stay until `close`."""

    manifest: Manifest
    _handle: IO[bytes] | None

    def close(self) -> None:
        """Let the writer delete the files of this state."""
        if self._handle is not None:
            self._handle.close()


def open_state(folder: Path) -> Lease:
    """The state of an index as it is now, and a lease on it. Raises what `read_manifest` raises.

    An index on read-only media may be opened without a lease, because nothing is deleted there.
    """
    for _ in range(_ATTEMPTS):
        manifest = read_manifest(folder)
        file = folder / _FOLDER / str(manifest.generation)
        try:
            handle = open(file, "rb")
        except OSError:
            if read_manifest(folder).generation == manifest.generation and not file.exists():
                return Lease(manifest, None)
            continue
        try:
            portalocker.lock(handle, portalocker.LOCK_SH | portalocker.LOCK_NB)
            # The writer may have deleted the file between opening and locking it.
            if os.fstat(handle.fileno()).st_nlink and read_manifest(folder).generation == manifest.generation:
                return Lease(manifest, handle)
        except (portalocker.LockException, OSError):
            pass
        handle.close()
    raise MmsearchError(f"{folder} changes faster than it can be opened; try again")


def write_lease(folder: Path, manifest: Manifest) -> None:
    """Make the lease of a state that is about to be published."""
    (folder / _FOLDER).mkdir(exist_ok=True)
    names = json.dumps(sorted(_names(manifest))).encode()
    write_atomically(folder / _FOLDER / str(manifest.generation), names)


def sweep(folder: Path, manifest: Manifest, parts: Iterable[str]) -> None:
    """Delete the leases that nobody holds, and of the folders `parts` all files that neither `manifest` nor a lease names."""
    needed = _names(manifest)
    for file in (folder / _FOLDER).iterdir() if (folder / _FOLDER).is_dir() else ():
        if file.name == str(manifest.generation):
            continue
        with contextlib.suppress(OSError), open(file, "rb") as handle:
            try:
                portalocker.lock(handle, portalocker.LOCK_EX | portalocker.LOCK_NB)
            except portalocker.LockException:
                needed.update(json.loads(handle.read()))
                continue
            file.unlink(missing_ok=True)
    for part in parts:
        for file in (folder / part).iterdir():
            if f"{part}/{file.name}" not in needed or file.name.endswith(PARTIAL):
                file.unlink(missing_ok=True)


def _names(manifest: Manifest) -> set[str]:
    names = {entry.file for entry in manifest.files()}
    names |= {offsets_file(entry.file) for entry in manifest.vectors}
    return names | {beside(entry.file) for entry in manifest.shards for beside in (keys_file, words_file, facts_file)}

"""Roots: the folders whose files an index holds, and paths as places below them.

A root that holds the index itself is written relative to the index, so that a folder can be moved or mounted elsewhere
as a whole; any other root is absolute. A root has a number, its place in the manifest, which never changes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from media import storage
from media.types import below

# The folder, inside an index, in which another model's index is made that shall take its place.
SUCCESSOR = ".successor"


@dataclass(frozen=True, kw_only=True)
class Roots:
    """`written` as in the manifest; `paths` absolute, by number."""

    written: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @staticmethod
    def of(folder: Path, written: Sequence[str]) -> Roots:
        """The roots of the index at `folder`, from what its manifest says."""
        home = _home(folder)
        return Roots(
            written=tuple(written),
            paths=tuple(
                path if storage.is_object(path) else os.path.normpath(os.path.join(home, path)) for path in written
            ),
        )

    def including(self, folder: Path, path: str) -> Roots:
        """These roots and, where none of them holds it, the folder `path` (absolute) as one more."""
        if self.find(path) is not None:
            return self
        home = _home(folder)
        return Roots.of(folder, [*self.written, os.path.relpath(path, home) if below(home, path) else path])

    def find(self, path: str) -> int | None:
        """The number of the innermost root that holds `path`; None where none does."""
        holding = [number for number, root in enumerate(self.paths) if below(path, root)]
        return max(holding, key=lambda number: len(self.paths[number])) if holding else None

    def split(self, path: str) -> tuple[int, str]:
        """An absolute path as root number and path below it. Raises `ValueError` for one below no root."""
        number = self.find(path)
        if number is None:
            raise ValueError(f"{path!r} lies below no root of the index")
        root = self.paths[number]
        return number, "" if path == root else path[len(root.rstrip(os.sep)) + 1 :]

    def join(self, number: int, path: str) -> str:
        """The absolute path of a place below a root."""
        return os.path.join(self.paths[number], path) if path else self.paths[number]

    def label(self, number: int) -> str:
        """What names a root in the ids of items: nothing for the folder around the index, else the root as it is written."""
        return "" if self.written[number] == os.pardir else self.written[number]


def _home(folder: Path) -> str:
    """What roots are relative to: the index, also for the successor inside it, which takes its place."""
    return os.path.abspath(folder.parent if folder.name == SUCCESSOR else folder)

"""Where a run looks: the paths that it was given as places, whole folders and single files of folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from media import storage
from media.types import below
from retrieval.store.roots import Roots
from retrieval.store.source_keys import folder_key, folder_of, key_of

CAPTIONS = "captions"


@dataclass(frozen=True, kw_only=True)
class FolderScope:
    """The folder `path`, whole or of it only the files of these `names`. `prefix` begins the keys of everything below it."""

    path: str
    root: int
    prefix: bytes
    names: frozenset[str] | None = None

    @cached_property
    def keys(self) -> set[bytes]:
        """The keys of the named files, and the keys of notes about them."""
        files = [(self.root, self._below(name)) for name in self.names or ()]
        return {key for file in files for key in (key_of(*file), folder_key(*file) + b"\0")}

    @cached_property
    def missing(self) -> list[bytes]:
        """The key prefixes of named files and folders that no longer exist."""
        gone = [name for name in self.names or () if not storage.exists(os.path.join(self.path, name))]
        return sorted(folder_key(self.root, self._below(name)) for name in gone)

    def _below(self, name: str) -> str:
        return os.path.join(folder_of(self.prefix)[1], name)


def places_of(roots: Roots, paths: Sequence[str]) -> list[FolderScope]:
    """The places that hold `paths`, folders first: each folder with what is below it, and files by their folder.

    A path that does not exist stands for a file or folder to remove, unless its root is missing or empty too, as for a drive
    that is not mounted: then the root itself is looked at.
    """
    folders: list[str] = []
    names: dict[str, set[str]] = {}
    for path in paths:
        base = roots.paths[roots.split(path)[0]]
        while path != base and not storage.is_folder(os.path.dirname(path)):
            path = os.path.dirname(path)
        folder, name = os.path.split(path)
        if path == base or storage.is_folder(path):
            folders.append(path)
        elif folder == base and not storage.exists(path) and not storage.entries(base):
            folders.append(base)
        else:
            names.setdefault(folder, set()).add(name)
    whole = [_place(roots, path) for path in _apart(roots, folders)]
    apart = [folder for folder in names if not any(below(folder, place.path) for place in whole)]
    return [*whole, *(_place(roots, folder, frozenset(names[folder])) for folder in sorted(apart))]


def caption_tables(roots: Roots, moved: Iterable[bytes], looked_at: Sequence[FolderScope]) -> list[FolderScope]:
    """Places of the caption tables in the folders above `moved`, given as key prefixes, that are not `looked_at` yet."""
    folders: set[str] = set()
    for prefix in moved:
        number, path = folder_of(prefix)
        folder = roots.join(number, path)
        while folder not in folders and below(folder, roots.paths[number]):
            folders.add(folder)
            folder = os.path.dirname(folder)
    places = []
    for folder in sorted(folders):
        if any(place.names is None and below(folder, place.path) for place in looked_at):
            continue
        looked = {name for place in looked_at if place.path == folder for name in place.names or ()}
        try:
            listed = [entry.name for entry in storage.entries(folder)]
        except OSError:
            continue
        tables = {name for name in listed if os.path.splitext(name)[0].lower() == CAPTIONS} - looked
        if tables:
            places.append(_place(roots, folder, frozenset(tables)))
    return places


def _apart(roots: Roots, folders: Sequence[str]) -> list[str]:
    """Folders without those that lie in another one; a root of the index in one of them is walked on its own, since its files
    are named by that root."""
    outer = [path for path in folders if not any(path != other and below(path, other) for other in folders)]
    inner = [root for root in roots.paths if any(root != path and below(root, path) for path in outer)]
    return list(dict.fromkeys([*outer, *inner]))


def _place(roots: Roots, folder: str, names: frozenset[str] | None = None) -> FolderScope:
    number, path = roots.split(folder)
    return FolderScope(path=folder, root=number, prefix=folder_key(number, path), names=names)

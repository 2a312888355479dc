"""What is left out of a walk: folders that no one means, globs that the user gave, and `.mmsearchignore` files on the way.

Patterns are those of `.gitignore`, read by pathspec: relative to the folder that holds the file, a later line before an
earlier one, an inner file before an outer one, and `!` takes back. What lies below a folder that is left out stays out.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from media import storage
from media.types import below

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".mmsearchignore"
# A folder with the first holds nothing for a gallery (Android); the second is empty where all is meant (Jellyfin), else it
# holds patterns.
NO_MEDIA, FOREIGN_IGNORE = ".nomedia", ".ignore"
MARKS = frozenset((IGNORE_FILE, NO_MEDIA, FOREIGN_IGNORE))
# What NAS boxes, systems, synchronisers and package managers keep for themselves. Names with a dot are hidden anyway.
DEFAULT_FOLDERS = frozenset(
    name.casefold()
    for name in (
        "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "$RECYCLE.BIN", "RECYCLER", "RECYCLED",
        "System Volume Information", ".Trashes", ".Trash", "lost+found", ".thumbnails", ".stversions", ".stfolder",
        "node_modules", "__MACOSX", "found.000",
    )
)  # fmt: skip
# Previews that photo programs keep of pictures which lie elsewhere.
_DEFAULT_SUFFIXES = (".lrdata",)
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Excludes:
    """What an index leaves out: `globs` in the syntax of `.gitignore`, relative to each of its roots, and with `defaults` the
    folders that nobody means."""

    globs: tuple[str, ...] = ()
    defaults: bool = True

    def with_more(self, globs: Iterable[str], defaults: bool | None = None) -> Excludes:
        """These and more globs; `!GLOB` takes back one that is here. Raises `ValueError` for what is no pattern."""
        kept = list(self.globs)
        for glob in globs:
            spec_of([glob], strict=True)
            opposite = glob[1:] if glob.startswith("!") else f"!{glob}"
            if opposite in kept:
                kept.remove(opposite)
            elif glob not in kept:
                kept.append(glob)
        return replace(self, globs=tuple(kept), defaults=self.defaults if defaults is None else defaults)


@dataclass(frozen=True)
class Rules:
    """What holds inside of one folder: `specs` are the patterns, outermost first, each with the folder that they start from."""

    defaults: bool
    specs: tuple[tuple[str, GitIgnoreSpec], ...] = ()

    def leaves_out(self, path: str, *, is_folder: bool) -> bool:
        """Whether an entry of this folder is left out; `path` is absolute."""
        if is_folder and self.defaults:
            name = os.path.basename(path).casefold()
            if name in DEFAULT_FOLDERS or name.endswith(_DEFAULT_SUFFIXES):
                return True
        for start, spec in reversed(self.specs):
            place = path[len(start.rstrip(os.sep)) + 1 :].replace(os.sep, "/")
            include = spec.check_file(place + "/" if is_folder else place).include
            if include is not None:
                return include
        return False

    def entering(self, folder: str, names: Collection[str]) -> Rules | None:
        """What holds inside of `folder`, which has files of these `names`; None where it is left out whole. Raises `OSError`
        where its patterns cannot be read, since what they keep out must not come in."""
        rules = self
        if self.defaults and NO_MEDIA in names:
            return None
        for name in (FOREIGN_IGNORE, IGNORE_FILE):
            file = os.path.join(folder, name)
            if name not in names or not storage.is_file(file) or (name == FOREIGN_IGNORE and not self.defaults):
                continue
            with storage.open_file(file) as opened:
                text = opened.read(_MOST_BYTES).decode("utf-8-sig", "replace")
            if name == FOREIGN_IGNORE and not text.strip():
                return None
            rules = replace(rules, specs=(*rules.specs, (folder, spec_of(text.splitlines()))))
        return rules


class Excluder:
    """The rules of every folder below some `bases`, the roots of an index: of nested ones the outermost counts. A base itself
    is never left out: somebody named it."""

    def __init__(self, bases: Sequence[str], excludes: Excludes) -> None:
        self._bases = [base for base in bases if not any(base != other and below(base, other) for other in bases)]
        self._given = {*bases}
        self._excludes = excludes
        self._rules: dict[str, Rules | None] = {}

    def rules(self, folder: str) -> Rules | None:
        """What holds above `folder`'s own ignore files, that is in the folder that holds it; None where it lies in what is
        left out, or is left out itself. Raises `OSError`."""
        base = next((base for base in self._bases if below(folder, base)), None)
        if base is None or folder == base:
            return self._first(base or folder)
        parent = os.path.dirname(folder)
        rules = self._inside(parent)
        if rules is None and folder in self._given:
            return self._first(folder)
        if rules is None or (folder not in self._given and rules.leaves_out(folder, is_folder=True)):
            return None
        return rules

    def leaves_out(self, path: str) -> bool:
        """Whether the file at `path`, there or not, is left out. Raises `OSError`."""
        rules = self._inside(os.path.dirname(path))
        return rules is None or rules.leaves_out(path, is_folder=False)

    def _inside(self, folder: str) -> Rules | None:
        if folder not in self._rules:
            rules = self.rules(folder)
            names = [name for name in MARKS if storage.exists(os.path.join(folder, name))]
            self._rules[folder] = rules.entering(folder, names) if rules is not None else None
        return self._rules[folder]

    def _first(self, base: str) -> Rules:
        globs = [_relative(glob, base) for glob in self._excludes.globs]
        return Rules(self._excludes.defaults, ((base, spec_of(globs)),) if globs else ())


def spec_of(lines: Iterable[str], *, strict: bool = False) -> GitIgnoreSpec:
    """The patterns of these lines. One that is none is passed over, as git does, or raises `ValueError` where `strict`."""
    from pathspec import GitIgnoreSpec

    good = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            if strict:
                raise
            continue
        good.append(line)
    return GitIgnoreSpec.from_lines(good)


def _relative(glob: str, base: str) -> str:
    """A glob that names a place below `base` by its absolute path, from there; any other as it is."""
    sign, path = ("!", glob[1:]) if glob.startswith("!") else ("", glob)
    start = base.rstrip(os.sep) + os.sep
    return f"{sign}/{path[len(start) :]}" if path.startswith(start) and len(path) > len(start) else glob

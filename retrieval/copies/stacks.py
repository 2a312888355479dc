"""What a file's name says of the shot that it belongs to: an edit of a photo, a raw file, a film, a picture of a burst."""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum

_RAW = "3fr arw cr2 cr3 crw dcr dng erf fff iiq k25 kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f"
RAW_SUFFIXES = frozenset(f".{name}" for name in _RAW.split())
# What phones write as the film of a Live Photo or motion photo.
FILM_SUFFIXES = frozenset((".mov", ".mp4", ".m4v"))
# `IMG_20240102_030405_BURST001_COVER`, `00000IMG_00000_BURST20240102030405678_COVER`, `DSC_0001_BURST20240102030405678`.
_BURST = re.compile(r"^(?P<before>.*?)[_-]?burst[_-]?(?P<number>\d+)(?P<cover>_cover(?:_top)?)?$")
_LONG_NUMBER = 10
# What Google Photos (in some languages), Lightroom and others put behind the name of an edited photo; a number stays.
_WORDS = (
    "edited|edit|bearbeitet|modifié|editado|editada|modificato|bewerkt|redigeret|redigerad|redigert|edytowane|muokattu"
)
_EDITED = re.compile(rf"^(?P<before>.+?)[-_ ](?:{_WORDS})(?P<number>\(\d+\))?$")
# Apple's edits: IMG_E1234 is an edit of IMG_1234.
_APPLE = re.compile(r"^img_e(?P<number>\d{4,})$")


class Role(IntEnum):
    """What a file is in its stack; of equal ones the lower is shown first."""

    COVER = 0
    PHOTO = 1
    EDIT = 2
    BURST = 3
    RAW = 4
    FILM = 5
    OTHER_FILM = 6


def stack_of(name: str, is_film: bool) -> tuple[str, Role]:
    """The name of the stack that a file of this `name` belongs to within its folder, and what it is there. Files of equal
    stacks belong together where `retrieval.copies.grouping` says that their roles do."""
    name = unicodedata.normalize("NFC", name).lower()
    stem, dot, suffix = name.rpartition(".")
    stem, suffix = (stem, dot + suffix) if stem else (name, "")
    if is_film:
        return stem, Role.FILM if suffix in FILM_SUFFIXES else Role.OTHER_FILM
    burst = _BURST.match(stem)
    if burst is not None:
        number = burst["number"]
        stack = f"burst {number}" if len(number) >= _LONG_NUMBER else f"burst {burst['before']}"
        return stack, Role.COVER if burst["cover"] else Role.BURST
    edited = _EDITED.match(stem)
    if edited is not None:
        return edited["before"] + (edited["number"] or ""), Role.EDIT
    apple = _APPLE.match(stem)
    if apple is not None:
        return f"img_{apple['number']}", Role.EDIT
    return stem, Role.RAW if suffix in RAW_SUFFIXES else Role.PHOTO


def folder_and_name(path: str) -> tuple[str, str]:
    """The folder of a path below a root, and the name; a container counts as a folder of its members."""
    container, member, rest = path.partition("::")
    folder, _, name = (rest if member else container).rpartition("/")
    return (f"{container}::{folder}" if member else folder), name

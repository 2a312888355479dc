"""Formats that Pillow does not read, each by a library of its own, which an extra installs: JPEG XL, cameras' raw files, SVG,
PDF.

A file whose library is missing is not of a kind that is indexed here: it is counted, with the line that would change that,
and read by the first run after it was installed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

from media.types import MEMBER

RAW_SUFFIXES = frozenset(
    (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".rw2", ".orf", ".pef", ".srw",
     ".rwl", ".3fr", ".fff", ".iiq", ".kdc", ".dcr", ".mrw", ".erf", ".mef", ".mos", ".x3f")
)  # fmt: skip
SVG_SUFFIXES = frozenset((".svg", ".svgz"))
PAGED_SUFFIXES = frozenset((".pdf", ".ai"))


@dataclass(frozen=True)
class _Library:
    """A library, by the name of its package and of its module, and what it reads."""

    package: str
    module: str
    suffixes: frozenset[str]


_LIBRARIES = (
    _Library("pillow-jxl-plugin", "pillow_jxl", frozenset((".jxl",))),
    _Library("rawpy", "rawpy", RAW_SUFFIXES),
    _Library("resvg-py", "resvg_py", SVG_SUFFIXES),
    _Library("pypdfium2", "pypdfium2", PAGED_SUFFIXES),
)
FOREIGN_SUFFIXES = frozenset((".jxl",)) | RAW_SUFFIXES | SVG_SUFFIXES | PAGED_SUFFIXES


def page_of(path: str) -> tuple[str, int] | None:
    """The PDF and the number of the page, from 1, that `file.pdf::number` names; None for what names no page."""
    file, mark, number = path.rpartition(MEMBER)
    if not mark or os.path.splitext(file)[1].lower() not in PAGED_SUFFIXES or not number.isascii():
        return None
    return (file, int(number)) if number.isdigit() and len(number) < 9 else None


def missing_extra(name: str) -> str | None:
    """The package that a file of this name needs and that is not installed."""
    suffix = os.path.splitext(name)[1].lower()
    for library in _LIBRARIES:
        if suffix in library.suffixes and importlib.util.find_spec(library.module) is None:
            return library.package
    return None


def hint_of(skipped: Mapping[str, int]) -> list[str]:
    """What to install for files that were passed over, by their suffixes: one line a package."""
    missing: dict[str, dict[str, int]] = {}
    for suffix, count in skipped.items():
        package = missing_extra(f"x{suffix}")
        if package is not None:
            missing.setdefault(package, {})[suffix] = count
    return [
        f"{', '.join(f'{count} {suffix}' for suffix, count in counts.items())} can be indexed, too, after: "
        f"pip install {package}"
        for package, counts in missing.items()
    ]

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

RAW_SUFFIXES = frozenset(
    (".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".raf", ".rw2", ".orf", ".pef", ".srw",
     ".rwl", ".3fr", ".fff", ".iiq", ".kdc", ".dcr", ".mrw", ".erf", ".mef", ".mos", ".x3f")
)  # fmt: skip
SVG_SUFFIXES = frozenset((".svg", ".svgz"))
PAGED_SUFFIXES = frozenset((".pdf", ".ai"))


@dataclass(frozen=True)
class _Extra:
    name: str
    module: str
    suffixes: frozenset[str]


_EXTRAS = (
    _Extra("formats", "pillow_jxl", frozenset((".jxl",))),
    _Extra("formats", "rawpy", RAW_SUFFIXES),
    _Extra("formats", "resvg_py", SVG_SUFFIXES),
    _Extra("pdf", "pypdfium2", PAGED_SUFFIXES),
)
FOREIGN_SUFFIXES = frozenset((".jxl",)) | RAW_SUFFIXES | SVG_SUFFIXES | PAGED_SUFFIXES


def missing_extra(name: str) -> str | None:
    """The extra that a file of this name needs and that is not installed."""
    suffix = os.path.splitext(name)[1].lower()
    for extra in _EXTRAS:
        if suffix in extra.suffixes and importlib.util.find_spec(extra.module) is None:
            return extra.name
    return None


def hint_of(skipped: Mapping[str, int]) -> list[str]:
    """What to install for files that were passed over, by their suffixes: one line an extra."""
    missing: dict[str, dict[str, int]] = {}
    for suffix, count in skipped.items():
        extra = missing_extra(f"x{suffix}")
        if extra is not None:
            missing.setdefault(extra, {})[suffix] = count
    return [
        f"{', '.join(f'{count} {suffix}' for suffix, count in counts.items())} can be indexed, too, after: "
        f"pip install 'mmsearch[{extra}]'"
        for extra, counts in missing.items()
    ]

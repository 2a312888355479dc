"""Options that several commands share, with the names of their values, and how a shell completes them: at once, so nothing is
loaded for it but lists of names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

from retrieval.models.catalog import CURATED
from retrieval.types import KINDS

# Most entries of a folder that are looked at for indexes in them.
_MOST = 500


def choices(*values: str) -> Callable[[str], list[str]]:
    """Completes one of these values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def complete_model(incomplete: str) -> Iterator[tuple[str, str]]:
    """Models by NAME, each with its notes."""
    yield from (
        (name, notes)
        for name, notes in (
            ("auto", "the best that is here"),
            *((model.name, model.notes) for model in CURATED),
            ("local-dir:", "a folder with a model"),
            ("hf-hub:", "a repository on the hub"),
        )
        if name.startswith(incomplete)
    )


def complete_index(incomplete: str) -> Iterator[str]:
    """Folders that have an index, and folders on the way to one."""
    folder, begin = os.path.split(incomplete)
    try:
        with os.scandir(Path(folder or ".").expanduser()) as entries:
            names = sorted(entry.name for _, entry in zip(range(_MOST), entries, strict=False) if entry.is_dir())
    except OSError:
        return
    names = [name for name in names if name.startswith(begin) and (begin or not name.startswith("."))]
    paths = [os.path.join(folder, name) for name in names]
    indexed = [path for path in paths if _has_index(Path(path).expanduser())]
    yield from indexed
    # A trailing slash keeps the shell from ending the word there.
    yield from (f"{path}{os.sep}" for path in paths if path not in indexed)


def _has_index(folder: Path) -> bool:
    return any((place / "manifest.json").is_file() for place in (folder, folder / ".mmsearch"))


def choice_names(values: Sequence[str]) -> str:
    """What help calls a value that is one of several."""
    return "|".join(values)


DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

IndexOption = Annotated[
    Optional[str],
    typer.Option(
        "--index",
        metavar="DIR",
        help="The index, or a folder that has one; without it MMSEARCH_INDEX, else the nearest from here upwards.",
        autocompletion=complete_index,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda|cuda:N", help="Where models run.", autocompletion=choices(*DEVICES)
    ),
]
PrecisionOption = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar=choice_names(PRECISIONS),
        help="Numbers that models compute with.",
        autocompletion=choices(*PRECISIONS),
    ),
]
KindOption = Annotated[
    Optional[str],
    typer.Option(
        "--kind",
        metavar=choice_names(KINDS),
        help="Only these; without it pictures and videos.",
        autocompletion=choices(*KINDS),
    ),
]
KindsOption = Annotated[
    Optional[list[str]],
    typer.Option(
        "--kind", metavar=choice_names(KINDS), help="Only these; may be repeated.", autocompletion=choices(*KINDS)
    ),
]
DecoderOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A model with a caption decoder: mini, a CoCa's NAME, or auto.",
        autocompletion=complete_model,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

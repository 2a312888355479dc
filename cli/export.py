"""`mmsearch export`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from cli.options import IndexOption, KindsOption, choices
from cli.terminal import busy, interruptible, print_json, shown
from retrieval.errors import MmsearchError
from retrieval.types import KINDS, Kind


def export_command(
    output: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
    format: Annotated[
        Optional[str],
        typer.Option(
            metavar="parquet|csv|npy",
            autocompletion=choices("parquet", "csv", "npy"),
            help="By default what the file's name ends with, else parquet.",
        ),
    ] = None,
    kind: KindsOption = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="float16|float32",
            autocompletion=choices("float16", "float32"),
            help="Numbers of an embedding; the index holds float16.",
        ),
    ] = "float16",
    index: IndexOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write the embeddings and facts of every item to a file: Parquet, CSV, or a NumPy matrix with its lines of JSON.

    The ids are those that a search gives; an embedding has unit length.
    """
    from retrieval.store.export import FORMATS, PRECISIONS, export
    from retrieval.store.manifest import find_index

    suffix = output.suffix.removeprefix(".").lower()
    wanted = format or (suffix if suffix in FORMATS else "parquet")
    form = next((choice for choice in FORMATS if choice == wanted), None)
    numbers = next((choice for choice in PRECISIONS if choice == precision), None)
    if form is None:
        raise typer.BadParameter(f"{wanted!r} is not one of {', '.join(FORMATS)}", param_hint="--format")
    if numbers is None:
        raise typer.BadParameter(f"{precision!r} is not one of {', '.join(PRECISIONS)}", param_hint="--precision")
    if form == "npy" and output.suffix == ".jsonl":
        raise typer.BadParameter("the file of facts beside it ends in .jsonl; name another", param_hint="--output")
    folder = find_index(index, os.environ, Path.cwd())
    with interruptible(), busy("writing the items"):
        try:
            done = export(folder, output, form, kinds=_kinds(kind or []), precision=numbers)
        except OSError as error:
            raise MmsearchError(f"cannot write {shown(str(output))}: {error.strerror or error}") from error
    if as_json:
        files = [str(file) for file in done.files]
        print_json({"items": done.items, "dim": done.dim, "format": form, "model": done.model, "files": files})
        return
    names = " and ".join(shown(str(file)) for file in done.files)
    print(f"wrote {done.items} items of {done.dim} numbers each, by {done.model}, to {names}")


def _kinds(names: list[str]) -> list[Kind]:
    for name in names:
        if name not in KINDS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(KINDS)}", param_hint="--kind")
    return [kind for kind in KINDS if kind in names]

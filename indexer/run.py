"""From what a user names to a build: where the index goes, which model makes it, and the whole run in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.build import BuildConfig, BuildReport, IndexBuild
from indexer.roots import roots_of
from media.names import printable
from retrieval.errors import MmsearchError, OldFormatError, UsageError
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported
from retrieval.models.loading import check_choices
from retrieval.models.weights import resolve
from retrieval.store.manifest import read_manifest
from retrieval.store.migrate import bring_up_to_date


@dataclass(frozen=True, kw_only=True)
class OpenedEncoder:
    """An encoder, and lines that the user should see about how it was chosen."""

    encoder: Encoder
    notices: tuple[str, ...]


def index_folder(given: str | os.PathLike[str] | None, roots: Sequence[str]) -> Path:
    """Where an index goes: as named, from `MMSEARCH_INDEX`, else into the index that the first path is a part of already, else
    into `.mmsearch` in that path."""
    wanted = given if given is not None else os.environ.get("MMSEARCH_INDEX") or None
    if wanted is not None:
        folder = Path(os.path.abspath(Path(wanted).expanduser()))
        nested = folder / ".mmsearch"
        return nested if (nested / "manifest.json").is_file() else folder
    first = Path(roots[0])
    home = first if first.is_dir() else first.parent
    around = next((folder for folder in (home, *home.parents) if _is_part(first, folder / ".mmsearch")), home)
    return around / ".mmsearch"


def joins(folder: Path, roots: Sequence[str]) -> str | None:
    """A line for the user where `roots` go into the index of a folder around them; None where they have their own."""
    first = Path(roots[0])
    home = first if first.is_dir() else first.parent
    if folder.name != ".mmsearch" or folder.parent not in home.parents:
        return None
    return (
        f"{printable(str(first))} is part of the index of {printable(str(folder.parent))}, which is brought up to date there; "
        "--index DIR makes a new one"
    )


def _is_part(path: Path, index: Path) -> bool:
    """Whether an index is there, and a path lies below one of its roots."""
    if not (index / "manifest.json").is_file():
        return False
    try:
        return read_manifest(index).roots.find(str(path)) is not None
    except OldFormatError:
        # Its roots are known once it is brought up to date; it is of the folder around it.
        return True


def open_encoder(folder: Path, model: str, device: str, precision: str) -> OpenedEncoder:
    """The model to index with: an index that is there keeps its own unless another is named. Raises `ModelError`."""
    check_choices(device, precision)
    brought = bring_up_to_date(folder)
    made_with = read_manifest(folder).model if (folder / "manifest.json").is_file() else None
    files = resolve(made_with.name if made_with is not None and model == "auto" else model)
    notices = [line for line in (brought, files.notice) if line]
    # Before this process loads the model, so that the two never hold it at once.
    notices += ensure_exported(files)
    if made_with is not None:
        encoder = Encoder.deferred(files, made_with, device, precision)
    else:
        encoder = Encoder.load(files, device, precision)
    return OpenedEncoder(encoder=encoder, notices=tuple(notices))


def build_index(
    paths: Sequence[str | os.PathLike[str]],
    index: str | os.PathLike[str] | None = None,
    *,
    model: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
) -> BuildReport:
    """Build an index over `paths`, or bring it up to date. Raises `MmsearchError`."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(f"paths must hold paths, not {type(path).__name__}")
    roots = roots_of(paths)
    if not roots:
        raise UsageError("name at least one folder or file")
    folder = index_folder(index, roots)
    opened = open_encoder(folder, model, device, precision)
    build = IndexBuild(roots, folder, opened.encoder, BuildConfig(batch_size=batch_size))
    for _ in build:
        pass
    if build.report is None:
        raise MmsearchError("the build ended without a report")
    return build.report

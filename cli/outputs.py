"""Where files go that a command makes, and nobody named a place for: never into a folder that is indexed."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from media.types import below_any
from retrieval.errors import MmsearchError


def output_place(name: str) -> Path:
    """The path for a file of this name: in the working folder, or where that is indexed in a folder `mmsearch` of the user's
    documents, which is made. Raises `MmsearchError` where it cannot be."""
    here = Path.cwd()
    if not _is_indexed(here):
        return Path(name)
    documents = platformdirs.user_documents_path()
    folder = documents / "mmsearch" if documents.is_dir() else platformdirs.user_data_path("mmsearch", appauthor=False)
    if _is_indexed(folder):
        folder = platformdirs.user_data_path("mmsearch", appauthor=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MmsearchError(f"cannot make {folder}: {error.strerror}; name another place with --output") from error
    return folder / name


def _is_indexed(folder: Path) -> bool:
    """Whether a folder lies below a root of an index that is in it, above it, or named by `MMSEARCH_INDEX`."""
    from retrieval.store.manifest import find_index, read_manifest

    nearest: dict[str, str] = {}
    for environ in (nearest, os.environ):
        try:
            roots = read_manifest(find_index(None, environ, folder)).roots.paths
        except MmsearchError:
            continue
        if below_any(os.path.realpath(folder), [os.path.realpath(root) for root in roots]):
            return True
    return False

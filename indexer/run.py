"""From what a user names to a build: where the index goes, which model makes it, and the whole run in one call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.build import IndexBuild, has_media
from indexer.config import BuildConfig, BuildReport, ocr_config
from indexer.roots import roots_of
from media.names import printable
from retrieval.errors import IndexNotFoundError, MmsearchError, ModelError, OldFormatError, UsageError
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported
from retrieval.models.loading import check_choices
from retrieval.models.weights import ModelFiles, resolve, weights_sha256
from retrieval.store.manifest import read_manifest
from retrieval.store.migrate import bring_up_to_date
from retrieval.store.succession import PLAN, carry_out_succession, give_up_succession, successor_model
from retrieval.store.writer import IndexWriter, take_lock
from retrieval.types import ModelSpec

if TYPE_CHECKING:
    from indexer.change import ModelChange


@dataclass(frozen=True, kw_only=True)
class OpenedEncoder:
    """An encoder, whether it is another one than the index has, and lines that the user should see about how it was chosen."""

    encoder: Encoder
    notices: tuple[str, ...]
    changes_model: bool = False


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


def change_of_model(folder: Path, model: str) -> tuple[str, str] | None:
    """The name of the model of the index at `folder` and of the other one that `model` names (`auto`: other weights by the
    same name); None where it names no other, or there is no index. Raises `ModelError` for a model that is not here."""
    try:
        made_with = _model_of(folder)
    except OldFormatError:
        # Who opens it brings it up to date first, and says so.
        return None
    if made_with is None:
        return None
    files = resolve(made_with.name if model == "auto" else model)
    return None if _is_same(made_with, files) else (made_with.name, files.name)


def other_model(made_with: str, given: str) -> str:
    """What to tell who names the model `given` for an index of another, in one line."""
    given = _given(made_with, given)
    return (
        f"this index is of {made_with}, and stays so unless --change-model is given: then everything in it is encoded anew by "
        f"{given}, and the old index is searched until the new one is whole"
    )


def open_encoder(folder: Path, model: str, device: str, precision: str, *, change_model: bool = False) -> OpenedEncoder:
    """The model to index with: an index that is there keeps its own, unless another is named and `change_model` says that the
    index may change to it. Raises `ModelError`."""
    check_choices(device, precision)
    brought = bring_up_to_date(folder)
    made_with = _model_of(folder)
    files = resolve(made_with.name if made_with is not None and model == "auto" else model)
    changes = made_with is not None and not _is_same(made_with, files)
    if made_with is not None and changes and not change_model:
        raise ModelError(
            f"this index is of {made_with.name}, the model given is {_given(made_with.name, files.name)}; change_model lets it "
            "change: everything in it is encoded anew"
        )
    notices = [line for line in (brought, files.notice, None if changes else _unfinished(folder, model)) if line]
    # Before this process loads the model, so that the two never hold it at once.
    notices += ensure_exported(files)
    if made_with is not None and not changes:
        encoder = Encoder.deferred(files, made_with, device, precision)
    else:
        encoder = Encoder.load(files, device, precision)
    return OpenedEncoder(encoder=encoder, notices=tuple(notices), changes_model=changes)


def begin_index(roots: Sequence[str], folder: Path, encoder: Encoder) -> None:
    """Make an empty index of some folders, so that it can be searched while a build fills it; one that is there stays as it is.
    Raises `IndexNotFoundError` where nothing in them can be indexed, and what `IndexWriter` raises."""
    if (folder / "manifest.json").is_file():
        return
    if not has_media(roots):
        raise IndexNotFoundError(
            f"nothing to index in {', '.join(map(printable, roots))}: no pictures, videos or texts there"
        )
    with IndexWriter(folder, encoder.spec) as writer:
        for root in roots:
            writer.add_root(root if os.path.isdir(root) else os.path.dirname(root))


def build_of(
    roots: Sequence[str], folder: Path, opened: OpenedEncoder, config: BuildConfig
) -> IndexBuild | ModelChange:
    """The run over some folders: a build, or a change of the index's model."""
    if not opened.changes_model:
        return IndexBuild(roots, folder, opened.encoder, config)
    from indexer.change import ModelChange

    return ModelChange(roots, folder, opened.encoder, config)


def _given(made_with: str, given: str) -> str:
    return f"other weights of {given}" if given == made_with else given


def _model_of(folder: Path) -> ModelSpec | None:
    """The model of an index, whatever a killed run left to do there; None where there is no index."""
    if (folder / PLAN).is_file():
        with take_lock(folder):
            carry_out_succession(folder)
    return read_manifest(folder).model if (folder / "manifest.json").is_file() else None


def _is_same(made_with: ModelSpec, files: ModelFiles) -> bool:
    return made_with.weights_sha256 == weights_sha256(files.weights)


def _unfinished(folder: Path, model: str) -> str | None:
    """A line about a change of the model that was begun and not finished. Who names the index's own model gives it up."""
    begun = successor_model(folder)
    if begun is None:
        return None
    if model != "auto":
        with take_lock(folder):
            give_up_succession(folder)
        return f"the change to {begun.name} that was begun is given up"
    return f"a change to {begun.name} was begun: the same command with --model {begun.name} goes on with it"


def build_index(
    paths: Sequence[str | os.PathLike[str]],
    index: str | os.PathLike[str] | None = None,
    *,
    model: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    change_model: bool = False,
    ocr: str = "off",
) -> BuildReport:
    """Build an index over `paths`, or bring it up to date; with `change_model`, an index of another model changes to
    `model`, and with `ocr` `auto` or `all`, the text in pictures is read. Raises `MmsearchError`."""
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise UsageError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    for path in paths:
        if not isinstance(path, (str, os.PathLike)):
            raise UsageError(f"paths must hold paths, not {type(path).__name__}")
    roots = roots_of(paths)
    if not roots:
        raise UsageError("name at least one folder or file")
    folder = index_folder(index, roots)
    config = BuildConfig(batch_size=batch_size, ocr=ocr_config(ocr))
    opened = open_encoder(folder, model, device, precision, change_model=change_model)
    build = build_of(roots, folder, opened, config)
    for _ in build:
        pass
    if build.report is None:
        raise MmsearchError("the build ended without a report")
    return build.report

"""Changing the model of an index: everything in it is encoded anew beside it, and takes its place once that is whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from indexer.build import IndexBuild, searchable
from indexer.config import BuildConfig, BuildReport
from indexer.encode import Embedder
from indexer.ocr import PictureTexts
from indexer.progress import Progress
from media import storage
from media.types import below_any
from retrieval.errors import MmsearchError
from retrieval.store.manifest import Manifest
from retrieval.store.source_keys import place_of
from retrieval.store.sources import SourceTable
from retrieval.store.succession import begin_succession
from retrieval.store.writer import IndexWriter


class ModelChange:
    """One run that gives the index at `folder` the model of `embedder`. Iterate over it to do the work; `report` is there
    afterwards.

    It encodes what is under `paths`, as a build does, and every other file that the index holds. Searches see the old index
    until all of that is done, and the new one from then on. Stopped or killed, it goes on from there when it is run again.

    Raises `MmsearchError`, before anything is encoded, where files of the index are out of reach, which would be missing
    afterwards (`config.prune` lets them go), and what `IndexBuild` raises.
    """

    def __init__(self, paths: Sequence[str], folder: Path, embedder: Embedder, config: BuildConfig) -> None:
        self._paths = list(paths)
        self._folder = folder
        self._embedder = embedder
        self._config = config
        self.report: BuildReport | None = None

    def __iter__(self) -> Iterator[Progress]:
        # Held all the while: nothing may be added to the old index that the new one would lack.
        with IndexWriter(self._folder) as writer:
            others = _others(self._folder, writer.manifest, self._paths, self._config)
            successor = begin_succession(self._folder, writer.manifest, self._embedder.spec)
            paths = [*self._paths, *others]
            build = IndexBuild(paths, successor, self._embedder, replace(self._config, ocr=None))
            yield from build
            writer.succeed()
            self.report = build.report
            # After the change: reading pictures takes long, and searches are by the new model meanwhile.
            if self._config.ocr is not None and self.report is not None:
                texts = PictureTexts(writer, paths, self._embedder, self._config.ocr, self._config.max_pixels)
                yield from texts
                self.report = self.report.with_texts(texts.counts, searchable(writer.manifest))


def _others(folder: Path, manifest: Manifest, paths: Sequence[str], config: BuildConfig) -> list[str]:
    """The files of the index that are not under `paths`."""
    others: list[str] = []
    roots = manifest.roots.paths
    reachable = [_holds_something(root) for root in roots]
    lost: dict[str, int] = {}
    sounds = 0
    for table in SourceTable(folder, manifest).below(b"", ["kind"]):
        for key, kind in zip(table.column("key").to_pylist(), table.column("kind").to_pylist(), strict=True):
            number, place = place_of(key)
            path = manifest.roots.join(number, place)
            sounds += kind == "sound"
            if not reachable[number]:
                lost[roots[number]] = lost.get(roots[number], 0) + 1
            elif not below_any(path, paths) and storage.exists(path):
                others.append(path)
    if lost and not config.prune:
        where, count = next(iter(lost.items()))
        raise MmsearchError(
            f"{count} files of this index are in {where}, which is not there or empty now: mount it and run this again, or "
            "let them go with --prune"
        )
    if sounds and config.recogniser is None:
        raise MmsearchError(
            f"this index holds what is said in {sounds} sound file(s), which has to be heard again: add --transcribe"
        )
    return others


def _holds_something(root: str) -> bool:
    try:
        return any(not entry.name.startswith(".") for entry in storage.entries(root))
    except OSError:
        return False

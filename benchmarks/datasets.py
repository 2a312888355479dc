"""Captioned pictures to measure with: a Parquet table, or a folder with a captions file. What does not fit is counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL.Image import Image

from indexer.media.image import decode_image, register_decoders
from indexer.media.text import TABLE_SUFFIXES, caption_rows, decode_text
from indexer.sources import Source, expand, read_bytes
from retrieval.errors import MediaError, MmsearchError


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Pictures by path, each with its captions. `notes` say what was left out, one line each."""

    name: str
    paths: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    table: str | None = None

    def pictures(self, side: int) -> Iterator[Image]:
        """The pictures in order, upright RGB. Raises `MmsearchError` for one that cannot be decoded: a recall over the
        rest would be another set's."""
        register_decoders()
        for path, data in self._bytes():
            try:
                yield decode_image(data, side).rgb
            except MediaError as error:
                raise MmsearchError(f"{path}: {error.reason}; take it out of the set to go on") from error

    def part(self, start: int | None, stop: int | None) -> CaptionSet:
        """The pictures from number `start` to `stop`, as a slice gives them. Raises `MmsearchError` for an empty part."""
        chosen = slice(start, stop)
        if not any(self.captions[chosen]):
            raise MmsearchError(f"{self.name} has {len(self.paths)} pictures; the part {start}:{stop} holds no caption")
        return replace(self, paths=self.paths[chosen], captions=self.captions[chosen])

    def contents(self) -> Iterator[bytes]:
        """The encoded pictures, in order. Raises `MmsearchError` for one that cannot be read."""
        for _, data in self._bytes():
            yield data

    def _bytes(self) -> Iterator[tuple[str, bytes]]:
        if self.table is None:
            for path in self.paths:
                try:
                    yield path, read_bytes(path)
                except MediaError as error:
                    raise MmsearchError(f"{path}: {error.reason}") from error
            return
        wanted = set(self.paths)
        for record in expand(Source(path=self.table, kind="parquet", size=0, mtime_ns=0)):
            if record.data is not None and record.path in wanted:
                yield record.path, record.data


def from_parquet(file: Path) -> CaptionSet:
    """A table with the columns `image_id`, `image` and `captions`. Raises `MmsearchError`."""
    if not file.is_file():
        raise MmsearchError(f"{file}: no such file")
    found: dict[str, tuple[str, ...]] = {}
    doubled = 0
    for record in expand(Source(path=os.fspath(file), kind="parquet", size=0, mtime_ns=0)):
        if record.failure is not None:
            raise MmsearchError(f"{record.path}: {record.failure.reason}")
        if record.data is not None:
            doubled += record.path in found
            found.setdefault(record.path, ())
        else:
            found[record.path] = (*found[record.path], *(passage.text for passage in record.texts))
    if doubled:
        raise MmsearchError(f"{file}: {doubled} image_id(s) stand more than once; a recall over them would be wrong")
    bare = sum(not many for many in found.values())
    notes = [f"{bare} picture(s) without captions: they are answers, but ask nothing"] if bare else []
    return _checked(file.name, found, notes, os.fspath(file))


def from_folder(images: Path, captions: Path) -> CaptionSet:
    """Pictures below `images`, named by a csv, tsv or jsonl file with a path and a caption column."""
    suffix = captions.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise MmsearchError(f"{captions}: captions must be one of {', '.join(sorted(TABLE_SUFFIXES))}")
    if not images.is_dir():
        raise MmsearchError(f"{images}: no such folder")
    try:
        rows = caption_rows(decode_text(read_bytes(os.fspath(captions))), suffix)
    except MediaError as error:
        raise MmsearchError(f"{captions}: {error.reason}") from error
    found: dict[str, tuple[str, ...]] = {}
    missing: dict[str, None] = {}
    doubled = 0
    for name, text in rows:
        path = os.path.normpath(os.path.join(os.path.abspath(images), name))
        if not os.path.isfile(path):
            missing[name] = None
            continue
        if text in found.get(path, ()):
            doubled += 1
            continue
        found[path] = (*found.get(path, ()), text)
    notes = []
    if missing:
        notes.append(f"captions of {len(missing)} picture(s) that are not there, the first is {next(iter(missing))}")
    if doubled:
        notes.append(f"{doubled} caption(s) that repeat one of the same picture")
    return _checked(captions.name, found, notes, None)


def _checked(name: str, found: dict[str, tuple[str, ...]], notes: list[str], table: str | None) -> CaptionSet:
    if not any(found.values()):
        raise MmsearchError(f"{name} holds no picture with a caption; " + ("; ".join(notes) or "nothing to measure"))
    return CaptionSet(name=name, paths=tuple(found), captions=tuple(found.values()), notes=tuple(notes), table=table)

"""Captioned images to measure with: a table, a tar, or a folder with a captions file. What does not fit is counted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from PIL.Image import Image

from media.containers import expand, read_bytes
from media.image import decode_image
from media.text import TABLE_SUFFIXES, caption_rows, decode_text
from media.types import Source
from retrieval.errors import MediaError, MmsearchError

# Captions of a large set are larger than a text to be searched: COCO's are 66 MB.
_MAX_CAPTIONS = 1024**3


@dataclass(frozen=True, kw_only=True)
class CaptionSet:
    """Images by path, each with its captions. `notes` say what was left out, one line each."""

    name: str
    paths: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    table: str | None = None

    def images(self, side: int) -> Iterator[Image]:
        """The images in order, upright RGB. Raises `MmsearchError` for one that cannot be decoded: a recall over the
        rest would be another set's."""
        for path, data in self._bytes():
            try:
                yield decode_image(data, side).rgb
            except MediaError as error:
                raise MmsearchError(f"{path}: {error.reason}; take it out of the set to go on") from error

    def part(self, start: int | None, stop: int | None) -> CaptionSet:
        """The images from number `start` to `stop`, as a slice gives them. Raises `MmsearchError` for an empty part."""
        chosen = slice(start, stop)
        if not any(self.captions[chosen]):
            raise MmsearchError(f"{self.name} has {len(self.paths)} pictures; the part {start}:{stop} holds no caption")
        return replace(self, paths=self.paths[chosen], captions=self.captions[chosen])

    def contents(self) -> Iterator[bytes]:
        """The encoded images, in order. Raises `MmsearchError` for one that cannot be read."""
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
        for record in expand(Source(path=self.table, kind=_container(self.table), size=0, mtime_ns=0)):
            if record.data is not None and record.path in wanted:
                yield record.path, record.data


def from_container(file: Path) -> CaptionSet:
    """A Parquet table with the columns `image_id`, `image` and `captions`, or a webdataset `.tar`. Raises `MmsearchError`."""
    if not file.is_file():
        raise MmsearchError(f"{file}: no such file")
    kind = _container(os.fspath(file))
    captions_of: dict[str, tuple[str, ...]] = {}
    doubled = 0
    for record in expand(Source(path=os.fspath(file), kind=kind, size=0, mtime_ns=0)):
        if record.failure is not None:
            raise MmsearchError(f"{record.path}: {record.failure.reason}")
        if record.data is not None:
            # Equal ids have been given a number behind them.
            doubled += re.sub(r"#\d+$", "", record.path) in captions_of
            captions_of.setdefault(record.path, ())
            continue
        for passage in record.texts:
            if passage.path in captions_of:
                captions_of[passage.path] = (*captions_of[passage.path], passage.text)
    if doubled:
        raise MmsearchError(f"{file}: {doubled} image(s) stand more than once; a recall over them would be wrong")
    return _checked(file.name, captions_of, [], os.fspath(file))


def _container(file: str) -> Literal["parquet", "tar"]:
    return "tar" if file.lower().endswith(".tar") else "parquet"


def from_folder(images: Path, captions: Path, split: str | None = None) -> CaptionSet:
    """Images below `images`, named by a captions file: csv, tsv or jsonl with a path and a caption column, Karpathy's
    `dataset_*.json` (of which `split` is taken, `test` by default), or COCO's captions as JSON. Raises `MmsearchError`."""
    if not images.is_dir():
        raise MmsearchError(f"{images}: no such folder")
    suffix = captions.suffix.lower()
    try:
        text = decode_text(read_bytes(os.fspath(captions)), _MAX_CAPTIONS)
        if suffix == ".json":
            rows = _json_captions(captions, text, split)
        elif suffix in TABLE_SUFFIXES:
            rows = caption_rows(text, suffix)
        else:
            raise MmsearchError(f"{captions}: captions must be one of {', '.join(sorted(TABLE_SUFFIXES))}, .json")
    except MediaError as error:
        raise MmsearchError(f"{captions}: {error.reason}") from error
    if split is not None and suffix != ".json":
        raise MmsearchError(f"{captions} has no splits; leave --split out")
    return _named(images, captions, rows)


def _json_captions(file: Path, text: str, split: str | None) -> list[tuple[str, str]]:
    """`(image name, caption)` of Karpathy's or COCO's form."""
    try:
        value = json.loads(text)
        images = value["images"]
        if "annotations" in value:
            if split is not None:
                raise MmsearchError(f"{file} has no splits; leave --split out")
            names = {entry["id"]: str(entry["file_name"]) for entry in images}
            return [
                (names.get(entry["image_id"], f"image {entry['image_id']}"), " ".join(str(entry["caption"]).split()))
                for entry in value["annotations"]
            ]
        wanted = split or "test"
        there = sorted({str(entry["split"]) for entry in images})
        if wanted not in there:
            raise MmsearchError(f"{file} has no split {wanted!r}; it has {', '.join(there)}")
        return [
            (
                os.path.join(str(entry.get("filepath", "")), str(entry["filename"])),
                " ".join(str(sentence["raw"]).split()),
            )
            for entry in images
            if entry["split"] == wanted
            for sentence in entry["sentences"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MmsearchError(
            f"{file} is neither Karpathy's nor COCO's captions ({type(error).__name__}: {error}); both are JSON with `images`"
        ) from error


def _named(images: Path, captions: Path, rows: Sequence[tuple[str, str]]) -> CaptionSet:
    """The images that the captions name; captions that do not fit are counted in the notes."""
    captions_of: dict[str, tuple[str, ...]] = {}
    missing: dict[str, None] = {}
    doubled = 0
    places: dict[str, str | None] = {}
    for name, text in rows:
        if name not in places:
            places[name] = _place(images, name)
        path = places[name]
        if path is None:
            missing[name] = None
            continue
        if text in captions_of.get(path, ()):
            doubled += 1
            continue
        captions_of[path] = (*captions_of.get(path, ()), text)
    notes = []
    if missing:
        notes.append(f"captions of {len(missing)} picture(s) that are not there, the first is {next(iter(missing))}")
    if doubled:
        notes.append(f"{doubled} caption(s) that repeat one of the same picture")
    return _checked(captions.name, captions_of, notes, None)


def _place(images: Path, name: str) -> str | None:
    """Where an image is: Karpathy's COCO names have a folder that not every copy of the images has."""
    for candidate in (name, os.path.basename(name)):
        path = os.path.normpath(os.path.join(os.path.abspath(images), candidate))
        if os.path.isfile(path):
            return path
    return None


def _checked(name: str, captions_of: dict[str, tuple[str, ...]], notes: list[str], table: str | None) -> CaptionSet:
    if not any(captions_of.values()):
        raise MmsearchError(f"{name} holds no picture with a caption; " + ("; ".join(notes) or "nothing to measure"))
    bare = sum(not many for many in captions_of.values())
    if bare:
        notes = [*notes, f"{bare} picture(s) without captions: they are answers, but ask nothing"]
    return CaptionSet(
        name=name, paths=tuple(captions_of), captions=tuple(captions_of.values()), notes=tuple(notes), table=table
    )

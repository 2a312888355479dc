"""What there is to index: folders, files, tars and tables, as a stream of sources and then of records.

`walk` lists and stats but opens nothing (except a `.ts`, which may be a program), so an unchanged folder costs only its
listing. `expand` turns one source into records: a file gives itself; a tar or table gives its members, with their bytes.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence

from media.errors import MediaError
from media.image import IMAGE_SUFFIXES
from media.sound import SOUND_SUFFIXES
from media.subtitles import SUBTITLE_SUFFIXES
from media.text import TABLE_SUFFIXES, TEXT_SUFFIXES, caption_lines, caption_rows, decode_text
from media.types import MEMBER, Passage, Record, Source, SourceKind, Unreadable
from media.video import ANIMATED_SUFFIXES, SHARED_SUFFIXES, VIDEO_SUFFIXES, is_animated, is_transport_stream

CAPTION_CHUNK = 1024
_MAX_FILE = 2 * 1024**3


def walk(paths: Sequence[str], *, sound: bool = False) -> Iterator[Source | Unreadable]:
    """Everything indexable under `paths` (absolute), in name order, one after the other; sound files only
    where they are asked for, since nothing but a transcript can be found of them.

    Hidden files and folders, `.mmsearch` among them, are left out; a folder reached twice, by whatever links, is
    walked once.
    """
    visited: set[tuple[int, int]] = set()
    given = set(paths)
    for path in paths:
        if os.path.isdir(path):
            yield from _walk(path, given, visited, sound)
            continue
        kind = source_kind(path)
        try:
            stat = os.stat(path)
        except OSError as error:
            yield Unreadable(path=path, reason=error.strerror or str(error))
            continue
        if kind == "video" and not _is_film(path):
            kind = None
        if kind is not None and (sound or kind != "sound"):
            yield Source(path=path, kind=kind, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def source_kind(name: str) -> SourceKind | None:
    """What a file is, by its name; None for what is not indexed."""
    stem, suffix = os.path.splitext(os.path.basename(name))
    suffix = suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in SOUND_SUFFIXES:
        return "sound"
    if suffix in SUBTITLE_SUFFIXES:
        return "subtitles"
    if suffix in TEXT_SUFFIXES:
        return "document"
    if suffix in TABLE_SUFFIXES and stem.lower() == "captions":
        return "captions"
    if suffix == ".tar":
        return "tar"
    if suffix == ".parquet":
        return "parquet"
    return None


def moving(path: str, kind: SourceKind) -> SourceKind:
    """`video` for an animated picture, which only its first bytes tell. What cannot be read is left to those who say why."""
    suffix = os.path.splitext(path)[1].lower()
    if kind == "image" and suffix in ANIMATED_SUFFIXES and is_animated(_head(path), suffix):
        return "video"
    return kind


def _is_film(path: str) -> bool:
    """False for a `.ts` that holds a program's source."""
    head = _head(path) if os.path.splitext(path)[1].lower() in SHARED_SUFFIXES else b""
    return not head or is_transport_stream(head)


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as opened:
            return opened.read(4096)
    except OSError:
        return b""


def _walk(folder: str, given: set[str], visited: set[tuple[int, int]], sound: bool) -> Iterator[Source | Unreadable]:
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in visited:
            return
        visited.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        yield Unreadable(path=folder, reason=error.strerror or str(error))
        return
    images: dict[str, str] = {}
    spoken: dict[str, str] = {}
    folders: list[str] = []
    files: list[tuple[os.DirEntry[str], SourceKind]] = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                folders.append(entry.path)
                continue
        except OSError as error:
            yield Unreadable(path=entry.path, reason=error.strerror or str(error))
            continue
        kind = source_kind(entry.name)
        if kind is None or (kind == "video" and not _is_film(entry.path)):
            continue
        stem = os.path.splitext(entry.name)[0]
        if kind in ("video", "sound"):
            spoken.setdefault(stem, entry.path)
        if kind == "sound" and not sound:
            continue
        files.append((entry, kind))
        if kind == "image":
            images.setdefault(stem, entry.path)
    for entry, kind in files:
        if entry.path in given:
            continue
        try:
            stat = entry.stat()
        except OSError as error:
            yield Unreadable(path=entry.path, reason=error.strerror or str(error))
            continue
        about = None
        if kind == "document" and entry.name.lower().endswith(".txt"):
            about = images.get(os.path.splitext(entry.name)[0])
            kind = "sidecar" if about else kind
        elif kind == "subtitles":
            # `film.srt` and `film.en.srt` both belong to `film.mp4`.
            stem = os.path.splitext(entry.name)[0]
            about = spoken.get(stem) or spoken.get(os.path.splitext(stem)[0])
        yield Source(path=entry.path, kind=kind, size=stat.st_size, mtime_ns=stat.st_mtime_ns, about=about)
    for path in folders:
        if path not in given:
            yield from _walk(path, given, visited, sound)


def read_bytes(path: str) -> bytes:
    """A whole file; `MediaError("read", …)` says why not."""
    try:
        with open(path, "rb") as opened:
            if os.fstat(opened.fileno()).st_size > _MAX_FILE:
                raise MediaError("read", "larger than 2 GiB")
            return opened.read()
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error


def expand(source: Source) -> Iterator[Record]:
    """The records of one source. What cannot be read becomes a record with its `failure`."""
    try:
        if source.kind == "tar":
            yield from _tar(source)
        elif source.kind == "parquet":
            yield from _parquet(source)
        elif source.kind == "captions":
            yield from _captions(source)
        else:
            yield Record(path=source.about or source.path, source=source)
    except MediaError as error:
        yield Record(path=source.path, source=source, failure=error)


def _captions(source: Source) -> Iterator[Record]:
    suffix = os.path.splitext(source.path)[1].lower()
    pairs = caption_rows(decode_text(read_bytes(source.path)), suffix)
    if not pairs:
        raise MediaError("decode", "holds no captions")
    folder = os.path.dirname(source.path)
    known: dict[str, str | None] = {}
    missing: list[str] = []
    texts: list[Passage] = []
    for name, caption in pairs:
        if name not in known:
            known[name] = _find_image(folder, name)
            if known[name] is None:
                missing.append(name)
        path = known[name]
        if path is not None:
            texts.append(Passage(path, caption))
    for start in range(0, len(texts), CAPTION_CHUNK):
        yield Record(path=source.path, source=source, texts=tuple(texts[start : start + CAPTION_CHUNK]))
    if missing:
        reason = f"names {len(missing)} picture(s) that are not there, the first is {missing[0]!r}"
        yield Record(path=source.path, source=source, failure=MediaError("read", reason))


def _find_image(folder: str, name: str) -> str | None:
    path = os.path.normpath(os.path.join(folder, name))
    if os.path.isfile(path):
        return path
    return next((path + suffix for suffix in (".jpg", ".jpeg", ".png", ".webp") if os.path.isfile(path + suffix)), None)


def _tar(source: Source) -> Iterator[Record]:
    """A webdataset: members that share a key, the name up to its first dot, belong together."""
    try:
        with tarfile.open(source.path, "r:") as opened:
            key: str | None = None
            group: dict[str, bytes] = {}
            for member in opened:
                if not member.isfile() or os.path.basename(member.name).startswith("."):
                    continue
                folder, name = os.path.split(member.name)
                stem, _, _ = name.partition(".")
                here = os.path.join(folder, stem)
                if here != key:
                    yield from _tar_group(source, group)
                    key, group = here, {}
                if member.size > _MAX_FILE:
                    error = MediaError("read", "larger than 2 GiB")
                    yield Record(path=source.path + MEMBER + member.name, source=source, failure=error)
                    continue
                content = opened.extractfile(member)
                group[member.name] = content.read() if content else b""
            yield from _tar_group(source, group)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise MediaError("read", f"damaged tar: {error}") from error


def _tar_group(source: Source, group: dict[str, bytes]) -> Iterator[Record]:
    images = [name for name in group if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    for name in images:
        yield Record(path=source.path + MEMBER + name, source=source, data=group[name])
    about = source.path + MEMBER + (images[0] if images else "")
    for name, data in group.items():
        suffix = os.path.splitext(name)[1].lower()
        path = about if images else source.path + MEMBER + name
        if suffix in (".txt", ".caption", ".md"):
            try:
                lines = caption_lines(decode_text(data))
            except MediaError as error:
                yield Record(path=source.path + MEMBER + name, source=source, failure=error)
                continue
            if lines:
                yield Record(path=path, source=source, texts=tuple(Passage(path, line) for line in lines))


def _parquet(source: Source) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.path) as opened:
            names = set(opened.schema_arrow.names)
            if not {"image_id", "image"} <= names:
                raise MediaError("decode", "a table must have the columns image_id and image (bytes)")
            columns = [name for name in ("image_id", "image", "captions") if name in names]
            for batch in opened.iter_batches(batch_size=64, columns=columns):
                for row in batch.to_pylist():
                    path = f"{source.path}{MEMBER}{row['image_id']}"
                    image = row["image"]
                    data = image.get("bytes") if isinstance(image, dict) else image
                    if not isinstance(data, bytes):
                        yield Record(path=path, source=source, failure=MediaError("read", "the image is not bytes"))
                        continue
                    yield Record(path=path, source=source, data=data)
                    captions = row.get("captions") or []
                    lines = [" ".join(str(one).split()) for one in captions] if isinstance(captions, list) else []
                    texts = tuple(Passage(path, line) for line in lines if line)
                    if texts:
                        yield Record(path=path, source=source, texts=texts)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise MediaError("read", f"damaged table: {str(error).splitlines()[0][:200]}") from error

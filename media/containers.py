"""One source to its records: a file gives itself; a tar, a table of images or a table of captions gives what it holds."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator

from media.errors import MediaError
from media.image import IMAGE_SUFFIXES
from media.text import caption_lines, caption_rows, decode_text
from media.types import MEMBER, Passage, Record, Source

CAPTION_CHUNK = 1024
_MAX_FILE = 2 * 1024**3


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

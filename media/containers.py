"""One source to its records: a file gives itself; a tar, a table of images or a table of captions gives what it holds.

Names inside a container never become paths of the file system, and a table of captions names only images below the indexed
roots: what a file says about other files is not trusted.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat as modes
import tarfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from media import storage
from media.errors import MediaError
from media.pages import Document, read_document
from media.suffixes import IMAGE_SUFFIXES
from media.text import caption_lines, caption_rows, caption_texts, decode_text, json_captions, passages
from media.types import MEMBER, Passage, Record, Source, below_any
from media.walk import source_kind

if TYPE_CHECKING:
    import pyarrow as pa

CAPTION_CHUNK = 1024
_MAX_FILE = 2 * 1024**3
# What shares one key of a tar is looked at together, up to this many members.
_MOST_TOGETHER = 256
_CAPTION_SUFFIXES = frozenset((".txt", ".caption", ".md", ".json"))
# Columns of a table that hold captions.
_CAPTION_COLUMNS = ("captions", "caption", "text")
_MAX_CAPTION = 1024 * 1024
_ROWS_AT_ONCE = 16
# What one request of a tar in a store fetches.
_TAR_PIECE = 4 << 20


def read_bytes(path: str) -> bytes:
    """A whole regular file; `MediaError("read", …)` says why not, and also where it changed meanwhile."""
    try:
        if storage.is_object(path):
            return storage.read(path, _MAX_FILE)
        with storage.open_file(path) as opened:
            before = os.fstat(opened.fileno())
            if not modes.S_ISREG(before.st_mode):
                raise MediaError("read", "not a regular file")
            if before.st_size > _MAX_FILE:
                raise MediaError("read", "larger than 2 GiB")
            data = opened.read(_MAX_FILE + 1)
            after = os.fstat(opened.fileno())
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise MediaError("read", "changed while it was read")
    return data


def expand(
    source: Source, roots: Sequence[str] = (), document: Callable[[str], Document] = read_document
) -> Iterator[Record]:
    """The records of one source. What cannot be read becomes a record with its `failure`, and so does a container that holds
    nothing, so that it can be remembered and is not read again until it changes.

    A table of captions may name images below `roots` only; without roots, below its own folder. `document` reads a PDF.
    """
    count = 0
    try:
        if source.kind == "tar":
            records = _tar(source)
        elif source.kind == "parquet":
            records = _parquet(source)
        elif source.kind == "pages":
            records = _pages(source, document(source.path))
        elif source.kind == "captions":
            records = _captions(source, roots or (os.path.dirname(source.path),))
        else:
            records = iter((Record(path=source.about or source.path, source=source),))
        for record in records:
            count += 1
            yield record
        if not count:
            raise MediaError("decode", "holds no images and no captions")
    except MediaError as error:
        yield Record(path=source.path, source=source, failure=error)
    except Exception as error:  # Whatever a parser makes of a hostile file is that file's failure alone
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        yield Record(path=source.path, source=source, failure=MediaError("decode", f"damaged {source.kind}: {reason}"))


def distinct(names: Iterable[str]) -> Iterator[str]:
    """Names as they come, but equal ones told apart: `x`, then `x#2`, then `x#3`; never one that was given before."""
    # Hashes instead of the names themselves: a table may have millions.
    taken: set[int] = set()
    times: dict[int, int] = {}
    for name in names:
        key, unique = hash(name), name
        while hash(unique) in taken:
            times[key] = times.get(key, 1) + 1
            unique = f"{name}#{times[key]}"
        taken.add(hash(unique))
        yield unique


def table_names(ids: Iterable[object]) -> Iterator[str]:
    """The members' names of a table of images: its column `image_id`, or else the names in its structs `image`; of a row
    without a name its number."""
    return distinct(_row_name(row, value) for row, value in enumerate(ids))


def _row_name(row: int, value: object) -> str:
    if isinstance(value, dict):
        value = value.get("path")
        value = os.path.basename(value) if isinstance(value, str) else value
    return str(value) if value is not None and value != "" else f"row{row:08d}"


def table_columns(schema: pa.Schema) -> tuple[str, str]:
    """The columns of a table of images that give names and images. Raises `MediaError` for another table."""
    if "image" in schema.names and "image_id" in schema.names:
        return "image_id", "image"
    if "image" in schema.names:
        kind = schema.field("image").type
        # As Hugging Face writes images: the bytes, and the name of the file that they were.
        if str(kind).startswith("struct") and "bytes" in {kind.field(n).name for n in range(kind.num_fields)}:
            return "image", "image"
    raise MediaError(
        "decode", "a table must have the columns image_id and image (bytes), or image alone (structs with bytes)"
    )


def tar_members(opened: tarfile.TarFile) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """The images and captions of a tar, links among them, with distinct names."""
    waiting: list[tarfile.TarInfo] = []

    def names() -> Iterator[str]:
        while (member := opened.next()) is not None:
            # Python keeps every member that it read; a tar of millions would fill the memory.
            opened.members.clear()  # type: ignore[attr-defined]
            name = os.path.basename(member.name)
            suffix = os.path.splitext(name)[1].lower()
            listed = suffix in IMAGE_SUFFIXES or suffix in _CAPTION_SUFFIXES
            if listed and not name.startswith(".") and (member.isfile() or member.islnk() or member.issym()):
                waiting.append(member)
                yield member.name

    for name in distinct(names()):
        yield name, waiting.pop()


def _captions(source: Source, roots: Sequence[str]) -> Iterator[Record]:
    suffix = os.path.splitext(source.path)[1].lower()
    pairs = caption_rows(decode_text(read_bytes(source.path)), suffix)
    if not pairs:
        raise MediaError("decode", "holds no captions")
    folder, real = os.path.dirname(source.path), [storage.real(root) for root in roots]
    paths: dict[str, str | None] = {}
    refused: dict[str, str] = {}
    texts: list[Passage] = []
    for name, caption in pairs:
        if name not in paths:
            paths[name] = _find_image(folder, name)
            path = paths[name]
            # By its name and in truth: an index knows files by the names of its roots.
            if path is not None and not (below_any(path, roots) and below_any(storage.real(path), real)):
                refused[name], paths[name] = "lies outside of the indexed folders", None
        path = paths[name]
        if path is not None:
            texts.append(Passage(path, caption, "caption"))
    for start in range(0, len(texts), CAPTION_CHUNK):
        yield Record(path=source.path, source=source, texts=tuple(texts[start : start + CAPTION_CHUNK]))
    missing = [name for name, path in paths.items() if path is None and name not in refused]
    reasons = []
    if missing:
        reasons.append(f"names {len(missing)} picture(s) that are not there, the first is {missing[0]!r}")
    if refused:
        reasons.append(
            f"names {len(refused)} file(s) outside of the indexed folders, which are left alone, "
            f"the first is {next(iter(refused))!r}"
        )
    if reasons:
        yield Record(path=source.path, source=source, failure=MediaError("read", "; ".join(reasons)))


def _find_image(folder: str, name: str) -> str | None:
    """The image or video that a table names, by its path from the table's folder, in any spelling of Unicode, with or without
    its suffix."""
    if "\0" in name:
        return None
    for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        path = storage.inside(folder, form)
        for suffix in ("", ".jpg", ".jpeg", ".png", ".webp"):
            if source_kind(path + suffix) in ("image", "video") and storage.is_file(path + suffix):
                return path + suffix
    return None


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A member of a tar that may be used; its bytes are read when they are."""

    name: str
    offset: int
    size: int

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return os.path.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        return os.path.splitext(re.sub(r"#\d+$", "", self.name))[1].lower()


def _tar(source: Source) -> Iterator[Record]:
    """A webdataset: members that follow each other and share a key, the name up to its first dot, belong together."""
    try:
        with (
            storage.open_file(source.path, _TAR_PIECE) as headers,
            tarfile.open(fileobj=headers, mode="r:") as opened,
            storage.open_file(source.path, _TAR_PIECE) as content,
        ):
            key: str | None = None
            group: list[_Member] = []
            for name, member in tar_members(opened):
                reason = _not_taken(member)
                if reason is not None:
                    yield Record(path=source.path + MEMBER + name, source=source, failure=MediaError("read", reason))
                    continue
                folder, base = os.path.split(name)
                here = os.path.join(folder, base.partition(".")[0])
                if here != key:
                    yield from _tar_group(source, content, group)
                    key, group = here, []
                elif len(group) >= _MOST_TOGETHER:
                    # One key for all names: then what belongs together has the same stem.
                    stem = os.path.splitext(name)[0]
                    same_stem = [other for other in group if other.stem == stem]
                    same_stem = same_stem if len(same_stem) < _MOST_TOGETHER else []
                    yield from _tar_group(
                        source,
                        content,
                        [other for other in group if other not in same_stem],
                    )
                    group = same_stem
                group.append(_Member(name=name, offset=member.offset_data, size=member.size))
            yield from _tar_group(source, content, group)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise MediaError("read", f"damaged tar: {error}") from error


def _not_taken(member: tarfile.TarInfo) -> str | None:
    """Why a member of a tar is refused."""
    if not member.isfile():
        return f"a link to {member.linkname}; links in a tar are not followed"
    if member.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.name):
        return "its name leads out of the tar"
    return "larger than 2 GiB" if member.size > _MAX_FILE else None


def _tar_group(source: Source, content: IO[bytes], group: Sequence[_Member]) -> Iterator[Record]:
    images = [member for member in group if member.suffix in IMAGE_SUFFIXES]
    for image in images:
        path = source.path + MEMBER + image.name
        try:
            yield Record(path=path, source=source, data=_content(content, image))
        except MediaError as error:
            yield Record(path=path, source=source, failure=error)
    given: set[tuple[str, str]] = set()
    # The same caption is often in a text and in the JSON beside it.
    for text in sorted(group, key=lambda member: member.suffix == ".json"):
        if text.suffix not in _CAPTION_SUFFIXES:
            continue
        about = _image_of(text, images)
        if text.suffix == ".json" and about is None:
            # What describes the tar, or a sample without an image, says nothing that could be searched.
            continue
        path = source.path + MEMBER + (about or text).name
        try:
            if text.size > _MAX_CAPTION:
                raise MediaError("decode", f"a caption of {text.size / 1e6:.0f} MB")
            if about is None and images:
                raise MediaError("decode", "belongs to none of the images whose names begin like it")
            data = _content(content, text)
            lines = json_captions(data) if text.suffix == ".json" else caption_lines(decode_text(data))
        except MediaError as error:
            yield Record(path=source.path + MEMBER + text.name, source=source, failure=error)
            continue
        lines = [line for line in lines if text.suffix != ".json" or (path, line) not in given]
        given.update((path, line) for line in lines)
        if lines:
            yield Record(path=path, source=source, texts=tuple(Passage(path, line, "caption") for line in lines))


def _image_of(text: _Member, images: Sequence[_Member]) -> _Member | None:
    """The image with the text's stem, or the longest one that its stem continues; else the sample's only or main one."""
    matching = [image for image in images if text.stem == image.stem or text.stem.startswith(image.stem + ".")]
    if matching:
        return max(matching, key=lambda image: len(image.stem))
    # `a.txt` describes a sample of several views, `a.left.jpg` and `a.right.jpg`, and `a.cap.txt` the only image
    # `a.img.jpg`; but `trip.2.txt` belongs to `trip.2.jpg` alone.
    _, _, part = os.path.basename(text.stem).partition(".")
    return images[0] if images and (not part or (len(images) == 1 and not part.isdigit())) else None


def _content(content: IO[bytes], member: _Member) -> bytes:
    content.seek(member.offset)
    data = content.read(member.size)
    if len(data) < member.size:
        raise MediaError("read", "the tar ends in the middle of it")
    return data


def _pages(source: Source, document: Document) -> Iterator[Record]:
    """The pages of a PDF, each followed by its text."""
    content = file_digest(source.path)
    for number, text in enumerate(document.texts, 1):
        path = f"{source.path}{MEMBER}{number}"
        digest = hashlib.sha256(f"{content}\0{number}".encode()).hexdigest()
        yield Record(path=path, source=source, page=number, digest=digest)
        texts = tuple(Passage(path, passage, "passage") for passage in passages(decode_text(text.encode())))
        if texts:
            yield Record(path=path, source=source, texts=texts)
    if document.pages > len(document.texts):
        reason = f"has {document.pages} pages, of which the first {len(document.texts)} are indexed"
        yield Record(path=source.path, source=source, failure=MediaError("decode", reason))


def file_digest(path: str) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises `MediaError`."""
    try:
        with open(path, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise MediaError("read", error.strerror or str(error)) from error


def image_bytes(image: object) -> bytes:
    """The encoded image in a cell of a table: bytes, or a struct with a field `bytes`. Raises `MediaError`."""
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise MediaError("read", "the image is not bytes")
    return data


def _parquet(source: Source) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(storage.source(source.path), buffer_size=1 << 20, pre_buffer=False) as opened:
            named_by, image = table_columns(opened.schema_arrow)
            captions = [name for name in _CAPTION_COLUMNS if name in opened.schema_arrow.names]
            columns = list(dict.fromkeys((named_by, image, *captions)))
            rows = (
                row
                for batch in opened.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns, use_threads=False)
                for row in batch.to_pylist()
            )
            ids: list[dict[str, object]] = []

            def listed() -> Iterator[object]:
                for row in rows:
                    ids.append(row)
                    yield row[named_by]

            for name in table_names(listed()):
                yield from _row(source, f"{source.path}{MEMBER}{name}", ids.pop())
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise MediaError("read", f"damaged table: {(str(error).splitlines() or ['?'])[0][:200]}") from error


def _row(source: Source, path: str, row: dict[str, object]) -> Iterator[Record]:
    try:
        yield Record(path=path, source=source, data=image_bytes(row["image"]))
    except MediaError as error:
        yield Record(path=path, source=source, failure=error)
        return
    lines = dict.fromkeys(line for name in _CAPTION_COLUMNS for line in caption_texts(row.get(name)))
    texts = tuple(Passage(path, line, "caption") for line in lines)
    if texts:
        yield Record(path=path, source=source, texts=texts)

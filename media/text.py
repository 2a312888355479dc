"""Bytes to passages and captions. A strange encoding is read as well as it can be, never refused for one bad byte."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator

from media.errors import MediaError

TEXT_SUFFIXES = frozenset((".txt", ".md"))
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".jsonl"))
MAX_TEXT_BYTES = 32 * 1024 * 1024
# A passage is about what a text tower reads: 77 tokens are some fifty words.
PASSAGE_CHARS = 300
_IMAGE_COLUMNS = ("path", "image", "file", "filename", "file_name", "image_path", "image_id")
_TEXT_COLUMNS = ("caption", "captions", "text", "comment", "description", "title")


def decode_text(data: bytes, most: int = MAX_TEXT_BYTES) -> str:
    """UTF-8 with or without a mark, UTF-16, else Windows-1252. Raises `MediaError` for what is not text at all."""
    if len(data) > most:
        raise MediaError("decode", f"a text of {len(data) / 1e6:.0f} MB is more than {most // 1_048_576} MB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        guess = _utf16_without_mark(data)
        text = data.decode(guess, "replace") if guess else data.decode("cp1252", "replace")
    if text.count("\0") > len(text) // 100:
        guess = _utf16_without_mark(data)
        if guess is None:
            raise MediaError("decode", "not a text: it holds binary data")
        text = data.decode(guess, "replace")
    return text.replace("\0", "")


def passages(text: str) -> list[str]:
    """Paragraphs, long ones cut between sentences, each at most about `PASSAGE_CHARS` characters."""
    pieces: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        whole = " ".join(paragraph.split())
        while len(whole) > PASSAGE_CHARS:
            cut = max(whole.rfind(mark, 0, PASSAGE_CHARS) for mark in (". ", "! ", "? ", "; "))
            cut = cut + 1 if cut > PASSAGE_CHARS // 3 else whole.rfind(" ", 0, PASSAGE_CHARS)
            cut = cut if cut > 0 else PASSAGE_CHARS
            pieces.append(whole[:cut].strip())
            whole = whole[cut:].strip()
        if whole:
            pieces.append(whole)
    return pieces


def caption_lines(text: str) -> list[str]:
    """The captions in a text beside an image: one a line, blank lines left out."""
    return [" ".join(line.split()) for line in _lines(text) if line.strip()]


def _lines(text: str) -> list[str]:
    """Lines as files have them: Python's own rule also cuts at U+2028, U+0085 and other characters that captions hold."""
    return re.split(r"\r\n|\r|\n", text)


def json_captions(data: bytes) -> list[str]:
    """The captions in a JSON object about one image, one a text; none in other JSON. Raises `MediaError`."""
    try:
        value = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise MediaError("decode", f"not JSON: {' '.join(str(error).split())[:150]}") from error
    if not isinstance(value, dict):
        return []
    lowered = {key.strip().lower(): text for key, text in value.items()}
    return caption_texts([text for name in _TEXT_COLUMNS for text in _listed(lowered.get(name))])


def caption_texts(values: object) -> list[str]:
    """A caption or a list of captions as texts on one line each, each once; what is no string is left out."""
    texts = (" ".join(value.split()) for value in _listed(values) if isinstance(value, str))
    return list(dict.fromkeys(text for text in texts if text))


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def caption_rows(text: str, suffix: str) -> list[tuple[str, str]]:
    """`(image name, caption)` pairs of a captions table. Raises `MediaError` when it has no such columns.

    Comma and tab separated tables have a header with a column such as `path`, `image` or `filename`, and one such as
    `caption` or `text`; JSON Lines have the same keys, a caption being a string or a list of strings.
    """
    pairs: list[tuple[str, str]] = []
    for row in _json_rows(text) if suffix == ".jsonl" else _table_rows(text, "\t" if suffix == ".tsv" else ","):
        lowered = {str(key).strip().lower(): value for key, value in row.items() if key is not None}
        image = next((lowered[name] for name in _IMAGE_COLUMNS if lowered.get(name)), None)
        captions = next((lowered[name] for name in _TEXT_COLUMNS if lowered.get(name)), None)
        if image is None and not any(name in lowered for name in _IMAGE_COLUMNS):
            raise MediaError("decode", f"has no column for the image; expected one of {', '.join(_IMAGE_COLUMNS)}")
        if captions is None and not any(name in lowered for name in _TEXT_COLUMNS):
            raise MediaError("decode", f"has no column for the caption; expected one of {', '.join(_TEXT_COLUMNS)}")
        for caption in captions if isinstance(captions, list) else [captions]:
            words = " ".join(str(caption or "").split())
            if words and image:
                pairs.append((str(image), words))
    return pairs


def _table_rows(text: str, delimiter: str) -> Iterator[dict[str, object]]:
    try:
        yield from csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    except csv.Error as error:
        raise MediaError("decode", f"not a table: {error}") from error


def _json_rows(text: str) -> Iterator[dict[str, object]]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MediaError("decode", f"line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise MediaError("decode", f"line {number} is not a JSON object")
        yield row


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 of mostly Latin text has a zero in every second byte; tells which."""
    sample = data[:4096]
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if odd > 0.4 * len(sample) / 2 and even < odd / 8:
        return "utf-16-le"
    if even > 0.4 * len(sample) / 2 and odd < even / 8:
        return "utf-16-be"
    return None

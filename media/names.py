"""Names of files as text. A file system takes any bytes, and Python keeps those that are no UTF-8 as lone surrogates, which
no JSON, page or terminal takes: outside of the file system a name is valid text, with the replacement character."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping


def split_name(name: str) -> tuple[str, bytes | None]:
    """A file name as valid text, and its raw bytes where the text cannot hold them exactly."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raw = _raw(name)
        return raw.decode("utf-8", "replace"), raw
    return name, None


def join_name(text: str, raw: bytes | None) -> str:
    """The inverse of `split_name`."""
    return text if raw is None else os.fsdecode(raw)


def valid_text(name: str) -> str:
    """A name, or a message that holds one, as valid text."""
    return split_name(name)[0]


def printable(name: str) -> str:
    """The same on one line, without control characters: for people."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in valid_text(name))


def base64_name(name: str) -> str | None:
    """The raw bytes of a name that is no valid text, as base64; None for any other, which is its own text."""
    raw = split_name(name)[1]
    return None if raw is None else base64.standard_b64encode(raw).decode()


def valid_json(value: Mapping[str, object]) -> dict[str, object]:
    """A JSON object with valid text alone. Each key whose name is no valid text is followed by `KEY_raw`, the bytes as base64
    (for a list of names a list, null for those that are valid)."""
    valid: dict[str, object] = {}
    for key, entry in value.items():
        valid[key] = _valid(entry)
        if isinstance(entry, str):
            raw: object = base64_name(entry)
        elif isinstance(entry, (list, tuple)) and all(isinstance(name, str) for name in entry):
            raws = [base64_name(name) for name in entry]
            raw = raws if any(raws) else None
        else:
            raw = None
        if raw is not None:
            valid[f"{key}_raw"] = raw
    return valid


def _valid(entry: object) -> object:
    if isinstance(entry, str):
        return valid_text(entry)
    if isinstance(entry, Mapping):
        return valid_json(entry)
    if isinstance(entry, (list, tuple)):
        return [_valid(part) for part in entry]
    return entry


def _raw(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        # A surrogate that stands for no byte: some program's own escape.
        return name.encode("utf-8", "surrogatepass")

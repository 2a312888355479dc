"""The page: one document, styles, a map and JavaScript modules, served as they are under a prefix that their content names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self'; connect-src 'self'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


@dataclass(frozen=True, kw_only=True)
class PageFile:
    """A file of the page, with its media type."""

    content: bytes
    media_type: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """`version` is a hash of everything; `files` are the styles, pictures and modules by their names."""

    version: str
    document: bytes
    files: dict[str, PageFile]


def load_page() -> Page:
    """Read the page from its files."""
    files = {
        file.name: PageFile(content=file.read_bytes(), media_type=_TYPES[file.suffix])
        for file in sorted(_HERE.iterdir())
        if file.suffix in _TYPES
    }
    document = (_HERE / "page.html").read_text("utf-8")
    digest = hashlib.sha256(document.encode())
    for name, file in files.items():
        digest.update(name.encode() + b"\0" + file.content)
    version = digest.hexdigest()[:16]
    # All modules at once: found one by one, each level of imports would cost a round trip.
    preload = "\n".join(
        f'<link rel="modulepreload" href="/page/{version}/{name}">' for name in files if name.endswith(".js")
    )
    whole = document.replace("{{preload}}", preload).replace("{{version}}", version)
    return Page(version=version, document=whole.encode(), files=files)

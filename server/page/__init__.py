"""The page: one document with its style and script inside, put together when it is asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_HERE = Path(__file__).parent


def page(nonce: str) -> str:
    """The whole page; `nonce` is what its Content-Security-Policy lets run."""
    return _parts().replace("{{nonce}}", nonce)


@cache
def _parts() -> str:
    whole = (_HERE / "page.html").read_text("utf-8")
    for name in ("page.css", "page.js"):
        whole = whole.replace(f"{{{{{name}}}}}", (_HERE / name).read_text("utf-8"))
    return whole

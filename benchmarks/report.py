"""Reports that people can look at: one self-contained HTML page with tables, plots and images, and how it was made."""

from __future__ import annotations

import base64
import html
import io
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.errors import MmsearchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_STYLE = """
:root { color-scheme: light dark; --line: #8885; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .75rem 0; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .9em; overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: #fff; border-radius: .5rem; padding: .5rem; } svg { max-width: 100%; height: auto; }
img { height: 7rem; border-radius: .3rem; display: block; }
small { opacity: .75; }
"""
_PACKAGES = (
    "mmsearch",
    "torch",
    "open-clip-torch",
    "faiss-gpu",
    "faiss-cpu",
    "onnxruntime",
    "numpy",
    "pyarrow",
    "pillow",
    "av",
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading and HTML that follows it."""

    title: str
    body: str


def write_page(file: Path, title: str, command: str, sections: Sequence[Section]) -> None:
    """Write the page: the sections, then the machine, the versions and the exact command. Raises `MmsearchError`."""
    about = Section(
        title="How this was measured",
        body=f"<p><code>{html.escape(command)}</code></p>" + table(("what", "value"), [*machine().items()]),
    )
    parts = "\n".join(f"<h2>{html.escape(section.title)}</h2>\n{section.body}" for section in (*sections, about))
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)} – mmsearch</title>\n<style>{_STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n{parts}\n</html>\n"
    )
    try:
        file.write_text(page, "utf-8", errors="replace")
    except OSError as error:
        raise MmsearchError(f"cannot write {file}: {error.strerror}") from error


def machine() -> dict[str, str]:
    """What a figure depends on: processor, memory, system, versions, and the day."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{_memory() / 1e9:.0f} GB" if _memory() else "unknown",
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "versions": ", ".join(versions),
    }


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; numbers stand right."""

    def cell(tag: str, value: object) -> str:
        number = isinstance(value, int | float)
        shown = f"{value:,.4g}" if isinstance(value, float) else str(value)
        raw = isinstance(value, Markup)
        return f"<{tag}{' class=number' if number else ''}>{shown if raw else html.escape(shown)}</{tag}>"

    top = "".join(cell("th", value) for value in head)
    return (
        f"<table><tr>{top}</tr>"
        + "".join(f"<tr>{''.join(cell('td', value) for value in row)}</tr>" for row in rows)
        + "</table>"
    )


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def inline_image(image: Image, name: str) -> Markup:
    """A small image inside the page, named for those who cannot see it."""
    small = image.copy()
    small.thumbnail((320, 224))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    data = base64.standard_b64encode(out.getvalue()).decode()
    return Markup(f'<img alt="{html.escape(name)}" src="data:image/jpeg;base64,{data}">')


def check_page(file: Path | None) -> None:
    """Raise `MmsearchError` where a page that shall be written after a measurement could not be; nothing for None."""
    if file is None:
        return
    new_figure()
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise MmsearchError(f"cannot write {file}: name a file in a folder that is there")


def new_figure(width: float = 7.5, height: float = 3.8) -> Figure:
    """A plot to draw into. Raises `MmsearchError` where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MmsearchError("reports need matplotlib; install it with: pip install matplotlib") from error
    return Figure(figsize=(width, height), layout="constrained")


def drawn(figure: Figure, caption: str) -> str:
    """A figure as SVG inside the page."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return f'<figure role="img" aria-label="{html.escape(caption)}">{svg[svg.index("<svg") :]}</figure>'


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0

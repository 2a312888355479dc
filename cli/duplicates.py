"""`mmsearch duplicates`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.options import IndexOption
from cli.terminal import byte_count, columns, file_url, note, quiet_native_stderr, shown, write_lines
from retrieval.errors import MediaError, MmsearchError
from retrieval.types import CopyGroup, Item

if TYPE_CHECKING:
    from media.reader import ImageReader

# A page holds its pictures: more groups than these, or more of one, would make it too heavy to open.
_MOST_GROUPS = 500
_MOST_SHOWN = 12
_LABELS = {"same": "equal", "near": "nearly equal", "stack": "one shot"}


def duplicates_command(
    index: IndexOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a group.")] = False,
    sheet: Annotated[
        Optional[Path], typer.Option("--html", help="Write a page that shows them side by side.", show_default=False)
    ] = None,
) -> None:
    """Pictures and films that the index has several times: equal, nearly equal, or of one shot. It never deletes."""
    from retrieval.engine import Engine

    with Engine.open(index) as engine:
        if as_json and sheet is None:
            write_lines(group.to_json() for group in engine.duplicates())
            return
        groups = list(engine.duplicates())
    if as_json:
        write_lines(group.to_json() for group in groups)
    groups.sort(key=lambda group: (-group.freed, -group.bytes, group.items[0].path))
    if sheet is not None:
        _write_sheet(sheet, groups)
        note(f"wrote {shown(str(sheet))}")
    elif groups:
        _show(groups)
    else:
        print("no copies")


def _file_bytes(item: Item) -> int | None:
    """The size of an item's own file; None for a member of a container, which no deleting would free alone."""
    return item.size if item.path == item.source else None


def _size(item: Item) -> str:
    size = _file_bytes(item)
    return "in a container" if size is None else byte_count(size)


def _sum(groups: Sequence[CopyGroup]) -> str:
    copies = sum(len(group.items) - 1 for group in groups if group.kind != "stack")
    freed = byte_count(sum(group.freed for group in groups))
    return (
        f"{len(groups)} group(s); deleting {copies} equal and nearly equal copies, all but the first of each group, would "
        f"free {freed}; mmsearch deletes nothing"
    )


def _show(groups: Sequence[CopyGroup]) -> None:
    rows = []
    for number, group in enumerate(groups, 1):
        for place, item in enumerate(group.items):
            head = (str(number), _LABELS[group.kind], byte_count(group.freed)) if not place else ("", "", "")
            sides = f"{item.width}×{item.height}" if item.width and item.height else ""
            rows.append((*head, _size(item), sides, shown(item.path)))
    columns(("#", "kind", "frees", "size", "pixels", "path"), rows, left=(1, 5))
    note(_sum(groups))


def _write_sheet(file: Path, groups: Sequence[CopyGroup]) -> None:
    """Write the page. Raises `MmsearchError` on a bad path."""
    from media.reader import ImageReader
    from server.sheet import page

    images = ImageReader(320)
    parts = [f"<p>{html.escape(_sum(groups) if groups else 'no copies')}</p>"]
    with quiet_native_stderr():
        parts += [_section(number, group, images) for number, group in enumerate(groups[:_MOST_GROUPS], 1)]
    if len(groups) > _MOST_GROUPS:
        parts.append(f"<p>and {len(groups) - _MOST_GROUPS} more groups: mmsearch duplicates lists them all</p>")
    try:
        file.write_text(page("Copies", "\n".join(parts)), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise MmsearchError(f"cannot write {file}: {error.strerror}") from error


def _section(number: int, group: CopyGroup, images: ImageReader) -> str:
    items = group.items
    cards = "\n".join(_card(item, images) for item in items[:_MOST_SHOWN])
    frees = f" · frees {byte_count(group.freed)}" if group.freed else ""
    rest = f"<p>and {len(items) - _MOST_SHOWN} more</p>" if len(items) > _MOST_SHOWN else ""
    return f"<h2>{number} · {_LABELS[group.kind]}{frees}</h2>\n<ol>\n{cards}\n</ol>{rest}"


def _card(item: Item, images: ImageReader) -> str:
    from server.sheet import data_url

    name = html.escape(shown(item.path.rsplit("/", 1)[-1]))
    try:
        picture = f'<img alt="{name}" src="{data_url(images.image(item.image_place), 480)}">'
    except MediaError:
        picture = ""
    sides = f"{item.width}×{item.height} · " if item.width and item.height else ""
    address = html.escape(file_url(item.source))
    folder = html.escape(shown(item.path.rsplit("/", 1)[0]))
    return (
        f'<li>{picture}<div><a href="{address}">{name}</a><br><small>{sides}{html.escape(_size(item))}<br>{folder}</small>'
        "</div></li>"
    )

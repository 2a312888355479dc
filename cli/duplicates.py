"""`mmsearch duplicates`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.options import IndexOption
from cli.terminal import byte_count, columns, file_url, note, quiet_native_stderr, shown, write_lines
from media.foreign import page_of
from retrieval.errors import MediaError, MmsearchError
from retrieval.types import CopyGroup, Item

if TYPE_CHECKING:
    from media.reader import ImageReader

# A page holds its pictures: more groups than these, or more of one, would make it too heavy to open.
_MOST_GROUPS = 500
_MOST_SHOWN = 12
_LABELS = {"same": "equal", "near": "nearly equal", "stack": "one shot"}


@dataclass(frozen=True)
class _Weighed:
    """A group with the bytes of its files, and how many of them deleting all but its best would free."""

    group: CopyGroup
    bytes: int
    freed: int

    @staticmethod
    def of(group: CopyGroup) -> _Weighed:
        sizes = [_file_bytes(item) or 0 for item in group.items]
        # Raw files, films and originals are no copies that one would delete unseen.
        freed = 0 if group.kind == "stack" else sum(sizes[1:])
        return _Weighed(group, sum(sizes), freed)


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
        groups = [_Weighed.of(group) for group in engine.duplicates()]
    if as_json:
        write_lines(weighed.group.to_json() for weighed in groups)
    groups.sort(key=lambda weighed: (-weighed.freed, -weighed.bytes, weighed.group.items[0].path))
    if sheet is not None:
        _write_sheet(sheet, groups)
        note(f"wrote {shown(str(sheet))}")
    elif groups:
        _show(groups)
    else:
        print("no copies")


def _file_bytes(item: Item) -> int | None:
    """The size of an item's own file; None for a member of a container, which no deleting would free alone."""
    return item.size if item.path == item.source or page_of(item.path) is not None else None


def _size(item: Item) -> str:
    size = _file_bytes(item)
    return "in a container" if size is None else byte_count(size)


def _sum(groups: Sequence[_Weighed]) -> str:
    copies = sum(len(weighed.group.items) - 1 for weighed in groups if weighed.group.kind != "stack")
    freed = byte_count(sum(weighed.freed for weighed in groups))
    return (
        f"{len(groups)} group(s); deleting {copies} equal and nearly equal copies, all but the first of each group, would "
        f"free {freed}; mmsearch deletes nothing"
    )


def _show(groups: Sequence[_Weighed]) -> None:
    rows = []
    for number, weighed in enumerate(groups, 1):
        for place, item in enumerate(weighed.group.items):
            head = (str(number), _LABELS[weighed.group.kind], byte_count(weighed.freed)) if not place else ("", "", "")
            sides = f"{item.width}×{item.height}" if item.width and item.height else ""
            rows.append((*head, _size(item), sides, shown(item.path)))
    columns(("#", "kind", "frees", "size", "pixels", "path"), rows, left=(1, 5))
    note(_sum(groups))


def _write_sheet(file: Path, groups: Sequence[_Weighed]) -> None:
    """Write the page. Raises `MmsearchError` on a bad path."""
    from cli.sheet import page
    from media.reader import ImageReader

    images = ImageReader(320)
    parts = [f"<p>{html.escape(_sum(groups) if groups else 'no copies')}</p>"]
    with quiet_native_stderr():
        parts += [_section(number, weighed, images) for number, weighed in enumerate(groups[:_MOST_GROUPS], 1)]
    if len(groups) > _MOST_GROUPS:
        parts.append(f"<p>and {len(groups) - _MOST_GROUPS} more groups: mmsearch duplicates lists them all</p>")
    try:
        file.write_text(page("Copies", "\n".join(parts)), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise MmsearchError(f"cannot write {file}: {error.strerror}") from error


def _section(number: int, weighed: _Weighed, images: ImageReader) -> str:
    items = weighed.group.items
    cards = "\n".join(_card(item, images) for item in items[:_MOST_SHOWN])
    frees = f" · frees {byte_count(weighed.freed)}" if weighed.freed else ""
    rest = f"<p>and {len(items) - _MOST_SHOWN} more</p>" if len(items) > _MOST_SHOWN else ""
    return f"<h2>{number} · {_LABELS[weighed.group.kind]}{frees}</h2>\n<ol>\n{cards}\n</ol>{rest}"


def _card(item: Item, images: ImageReader) -> str:
    from cli.sheet import data_url

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

"""What the commands share about terminals: streams, colours, links, images in the terminal, and progress bars."""

from __future__ import annotations

import base64
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

from media.foreign import page_of
from media.names import printable, valid_json
from media.storage import is_object
from media.types import below
from retrieval.errors import MmsearchError

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.progress import Progress

_hints: ContextVar[tuple[str, ...]] = ContextVar("hints", default=())


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on one line of standard output; names of files that are no valid text as `valid_json` gives them."""
    valid = valid_json(value)
    text = json.dumps(valid, ensure_ascii=False)
    try:
        sys.stdout.write(text + "\n")
    except UnicodeEncodeError:
        # A terminal of another encoding.
        sys.stdout.write(json.dumps(valid) + "\n")


def shown(path: str) -> str:
    """A path for people: one line, no control characters, valid text."""
    return printable(path)


def near(path: str) -> str:
    """A path of a file for people: from the working folder on where it lies in that."""
    here = os.getcwd()
    page = page_of(path)
    file = page[0] if page is not None else path
    name = os.path.relpath(file, here) if file != here and below(file, here) else file
    return shown(name) + (f", page {page[1]}" if page is not None else "")


def clock(seconds: float) -> str:
    """A time in a video as people read it: 1:02:03, or 02:03 below an hour."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{whole % 60:02d}"
    return f"{minutes:02d}:{whole % 60:02d}"


def byte_count(count: int) -> str:
    """A number of bytes for people."""
    if count < 1000:
        return f"{count} bytes"
    size = float(count)
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} GB"


def file_url(path: str) -> str:
    """A `file://` address, for OSC 8 links and pages; an object of a store has one of its own."""
    if is_object(path):
        return quote(path, safe="/:")
    return "file://" + quote(os.fsencode(path))


def note(message: str) -> None:
    """A line on standard error."""
    print(message, file=sys.stderr, flush=True)


def hint(message: str) -> None:
    """A line on standard error once the command has done its work; none where it fails, since that is what matters then."""
    _hints.set((*_hints.get(), message))


def say_hints() -> None:
    """Print the hints of the command that has done its work, and forget them."""
    for line in _hints.get():
        note(line)
    _hints.set(())


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn Ctrl-C into one line, for work that continues where it stopped."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise MmsearchError("interrupted; what was done is kept, run the same command to go on") from stop


@contextmanager
def quiet_native_stderr() -> Iterator[TextIO]:
    """Send what C libraries write to file descriptor 2 to nowhere, and give Python's own messages a stream past it.

    libtiff, libpng and their kin warn on descriptor 2 from any thread; only the descriptor can be silenced.
    """
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:
        yield sys.stderr
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    before = sys.stderr
    stream = open(saved, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    sys.stderr = stream
    try:
        yield stream
    finally:
        stream.flush()
        sys.stderr = before
        os.dup2(saved, 2)
        os.close(saved)


def progress_bar(stream: TextIO) -> Progress:
    """Files, rate, remaining time and the current file; shows nothing where `stream` is not a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[file]}", markup=False),
        console=Console(file=stream),
        transient=True,
        disable=not stream.isatty(),
    )


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> None:
    """A table on standard output, at full width in a pipe; the columns in `left` are text, the others numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 4096).print(table)


@contextmanager
def busy(message: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the time spent, for work of unknown length; nothing where standard error is no terminal. It gives
    a function that changes the message."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(message, total=None)
        yield lambda text: bar.update(task, description=text)


def inline_image(rgb: Image, rows: int = 6) -> str | None:
    """Escape codes that draw a picture `rows` lines high in kitty and iTerm2 (and what follows them), else None."""
    if not sys.stdout.isatty():
        return None
    term, program = os.environ.get("TERM", ""), os.environ.get("TERM_PROGRAM", "")
    if "kitty" in term or "ghostty" in term:
        data = base64.standard_b64encode(_png(rgb)).decode()
        chunks = [data[start : start + 4096] for start in range(0, len(data), 4096)]
        parts = [
            f"\x1b_G{f'a=T,f=100,r={rows},' if not number else ''}m={int(number + 1 < len(chunks))};{chunk}\x1b\\"
            for number, chunk in enumerate(chunks)
        ]
        return "".join(parts)
    if program in ("iTerm.app", "WezTerm", "mintty", "vscode") and program != "vscode":
        data = base64.standard_b64encode(_png(rgb)).decode()
        return f"\x1b]1337;File=inline=1;height={rows};preserveAspectRatio=1:{data}\x07"
    return None


def write_lines(lines: Iterable[Mapping[str, object]]) -> None:
    """JSON Lines on standard output."""
    for line in lines:
        print_json(line)


def _png(rgb: Image) -> bytes:
    small = rgb.copy()
    small.thumbnail((320, 320))
    out = io.BytesIO()
    small.save(out, "PNG")
    return out.getvalue()

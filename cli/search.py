"""`mmsearch search`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.terminal import busy, clock, file_url, inline_image, note, quiet_native_stderr, shown, write_lines
from retrieval.errors import MediaError, MmsearchError, QueryError
from retrieval.types import KINDS, MATCHES, Answer, Hit, Kind, Match, Query, Rerank

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.engine import Engine


def search_command(
    query: Annotated[Optional[str], typer.Argument(help="Words to look for.", show_default=False)] = None,
    image: Annotated[Optional[list[str]], typer.Option(help="An image or video to look for; may be repeated.")] = None,
    negative: Annotated[Optional[list[str]], typer.Option("--not", help="Words for what it should not be.")] = None,
    index: Annotated[Optional[str], typer.Option(help="The index, or a folder that has one.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    kind: Annotated[Optional[str], typer.Option(help="image, video or text; without it photos and videos.")] = None,
    match: Annotated[
        str,
        typer.Option(help="meaning, words (of names, captions and other texts), or auto: both joined."),
    ] = "auto",
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Order the best again by words and pixels together.")
    ] = False,
    candidates: Annotated[int, typer.Option(min=1, help="How many of the best are re-ranked.")] = 50,
    rerank_ms: Annotated[
        Optional[float], typer.Option(min=0, help="Stop re-ranking after this many milliseconds.", show_default=False)
    ] = None,
    reranker: Annotated[
        str, typer.Option("--reranker", "--reader", help="The model that re-ranks; auto: the index's own.")
    ] = "auto",
    fusion: Annotated[
        str, typer.Option(help="How re-ranking joins both scores: weighted, attention or concat.")
    ] = "weighted",
    min_relevance: Annotated[
        Optional[float],
        typer.Option(
            min=0, max=1, help="Leave out what is less likely relevant than this, 0 to 1.", show_default=False
        ),
    ] = None,
    moments: Annotated[
        bool, typer.Option("--moments", help="Every moment of a video as a hit of its own, not the best for all.")
    ] = False,
    clip: Annotated[
        Optional[Path],
        typer.Option(help="Write each moment that is found to this folder, as a video.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    html: Annotated[Optional[Path], typer.Option(help="Write a contact sheet to this file.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With --html: show for each picture which parts each word rests on.")
    ] = False,
    open_best: Annotated[bool, typer.Option("--open", help="Open the best hit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
) -> None:
    """Search by words, by pictures, or by both: mmsearch search "at night" --image a.jpg --not people."""
    if explain and (html is None or not query):
        raise typer.BadParameter("it needs --html FILE and words to explain", param_hint="--explain")
    wanted = Query(
        text=query,
        images=_query_images(image or []),
        negatives=tuple(negative or ()),
        kind=_kind(kind),
        k=k,
        rerank=Rerank(candidates=candidates, milliseconds=rerank_ms, reranker=reranker, fusion=fusion)
        if rerank
        else None,
        min_relevance=min_relevance,
        group=not moments,
        match=_match(match),
    )
    from retrieval.engine import Engine

    with Engine.open(index, device=device) as engine:
        answer = _reranked(engine, wanted) if rerank else engine.answer(wanted)
        hits = answer.hits
        if html is not None:
            from cli.sheet import write_sheet

            write_sheet(html, _title(wanted), hits, (engine.captioner(reranker), query or "") if explain else None)
            note(f"wrote {shown(str(html))}")
    if answer.unindexed:
        note(
            f"{answer.unindexed} items were searched by meaning alone: an older mmsearch wrote them; "
            "mmsearch index FOLDER also indexes their words"
        )
    if clip is not None:
        _cut(hits, clip)
    if as_json:
        write_lines(hit.to_json() for hit in hits)
    elif html is None:
        _show(hits)
    if open_best and hits:
        _open(hits[0])


def _reranked(engine: Engine, query: Query) -> Answer:
    """The answer, and on standard error what re-ranking could not do."""
    with quiet_native_stderr() as stream:
        with busy("reading the candidates"):
            answer = engine.answer(query)
        for path, reason in answer.unreadable:
            print(f"not re-ranked: {shown(path)}: {reason}", file=stream)
        if answer.out_of_time:
            print(f"re-ranked {answer.seen} candidates in the time given", file=stream)
        if answer.text_cut:
            print("the words are more than the reranker reads: it used the first of them", file=stream)
    return answer


def _cut(hits: Sequence[Hit], folder: Path) -> None:
    from media.cutting import cut

    for hit in hits:
        if hit.item.kind != "video":
            continue
        try:
            note(f"wrote {shown(str(cut(hit.item.place, folder, hit.rank)))}")
        except MediaError as error:
            note(f"{shown(hit.item.path)}: {error.reason}")


def _kind(value: str | None) -> Kind | None:
    if value is None:
        return None
    for kind in KINDS:
        if value == kind:
            return kind
    raise typer.BadParameter(f"{value!r} is not one of {', '.join(KINDS)}", param_hint="--kind")


def _match(value: str) -> Match:
    for match in MATCHES:
        if value == match:
            return match
    raise typer.BadParameter(f"{value!r} is not one of {', '.join(MATCHES)}", param_hint="--match")


def _query_images(files: list[str]) -> tuple[Image | tuple[Image, ...], ...]:
    if not files:
        return ()
    from media.reader import query_media

    images = []
    with quiet_native_stderr():
        for file in files:
            try:
                images.append(query_media(file))
            except MediaError as error:
                raise QueryError(f"--image {shown(file)}: {error.reason}") from error
    return tuple(images)


def _title(query: Query) -> str:
    parts = [query.text] if query.text else []
    parts += [f"{len(query.images)} picture(s)"] if query.images else []
    parts += [f"not {word}" for word in query.negatives]
    return " · ".join(parts)


def _show(hits: Sequence[Hit]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not hits:
        note("nothing found")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("#", "right"),
        ("score", "right"),
        ("relevance", "right"),
        ("kind", "left"),
        ("path", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "path")  # type: ignore[arg-type]
    for hit in hits:
        item = hit.item
        label = shown(item.path)
        if item.start is not None and item.end is not None:
            label += f" {clock(item.start)}–{clock(item.end)}"
            if len(hit.moments) > 1:
                rest = [f"{clock(moment.item.start or 0)}–{clock(moment.item.end or 0)}" for moment in hit.moments[1:4]]
                label += f"  also {', '.join(rest)}" + (" …" if len(hit.moments) > 4 else "")
        # Links only where a terminal shows them: in a pipe they would be noise around the path.
        path = Text(label, style=f"link {file_url(item.source)}" if sys.stdout.isatty() else "")
        if hit.words:
            path += Text(f"  has {shown(', '.join(hit.words))}", style="dim")
        if item.text is not None:
            path = Text(f"{item.text[:200]}\n") + path
        relevance = f"{hit.relevance:.0%}" if hit.relevance is not None else ""
        table.add_row(str(hit.rank), f"{hit.score:.4f}", relevance, item.kind, path)
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 4096)
    console.print(table)
    _previews(hits[:4])


def _previews(hits: Sequence[Hit]) -> None:
    """The first pictures themselves, where the terminal can draw them."""
    if not sys.stdout.isatty() or all(hit.item.kind == "text" for hit in hits):
        return
    from media.reader import ImageReader

    images = ImageReader(320)
    with quiet_native_stderr():
        for hit in hits:
            if hit.item.kind == "text":
                continue
            try:
                codes = inline_image(images.image(hit.item.place))
            except MediaError:
                continue
            if codes is None:
                return
            sys.stdout.write(codes + "\n")


def _open(hit: Hit) -> None:
    """Hand the file to the desktop's own viewer."""
    path = hit.item.source
    if sys.platform == "win32":
        os.startfile(path)
        return
    command = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        subprocess.Popen([command, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise MmsearchError(f"cannot open {shown(path)}: {command} is not here") from error

"""`mmsearch search`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.layout import typed_line
from cli.options import DeviceOption, IndexOption, KindOption, choices, complete_model
from cli.terminal import busy, clock, file_url, inline_image, near, note, quiet_native_stderr, shown, write_lines
from retrieval.errors import MediaError, MmsearchError
from retrieval.query import add_filters, parse_region
from retrieval.types import KINDS, MATCHES, SORTS, Answer, Hit, Kind, Match, Query, Rerank, Sort

if TYPE_CHECKING:
    from PIL.Image import Image

    from retrieval.engine import Engine


def search_command(
    query: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="TEXT",
            help='Words and filters, as in: dog after:2023 in:holiday -people "exact words".',
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Optional[list[str]], typer.Option(metavar="FILE", help="An image or video to look for; may be repeated.")
    ] = None,
    negative: Annotated[
        Optional[list[str]],
        typer.Option("--not", metavar="WORDS", help="Words for what it should not be; may be repeated."),
    ] = None,
    index: IndexOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    kind: KindOption = None,
    after: Annotated[
        Optional[str], typer.Option(metavar="DATE", help="Taken in or after this year, month or day.")
    ] = None,
    before: Annotated[Optional[str], typer.Option(metavar="DATE", help="Taken before this year, month or day.")] = None,
    folder: Annotated[
        Optional[list[str]],
        typer.Option("--in", metavar="FOLDER", help="In this folder, by its name or a path; may be repeated."),
    ] = None,
    camera: Annotated[Optional[str], typer.Option(help="Taken by a camera of this name, or part of it.")] = None,
    near_place: Annotated[
        Optional[str],
        typer.Option(
            "--near",
            metavar="PLACE",
            help="Taken near a place: Paris, Paris~5km or 48.86,2.35~5km.",
            show_default=False,
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="|".join(SORTS),
            help="By date: the best hundred, then the next.",
            autocompletion=choices(*SORTS),
        ),
    ] = "relevance",
    region: Annotated[
        Optional[str],
        typer.Option(
            metavar="X,Y,W,H", help="The part of --image that is meant, in fractions of its sides.", show_default=False
        ),
    ] = None,
    match: Annotated[
        str,
        typer.Option(
            metavar="|".join(MATCHES),
            help="By meaning, by the words of names, captions and other texts, or auto: both joined.",
            autocompletion=choices(*MATCHES),
        ),
    ] = "auto",
    rerank: Annotated[
        bool, typer.Option("--rerank/--no-rerank", help="Order the best again by words and pixels together.")
    ] = False,
    candidates: Annotated[int, typer.Option(min=1, help="How many of the best are re-ranked.")] = 50,
    rerank_ms: Annotated[
        Optional[float], typer.Option(min=0, help="Stop re-ranking after this many milliseconds.", show_default=False)
    ] = None,
    reranker: Annotated[
        str,
        typer.Option(
            "--reranker",
            "--reader",
            metavar="NAME",
            help="The model that re-ranks; auto: the index's own.",
            autocompletion=complete_model,
        ),
    ] = "auto",
    fusion: Annotated[
        str,
        typer.Option(
            metavar="weighted|attention|concat",
            help="How re-ranking joins both scores.",
            autocompletion=choices("weighted", "attention", "concat"),
        ),
    ] = "weighted",
    min_relevance: Annotated[
        Optional[float],
        typer.Option(
            min=0, max=1, help="Leave out what is less likely relevant than this, 0 to 1.", show_default=False
        ),
    ] = None,
    queries: Annotated[
        Optional[Path],
        typer.Option(help="Search for each line of this file (-: standard input), in one process.", show_default=False),
    ] = None,
    moments: Annotated[
        bool, typer.Option("--moments", help="Every moment of a video as a hit of its own, not the best for all.")
    ] = False,
    copies: Annotated[
        bool, typer.Option("--copies", help="Every copy of a picture as a hit of its own, not the best for all.")
    ] = False,
    clip: Annotated[
        Optional[Path],
        typer.Option(
            metavar="DIR", help="Write each moment that is found to this folder, as a video.", show_default=False
        ),
    ] = None,
    device: DeviceOption = "auto",
    html: Annotated[Optional[Path], typer.Option(help="Write a contact sheet to this file.")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With --html: show for each picture which parts each word rests on.")
    ] = False,
    open_best: Annotated[bool, typer.Option("--open", help="Open the best hit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a hit.")] = False,
) -> None:
    """Search by words, by pictures, or by both: mmsearch search "at night" --image a.jpg --not people.

    Words may hold filters, and filters alone list what passes them, newest first: mmsearch search in:2023 kind:video.
    """
    # Wrong values are told whether they are used or not.
    how = Rerank(candidates=candidates, milliseconds=rerank_ms, reranker=reranker, fusion=fusion)
    if clip is not None and clip.exists() and not clip.is_dir():
        raise typer.BadParameter(f"{shown(str(clip))} is no folder", param_hint="--clip")
    options = [("after", after), ("before", before), ("camera", camera), ("near", near_place)]
    options += [("in", name) for name in folder or ()]
    filters = [(name, value) for name, value in options if value is not None]
    images = _query_images(image or [])

    def query_of(text: str) -> Query:
        """What a line and the options mean together."""
        line = Query.parse(text)
        return replace(
            line,
            images=images,
            negatives=(*line.negatives, *(negative or ())),
            kind=_kind(kind),
            filter=add_filters(line.filter, filters),
            sort=_sort(sort),
            region=parse_region(region) if region is not None else None,
            k=k,
            rerank=how if rerank else None,
            min_relevance=min_relevance,
            group=not moments,
            match=_match(match),
            copies=copies,
        )

    wanted = query_of(typed_line(query or ()))
    if explain and (html is None or wanted.words is None):
        raise typer.BadParameter("it needs --html FILE and words to explain", param_hint="--explain")
    from retrieval.engine import Engine

    if queries is not None:
        if query or html is not None or clip is not None or open_best:
            raise typer.BadParameter("it stands without QUERY, --html, --clip and --open", param_hint="--queries")
        with Engine.open(index, device=device) as engine:
            _search_each(engine, queries, query_of, as_json)
        return
    with Engine.open(index, device=device) as engine:
        # The first place that is looked up has the gazetteer made, which takes some seconds.
        place = wanted.filter.near is not None and wanted.filter.near.place is not None
        with busy("looking the place up") if place else nullcontext():
            answer = _reranked(engine, wanted) if rerank else engine.answer(wanted)
        hits = answer.hits
        if html is not None:
            from cli.sheet import write_sheet

            write_sheet(
                html, _title(wanted), hits, (engine.captioner(reranker), wanted.words or "") if explain else None
            )
            note(f"wrote {shown(str(html))}")
        cut = wanted.words is not None and wanted.match != "words" and not engine.reads_whole(wanted.words)
    if cut:
        note("the words are more than the model reads: it used the first of them")
    for line_of_note in answer.notes:
        note(shown(line_of_note))
    if answer.unindexed:
        note(
            f"{answer.unindexed} items were searched by meaning alone: an older mmsearch wrote them; "
            "mmsearch index FOLDER also indexes their words"
        )
    uncut = _cut(hits, clip) if clip is not None else 0
    if as_json:
        write_lines(hit.to_json() for hit in hits)
    elif html is None:
        _show(hits, by_date=wanted.lists)
    if open_best and hits:
        _open(hits[0])
    if uncut:
        raise MmsearchError(f"{uncut} of the moments could not be cut out")


def _search_each(engine: Engine, file: Path, query_of: Callable[[str], Query], as_json: bool) -> None:
    """Search for each line of a file."""
    from cli.queries import answers, read_lines

    def search(query: Query) -> Sequence[Hit]:
        return (_reranked(engine, query) if query.rerank is not None else engine.answer(query)).hits

    for number, line, hits in answers(engine, read_lines(file), query_of, search):
        if as_json:
            write_lines({"query_number": number, "query": line, **hit.to_json()} for hit in hits)
        else:
            print(f"{number}. {shown(line)}")
            _show(hits, by_date=False)


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


def _cut(hits: Sequence[Hit], folder: Path) -> int:
    """Write the moments among the hits as files; how many of them failed, each with a line that says why."""
    from media.cutting import cut

    failed = 0
    for hit in hits:
        if hit.item.kind != "video":
            continue
        try:
            note(f"wrote {shown(str(cut(hit.item.image_place, folder, hit.rank)))}")
        except MediaError as error:
            note(f"{shown(hit.item.path)}: {error.reason}")
            failed += 1
    return failed


def _kind(value: str | None) -> Kind | None:
    if value is None:
        return None
    for kind in KINDS:
        if value == kind:
            return kind
    raise typer.BadParameter(f"{value!r} is not one of {', '.join(KINDS)}", param_hint="--kind")


def _sort(value: str) -> Sort:
    for sort in SORTS:
        if value == sort:
            return sort
    raise typer.BadParameter(f"{value!r} is not one of {', '.join(SORTS)}", param_hint="--sort")


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
                raise MmsearchError(f"{shown(file)}: {error.reason}") from error
    return tuple(images)


def _title(query: Query) -> str:
    line = str(query)
    parts = [line] if line else []
    parts += [f"{len(query.images)} picture(s)"] if query.images else []
    return " · ".join(parts)


def _show(hits: Sequence[Hit], *, by_date: bool) -> None:
    """A table; of a list `by_date`, with dates where scores would say nothing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from retrieval.ranking.relevance import in_words

    if not hits:
        note("nothing found")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (
        ("#", "right"),
        *([("taken", "left")] if by_date else [("score", "right"), ("relevant", "left")]),
        ("kind", "left"),
        ("path", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column != "path")  # type: ignore[arg-type]
    for hit in hits:
        item = hit.item
        label = near(item.path)
        if item.start is not None and item.end is not None:
            label += f" {clock(item.start)}–{clock(item.end)}"
            if len(hit.moments) > 1:
                rest = [f"{clock(moment.item.start or 0)}–{clock(moment.item.end or 0)}" for moment in hit.moments[1:4]]
                label += f"  also {', '.join(rest)}" + (" …" if len(hit.moments) > 4 else "")
        if hit.copies:
            label += f"  +{len(hit.copies)} " + ("copy" if len(hit.copies) == 1 else "copies")
        # Links only where a terminal shows them: in a pipe they would be noise around the path.
        path = Text(label, style=f"link {file_url(item.source)}" if sys.stdout.isatty() else "")
        if hit.matched_words:
            path += Text(f"  has {shown(', '.join(hit.matched_words))}", style="dim")
        if item.text is not None:
            path = Text(f"{item.text[:200]}\n") + path
        facts = [f"{hit.score:.4f}", in_words(hit.relevance, hit.matched_words)]
        if by_date:
            facts = [(item.taken_at or "")[:16].replace("T", " ")]
        table.add_row(str(hit.rank), *facts, item.kind, path)
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
                codes = inline_image(images.image(hit.item.image_place))
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

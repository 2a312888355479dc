"""`mmsearch bench ann`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.options import IndexOption
from cli.terminal import busy, columns, interruptible, note, print_json, shown
from retrieval.errors import QueryError

if TYPE_CHECKING:
    from benchmarks.ann import Point

HEAD = (
    "index",
    "nprobe",
    "recall, texts",
    "recall, pictures",
    "texts, made up",
    "median ms",
    "p95",
    "p99",
    "build s",
    "disk MB",
    "read MB",
    "bytes a row",
    "",
)


def ann_command(
    index: IndexOption = None,
    rows: Annotated[Optional[int], typer.Option(min=16, help="Measure on so many made-up rows instead.")] = None,
    dim: Annotated[int, typer.Option(min=2, help="Their dimension.")] = 512,
    k: Annotated[int, typer.Option("-k", min=1, help="Recall of the first k.")] = 10,
    target: Annotated[
        float, typer.Option(min=0, max=1, help="Recall for texts that the chosen point must reach.")
    ] = 0.95,
    made_up: Annotated[
        bool, typer.Option("--made-up", help="Measure as many made-up rows beside, to see how like these they are.")
    ] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Switch the index to the chosen point.")] = False,
    html: Annotated[Optional[Path], typer.Option(help="Write a report to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a point.")] = False,
) -> None:
    """Recall and speed of each index type against an exact scan, for text and picture queries apart; needs no labels."""
    from benchmarks.ann import choose, compared, measure_ann, of_index, synthetic
    from benchmarks.report import check_page
    from retrieval.store.manifest import find_index

    check_page(html)
    if apply and rows is not None:
        raise QueryError("--apply needs an index, not made-up rows")
    if made_up and rows is not None:
        raise QueryError("--made-up compares the rows of an index; leave --rows out")
    folder = find_index(index, os.environ, Path.cwd()) if rows is None else None
    with interruptible(), busy("measuring") as show:
        work = of_index(folder) if folder is not None else synthetic(rows or 0, dim)
        points = measure_ann(work, k, show)
        if made_up and folder is not None:
            points = compared(work, points, k, show)
    chosen = choose(points, target)
    if html is not None:
        _page(html, work.name, points, k, chosen)
    if as_json:
        for point in points:
            print_json({**vars(point), "k": k, "chosen": point == chosen})
    else:
        columns(HEAD, [_cells(point, point == chosen) for point in points], left=(0, len(HEAD) - 1))
    if apply and folder is not None:
        from retrieval.store.writer import IndexWriter

        with busy("making the vector files anew"), IndexWriter(folder) as writer:
            writer.rebuild_vectors(chosen.policy)
        how = f"visits {chosen.nprobe} lists" if chosen.nprobe is not None else "is scanned exactly"
        note(f"{shown(str(folder))} is now {chosen.type}: a search {how}")


def _cells(point: Point, chosen: bool) -> list[str]:
    return [
        point.type,
        str(point.nprobe or ""),
        f"{point.recall_text:.3f}",
        f"{point.recall_image:.3f}",
        "" if point.recall_made_up is None else f"{point.recall_made_up:.3f}",
        f"{point.median_ms:.2f}",
        f"{point.p95_ms:.2f}",
        f"{point.p99_ms:.2f}",
        f"{point.build_seconds:.1f}",
        f"{point.disk_mb:.1f}",
        f"{point.read_mb:.1f}",
        f"{point.row_bytes:.0f}",
        "chosen" if chosen else "pareto" if point.pareto else "",
    ]


def _page(file: Path, name: str, points: list[Point], k: int, chosen: Point) -> None:
    from benchmarks.report import Section, drawn, new_figure, table, write_page

    figure = new_figure()
    axes = figure.add_subplot()
    for label, key in (("texts", "recall_text"), ("pictures", "recall_image")):
        axes.plot([p.median_ms for p in points], [getattr(p, key) for p in points], ".", label=label)
    front = sorted((p for p in points if p.pareto), key=lambda p: p.median_ms)
    axes.plot([p.median_ms for p in front], [p.recall_text for p in front], "-", alpha=0.5, label="Pareto, texts")
    axes.plot([chosen.median_ms], [chosen.recall_text], "o", fillstyle="none", markersize=12, label="chosen")
    axes.set_xscale("log")
    axes.set_xlabel("median latency, ms")
    axes.set_ylabel(f"recall@{k} against exact search")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    sections = [
        Section(title="Recall against latency", body=drawn(figure, "recall against latency of each index type")),
        Section(title="Every point", body=table(HEAD, [_cells(point, point == chosen) for point in points])),
    ]
    write_page(file, f"Index types over {name}", shlex.join(["mmsearch", *sys.argv[1:]]), sections)
    note(f"wrote {file}")

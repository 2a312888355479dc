"""`mmsearch bench recall`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.terminal import busy, interruptible, note, print_json, quiet_native_stderr
from retrieval.types import WEIGHTED

if TYPE_CHECKING:
    from benchmarks.recall import RecallReport

app = typer.Typer(help="Measure: recall on captioned pictures.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    """Measure: recall on captioned pictures."""


@app.command("recall")
def recall_command(
    images: Annotated[Optional[Path], typer.Option(help="Folder that the captions' paths are relative to.")] = None,
    captions: Annotated[
        Optional[Path], typer.Option(help="csv, tsv or jsonl with a path and a caption column.")
    ] = None,
    parquet: Annotated[Optional[Path], typer.Option(help="Table with image_id, image and captions.")] = None,
    model: Annotated[str, typer.Option(help="The model to measure.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Order the first 50 answers again.")] = False,
    fusion: Annotated[
        Optional[list[str]],
        typer.Option(help="With --rerank: weighted (default), attention or concat; may be repeated."),
    ] = None,
    part: Annotated[
        Optional[str], typer.Option(help="Only these pictures of the set, as START:STOP.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a measurement.")] = False,
) -> None:
    """Text-to-image and image-to-text recall by Karpathy's protocol, with 95 % intervals."""
    if (parquet is None) == (images is None or captions is None) or (parquet is not None and (images or captions)):
        raise typer.BadParameter("give --parquet FILE, or both --images DIR and --captions FILE")
    # People see what re-ranking changed; a program gets the measurement that it asked for.
    ways: list[str | None] = [*(fusion or [WEIGHTED])] if rerank else [None]
    wanted = [None, *ways] if rerank and not as_json else ways
    with interruptible(), quiet_native_stderr() as stream:
        from benchmarks.datasets import from_folder, from_parquet
        from benchmarks.recall import measure_recall
        from retrieval.encoder import Encoder
        from retrieval.weights import cache_dir, resolve

        if parquet is not None:
            data = from_parquet(parquet)
        elif images is not None and captions is not None:
            data = from_folder(images, captions)
        if part is not None:
            data = data.part(*_bounds(part))
        found = resolve(model)
        for line in [*data.notes, *([found.notice] if found.notice else [])]:
            print(line, file=stream)
        with busy("encoding and ranking"):
            encoder = Encoder.load(found, device, precision)
            reports = measure_recall(data, found, encoder, wanted, cache_dir() / "features")
    if as_json:
        for report in reports:
            print_json(report.to_json())
    else:
        _table(reports)
    if len(data.captions) < 100:
        note(f"{len(data.captions)} pictures are few: see how wide the intervals are")


def _bounds(part: str) -> tuple[int | None, int | None]:
    """The two numbers of START:STOP, either of which may be left out."""
    start, colon, stop = part.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(start) if start else None, int(stop) if stop else None
    except ValueError as error:
        raise typer.BadParameter(f"{part!r} is not of the form START:STOP", param_hint="--part") from error


def _table(reports: list[RecallReport]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "re-ranked", "direction", "R@1", "R@5", "R@10", "median rank", "mAP@10"):
        table.add_column(column, justify="left" if column in ("model", "re-ranked", "direction") else "right")
    for report in reports:
        for name, ranks in (("text to image", report.text_to_image), ("image to text", report.image_to_text)):
            recall, sure = ranks.recall(), ranks.confidence()
            cells = [
                f"{100 * value:.1f} ({100 * sure[key][0]:.1f}–{100 * sure[key][1]:.1f})"
                for key, value in (("R@1", recall.r1), ("R@5", recall.r5), ("R@10", recall.r10))
            ]
            rest = [f"{recall.median_rank:.0f}", f"{recall.map_at_10:.3f}"]
            table.add_row(report.model, report.fusion or "no", name, *cells, *rest)
    Console(width=None if sys.stdout.isatty() else 4096).print(table)

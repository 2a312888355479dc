"""`mmsearch bench`: its commands put together, and `bench recall` and `bench compare`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli import bench_ann, bench_speed
from cli.layout import PlainCommand
from cli.options import DeviceOption, PrecisionOption, choices, complete_model
from cli.terminal import busy, columns, hint, interruptible, note, print_json, progress_bar, quiet_native_stderr
from retrieval.types import FUSIONS, MATCHES, WEIGHTED

if TYPE_CHECKING:
    from benchmarks.datasets import CaptionSet
    from benchmarks.recall import RecallReport
    from benchmarks.shots import ShotReport

app = typer.Typer(help="Measure: recall on captioned pictures, the index, and speed.", no_args_is_help=True)
app.command("ann", cls=PlainCommand)(bench_ann.ann_command)
app.command("speed", cls=PlainCommand)(bench_speed.speed_command)


@app.command("recall", cls=PlainCommand)
def recall_command(
    images: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Folder that the captions' paths are relative to.")
    ] = None,
    captions: Annotated[
        Optional[Path], typer.Option(help="csv, tsv, jsonl, Karpathy's dataset_*.json or COCO's captions as JSON.")
    ] = None,
    split: Annotated[
        Optional[str], typer.Option(metavar="NAME", help="The split of Karpathy's JSON; test by default.")
    ] = None,
    parquet: Annotated[Optional[Path], typer.Option(help="Table with image_id, image and captions.")] = None,
    tar: Annotated[Optional[Path], typer.Option(help="A webdataset.")] = None,
    part: Annotated[
        Optional[str], typer.Option(metavar="START:STOP", help="Only these pictures of the set.", show_default=False)
    ] = None,
    model: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME", help="The model to measure; may be repeated.", autocompletion=complete_model),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank", help="Order the first 50 answers again.")] = False,
    fusion: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="weighted|attention|concat",
            help="With --rerank: how it joins both scores, by default weighted; may be repeated.",
            autocompletion=choices("weighted", "attention", "concat"),
        ),
    ] = None,
    through_index: Annotated[
        bool, typer.Option("--through-index", help="Ask a real index as well, and tell what it costs in recall.")
    ] = False,
    match: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="auto|meaning|words",
            help="How to match: one caption of each picture is asked for, the others are texts about it; may be repeated.",
            autocompletion=choices(*MATCHES),
        ),
    ] = None,
    shots: Annotated[
        bool, typer.Option("--shots", help="Make videos of the pictures, and measure how often the moment is found.")
    ] = False,
    html: Annotated[Optional[Path], typer.Option(help="Write a report to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a measurement.")] = False,
) -> None:
    """Text-to-image and image-to-text recall by Karpathy's protocol, with 95 % intervals."""
    if (images is None) != (captions is None) or (images is not None) + (parquet is not None) + (tar is not None) != 1:
        raise typer.BadParameter("give one of: --parquet FILE, --tar FILE, or both --images DIR and --captions FILE")
    if shots and (rerank or fusion or through_index or html):
        raise typer.BadParameter("it stands alone", param_hint="--shots")
    if match and (rerank or fusion or through_index or html or shots):
        raise typer.BadParameter("it stands alone", param_hint="--match")
    for name in match or ():
        if name not in MATCHES:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(MATCHES)}", param_hint="--match")
    for name in fusion or ():
        if name not in FUSIONS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(FUSIONS)}", param_hint="--fusion")
    from retrieval.models.loading import check_choices

    check_choices(device, precision)
    if html is not None:
        from benchmarks.report import check_page

        check_page(html)
    ways: list[str | None] = [*(fusion or [WEIGHTED])] if rerank else [None]
    # People see what re-ranking changed; a program gets the measurement that it asked for.
    wanted = [None, *ways] if rerank and not as_json else ways
    with interruptible():
        with quiet_native_stderr() as stream:
            data = _set(images, captions, split, parquet or tar, part)
            for line in data.notes:
                print(line, file=stream)
        if shots:
            _shots(data, model or ["auto"], device, precision, as_json)
            return
        if match:
            _matching(data, model or ["auto"], device, precision, match, as_json)
            return
        reports: list[RecallReport] = []
        for name in model or ["auto"]:
            reports += _measure(data, name, device, precision, wanted, through_index)
    if html is not None:
        from benchmarks.recall_report import write_recall_page

        write_recall_page(html, shlex.join(["mmsearch", *sys.argv[1:]]), data, reports)
        note(f"wrote {html}")
    if as_json:
        for report in reports:
            print_json(report.to_json())
    else:
        _table(reports)
    if len(data.captions) < 100:
        note(f"{len(data.captions)} pictures are few: see how wide the intervals are")


@app.command("compare", cls=PlainCommand)
def compare_command(
    before: Annotated[Path, typer.Argument(help="What --json wrote before.")],
    after: Annotated[Path, typer.Argument(help="What it wrote now.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a figure.")] = False,
) -> None:
    """What changed between two measurements, and whether it is beyond noise."""
    from benchmarks.compare import compare, read_measurements

    old, new = read_measurements(before), read_measurements(after)
    if len(old) != len(new):
        note(f"{before} holds {len(old)} measurement(s), {after} {len(new)}: they are compared in order")
    rows = []
    for first, second in zip(old, new, strict=False):
        for change in compare(first, second):
            if as_json:
                print_json(vars(change))
                continue
            verdict = {True: "changed", False: "within noise", None: "no spread known"}[change.beyond]
            percent = f"{100 * (change.after / change.before - 1):+.1f} %" if change.before else ""
            rows.append([change.name, f"{change.before:.4g}", f"{change.after:.4g}", percent, verdict])
    if not as_json:
        columns(("figure", "before", "after", "change", ""), rows, left=(0, 4))


def _set(
    images: Path | None, captions: Path | None, split: str | None, whole: Path | None, part: str | None
) -> CaptionSet:
    from benchmarks.datasets import from_container, from_folder

    if images is not None and captions is not None:
        data = from_folder(images, captions, split)
    elif whole is not None:
        data = from_container(whole)
    return data.part(*_bounds(part)) if part is not None else data


def _bounds(part: str) -> tuple[int | None, int | None]:
    """The two numbers of START:STOP, either of which may be left out."""
    start, colon, stop = part.partition(":")
    try:
        if not colon:
            raise ValueError
        return int(start) if start else None, int(stop) if stop else None
    except ValueError as error:
        raise typer.BadParameter(f"{part!r} is not of the form START:STOP", param_hint="--part") from error


def _measure(
    data: CaptionSet, name: str, device: str, precision: str, wanted: list[str | None], through_index: bool
) -> list[RecallReport]:
    from benchmarks.recall import measure_recall
    from retrieval.models.encoder import Encoder
    from retrieval.models.weights import cache_dir, resolve

    files = resolve(name)
    if files.notice:
        hint(files.notice)
    with quiet_native_stderr() as stream, progress_bar(stream) as bar:
        task = bar.add_task("encoding", total=len(data.paths), rate="", file=files.name)

        def on_progress(done: int) -> None:
            bar.update(task, completed=done, description="ranking" if done == len(data.paths) else "encoding")

        encoder = Encoder.load(files, device, precision)
        return measure_recall(
            data, files, encoder, wanted, cache_dir() / "features", on_progress, through_index=through_index
        )


def _matching(
    data: CaptionSet, models: list[str], device: str, precision: str, names: list[str], as_json: bool
) -> None:
    from benchmarks.matching import MatchReport, measure_matching
    from benchmarks.recall_report import cells
    from retrieval.models.encoder import Encoder
    from retrieval.models.weights import cache_dir, resolve

    reports: list[MatchReport] = []
    for model in models:
        files = resolve(model)
        with busy(f"{files.name}, by {', '.join(names)}"), quiet_native_stderr():
            encoder = Encoder.load(files, device, precision)
            matches = [match for match in MATCHES if match in names]
            reports += measure_matching(data, encoder, matches, cache_dir() / "features")
    if as_json:
        for report in reports:
            print_json(report.to_json())
        return
    rows = [
        [report.model, report.match, "names, captions" if report.captions else "names", *cells(report.text_to_image)]
        for report in reports
    ]
    columns(("model", "match", "words of", "R@1", "R@5", "R@10", "median rank", "mAP@10"), rows, left=(0, 1, 2))


def _shots(data: CaptionSet, models: list[str], device: str, precision: str, as_json: bool) -> None:
    from benchmarks.shots import measure_shots
    from retrieval.crossmodal.moments import MOMENT_FUSIONS
    from retrieval.models.encoder import Encoder
    from retrieval.models.weights import resolve

    reports: list[ShotReport] = []
    for name in models:
        files = resolve(name)
        encoder = Encoder.load(files, device, precision)
        for fusion in MOMENT_FUSIONS:
            with busy(f"{files.name}, {fusion} of a moment's frames"):
                reports.append(measure_shots(data, encoder, fusion))
    if as_json:
        for report in reports:
            print_json(report.to_json())
        return
    from benchmarks.recall_report import cells

    rows = [
        [report.model, report.fusion, name, *cells(ranks)[:3]]
        for report in reports
        for name, ranks in (
            ("picture to moment", report.image_to_moment),
            ("text to moment", report.text_to_moment),
            ("text to photo", report.text_to_photo),
        )
    ]
    columns(("model", "fusion", "direction", "R@1", "R@5", "R@10"), rows, left=(0, 1, 2))


def _table(reports: list[RecallReport]) -> None:
    from benchmarks.recall_report import WAYS, cells

    rows = [
        [report.model, ", ".join([*([report.fusion] if report.fusion else []), *report.through()]) or "no", name,
         *cells(getattr(report, key))]
        for report in reports
        for name, key in WAYS
    ]  # fmt: skip
    columns(("model", "re-ranked", "direction", "R@1", "R@5", "R@10", "median rank", "mAP@10"), rows, left=(0, 1, 2))

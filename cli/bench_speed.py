"""`mmsearch bench speed`."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from cli.options import DeviceOption, PrecisionOption, complete_model
from cli.terminal import busy, columns, hint, interruptible, note, print_json, quiet_native_stderr
from retrieval.errors import MmsearchError

if TYPE_CHECKING:
    from benchmarks.stages import SpeedReport


def speed_command(
    images: Annotated[
        Optional[Path], typer.Option(metavar="DIR", help="Folder of pictures; without it made-up ones.")
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="The model to measure with.", autocompletion=complete_model)
    ] = "auto",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    rounds: Annotated[int, typer.Option(min=1, help="Measurements, of which the median is told.")] = 3,
    limit: Annotated[int, typer.Option(min=1, help="At most so many pictures.")] = 512,
    profile: Annotated[Optional[Path], typer.Option(help="Write a flame graph of indexing to this file.")] = None,
    html: Annotated[Optional[Path], typer.Option(help="Write a report to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Images a second by stage and end to end, against the bare model, and how long queries take."""
    if profile is not None and images is None:
        raise typer.BadParameter("it needs --images", param_hint="--profile")
    from benchmarks import stages
    from benchmarks.report import check_page

    check_page(html)
    if profile is not None and shutil.which("py-spy") is None:
        raise MmsearchError("a profile needs py-spy; install it with: pip install py-spy")
    from retrieval.models.encoder import Encoder
    from retrieval.models.weights import resolve

    files = resolve(model)
    if files.notice:
        hint(files.notice)
    with interruptible(), busy("loading the model") as show, quiet_native_stderr():
        encoder = Encoder.load(files, device, precision)
        report = stages.measure_speed(images, encoder, rounds, limit, show)
        if profile is not None and images is not None:
            show("recording a profile")
            stages.profile(images, files.name, profile)
    if profile is not None:
        note(f"wrote {profile}")
    if html is not None:
        _page(html, report)
    if as_json:
        print_json(vars(report))
        return
    columns(("what", "median", "least", "greatest", ""), _rows(report), left=(0, 4))
    print(f"{report.model} {report.running}; {report.images} pictures; at most {report.peak_gb:.2f} GB")


def _rows(report: SpeedReport) -> list[list[str]]:
    def row(name: str, value: dict[str, float], unit: str) -> list[str]:
        return [name, *(f"{value[key]:,.4g}" for key in ("median", "min", "max")), unit]

    return [
        *(row(name, value, "images/s, alone") for name, value in report.stages.items()),
        row("bare forward pass", report.bare, "images/s"),
        row("indexing, end to end", report.end_to_end, "images/s"),
        row("share of the bare pass", report.share, ""),
        row("cold text query", report.cold_query_ms, "ms, the whole command"),
        row("warm text query", report.warm_query_ms, "ms"),
    ]


def _page(file: Path, report: SpeedReport) -> None:
    from benchmarks.report import Section, drawn, new_figure, table, write_page

    figure = new_figure()
    axes = figure.add_subplot()
    bars = {**report.stages, "bare forward pass": report.bare, "end to end": report.end_to_end}
    names = list(bars)
    middles = [bars[name]["median"] for name in names]
    spreads = [[bars[n]["median"] - bars[n]["min"] for n in names], [bars[n]["max"] - bars[n]["median"] for n in names]]
    axes.barh(names, middles, xerr=spreads)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("images a second")
    sections = [
        Section(title="Images a second by stage", body=drawn(figure, "images a second by stage")),
        Section(title="Figures", body=table(("what", "median", "least", "greatest", ""), _rows(report))),
    ]
    write_page(file, f"Speed of {report.model} {report.running}", shlex.join(["mmsearch", *sys.argv[1:]]), sections)
    note(f"wrote {file}")

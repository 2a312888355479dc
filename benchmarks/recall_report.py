"""The page of a recall measurement: figures with intervals, curves of recall@k, and the queries that went worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.datasets import CaptionSet
from benchmarks.metrics import Ranks
from benchmarks.recall import RecallReport
from benchmarks.report import Markup, Section, drawn, inline_image, new_figure, table, write_page

_LONGEST = 100
WAYS = (("text to image", "text_to_image"), ("image to text", "image_to_text"))


def write_recall_page(file: Path, command: str, data: CaptionSet, reports: Sequence[RecallReport]) -> None:
    """Write the page of all `reports` over one set. Raises `MmsearchError`."""
    first = reports[0]
    counts = f"<p>{data.name}: {first.images:,} pictures, {first.texts:,} captions. Recall in percent with 95 % intervals.</p>"
    sections = [
        Section(title="Recall", body=counts + _table(reports)),
        Section(title="Recall by how many hits one looks at", body=_curves(reports)),
    ]
    for report in reports:
        if report.misses:
            sections.append(Section(title=f"Texts that {label(report)} found worst", body=_misses(data, report)))
    write_page(file, f"Recall on {data.name}", command, sections)


def label(report: RecallReport) -> str:
    """The model, and what was done beside ranking by cosine."""
    return " ".join([report.model, *([f"re-ranked ({report.fusion})"] if report.fusion else []), *report.through()])


def cells(ranks: Ranks) -> list[str]:
    """R@1, R@5, R@10 in percent with their intervals, median rank and mAP@10."""
    recall, sure = ranks.recall(), ranks.confidence()
    recalls = [
        f"{100 * value:.1f}" + (f" ({100 * sure[key][0]:.1f}–{100 * sure[key][1]:.1f})" if key in sure else "")
        for key, value in (("R@1", recall.r1), ("R@5", recall.r5), ("R@10", recall.r10))
    ]
    return [*recalls, f"{recall.median_rank:.0f}", f"{recall.map_at_10:.3f}"]


def _table(reports: Sequence[RecallReport]) -> str:
    rows = [[label(report), name, *cells(getattr(report, key))] for report in reports for name, key in WAYS]
    return table(("model", "direction", "R@1", "R@5", "R@10", "median rank", "mAP@10"), rows)


def _curves(reports: Sequence[RecallReport]) -> str:
    figure = new_figure(9)
    for place, (name, key) in enumerate(WAYS, 1):
        axes = figure.add_subplot(1, 2, place)
        for report in reports:
            ranks = getattr(report, key).first
            ks = np.arange(1, _LONGEST + 1)
            axes.plot(ks, [100 * float((ranks <= k).mean()) for k in ks], label=label(report))
        axes.set_xscale("log")
        axes.set_ylim(0, 100)
        axes.set_title(name)
        axes.set_xlabel("k")
        axes.set_ylabel("recall@k, %")
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    return drawn(figure, "recall at k for each model, text to image and image to text")


def _misses(data: CaptionSet, report: RecallReport) -> str:
    wanted = {number for miss in report.misses for number in (miss.right, miss.top)}
    shown: dict[int, Markup] = {}
    for number, image in enumerate(data.images(224)):
        if number in wanted:
            shown[number] = inline_image(image, data.paths[number].rsplit("/", 1)[-1])
    rows = [[miss.text, miss.rank, shown[miss.right], shown[miss.top]] for miss in report.misses]
    return table(("text", "rank of its picture", "its picture", "found instead"), rows)

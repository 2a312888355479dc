"""The learning curve of a run as an image: loss and dev recall over the epochs."""

from __future__ import annotations

import json
from pathlib import Path


def plot_log(log: Path, file: Path) -> None:
    """Draw `log.jsonl`, whose entries carry a `stage`, an `epoch`, a `loss`, and now and then a recall or top-1 share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    stages = [stage for stage in ("pretrain", "fit") if any(entry["stage"] == stage for entry in entries)]
    figure, axes = pyplot.subplots(1, len(stages), figsize=(6 * len(stages), 4), squeeze=False, layout="constrained")
    for axis, stage in zip(axes[0], stages, strict=True):
        mine = [entry for entry in entries if entry["stage"] == stage]
        axis.plot([e["epoch"] for e in mine], [e["loss"] for e in mine], color="tab:grey", label="training loss")
        axis.set(title=stage, xlabel="epoch", ylabel="loss")
        right = axis.twinx()
        right.set(ylabel="share of 1 on held-out data")
        if stage == "pretrain":
            right.plot([e["epoch"] for e in mine], [e["top1"] for e in mine], color="tab:blue", label="top-1")
        for key, colour in (("text_to_image", "tab:blue"), ("image_to_text", "tab:orange")):
            measured = [e for e in mine if key in e]
            if measured:
                label = f"{key.replace('_', ' ')} R@10"
                right.plot(
                    [e["epoch"] for e in measured], [e[key][2] for e in measured], color=colour, marker=".", label=label
                )
        handles = axis.get_legend_handles_labels()[0] + right.get_legend_handles_labels()[0]
        right.set_ylim(0, 1.1 * right.get_ylim()[1])
        # Below the plot, where it can hide no curve.
        axis.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)

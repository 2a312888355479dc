"""The learning curve of a run as an image: loss and dev recall over the epochs."""

from __future__ import annotations

import json
from pathlib import Path


def plot_log(log: Path, file: Path) -> None:
    """Draw `log.jsonl`, whose entries carry an `epoch`, a `loss`, and now and then recalls."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axis.plot([e["epoch"] for e in entries], [e["loss"] for e in entries], color="tab:grey", label="training loss")
    axis.set(xlabel="epoch", ylabel="loss")
    right = axis.twinx()
    right.set(ylabel="share of 1 on held-out data")
    for key, colour in (("text_to_image", "tab:blue"), ("image_to_text", "tab:orange")):
        measured = [e for e in entries if key in e]
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

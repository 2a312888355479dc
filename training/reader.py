"""Fit how a reranker's score joins the first stage's, and what a score means: `python -m training.reader --help`.

On captioned images that the model was not trained on, and written as `reader.json` beside its weights: the weights v and
the null share λ of `retrieval.crossmodal.rerank`, and a calibration of both scores to a probability of relevance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets import from_container
from benchmarks.encoded import Ints, SecondStage, encode_set, second_stage
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.files import write_atomically
from retrieval.models.encoder import Encoder
from retrieval.models.weights import MINI
from training.data import held_out, load_labelled
from training.machine import keep_freed_memory
from training.relevance import calibrations

WEIGHTS = (0.0, *(round(0.002 * 1.15**step, 4) for step in range(40)))
SHARES = tuple(round(0.1 * step, 1) for step in range(13))


def fused_recall(stage: SecondStage, weight: float, share: float, ks: Sequence[int] = (1,)) -> NDArray[np.float64]:
    """For each query and k, whether a true answer is among the first k by the weighted sum: `(queries, ks)` 0 or 1."""
    fused = stage.cosine + weight * (stage.likely - share * stage.prior)
    order = np.argsort(-fused, axis=1, kind="stable")
    ranked = np.take_along_axis(stage.right, order, 1)
    return np.stack([ranked[:, :k].any(1) for k in ks], 1).astype(np.float64)


def choose_weight(to_image: SecondStage, rows: Ints) -> float:
    """The weight that gives these texts the best R@1 among images."""
    recalls = [fused_recall(to_image, weight, 1.0)[rows].mean() for weight in WEIGHTS]
    return WEIGHTS[int(np.argmax(recalls))]


def choose_text_weight(to_text: SecondStage, rows: Ints) -> tuple[float, float]:
    """The weight and null share that give these images the best R@1 among texts."""
    grid = [(weight, share) for weight in WEIGHTS for share in SHARES]
    recalls = [fused_recall(to_text, weight, share)[rows].mean() for weight, share in grid]
    return grid[int(np.argmax(recalls))]


def crossed(to_image: SecondStage, to_text: SecondStage, owner: Ints) -> dict[str, object]:
    """Recall before and after, each half of the images judged with what was chosen on the other half."""
    count = len(to_text.right)
    even = np.arange(count) % 2 == 0
    ks = (1, 5, 10)
    after_image, after_text = np.zeros((len(owner), 3)), np.zeros((count, 3))
    chosen = []
    for half in (even, ~even):
        weight = choose_weight(to_image, np.flatnonzero(half[owner]))
        text_weight, share = choose_text_weight(to_text, np.flatnonzero(half))
        chosen.append([weight, text_weight, share])
        after_image[~half[owner]] = fused_recall(to_image, weight, 1.0, ks)[~half[owner]]
        after_text[~half] = fused_recall(to_text, text_weight, share, ks)[~half]
    return {
        "text_to_image_before": _percent(fused_recall(to_image, 0, 1, ks)),
        "text_to_image_after": _percent(after_image),
        "image_to_text_before": _percent(fused_recall(to_text, 0, 1, ks)),
        "image_to_text_after": _percent(after_text),
        "chosen_on_each_half": chosen,
    }


def _percent(flags: NDArray[np.float64]) -> list[float]:
    return [round(100 * float(value), 1) for value in flags.mean(0)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print what it is worth, and write `reader.json`."""
    parser = argparse.ArgumentParser(prog="python -m training.reader", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True, help="a table with the columns image and captions")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", type=Path, default=MINI, help="the model's folder")
    parser.add_argument("--labelled", type=Path, nargs="*", default=[], help="tables of labelled photos, for relevance")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    encoder = Encoder.load(given.model, given.device, given.precision)
    decoder = CaptionDecoder(encoder.loaded)
    captioned = from_container(given.parquet)
    data = encode_set(captioned, encoder, decoder)
    to_image, to_text = second_stage(data, encoder, decoder)
    weight = choose_weight(to_image, np.arange(len(data.owner)))
    text_weight, share = choose_text_weight(to_text, np.arange(len(data.images)))
    photos = load_labelled(given.labelled, encoder.spec.image_size, held_out)[1] if given.labelled else None
    curves = calibrations(data, captioned.captions, encoder, decoder, weight, photos)
    value = {
        "weights_sha256": encoder.spec.weights_sha256,
        "weighted": {"weight": weight, "text_weight": text_weight, "null_share": share},
        "relevance": {name: vars(curve) for name, curve in curves.items()},
    }
    write_atomically(given.output / "reader.json", (json.dumps(value, indent=1) + "\n").encode())
    print(json.dumps({**crossed(to_image, to_text, data.owner), **value}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

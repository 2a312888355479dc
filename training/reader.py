"""Fit how a reader's score joins the first stage's, and what a score means: `python -m training.reader --help`.

On captioned images that the model was not trained on, and written as `reader.json` beside its weights: the weights v and
the null share λ of `retrieval.rerank`, and a calibration of both scores to a probability of relevance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.decoder import CaptionDecoder
from retrieval.encoder import Encoder
from retrieval.manifest import write_atomically
from retrieval.relevance import Calibration, fit_calibration
from retrieval.weights import MINI
from training.data import read_pictures
from training.machine import keep_freed_memory

CANDIDATES = 50
WEIGHTS = (0.0, *(round(0.002 * 1.15**step, 4) for step in range(40)))
SHARES = tuple(round(0.1 * step, 1) for step in range(13))
# A reader's score of image tokens `(n, t, w)` and token ids `(n, length)`, pair by pair, `(n,)`.
Score = Callable[[Tensor, Tensor], Tensor]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Both scores of the first `CANDIDATES` answers to each query, best cosine first, `(queries, c)` each.

    `likely` is the reader's score, `prior` the same for the null image; `right` says which answers are true.
    """

    cosine: Floats
    likely: Floats
    prior: Floats
    right: NDArray[np.bool_]

    def recall(self, weight: float, share: float, ks: Sequence[int] = (1,)) -> NDArray[np.float64]:
        """For each query and k, whether a true answer is among the first k by the fused score: `(queries, ks)` 0 or 1."""
        fused = self.cosine + weight * (self.likely - share * self.prior)
        order = np.argsort(-fused, axis=1, kind="stable")
        ranked = np.take_along_axis(self.right, order, 1)
        return np.stack([ranked[:, :k].any(1) for k in ks], 1).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """An encoded set: image tokens `(n, t, w)`, token ids `(m, length)`, embeddings, and each text's image `(m,)`."""

    tokens: Tensor
    ids: Tensor
    images: Floats
    texts: Floats
    owner: Ints


def encode(encoder: Encoder, decoder: CaptionDecoder | None, parquet: Path) -> Captioned:
    """What the two stages need of a table with the columns `image` and `captions`; without a decoder, no tokens."""
    pictures, captions = read_pictures(parquet)
    flat = [one for many in captions for one in many]
    loaded = encoder.loaded
    tokens = [
        decoder.image_tokens(torch.stack([loaded.preprocess(picture) for picture in pictures[at : at + 50]]))
        for at in range(0, len(pictures), 50)
        if decoder is not None
    ]
    return Captioned(
        tokens=torch.cat(tokens) if tokens else torch.empty(0),
        ids=torch.from_numpy(loaded.tokenizer.encode(flat)),
        images=encoder.encode_images(pictures),
        texts=encoder.encode_texts(flat),
        owner=np.repeat(np.arange(len(captions)), [len(many) for many in captions]),
    )


def null_priors(null: Tensor, score: Score, ids: Tensor) -> Floats:
    """The reader's score of each text for the null image, `(m,)`."""
    parts = [score(null, ids[at : at + 100]) for at in range(0, len(ids), 100)]
    return np.asarray(torch.cat(parts).cpu().numpy(), np.float32)


def text_to_image(data: Captioned, score: Score, priors: Floats) -> Scores:
    """Each text against the images nearest to it."""
    cosines = data.texts @ data.images.T
    first = np.argsort(-cosines, axis=1, kind="stable")[:, :CANDIDATES]
    likely = [score(data.tokens[row], data.ids[n : n + 1]).cpu().numpy() for n, row in enumerate(first)]
    return Scores(
        cosine=np.take_along_axis(cosines, first, 1),
        likely=np.stack(likely),
        prior=np.broadcast_to(priors[:, None], first.shape),
        right=first == data.owner[:, None],
    )


def image_to_text(data: Captioned, score: Score, priors: Floats) -> Scores:
    """Each image against the texts nearest to it."""
    cosines = data.images @ data.texts.T
    first = np.argsort(-cosines, axis=1, kind="stable")[:, :CANDIDATES]
    likely = [score(data.tokens[n : n + 1], data.ids[row]).cpu().numpy() for n, row in enumerate(first)]
    return Scores(
        cosine=np.take_along_axis(cosines, first, 1),
        likely=np.stack(likely),
        prior=priors[first],
        right=data.owner[first] == np.arange(len(first))[:, None],
    )


def choose_weight(to_image: Scores, rows: Ints) -> float:
    """The weight that gives these texts the best R@1 among pictures."""
    found = [to_image.recall(weight, 1.0)[rows].mean() for weight in WEIGHTS]
    return WEIGHTS[int(np.argmax(found))]


def choose_text_weight(to_text: Scores, rows: Ints) -> tuple[float, float]:
    """The weight and null share that give these pictures the best R@1 among texts."""
    grid = [(weight, share) for weight in WEIGHTS for share in SHARES]
    found = [to_text.recall(weight, share)[rows].mean() for weight, share in grid]
    return grid[int(np.argmax(found))]


def crossed(to_image: Scores, to_text: Scores, owner: Ints) -> dict[str, object]:
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
        after_image[~half[owner]] = to_image.recall(weight, 1.0, ks)[~half[owner]]
        after_text[~half] = to_text.recall(text_weight, share, ks)[~half]
    return {
        "text_to_image_before": _percent(to_image.recall(0, 1, ks)),
        "text_to_image_after": _percent(after_image),
        "image_to_text_before": _percent(to_text.recall(0, 1, ks)),
        "image_to_text_after": _percent(after_text),
        "chosen_on_each_half": chosen,
    }


def calibrate(
    data: Captioned, score: Score | None = None, priors: Floats | None = None, weight: float = 0
) -> Calibration:
    """Probability of relevance by cosine, or by fused score: each text with its image, and with another at random."""
    rng = np.random.default_rng(0)
    other = (data.owner + rng.integers(1, len(data.images), len(data.owner))) % len(data.images)
    found = []
    for image in (data.owner, other):
        near = (data.texts * data.images[image]).sum(1)
        if score is not None and priors is not None:
            likely = [
                score(data.tokens[image[at : at + 100]], data.ids[at : at + 100]).cpu().numpy()
                for at in range(0, len(image), 100)
            ]
            near = near + weight * (np.concatenate(likely) - priors)
        found.append(np.asarray(near, np.float32))
    return fit_calibration(found[0], found[1])


def _percent(found: NDArray[np.float64]) -> list[float]:
    return [round(100 * float(value), 1) for value in found.mean(0)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, print what it is worth, and write `reader.json`."""
    parser = argparse.ArgumentParser(prog="python -m training.reader", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True, help="a table with the columns image and captions")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", type=Path, default=MINI, help="the model's folder")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    encoder = Encoder.load(given.model, given.device, given.precision)
    decoder = CaptionDecoder(encoder.loaded)
    data = encode(encoder, decoder, given.parquet)
    size = encoder.spec.image_size
    null = decoder.image_tokens(torch.zeros(1, 3, size, size))
    score = decoder.log_probabilities
    priors = null_priors(null, score, data.ids)
    to_image, to_text = text_to_image(data, score, priors), image_to_text(data, score, priors)
    weight = choose_weight(to_image, np.arange(len(data.owner)))
    text_weight, share = choose_text_weight(to_text, np.arange(len(data.images)))
    curves = {"cosine": calibrate(data), "fused": calibrate(data, score, priors, weight)}
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

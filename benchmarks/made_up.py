"""Made-up rows that lie as a model's embeddings do: `python -m benchmarks.made_up --parquet FILE --model NAME` fits them.

A row is a mean direction, which all rows of a modality share (the cone), and a residual: that of its topic and that of its own,
both with a spectrum that falls as exp(−(rank / decay)^stretch). A text lies around the mean of its own modality, off to one
side (the modality gap of Liang et al., 2022), and its residual agrees with that of the picture it tells of only so far; of the
rest, some is another picture's, since what a text leaves open is filled with what there is.

The command encodes a captioned set and prints the constants of a `Shape`: norms of the means and their cosine, the spectrum by
least squares on the logarithms of the images' eigenvalues, the agreement as the cosine of the residuals of a picture and its
captions, and topics, their share and the blend by trying which give rows of the same number the same neighbours, of pictures
and of texts: the cosines of the first and of the tenth, and how many of the first ten lie in the nearest sixteenth and eighth
of an inverted file's lists.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import Floats, unit

Halves = NDArray[np.float16]
_BLOCK = 65_536
_TOPICS = (25, 50, 100, 200, 400)
_SHARES = (0.3, 0.4, 0.5, 0.6, 0.7)
_BLENDS = (0.0, 0.2, 0.4, 0.6)
_TRIED_TEXTS = 1000


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How the embeddings of a model lie. `image_mean` and `text_mean` are the lengths of the mean vectors, `mean_cosine` is
    theirs; `topics` of a thousand rows, growing with the square root of their number; `topic_share` of a residual's variance
    lies between topics; `agreement` is the cosine of the residuals of a picture and of a caption of it, and `blend` the share
    of the rest of a caption's variance that another picture's residual is."""

    image_mean: float
    text_mean: float
    mean_cosine: float
    decay: float
    stretch: float
    topics: int
    topic_share: float
    agreement: float
    blend: float

    @property
    def gap(self) -> float:
        """The distance between the means of both modalities."""
        return math.sqrt(
            self.image_mean**2 + self.text_mean**2 - 2 * self.image_mean * self.text_mean * self.mean_cosine
        )

    def spectrum(self, dim: int) -> Floats:
        """Variances by rank `(dim,)`, of sum 1."""
        variances = np.exp(-((np.arange(1, dim + 1) / self.decay) ** self.stretch))
        return np.asarray(variances / variances.sum(), np.float32)


# Fitted by the command above to the 1,000 pictures and 5,000 captions of Flickr8k's development part.
MINI = Shape(
    image_mean=0.157, text_mean=0.14, mean_cosine=0.012, decay=11.61, stretch=0.754, topics=100, topic_share=0.6,
    agreement=0.498, blend=0.6,
)  # fmt: skip
# What the same residuals look like in CLIP's cone: rows of a modality have a cosine of one half, and the gap is the 0.82 that
# Liang et al. (2022) measured of CLIP.
CLIP = replace(MINI, image_mean=0.69, text_mean=0.71, mean_cosine=0.32)


class MadeUp:
    """`count` rows of `dim` dimensions and texts beside them, block by block, the same for the same `seed`."""

    def __init__(self, count: int, dim: int, shape: Shape, seed: int = 0) -> None:
        self.count, self.dim, self.shape, self._seed = count, dim, shape, seed
        rng = np.random.default_rng([seed, 0])
        self._scale = np.sqrt(shape.spectrum(dim))
        # Axes of the spectrum need no rotation, but a product quantiser must not see them lie in order.
        self._axes = rng.permutation(dim)
        first, second = unit(rng.standard_normal((2, dim), np.float32))
        second = unit((second - first * (first @ second))[None])[0]
        self._image_mean = shape.image_mean * first
        across = (1 - shape.mean_cosine**2) ** 0.5
        self._text_mean = shape.text_mean * (shape.mean_cosine * first + across * second)
        topics = max(1, round(shape.topics * (count / 1000) ** 0.5))
        self._topics = self._directions(rng, topics) * np.float32(shape.topic_share**0.5)

    def blocks(self) -> Iterator[Halves]:
        """The rows `(n, dim)`, unit length, in order."""
        for number, start in enumerate(range(0, self.count, _BLOCK)):
            rng = np.random.default_rng([self._seed, 1, number])
            yield self._images(rng, min(_BLOCK, self.count - start)).astype(np.float16)

    def texts(self, count: int) -> Floats:
        """Text embeddings `(count, dim)`, unit length, of pictures that are none of the rows."""
        rng = np.random.default_rng([self._seed, 2])
        return self._told(rng, self._residuals(rng, count))

    def captions(self, rows: Floats) -> Floats:
        """Text embeddings `(n, dim)`, unit length, one of each of these rows `(n, dim)`."""
        return self._told(np.random.default_rng([self._seed, 3]), unit(rows - self._image_mean))

    def _told(self, rng: np.random.Generator, residuals: Floats) -> Floats:
        agreement = np.float32(self.shape.agreement)
        others, own = self._residuals(rng, len(residuals)), self._directions(rng, len(residuals))
        rest = unit(np.float32(self.shape.blend**0.5) * others + np.float32((1 - self.shape.blend) ** 0.5) * own)
        told = unit(agreement * residuals + np.sqrt(1 - agreement**2) * rest)
        return unit(self._text_mean + np.float32((1 - self.shape.text_mean**2) ** 0.5) * told)

    def _images(self, rng: np.random.Generator, count: int) -> Floats:
        return unit(self._image_mean + np.float32((1 - self.shape.image_mean**2) ** 0.5) * self._residuals(rng, count))

    def _residuals(self, rng: np.random.Generator, count: int) -> Floats:
        own = self._directions(rng, count) * np.float32((1 - self.shape.topic_share) ** 0.5)
        return unit(self._topics[rng.integers(0, len(self._topics), count)] + own)

    def _directions(self, rng: np.random.Generator, count: int) -> Floats:
        return unit((rng.standard_normal((count, self.dim), np.float32) * self._scale)[:, self._axes])


def fit(images: Floats, texts: Floats, owner: NDArray[np.int64]) -> Shape:
    """The shape of real embeddings: `images (n, d)` and `texts (m, d)`, unit rows, `owner (m,)` the picture of each text."""
    image_mean, text_mean = images.mean(0), texts.mean(0)
    lengths = float(np.linalg.norm(image_mean)), float(np.linalg.norm(text_mean))
    around, told = images - image_mean, texts - text_mean
    agreement = np.einsum("ij,ij->", around[owner], told) / np.sqrt((around[owner] ** 2).sum() * (told**2).sum())
    decay, stretch = _spectrum(around)
    shape = Shape(
        image_mean=round(lengths[0], 3),
        text_mean=round(lengths[1], 3),
        mean_cosine=round(float(image_mean @ text_mean / (lengths[0] * lengths[1])), 3),
        decay=round(decay, 2),
        stretch=round(stretch, 3),
        topics=1,
        topic_share=0,
        agreement=round(float(agreement), 3),
        blend=0,
    )
    wanted = neighbours(images, texts[:: max(1, len(texts) // _TRIED_TEXTS)])
    return min(
        (
            replace(shape, topics=round(topics / (len(images) / 1000) ** 0.5), topic_share=share, blend=blend)
            for topics, share, blend in itertools.product(_TOPICS, _SHARES, _BLENDS)
        ),
        key=lambda tried: float(np.abs(neighbours(*_made(tried, *images.shape)) - wanted).sum()),
    )


def _made(shape: Shape, count: int, dim: int) -> tuple[Floats, Floats]:
    made = MadeUp(count, dim, shape)
    rows = np.concatenate(list(made.blocks())).astype(np.float32)
    return rows, made.captions(rows[np.arange(_TRIED_TEXTS) % count])


def _spectrum(around: Floats) -> tuple[float, float]:
    """`decay` and `stretch` of the falling eigenvalues: ln(first / value) is (rank / decay)^stretch, a line in logarithms."""
    values = np.linalg.eigvalsh(np.cov(around.T))[::-1]
    # The last ranks of a sample say more about its size than about the model.
    ranks = np.unique(np.geomspace(2, min(len(around) // 8, around.shape[1] // 2), 24).astype(int))
    falls = np.log(values[0] / values[ranks - 1])
    stretch, offset = np.polyfit(np.log(ranks), np.log(np.maximum(falls, 1e-6)), 1)
    return float(np.exp(-offset / stretch)), float(stretch)


NEIGHBOURS = ("first", "tenth", "ten in 1/16 of lists", "ten in 1/8 of lists")


def neighbours(images: Floats, texts: Floats) -> Floats:
    """How close rows lie `(8,)`: `NEIGHBOURS` of pictures among each other, then of texts among pictures."""
    import faiss

    lists = faiss.Kmeans(
        images.shape[1], max(8, len(images) // 16), niter=8, seed=1, spherical=True, min_points_per_centroid=1
    )
    lists.train(images)
    centroids = np.asarray(lists.centroids, np.float32)
    list_of_row = np.argmax(images @ centroids.T, 1)
    found = []
    for queries in (images, texts):
        cosines = queries @ images.T
        if queries is images:
            np.fill_diagonal(cosines, -1)
        best = np.argsort(-cosines, axis=1)[:, :10]
        order = np.argsort(-(queries @ centroids.T), axis=1)
        rank_of_list = np.argsort(order, axis=1)
        ranks = np.take_along_axis(rank_of_list, list_of_row[best], 1) / order.shape[1]
        first, tenth = (np.take_along_axis(cosines, best[:, at : at + 1], 1).mean() for at in (0, 9))
        found += [first, tenth, (ranks < 1 / 16).mean(), (ranks < 1 / 8).mean()]
    return np.array(found, np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, and print the constants with what they were fitted to."""
    from benchmarks.datasets import from_container
    from benchmarks.encoded import encode_set
    from retrieval.models.encoder import Encoder

    parser = argparse.ArgumentParser(prog="python -m benchmarks.made_up", description=__doc__)
    parser.add_argument("--parquet", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    given = parser.parse_args(arguments)
    data = encode_set(from_container(given.parquet), Encoder.load(given.model))
    shape = fit(data.images, data.texts, data.owner)
    pairs = {}
    real, made = neighbours(data.images, data.texts), neighbours(*_made(shape, *data.images.shape))
    for at, name in enumerate([f"{whose}: {what}" for whose in ("pictures", "texts") for what in NEIGHBOURS]):
        pairs[name] = [round(float(real[at]), 3), round(float(made[at]), 3)]
    print(json.dumps({**vars(shape), "gap": round(shape.gap, 3), "real and made up": pairs}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

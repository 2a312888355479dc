"""What a score means: a probability of relevance, so that one cut-off serves every model.

`relevance` is the probability that a hit is what was asked for, if hits that are and hits that are not were equally common:
σ(slope · score + intercept), fitted by logistic regression (Platt, 1999) on judged hits and stored with the model
(`training.relevance`). For a model without a fit the collection is used instead: most of its images are not relevant to a
query, so the query's scores over a sample of them tell which scores chance brings to the top among so many. A model that was
trained by the sigmoid of single pairs (SigLIP) says itself how probable a pair is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from retrieval.types import Kind, Query

# A hit is as likely relevant as not where chance alone gives this many scores like it, and that changes so fast, by standard
# deviation of the scores of a sample. Measured with `mini` (benchmarks/README.md); a sample smaller than LEAST says nothing.
_BY_CHANCE, _SLOPE = 0.1, 2.7
LEAST = 30
# Sigmoid-trained models learn what is a pair where each image has one right text among this many (the batch of SigLIP's
# training), and are as doubtful. Among fewer items a pair is more probable by as much (Bayes); among more there are more pairs.
_TRAINED_AMONG = 32_768
# Logits beyond this are certain.
_CERTAIN = 60.0
# From which relevance on each word holds. No figure: nobody believes a percent, and a cosine is no certainty.
WORDS = ((0.9, "very likely"), (0.7, "likely"), (0.4, "maybe"), (0.0, "unlikely"))
# Said of a hit that is unlikely by meaning, and has words of the query.
BY_WORDS = "by words"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`relevance = σ(slope · score + intercept)`."""

    slope: float
    intercept: float

    def relevance(self, scores: NDArray[np.float32] | float) -> NDArray[np.float64]:
        """In 0..1, of each score; higher is more likely relevant."""
        logits = np.clip(self.slope * np.asarray(scores, np.float64) + self.intercept, -_CERTAIN, _CERTAIN)
        return np.where(logits <= -_CERTAIN, 0.0, 1 / (1 + np.exp(-logits)))


# What a score says of words that the model does not know: nothing.
NEVER = Calibration(slope=0.0, intercept=-_CERTAIN)


def judge(
    cosines: NDArray[np.float32],
    fused: NDArray[np.float32],
    read: NDArray[np.bool_],
    of_cosine: Calibration | None,
    of_fused: Calibration | None,
) -> NDArray[np.float64]:
    """The relevance `(n,)` of each hit by the calibration that fits its score, NaN where there is none.

    A hit that a reranker `read` is judged by its `fused` score where a calibration was fitted for those, any other by its
    cosine.
    """
    relevance = np.full(len(cosines), np.nan) if of_cosine is None else of_cosine.relevance(cosines)
    if of_fused is not None:
        relevance = np.where(read, of_fused.relevance(fused), relevance)
    return relevance


def is_pair(query: Query, kinds: Sequence[Kind]) -> bool:
    """Whether the scores of a query are those of a text with an image, on which calibrations are fitted."""
    words, pixels = query.words is not None, bool(query.images or query.like)
    less = query.negatives or query.unlike or any(term.weight < 0 for term in query.terms)
    return words != pixels and words == ("text" not in kinds) and not less


def from_sample(scores: NDArray[np.float32], count: int) -> Calibration | None:
    """A calibration for one query from its scores `(n,)` over a random sample of the `count` items that it is looked for among;
    None when the sample is small. Scores of what is not relevant are taken to be normal, and the best of them expected at
    its place in so many (order statistics: Blom, 1958)."""
    if len(scores) < LEAST:
        return None
    spread = max(float(scores.std()), 1e-6)
    slope = _SLOPE / spread
    middle = NormalDist().inv_cdf(1 - _BY_CHANCE / max(count, LEAST))
    return Calibration(slope=slope, intercept=-slope * (float(scores.mean()) + middle * spread))


def from_sigmoid(scale: float, bias: float, count: int) -> Calibration:
    """The calibration of a sigmoid-trained model by its own scale and bias, for a search among `count` items."""
    among = min(max(count, 1), _TRAINED_AMONG)
    return Calibration(slope=scale, intercept=bias + math.log(_TRAINED_AMONG / among))


def fit_calibration(true: NDArray[np.float32], false: NDArray[np.float32]) -> Calibration:
    """Logistic regression of scores of true pairs against those of random ones, by Newton's method."""
    scores = np.concatenate([true, false]).astype(np.float64)
    middle, spread = scores.mean(), max(float(scores.std()), 1e-12)
    x = np.stack([(scores - middle) / spread, np.ones(len(scores))], 1)
    wanted = np.concatenate([np.full(len(true), 1 / len(true)), np.zeros(len(false))]) > 0
    weight = np.where(wanted, 0.5 / len(true), 0.5 / len(false))
    at = np.zeros(2)
    for _ in range(50):
        guess = 1 / (1 + np.exp(-(x @ at)))
        slope = x.T @ (weight * (guess - wanted))
        # A small ridge keeps the answer finite where the two kinds do not overlap.
        curve = (x * (weight * guess * (1 - guess))[:, None]).T @ x + 1e-6 * np.eye(2)
        step = np.linalg.solve(curve, slope + 1e-6 * at)
        at = at - step
        if float(np.abs(step).max()) < 1e-9:
            break
    return Calibration(slope=float(at[0] / spread), intercept=float(at[1] - at[0] * middle / spread))


def in_words(relevance: float | None, matched_words: Sequence[str] = ()) -> str:
    """A relevance as people read it: `very likely`, `likely`, `maybe` or `unlikely`; nothing where it is not known. A hit that
    meaning alone would call unlikely was raised by its words, and is told so."""
    if matched_words and (relevance is None or relevance < WORDS[-2][0]):
        return BY_WORDS
    if relevance is None:
        return ""
    return next((word for least, word in WORDS if relevance >= least), "")

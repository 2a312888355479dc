"""What a score means: a probability of relevance, so that one cut-off serves every model.

`relevance` is the probability that text and picture belong together, were a true and a random pair equally likely:
σ(slope · score + intercept), fitted by logistic regression (Platt, 1999) on held-out pairs and stored with the model. For
a model of which nothing is known, the collection itself is the measure: most of its pictures have nothing to do with a
query, so the query's scores over a sample of them say what chance looks like.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Over the scores of a sample: where a pair is as likely true as not, in standard deviations above their mean, and how
# fast that changes. Measured with `mini` and Flickr8k (benchmarks/README.md); a sample smaller than LEAST says nothing.
_MIDDLE, _SLOPE = 1.5, 2.0
LEAST = 30


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """`relevance = σ(slope · score + intercept)`."""

    slope: float
    intercept: float

    def relevance(self, score: float) -> float:
        """In 0..1; higher is more likely relevant."""
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, self.slope * score + self.intercept))))

    @staticmethod
    def of(folder: Path | None, kind: str) -> Calibration | None:
        """What was fitted for the model in `folder`, on its scores `cosine` or `fused`."""
        file = folder / "reader.json" if folder is not None else None
        if file is None or not file.is_file():
            return None
        value = json.loads(file.read_text("utf-8"))["relevance"].get(kind)
        if value is None:
            return None
        return Calibration(slope=float(value["slope"]), intercept=float(value["intercept"]))


def from_sample(scores: NDArray[np.float32]) -> Calibration | None:
    """A calibration for one query from its scores `(n,)` over a random sample of the collection; None when it is small."""
    if len(scores) < LEAST:
        return None
    spread = max(float(scores.std()), 1e-6)
    slope = _SLOPE / spread
    return Calibration(slope=slope, intercept=-slope * (float(scores.mean()) + _MIDDLE * spread))


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

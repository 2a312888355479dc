"""Frames to moments: stretches of one shot whose frames look alike to the model, each with one fused embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
MomentFusion = Literal["mean", "attention"]
MOMENT_FUSIONS: tuple[MomentFusion, ...] = ("mean", "attention")
# Cosine to the moment so far from which a frame still belongs to it.
ALIKE = 0.85
# How sharply attention prefers the frames that agree with the rest.
_SHARPNESS = 20.0


@dataclass(frozen=True, kw_only=True)
class FrameSpan:
    """What one sampled frame stands for: `start` to `end` seconds of shot number `shot`."""

    start: float
    end: float
    shot: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """`start` to `end` seconds, and the embedding of its frames, `(d,) float32`, unit length."""

    start: float
    end: float
    embedding: Floats


class Grouping:
    """Groups frames into moments, one frame at a time in order of time: `groups` holds the numbers of each one's frames.

    A frame joins the moment before it when both are of one shot and its cosine to the moment's mean is `alike` or more.
    """

    def __init__(self, alike: float = ALIKE) -> None:
        self.groups: list[list[int]] = []
        self._alike = alike
        self._shot = -1
        self._total = np.empty(0, np.float32)
        self._count = 0

    def add(self, span: FrameSpan, row: Floats) -> bool:
        """Take the next frame, whose embedding `row (d,)` has unit length; whether a new moment begins with it."""
        joins = bool(self.groups) and span.shot == self._shot
        if joins and float(row @ self._total) >= self._alike * float(np.linalg.norm(self._total)):
            self.groups[-1].append(self._count)
            self._total = self._total + row
            begins = False
        else:
            self.groups.append([self._count])
            self._total = row.copy()
            begins = True
        self._shot = span.shot
        self._count += 1
        return begins


def merge(
    spans: Sequence[FrameSpan], rows: Floats, fusion: MomentFusion = "mean", alike: float = ALIKE
) -> list[Moment]:
    """Moments from frames in order of time. `rows (n, d)` are the frames' embeddings, unit length."""
    grouping = Grouping(alike)
    for span, row in zip(spans, rows, strict=True):
        grouping.add(span, row)
    return [
        Moment(start=spans[group[0]].start, end=spans[group[-1]].end, embedding=fuse(rows[group], fusion))
        for group in grouping.groups
    ]


def fuse(rows: Floats, fusion: MomentFusion = "mean") -> Floats:
    """One unit vector `(d,)` for frames `(n, d)`: their mean, or with `attention` their sum weighted by
    softmax(20 · fᵢ·m), m being the mean: frames that agree with the rest count for more, a stray one for less."""
    mean = rows.mean(0)
    if fusion == "attention":
        logits = _SHARPNESS * (rows @ (mean / max(1e-9, float(np.linalg.norm(mean)))))
        weights = np.exp(logits - logits.max())
        mean = weights @ rows
    return np.asarray(mean / max(1e-9, float(np.linalg.norm(mean))), np.float32)

"""Summaries of a video: which of its moments stand for the whole, and the paragraph that joins their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One moment of a summary, times in seconds; `transcript` is what is said in it, None where nothing is known."""

    start: float
    end: float
    caption: str
    transcript: str | None


def choose(rows: NDArray[np.float32], weights: NDArray[np.float64], length: int) -> list[int]:
    """The numbers, in order, of at most `length` moments that cover all of them best.

    `rows (n, d)` are unit embeddings, `weights (n,)` how much each moment counts, such as its seconds. Greedy maximisation of
    the facility location Σᵢ wᵢ · max over chosen j of (1 + rᵢ·rⱼ) / 2, which is within 1 − 1/e of the best (Nemhauser et al.,
    1978). The square root of the weights is taken, so that one long shot does not count for everything.
    """
    if len(rows) <= length:
        return list(range(len(rows)))
    alike = (1 + rows @ rows.T) / 2
    importance = np.sqrt(np.maximum(weights, 1e-3))
    covered = np.zeros(len(rows))
    chosen: list[int] = []
    for _ in range(length):
        gains = importance @ np.maximum(alike - covered[:, None], 0)
        gains[chosen] = -1
        best = int(np.argmax(gains))
        chosen.append(best)
        covered = np.maximum(covered, alike[:, best])
    return sorted(chosen)


def paragraph(segments: Sequence[Segment]) -> str:
    """The captions in order as sentences; one that says the same as the sentence before it is left out."""
    lines: list[str] = []
    for segment in segments:
        words = segment.caption.strip().rstrip(". ")
        if words and (not lines or lines[-1] != words):
            lines.append(words)
    if not lines:
        return ""
    starts = ["First", *["then"] * (len(lines) - 2), "at the end"] if len(lines) > 1 else [""]
    sentences = [f"{start} {line}".strip() for start, line in zip(starts, lines, strict=False)]
    return " ".join(f"{sentence[:1].upper()}{sentence[1:]}." for sentence in sentences)

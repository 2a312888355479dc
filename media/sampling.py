"""Which frames of a video are worth a model's time: one or more of each shot, none twice, none that shows nothing.

Decoded frames come in as small views of themselves. A shot ends where a view differs from the one before it by far more
than views differed lately (the adaptive rule of Castellano's PySceneDetect). Within a shot each window of `period` seconds
gives its sharpest frame, unless that repeats the one kept before it, is blurred next to the rest of the shot, or is
black, white or otherwise flat: then the time goes to the frame before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

# Differences are means over a view of absolute differences of 8-bit values.
CUT_LEAST = 9.0
CUT_RATIO = 3.0
# Views this far apart in time differ by what moved between them, too.
SPARSE_SECONDS = 0.4
SPARSE_LEAST = 18.0
SPARSE_RATIO = 1.6
SHORTEST_SHOT = 0.25
REPEAT_MEAN = 2.0
REPEAT_PEAK = 14.0
FLAT_DEVIATION = 5.0
# Of a film that is dark throughout, what has even less contrast shows nothing at all.
DIM_DEVIATION = 0.5
_DIM_KEPT = 3
BLURRED_SHARE = 0.25

Payload = TypeVar("Payload")


@dataclass(frozen=True, kw_only=True)
class View(Generic[Payload]):
    """One decoded frame: `time` in seconds, a small image of it `(h, w, c) uint8`, how sharp it is (mean absolute
    difference of neighbouring pixels; higher is sharper), and a `payload` that is handed back with it."""

    time: float
    small: NDArray[np.uint8]
    sharpness: float
    payload: Payload

    @property
    def flat(self) -> bool:
        """Whether it shows nothing: hardly any contrast in brightness."""
        return self.contrast < FLAT_DEVIATION

    @property
    def contrast(self) -> float:
        """Standard deviation of brightness, 0 to 127."""
        return float(self.small[..., 0].std())


@dataclass(frozen=True, kw_only=True)
class SampledView(Generic[Payload]):
    """A frame that stands for `start` to `end` seconds of shot number `shot`."""

    start: float
    end: float
    shot: int
    view: View[Payload]


class Sampler(Generic[Payload]):
    """Takes views in the order of their times and gives back, a little later, those that are kept. With `gaps`, the
    views are a few of many frames."""

    def __init__(self, period: float, *, gaps: bool = False) -> None:
        self._period, self._gaps = period, gaps
        self._recent: deque[float] = deque(maxlen=12)
        self._before: View[Payload] | None = None
        self._best: View[Payload] | None = None
        self._pending: SampledView[Payload] | None = None
        self._sharpest = 0.0
        self._shot = 0
        # The flat views of most contrast: what there is to see where all are flat.
        self._dim: list[tuple[float, View[Payload]]] = []
        self._shot_start = self._window_start = 0.0

    def add(self, view: View[Payload]) -> list[SampledView[Payload]]:
        """Take the next view; returns the frames that are now decided."""
        done: list[SampledView[Payload]] = []
        if self._before is None:
            self._shot_start = self._window_start = view.time
        elif self._cuts(self._before, view):
            # Between two views of many the cut may be anywhere: the middle is off by half the gap at most.
            done += self._close_shot((self._before.time + view.time) / 2 if self._gaps else view.time)
        if view.time - self._window_start >= self._period:
            done += self._close_window(view.time)
        if not view.flat and (self._best is None or view.sharpness > self._best.sharpness):
            self._best = view
        if view.flat and (contrast := view.contrast) >= DIM_DEVIATION:
            self._keep_dim(contrast, view)
        self._before = view
        return done

    def finish(self, end: float) -> list[SampledView[Payload]]:
        """The rest, the video being `end` seconds long."""
        return self._close_shot(max(end, self._before.time)) if self._before is not None else []

    def dimmest(self, end: float) -> list[SampledView[Payload]]:
        """Of a film of flat views alone, those with the most contrast, in the order of their times; each stands for the time
        up to the next, the whole being `end` seconds long."""
        views = sorted((view for _, view in self._dim), key=lambda view: view.time)
        starts = [0.0, *(view.time for view in views[1:])]
        return (
            [
                SampledView(start=start, end=stop, shot=number, view=view)
                for number, (start, stop, view) in enumerate(
                    zip(starts, [*starts[1:], max(end, starts[-1])], views, strict=True)
                )
            ]
            if views
            else []
        )

    def _keep_dim(self, contrast: float, view: View[Payload]) -> None:
        if any(repeats(view.small, other.small) for _, other in self._dim):
            return
        self._dim = sorted([*self._dim, (contrast, view)], key=lambda pair: -pair[0])[:_DIM_KEPT]

    def _cuts(self, old: View[Payload], new: View[Payload]) -> bool:
        change = difference(old.small, new.small)
        usual = float(np.mean(self._recent)) if self._recent else 0.0
        sparse = new.time - old.time > SPARSE_SECONDS
        min_change, ratio = (SPARSE_LEAST, SPARSE_RATIO) if sparse else (CUT_LEAST, CUT_RATIO)
        # A few differences do not show what is usual: until there are three, only a large one counts.
        min_change = min_change if len(self._recent) >= 3 else 1.6 * min_change
        if change > max(min_change, ratio * usual) and new.time - self._shot_start >= SHORTEST_SHOT:
            return True
        self._recent.append(change)
        return False

    def _close_window(self, time: float) -> list[SampledView[Payload]]:
        best, pending, began = self._best, self._pending, self._window_start
        self._best, self._window_start = None, time
        if best is None:
            return []
        self._sharpest = max(self._sharpest, best.sharpness)
        if pending is None:
            self._pending = SampledView(start=self._shot_start, end=time, shot=self._shot, view=best)
            return []
        if repeats(pending.view.small, best.small) or best.sharpness < BLURRED_SHARE * self._sharpest:
            return []
        self._pending = SampledView(start=began, end=time, shot=self._shot, view=best)
        return [replace(pending, end=began)]

    def _close_shot(self, time: float) -> list[SampledView[Payload]]:
        done: list[SampledView[Payload]] = []
        # A short rest of a shot needs no frame of its own: the one before it stands for it.
        if self._pending is None or time - self._window_start >= self._period / 2:
            done += self._close_window(time)
        if self._pending is not None:
            done.append(replace(self._pending, end=time))
        self._best = self._pending = None
        self._recent.clear()
        self._sharpest = 0.0
        self._shot += 1
        self._shot_start = self._window_start = time
        return done


def difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean absolute difference of two views, 0 to 255."""
    return float(np.abs(first.astype(np.int16) - second).mean())


def repeats(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> bool:
    """Whether two views show the same, but for noise."""
    change = np.abs(first.astype(np.int16) - second)
    return float(change.mean()) < REPEAT_MEAN and float(np.percentile(change, 99)) < REPEAT_PEAK

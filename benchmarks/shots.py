"""Moment recall: captioned images become shots of videos, which images and words must find again.

Everything goes the way that a user's videos go: files on disk, sampled, merged to moments, indexed, searched. A moment is
right when it overlaps its shot by an intersection over union of 0.5 or more, as in temporal grounding (Gao et al., *TALL*,
2017). The same images in an index of their own show the best that words can do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL.Image import Image

from benchmarks.datasets import CaptionSet
from benchmarks.metrics import Ranks
from benchmarks.synthetic_videos import Shot, VideoFormat, write_video
from indexer.build import IndexBuild
from indexer.config import BuildConfig
from retrieval.crossmodal.moments import MomentFusion
from retrieval.engine import Engine
from retrieval.models.encoder import Encoder
from retrieval.types import Item, Query

SHOTS_A_VIDEO = 20
OVERLAP = 0.5
_SIDE = 360
_DEPTH = 10
_FORMAT = VideoFormat(width=480, height=360, rate=25, options={"preset": "veryfast", "crf": "23"})


@dataclass(frozen=True, kw_only=True)
class ShotReport:
    """Ranks of the right moment for images and for words; `text_to_photo` are those of the same words among the images."""

    model: str
    fusion: MomentFusion
    shots: int
    moments: int
    image_to_moment: Ranks
    text_to_moment: Ranks
    text_to_photo: Ranks
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Recalls as fractions of 1, with 95 % intervals."""
        out: dict[str, object] = {
            "model": self.model, "fusion": self.fusion, "shots": self.shots, "moments": self.moments, "iou": OVERLAP
        }  # fmt: skip
        for name in ("image_to_moment", "text_to_moment", "text_to_photo"):
            ranks: Ranks = getattr(self, name)
            recall = ranks.recall()
            out[name] = {"R@1": recall.r1, "R@5": recall.r5, "R@10": recall.r10, "confidence_95": ranks.confidence()}
        out["seconds"] = round(self.seconds, 2)
        return out


def measure_shots(
    data: CaptionSet,
    encoder: Encoder,
    fusion: MomentFusion = "mean",
    seconds: float = 3.0,
    on_progress: Callable[[str], None] = lambda _: None,
) -> ShotReport:
    """Write the videos and images of a set to a scratch folder, index both, and look for each image and first caption.

    Raises `MmsearchError` for an image that cannot be decoded.
    """
    began = time.monotonic()
    images = list(data.images(_SIDE))
    with tempfile.TemporaryDirectory(prefix="mmsearch-shots-") as scratch:
        root = Path(scratch)
        on_progress("writing the videos")
        spans = list(_write_videos(root / "videos", images, seconds))
        for number, image in enumerate(images):
            _image_file(root, number).parent.mkdir(exist_ok=True)
            image.save(_image_file(root, number), quality=95)
        on_progress("indexing them")
        for name in ("videos", "photos"):
            for _ in IndexBuild([root / name], root / name / ".mmsearch", encoder, BuildConfig(moment_fusion=fusion)):
                pass
        on_progress("searching")
        words = [captions[0] if captions else None for captions in data.captions]
        with Engine.open(root / "videos") as engine:
            moments = int(str(engine.status()["moments"]))
            by_image = [_rank(engine, Query(images=(image,)), spans[n]) for n, image in enumerate(images)]
            by_words = [_rank(engine, Query(text=text), spans[n]) for n, text in enumerate(words) if text is not None]
        with Engine.open(root / "photos") as engine:
            image_ranks = [
                _image_rank(engine, text, _image_file(root, n)) for n, text in enumerate(words) if text is not None
            ]
    return ShotReport(
        model=encoder.spec.name,
        fusion=fusion,
        shots=len(images),
        moments=moments,
        image_to_moment=_ranks(by_image),
        text_to_moment=_ranks(by_words),
        text_to_photo=_ranks(image_ranks),
        seconds=time.monotonic() - began,
    )


def overlap(item: Item, start: float, end: float) -> float:
    """Intersection over union of a moment and a span, both in seconds."""
    if item.start is None or item.end is None:
        return 0.0
    both = min(item.end, end) - max(item.start, start)
    return max(0.0, both) / max(1e-9, max(item.end, end) - min(item.start, start))


def _write_videos(folder: Path, images: list[Image], seconds: float) -> Iterator[tuple[str, float, float]]:
    """Videos of some shots each; gives the video, start and end of each image's shot."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for first in range(0, len(images), SHOTS_A_VIDEO):
        part = images[first : first + SHOTS_A_VIDEO]
        shots = [Shot(image=image, seconds=float(rng.uniform(0.5, 1.5)) * seconds) for image in part]
        file = folder / f"{first:05d}.mp4"
        edges = write_video(file, shots, _FORMAT)
        for number in range(len(part)):
            yield str(file), edges[number], edges[number + 1]


def _image_file(root: Path, number: int) -> Path:
    return root / "photos" / f"{number:05d}.jpg"


def _rank(engine: Engine, query: Query, span: tuple[str, float, float]) -> int:
    """The rank of the first right moment, from 1; beyond the first ten, eleven."""
    path, start, end = span
    hits = engine.search(Query(text=query.text, images=query.images, kind="video", k=_DEPTH, group=False))
    right = (hit.rank for hit in hits if hit.item.path == path and overlap(hit.item, start, end) >= OVERLAP)
    return next(right, _DEPTH + 1)


def _image_rank(engine: Engine, text: str, file: Path) -> int:
    hits = engine.search(Query(text=text, kind="image", k=_DEPTH))
    return next((hit.rank for hit in hits if hit.item.path == str(file)), _DEPTH + 1)


def _ranks(first: list[int]) -> Ranks:
    ranks = np.array(first, np.int64)
    return Ranks(first=ranks, precision=np.where(ranks <= _DEPTH, 1 / ranks, 0.0))

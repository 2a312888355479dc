"""What a build is asked for, and what it reports: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from media.types import MAX_PIXELS
from retrieval.errors import UsageError
from retrieval.store.source_keys import Touched

if TYPE_CHECKING:
    from media.recognition import TextRecogniser
    from media.sound import Recogniser
    from retrieval.crossmodal.moments import MomentFusion
    from retrieval.store.pictures import Reading


@dataclass(frozen=True, kw_only=True)
class OcrConfig:
    """With `reading` `auto`, pictures that are likely to hold text are read, with `all`, each."""

    recogniser: TextRecogniser
    reading: Reading = "auto"


@dataclass(kw_only=True)
class OcrCounts:
    """Images that were `read`, those of them `with_text`, those `left_out` as unlikely to hold any, and those that `failed`."""

    read: int = 0
    with_text: int = 0
    left_out: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How to build. `workers` are decoding threads; 0 means one for each CPU, at most eight.

    Of videos, `fps` frames a second are taken where they move on, at most `max_frames` of one; `moment_fusion` makes one
    embedding of a moment's frames. With a `recogniser`, the speech of videos without subtitles and of sound files is
    transcribed. `prune` lets a folder that is empty now lose its files. An image of more than `max_pixels` is refused.
    `exclude` are globs that the index leaves out from now on, beside those that it remembers; `default_excludes` (None: as
    before) whether it leaves out what nobody means. `reread` reads the facts of unchanged photos and videos again, whose
    embeddings are taken from the index. With `eager`, results are published within seconds, and then ever more seldom: for
    a run that somebody watches. With `ocr`, the text in pictures is read once all else is published.
    """

    batch_size: int = 32
    workers: int = 0
    retry_failed: bool = False
    reread: bool = False
    eager: bool = False
    fps: float = 1.0
    max_frames: int = 10_000
    moment_fusion: MomentFusion = "mean"
    recogniser: Recogniser | None = None
    prune: bool = False
    max_pixels: int = MAX_PIXELS
    exclude: tuple[str, ...] = ()
    default_excludes: bool | None = None
    ocr: OcrConfig | None = None


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The contract's counts. `encoded` are images and frames that went through the model; `seconds` leave out loading it.
    `touched` counts what was read of the index; `notices` are lines that the user should see; `links` says that some folder
    was reached by a link, so that the path of a change does not tell which indexed files it concerns. `skipped` counts, by
    suffix, the files below the paths that are of no kind that is indexed. `ocr` is there where text in pictures was to be
    read; its time is not in `seconds`."""

    indexed: int
    unchanged: int
    removed: int
    failed: int
    items: int
    encoded: int
    seconds: float
    touched: Touched
    notices: tuple[str, ...] = ()
    links: bool = False
    skipped: Mapping[str, int] = field(default_factory=dict)
    ocr: OcrCounts | None = None

    def with_texts(self, counts: OcrCounts, items: int) -> BuildReport:
        """The same after the text in pictures was read."""
        return replace(self, ocr=counts, failed=self.failed + counts.failed, items=items)

    @property
    def images_per_second(self) -> float:
        """Images and frames encoded over the time from the first read to the last publication."""
        return self.encoded / self.seconds if self.seconds > 0 else 0.0


def ocr_config(reading: str | None, threads: int = 0) -> OcrConfig | None:
    """What `auto`, `all` or `off` mean; None is `auto` where the extra `ocr` is installed, else `off`. Raises `UsageError` for
    another word, and `ModelError` where the extra is asked for and missing."""
    if reading not in (None, "auto", "all", "off"):
        raise UsageError(f"ocr must be auto, all or off, not {reading!r}")
    if reading == "off":
        return None
    from media.recognition import RapidRecogniser, can_recognise

    if reading is None and not can_recognise():
        return None
    return OcrConfig(recogniser=RapidRecogniser(threads), reading="all" if reading == "all" else "auto")

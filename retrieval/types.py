"""The plain values that flow between the stages: frozen, keyword-only, and free of behaviour beyond their own shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from media.types import Place
from retrieval.errors import QueryError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["KINDS", "WEIGHTED", "Answer", "Filter", "Hit", "Item", "Kind", "ModelSpec", "Query", "Rerank"]

Kind: TypeAlias = Literal["image", "video", "text"]
KINDS: tuple[Kind, ...] = ("image", "video", "text")
# The fusion of re-ranking that every model with a decoder has.
WEIGHTED = "weighted"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model made a set of embeddings: two specs that compare equal give comparable vectors.

    `mean` and `std` are per channel, of pixels in 0..1. `tokenizer` names the vocabulary; `clean` the text
    normalisation that precedes it (`lower`, `whitespace` or `canonicalize`, as in open_clip).
    """

    name: str
    architecture: str
    weights_sha256: str
    dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    resize_mode: str
    tokenizer: str
    context_length: int
    clean: str

    def to_json(self) -> dict[str, object]:
        """The form that a manifest holds."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "weights_sha256": self.weights_sha256,
            "dim": self.dim,
            "preprocessing": {
                "size": self.image_size,
                "mean": list(self.mean),
                "std": list(self.std),
                "interpolation": self.interpolation,
                "resize_mode": self.resize_mode,
            },
            "tokenizer": {"name": self.tokenizer, "context_length": self.context_length, "clean": self.clean},
        }

    @staticmethod
    def from_json(value: Mapping[str, object]) -> ModelSpec:
        """The inverse of `to_json`; `KeyError`, `TypeError` or `ValueError` when something is missing or odd."""
        pixels, words = value["preprocessing"], value["tokenizer"]
        if not isinstance(pixels, Mapping) or not isinstance(words, Mapping):
            raise TypeError("preprocessing and tokenizer must be objects")
        red, green, blue = (float(channel) for channel in pixels["mean"])
        red_std, green_std, blue_std = (float(channel) for channel in pixels["std"])
        return ModelSpec(
            name=str(value["name"]),
            architecture=str(value["architecture"]),
            weights_sha256=str(value["weights_sha256"]),
            dim=int(str(value["dim"])),
            image_size=int(pixels["size"]),
            mean=(red, green, blue),
            std=(red_std, green_std, blue_std),
            interpolation=str(pixels["interpolation"]),
            resize_mode=str(pixels["resize_mode"]),
            tokenizer=str(words["name"]),
            context_length=int(words["context_length"]),
            clean=str(words["clean"]),
        )


@dataclass(frozen=True, kw_only=True)
class Item:
    """One searchable row: an image, a moment of a video, or a passage of text.

    `path` is the media that the row is about and `source` the file that carried it: they differ for a member of a
    tar or Parquet file and for a caption, whose `path` is its image. Times are seconds from the start of a video.
    `mtime_ns` belongs to `source`. `dhash` is a 64-bit difference hash (dHash) of the image, as a signed integer.

    `taken_at` is local time, as the camera showed it, in ISO 8601 without a zone, and `date_source` where it comes from: `exif`
    (what a picture says of itself: EXIF, XMP, IPTC), `container` (a video's metadata), `sidecar` (XMP beside the file),
    `takeout`, `name` or `file` (the time of the file's last change). `place` is "City, Region, Country" near latitude and
    longitude, `rating` 1 to 5 stars, and `words` are the keywords, titles, descriptions and people that others wrote, one a
    line.
    """

    id: str
    path: str
    source: str
    kind: Kind
    start: float | None = None
    end: float | None = None
    text: str | None = None
    width: int | None = None
    height: int | None = None
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    taken_at: str | None = None
    camera: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    dhash: int | None = None
    place: str | None = None
    rating: int | None = None
    words: str | None = None
    date_source: str | None = None

    @property
    def image_place(self) -> Place:
        """Where its image is; for a text, the image or the stretch of video that it is about."""
        return Place(path=self.path, start=self.start, end=self.end)


@dataclass(frozen=True, kw_only=True)
class Rerank:
    """How to order again what was found: the first `candidates`, for at most `milliseconds`, read by the model `reranker`
    (`auto` is the index's own). `fusion` joins its score to the first stage's: `weighted`, `attention` or `concat`.

    Raises `QueryError` for a number out of range.
    """

    candidates: int = 50
    milliseconds: float | None = None
    reranker: str = "auto"
    fusion: str = WEIGHTED

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise QueryError(f"candidates must be at least 1, not {self.candidates}")
        if self.milliseconds is not None and not self.milliseconds >= 0:
            raise QueryError(f"milliseconds must be at least 0, not {self.milliseconds:g}")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What may be found, whatever it looks like: items of `kinds`; None stands for images and videos, or for texts where an
    index has no media. An item without the fact that a filter asks for does not pass it."""

    kinds: tuple[Kind, ...] | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds or ():
            check_kind(kind)


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to look for: any mixture of words and images, less what it should not look like.

    `filter` says what may be found, and `kind` is short for a filter of one kind. With `rerank`, what was found is ordered
    again by a model that looks at words and pixels together. `min_relevance`, in 0..1, leaves out what is less likely to be
    relevant. With `group`, a video counts once, by its best moment.

    An entry of `images` is an image, or the frames of a video, which together count as one; a single image may be given as it
    is. `like` and `unlike` are ids of items of the index itself, whose embeddings count as an image's and as a negative's.
    Raises `QueryError` for values of another type or out of range.
    """

    text: str | None = None
    images: tuple[Image | tuple[Image, ...], ...] = ()
    negatives: tuple[str, ...] = ()
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    kind: Kind | None = None
    filter: Filter = Filter()
    k: int = 10
    rerank: Rerank | None = None
    min_relevance: float | None = None
    group: bool = True

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise QueryError(f"text must be a string, not {type(self.text).__name__}")
        for name in ("images", "negatives", "like", "unlike"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        for name in ("negatives", "like", "unlike"):
            for value in getattr(self, name):
                if not isinstance(value, str):
                    raise QueryError(f"{name} must hold strings, not {type(value).__name__}")
        for entry in self.images:
            for image in entry if isinstance(entry, tuple) else (entry,):
                if not hasattr(image, "convert"):
                    raise QueryError(
                        f"images must hold Pillow images, not {type(image).__name__}; open a file with mmsearch.open_image"
                    )
        if self.kind is not None:
            check_kind(self.kind)
            if self.filter.kinds is not None and self.filter.kinds != (self.kind,):
                raise QueryError(f"kind {self.kind} and the filter's kinds {', '.join(self.filter.kinds)} differ")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise QueryError(f"k must be a whole number of at least 1, not {self.k!r}")
        if self.min_relevance is not None and not 0 <= self.min_relevance <= 1:
            raise QueryError(f"min_relevance must be in 0..1, not {self.min_relevance:g}")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One answer; `rank` starts at 1 and higher scores are better. `first_stage_score` is a cosine similarity, and so is
    `score` unless re-ranked; `rerank_score` is None for a hit that no reranker read, else in nats a token. `relevance` is the
    probability that the hit is relevant (`retrieval.ranking.relevance`), None without a calibration. `moments` are those
    found of the same video, this one first, where a search groups them."""

    rank: int
    score: float
    first_stage_score: float
    rerank_score: float | None
    item: Item
    relevance: float | None = None
    moments: tuple[Hit, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The contract's keys, every one always there."""
        item = self.item
        return {
            "rank": self.rank,
            "score": self.score,
            "first_stage_score": self.first_stage_score,
            "rerank_score": self.rerank_score,
            "id": item.id,
            "kind": item.kind,
            "path": item.path,
            "start": item.start,
            "end": item.end,
            "text": item.text,
            "width": item.width,
            "height": item.height,
            "relevance": self.relevance,
            "taken_at": item.taken_at,
            "camera": item.camera,
            "latitude": item.latitude,
            "longitude": item.longitude,
            "place": item.place,
            # Words and copies are not indexed yet: every hit matches by meaning.
            "matched": ["meaning"],
            "copies": [],
        }


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search found: `hits`, best first. Of a search that re-ranks, `seen` candidates were read; `unreadable` are those
    whose image is gone or damaged, each with the reason; `out_of_time` says that the budget left some unread, and `text_cut`
    that the text was longer than the reranker reads."""

    hits: tuple[Hit, ...]
    seen: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    out_of_time: bool = False
    text_cut: bool = False


def check_kind(value: object) -> Kind:
    """`value` as a kind. Raises `QueryError`, which lists the choices, for anything else."""
    for kind in KINDS:
        if value == kind:
            return kind
    raise QueryError(f"unknown kind {value!r}; use {', '.join(KINDS)}")


def _as_tuple(value: object) -> tuple[object, ...]:
    """A sequence as a tuple; a single value, strings among them, as a tuple of one."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)

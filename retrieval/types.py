"""The plain values that flow between the stages: frozen, keyword-only, and free of behaviour beyond their own shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from media.names import valid_text
from media.types import Place, TextKind
from retrieval.errors import QueryError
from retrieval.filter import EVERYTHING, KINDS, Filter, Kind, Near, as_tuple, check_kind

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "KINDS",
    "MATCHES",
    "SORTS",
    "WEIGHTED",
    "Answer",
    "CopyGroup",
    "Filter",
    "Hit",
    "Item",
    "Kind",
    "Match",
    "ModelSpec",
    "Near",
    "Query",
    "Region",
    "Rerank",
    "Sort",
    "Term",
]

Sort: TypeAlias = Literal["relevance", "newest", "oldest"]
SORTS: tuple[Sort, ...] = ("relevance", "newest", "oldest")
Match: TypeAlias = Literal["auto", "meaning", "words"]
MATCHES: tuple[Match, ...] = ("auto", "meaning", "words")
# Left, top, width and height, in fractions of a picture's sides.
Region: TypeAlias = tuple[float, float, float, float]
# The fusion of re-ranking that every model with a decoder has.
WEIGHTED = "weighted"
FUSIONS = (WEIGHTED, "attention", "concat")


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

    `text_kind` says what a text is: a `caption`, a `passage` of a document, a `subtitle`, the title of a `chapter`, transcribed
    `speech`, or `ocr`, recognised in the image that `path` names. None for media, and for texts of an earlier version.

    `taken_at` is local time, as the camera showed it, in ISO 8601 without a zone, and `date_source` where it comes from:
    `exif` (what a picture says of itself: EXIF, XMP, IPTC), `container` (a video's metadata), `sidecar` (XMP beside the file),
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
    text_kind: TextKind | None = None

    @property
    def image_place(self) -> Place:
        """Where its image is; for a text, the image or the stretch of video that it is about."""
        return Place(path=self.path, start=self.start, end=self.end)


@dataclass(frozen=True, kw_only=True)
class Rerank:
    """How to order again what was found: the first `candidates`, for at most `milliseconds`, read by the model `reranker`
    (`auto` is the index's own). `fusion` joins its score to the first stage's: `weighted`, `attention` or `concat`.

    Raises `QueryError` for a number out of range, and for another fusion.
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
        if self.fusion not in FUSIONS:
            raise QueryError(f"unknown fusion {self.fusion!r}; use {', '.join(FUSIONS)}")


@dataclass(frozen=True, kw_only=True)
class Term:
    """Words that count `weight` times as much as those of a query without weights; below zero: that count against it."""

    text: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise QueryError(f"a term needs words, not {self.text!r}")
        if not 0 < abs(self.weight) <= 1000:
            raise QueryError(f"a weight must be above 0 and at most 1000, not {self.weight:g}")


@dataclass(frozen=True, kw_only=True)
class Query:
    """What to look for: any mixture of words and images, less what it should not look like. `parse` makes one of a line, and
    `str` gives the line that makes it.

    `filter` says what may be found, and `kind` is short for a filter of one kind. A query of nothing but these lists what
    passes, newest first, all but the first `skip`. `sort` by date orders the best hundred hits so, then the next three hundred,
    and so on. `terms` are words with weights. `region` is the part of the images, or of the item `like`, that is meant.
    With `rerank`, what was found is ordered again by a model that looks at words and pixels together. `min_relevance`, in 0..1,
    leaves out what is less likely to be relevant. With `group`, a video counts once, by its best moment. Copies of a picture
    count once, unless `copies` asks for each.

    `match` says what `text` is matched by: `meaning` (its embedding), `words` (names, captions and other texts), or `auto`,
    both by reciprocal rank fusion. With `prefix`, its last word may be the beginning of one, as while it is typed.

    An entry of `images` is an image, or the frames of a video, which together count as one; a single image may be given as it
    is. `like` and `unlike` are ids of items of the index itself, whose embeddings count as an image's and as a negative's.
    Raises `QueryError` for values of another type or out of range.
    """

    text: str | None = None
    images: tuple[Image | tuple[Image, ...], ...] = ()
    negatives: tuple[str, ...] = ()
    terms: tuple[Term, ...] = ()
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    region: Region | None = None
    kind: Kind | None = None
    filter: Filter = EVERYTHING
    sort: Sort = "relevance"
    k: int = 10
    skip: int = 0
    rerank: Rerank | None = None
    min_relevance: float | None = None
    group: bool = True
    match: Match = "auto"
    prefix: bool = False
    copies: bool = False

    def __post_init__(self) -> None:
        if self.text is not None and not isinstance(self.text, str):
            raise QueryError(f"text must be a string, not {type(self.text).__name__}")
        if self.text is not None:
            object.__setattr__(self, "text", valid_text(self.text))
        for name in ("images", "negatives", "terms", "like", "unlike"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
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
        if self.terms and self.text is not None:
            object.__setattr__(self, "terms", (Term(text=self.text), *self.terms))
            object.__setattr__(self, "text", None)
        if len(self.terms) == 1 and self.terms[0].weight == 1:
            object.__setattr__(self, "text", self.terms[0].text)
            object.__setattr__(self, "terms", ())
        if self.kind is not None:
            check_kind(self.kind)
            if self.filter.kinds is not None and self.filter.kinds != (self.kind,):
                raise QueryError(f"kind {self.kind} and the filter's kinds {', '.join(self.filter.kinds)} differ")
        if self.sort not in SORTS:
            raise QueryError(f"unknown order {self.sort!r}; use {', '.join(SORTS)}")
        if self.region is not None:
            check_region(self.region)
            if not self.images and not self.like:
                raise QueryError("a region is a part of an image: name the image, too")
        if self.match not in MATCHES:
            raise QueryError(f"unknown match {self.match!r}; use {', '.join(MATCHES)}")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise QueryError(f"k must be a whole number of at least 1, not {self.k!r}")
        if isinstance(self.skip, bool) or not isinstance(self.skip, int) or self.skip < 0:
            raise QueryError(f"skip must be a whole number of at least 0, not {self.skip!r}")
        if self.skip and not self.lists:
            raise QueryError("only a list, a query of nothing but filters, can skip its first hits")
        if self.min_relevance is not None and not 0 <= self.min_relevance <= 1:
            raise QueryError(f"min_relevance must be in 0..1, not {self.min_relevance:g}")

    @staticmethod
    def parse(line: str) -> Query:
        """The query that a line means: words, `"phrases"`, `-negatives`, weights and filters (`retrieval.query`). Raises
        `QueryError` for a filter whose value makes no sense."""
        from retrieval.query import parse

        return parse(line)

    def __str__(self) -> str:
        from retrieval.query import to_line

        return to_line(self)

    @property
    def words(self) -> str | None:
        """What it looks for in words, weights left out; None without any."""
        words = [self.text] if self.text is not None else []
        words += [term.text for term in self.terms if term.weight > 0]
        return " ".join(words) if words else None

    @property
    def lists(self) -> bool:
        """Whether there is nothing to look for, and it lists what passes its filter."""
        wanted = self.text is not None or self.terms or self.images or self.negatives or self.like or self.unlike
        narrowed = self.filter != EVERYTHING or self.kind is not None or self.sort != "relevance"
        return narrowed and not wanted


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One answer; `rank` starts at 1 and higher scores are better. `first_stage_score` is a cosine similarity, and so is
    `score` unless re-ranked; a hit that its words put before others has at least their score. `matched` says what it was
    found by, of `meaning` and `words`, and `matched_words` are those of the query that it has. `rerank_score` is None for a
    hit that no reranker read, else in nats a token. `relevance` is the probability that the hit is relevant
    (`retrieval.ranking.relevance`), None without a calibration. `moments` are those found of the same video, this one first,
    where a search groups them. `copies` are the paths of other copies of the picture, the best of them first, at most a
    hundred; its score is that of whichever copy is nearest to the query."""

    rank: int
    score: float
    first_stage_score: float
    rerank_score: float | None
    item: Item
    relevance: float | None = None
    moments: tuple[Hit, ...] = ()
    matched: tuple[str, ...] = ("meaning",)
    matched_words: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The contract's keys, every one always there, and `moments`: the times and scores of those found of the same video."""
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
            "matched": list(self.matched),
            "matched_words": list(self.matched_words),
            "copies": list(self.copies),
            "moments": [
                {"start": moment.item.start, "end": moment.item.end, "score": moment.score} for moment in self.moments
            ],
        }


@dataclass(frozen=True, kw_only=True)
class CopyGroup:
    """Items that are copies of one another, best first: `same` in content, `near` in looks, or a `stack`, which belongs
    together by name or time (a raw file beside its photo, an edit, the film of a Live Photo, a burst). A film is its first
    moment."""

    kind: Literal["same", "near", "stack"]
    items: tuple[Item, ...]

    @property
    def bytes(self) -> int:
        """What the files of its items take; members of a container, which no deleting would free alone, count nothing."""
        return sum(item.size for item in self.items if item.path == item.source)

    @property
    def freed(self) -> int:
        """How many of these bytes deleting all but the best would free. Nothing of a stack: raw files, films and originals are
        no copies that one would delete unseen."""
        return 0 if self.kind == "stack" else sum(item.size for item in self.items[1:] if item.path == item.source)

    def to_json(self) -> dict[str, object]:
        """The contract's keys."""
        return {"kind": self.kind, "paths": [item.path for item in self.items]}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a search found: `hits`, best first, and `notes`, sentences about the query for whoever typed it.

    Of a search that re-ranks, `seen` candidates were read; `unreadable` are those whose image is gone or damaged, each with the
    reason; `out_of_time` says that the budget left some unread, and `text_cut` that the text is longer than the reranker reads.
    Of `unindexed` rows the words were not looked at, because an older version wrote them; `mmsearch index` makes up for it.
    `total` is how many hits a list has in all; None for a search, which ranks everything.
    """

    hits: tuple[Hit, ...]
    unindexed: int = 0
    seen: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    out_of_time: bool = False
    text_cut: bool = False
    notes: tuple[str, ...] = ()
    total: int | None = None


def check_region(region: Region) -> None:
    """Raise `QueryError` for a region that is not within a picture."""
    left, top, width, height = region
    inside = left >= 0 and top >= 0 and left + width <= 1.001 and top + height <= 1.001
    if not (inside and width > 0 and height > 0):
        raise QueryError(
            f"region {','.join(f'{side:g}' for side in region)} is not within the picture; give left, top, width and height in "
            "fractions of its sides, as in 0.25,0.25,0.5,0.5"
        )

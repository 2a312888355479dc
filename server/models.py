"""What the API takes and gives, as the OpenAPI document says it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from media.types import TextKind
from retrieval.types import Kind, Match, Sort

MOST = 200
DEEPEST_LIST = 100_000_000
MOST_SELECTED = 2000
_MOST_IDS = 16
Text = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(max_length=400)]
Identity = Annotated[str, Field(max_length=64)]
Picture = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _as_list(value: object) -> object:
    """A single text as a list of one."""
    return [value] if isinstance(value, str) else value


class Strict(BaseModel):
    """No field that is not known: a misspelt one would silently do nothing."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Narrowed(Strict):
    """A query line and what narrows it: fields mean the same as the filters of that name in `text`. Dates are a year, a month
    or a day, and `before` excludes it; `in` are folders by their name or a path; `near` is PLACE or LAT,LON and ~KM."""

    text: Text | None = None
    kind: Kind | None = None
    after: Name | None = None
    before: Name | None = None
    folders: Annotated[list[Name], Field(alias="in", max_length=16)] = []
    camera: Name | None = None
    near: Name | None = None


class RerankModel(Strict):
    """How to order the best again: how many `candidates` are read, for at most so many `milliseconds`, and how both scores are
    joined."""

    candidates: Annotated[int, Field(ge=1, le=200)] = 50
    milliseconds: Annotated[float, Field(ge=0, le=180_000)] | None = None
    fusion: Literal["weighted", "attention", "concat"] = "weighted"


class SearchRequest(Narrowed):
    """What to look for. At least one of `text`, `image_id`, `picture` and an uploaded image; or filters alone, which list what
    passes them, newest first. `text` is a line that may hold filters. `region` is the part of the image that is meant, as
    left,top,width,height in fractions of its sides.

    `picture` names an image that was uploaded before, by the hash that the answer to that search gave. `cursor` is the `next`
    of the page before, of the same search; with `offset`, the page begins after so many hits instead. `match` says what `text`
    is matched by: meaning, words, or auto, both joined; with `prefix` its last word may be the beginning of a longer word.
    Copies of a picture are one hit, unless `copies` asks for each, and so are the moments of a video, unless `moments` does.
    `rerank` may say how. With `details`, each hit has all that the index knows of it.
    """

    picture: Picture | Annotated[list[Picture], Field(max_length=_MOST_IDS)] | None = None
    image_id: Identity | Annotated[list[Identity], Field(max_length=_MOST_IDS)] | None = None
    unlike_id: Identity | Annotated[list[Identity], Field(max_length=_MOST_IDS)] | None = None
    negatives: Annotated[list[Text], Field(alias="not", max_length=16), BeforeValidator(_as_list)] = []
    region: Annotated[str, Field(max_length=128)] | tuple[float, float, float, float] | None = None
    sort: Sort = "relevance"
    k: Annotated[int, Field(ge=1, le=MOST)] = 20
    rerank: bool | RerankModel = False
    copies: bool = False
    moments: bool = False
    details: bool = False
    match: Match = "auto"
    prefix: bool = False
    min_relevance: Annotated[float, Field(ge=0, le=1)] | None = None
    cursor: Annotated[str, Field(max_length=64)] | None = None
    offset: Annotated[int, Field(ge=0, le=DEEPEST_LIST)] | None = None


class SearchForm(SearchRequest):
    """The same as a form, with the image itself. A field that is empty counts as absent; `not` may be repeated."""

    image: Annotated[bytes | None, Field(json_schema_extra={"type": "string", "format": "binary"})] = None


class MomentModel(BaseModel):
    """A moment of a video, in seconds."""

    start: float
    end: float
    score: float


class ItemModel(BaseModel):
    """One item of the index. `path` is for people, with the replacement character where a name is no UTF-8, and then
    `path_raw` are its bytes as base64; the file itself is at `media_url`. `source` is the file that it is in, which is another
    one for a member of a container and for a caption; `mtime_ns` belongs to that."""

    id: str
    kind: Kind
    path: str
    path_raw: str | None = None
    source: str
    source_raw: str | None = None
    start: float | None
    end: float | None
    text: str | None
    width: int | None
    height: int | None
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    place: str | None
    rating: int | None
    words: str | None
    date_source: str | None
    text_kind: str | None
    size: int
    mtime_ns: int
    sha256: str
    dhash: int | None
    media_url: str
    thumb_url: str


class DetailsModel(BaseModel):
    """A hit with its whole item, and each of its moments in the same form."""

    rank: int
    score: float
    first_stage_score: float
    rerank_score: float | None
    relevance: float | None
    item: ItemModel
    moments: list[DetailsModel]
    matched: list[str]
    matched_words: list[str]
    copies: list[str]
    copies_raw: list[str | None] | None = None


class HitModel(BaseModel):
    """A search hit; higher scores are better. `moments` are those found of the same video, this one first, `copies` the paths
    of other copies of the picture. `thumb_url` changes whenever the picture does, and takes `?size=N`."""

    rank: int
    score: float
    first_stage_score: float
    rerank_score: float | None
    id: str
    kind: Kind
    path: str
    path_raw: str | None = None
    start: float | None
    end: float | None
    text: str | None
    width: int | None
    height: int | None
    media_url: str
    thumb_url: str
    relevance: float | None
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    place: str | None
    matched: list[str]
    matched_words: list[str]
    copies: list[str]
    moments: list[MomentModel]
    details: DetailsModel | None = None


class SearchResponse(BaseModel):
    """Hits, best first; `next` is the cursor of the page after this one, null at the end.

    `total` is how many hits a list, a search by filters alone, has in all; null for others, which rank everything.
    `more` says whether there are others, which beyond the last page a narrower search brings; `truncated` whether the model
    read only the beginning of the words; `picture` names the uploaded image, to be asked for again without sending it. `notes`
    are sentences about the query for whoever typed it. Of a search that re-ranks, `seen` candidates were read, those whose
    image is gone or damaged are `unreadable`, each with the reason, `out_of_time` says that some were left unread, and
    `text_cut` that the reranker reads less than all the words. The words of `unindexed` rows were not looked at.
    """

    hits: list[HitModel]
    next: str | None
    more: bool
    total: int | None
    truncated: bool
    picture: str | None
    notes: list[str]
    seen: int
    unreadable: list[tuple[str, str]]
    out_of_time: bool
    text_cut: bool
    unindexed: int
    milliseconds: float
    model: str


class FileMoment(BaseModel):
    """A moment of a video file, in seconds. `thumb_url` takes `?size=N`."""

    id: str
    start: float
    end: float
    thumb_url: str


class FileText(BaseModel):
    """A text about a file: `text_kind` is caption, passage, subtitle, chapter, speech or ocr, null where that is not known;
    `start` and `end` are seconds of a video."""

    id: str
    text_kind: TextKind | None
    start: float | None
    end: float | None
    text: str


class FileResponse(BaseModel):
    """What the index holds of the file of an item: `place` is its path below the indexed folder, `folder` that of the folder it
    is in. `moments` and `texts` are in the order of time."""

    kind: Kind
    place: str
    folder: str
    moments: list[FileMoment]
    texts: list[FileText]


class WordMap(BaseModel):
    """A word, and how much of it rests on each part of the picture: `relevance` are rows from the top, 0 to 1, the most of the
    word 1."""

    word: str
    relevance: list[list[float]]


class WordMapsResponse(BaseModel):
    """Which parts of a picture words rest on. `whole` is that of all words together, `words` are those that say something, and
    `region` the part of the picture that the model sees, as left, top, width, height in fractions of its sides."""

    region: tuple[float, float, float, float]
    whole: list[list[float]]
    words: list[WordMap]


class FacetsResponse(BaseModel):
    """How many items the filters leave, by name; a video counts once. Years and months have the newest first, the others the
    largest; a folder is its path below its root and counts the folders in it, too."""

    years: dict[str, int]
    months: dict[str, int]
    folders: dict[str, int]
    cameras: dict[str, int]
    places: dict[str, int]
    kinds: dict[str, int]


class UploadForm(Strict):
    """An image to search by."""

    image: Annotated[bytes, Field(json_schema_extra={"type": "string", "format": "binary"})]


class UploadResponse(BaseModel):
    """The name of an uploaded image, the SHA-256 of its bytes, for a search's `picture`. It is kept for a while."""

    picture: str


class SelectionRequest(Strict):
    """The ids of the items that are selected, in their order."""

    ids: Annotated[list[Identity], Field(min_length=1, max_length=MOST_SELECTED)]


class DescribeRequest(Strict):
    """The item to describe."""

    id: Annotated[str, Field(max_length=64)]


class DescribeResponse(BaseModel):
    """A caption of a picture, or of the middle of a moment; its logarithmic probability in nats, and its tokens in the reader's
    vocabulary."""

    id: str
    caption: str
    log_probability: float
    tokens: list[int]


class AskRequest(Strict):
    """A question about what the pictures show."""

    question: Annotated[str, Field(min_length=1, max_length=2000)]
    k: Annotated[int, Field(ge=1, le=20)] = 3
    min_relevance: Annotated[float, Field(ge=0, le=1)] = 0.5
    candidates: Annotated[int, Field(ge=1, le=200)] = 50
    details: bool = False


class EvidenceModel(BaseModel):
    """One thing that an answer rests on."""

    id: str
    path: str
    path_raw: str | None = None
    start: float | None
    end: float | None
    caption: str
    log_probability: float
    tokens: list[int]
    score: float
    media_url: str
    thumb_url: str
    details: DetailsModel | None = None


class AskResponse(BaseModel):
    """The answer, which cites its evidence as [1], [2]."""

    question: str
    answer: str
    evidence: list[EvidenceModel]


class WatchModel(BaseModel):
    """What indexing in the background does now: `remaining` files are known to be left."""

    state: str
    done: int
    total: int
    remaining: int
    failed: int
    path: str
    error: str | None


class StatusResponse(BaseModel):
    """What the index holds, and what happens to it. `reader` is the model that re-ranks and describes; auto: its own."""

    items: int
    images: int
    videos: int
    moments: int
    texts: int
    failures: int
    model: str
    dim: int
    metric: str
    shards: int
    bytes: int
    vector_index: str
    format_version: int
    generation: int
    reader: str
    watch: WatchModel | None


class FailureModel(BaseModel):
    """A file that is not indexed, or not whole: at which stage (`read`, `decode`, `encode`) it failed, and why. `source` is the
    file that it is in."""

    path: str
    path_raw: str | None = None
    source: str
    source_raw: str | None = None
    stage: str
    reason: str


class FailuresResponse(BaseModel):
    """The ledger, in the order of paths, a page at a time; `total` is its length. `skipped` counts, by suffix, files that are
    of no kind that is indexed, null where no run of this server has looked; `advice` are sentences on what to do."""

    failures: list[FailureModel]
    total: int
    next: str | None
    skipped: dict[str, int] | None
    advice: list[str]


class CopyGroupModel(BaseModel):
    """Copies of one picture or film, the best first: `same` in content, `near` in looks, or a `stack` of one shot. `bytes` is
    what their files take, `frees` what deleting all but the first would free."""

    kind: Literal["same", "near", "stack"]
    bytes: int
    frees: int
    items: list[ItemModel]


class DuplicatesResponse(BaseModel):
    """Groups of copies, in index order; `next` is the cursor of the page after this one."""

    groups: list[CopyGroupModel]
    next: str | None


class NeighboursResponse(BaseModel):
    """What was taken near an item, in time, in place or both; the nearest in time first."""

    hits: list[HitModel]


class ErrorResponse(BaseModel):
    """What was wrong, in one sentence."""

    error: str

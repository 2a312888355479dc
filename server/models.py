"""What the API takes and gives, as the OpenAPI document says it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from retrieval.types import Kind, Match

MOST = 200
Text = Annotated[str, Field(max_length=2000)]


class Strict(BaseModel):
    """No field that is not known: a misspelt one would silently do nothing."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class SearchRequest(Strict):
    """What to look for. At least one of `text`, `image_id`, `picture` and an uploaded image.

    `picture` names an image that was uploaded before, by the hash that the answer to that search gave. `cursor` is the `next`
    of the page before, of the same search. `match` says what `text` is matched by: meaning, words, or auto, both joined; with
    `prefix` its last word may be the beginning of one.
    """

    text: Text | None = None
    picture: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    image_id: Annotated[str, Field(max_length=64)] | None = None
    unlike_id: Annotated[str, Field(max_length=64)] | None = None
    negatives: Annotated[list[Text], Field(alias="not", max_length=16)] = []
    kind: Kind | None = None
    k: Annotated[int, Field(ge=1, le=MOST)] = 20
    rerank: bool = False
    match: Match = "auto"
    prefix: bool = False
    min_relevance: Annotated[float, Field(ge=0, le=1)] | None = None
    cursor: Annotated[str, Field(max_length=64)] | None = None


class SearchForm(SearchRequest):
    """The same as a form, with the image itself. A field that is empty counts as absent; `not` may be repeated."""

    image: Annotated[bytes | None, Field(json_schema_extra={"type": "string", "format": "binary"})] = None


class MomentModel(BaseModel):
    """A moment of a video, in seconds."""

    start: float
    end: float
    score: float


class ItemModel(BaseModel):
    """One item of the index. `path` is for people; the file itself is at `media_url`."""

    id: str
    kind: Kind
    path: str
    start: float | None
    end: float | None
    text: str | None
    width: int | None
    height: int | None
    taken_at: str | None
    camera: str | None
    latitude: float | None
    longitude: float | None
    size: int
    media_url: str
    thumb_url: str


class HitModel(BaseModel):
    """A search hit; higher scores are better. `moments` are those found of the same video, this one first. `thumb_url` changes
    whenever the picture does, and takes `?size=N`."""

    rank: int
    score: float
    first_stage_score: float
    rerank_score: float | None
    id: str
    kind: Kind
    path: str
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
    words: list[str]
    copies: list[str]
    moments: list[MomentModel]


class SearchResponse(BaseModel):
    """Hits, best first; `next` is the cursor of the page after this one, null at the end.

    `more` says whether there are others, which beyond the last page a narrower search brings; `truncated` whether the model
    read only the beginning of the words; `picture` names the uploaded image, to be asked for again without sending it.
    """

    hits: list[HitModel]
    next: str | None
    more: bool
    truncated: bool
    picture: str | None
    milliseconds: float
    model: str


class UploadForm(Strict):
    """An image to search by."""

    image: Annotated[bytes, Field(json_schema_extra={"type": "string", "format": "binary"})]


class UploadResponse(BaseModel):
    """The name of an uploaded image, the SHA-256 of its bytes, for a search's `picture`. It is kept for a while."""

    picture: str


class DescribeRequest(Strict):
    """The item to describe."""

    id: Annotated[str, Field(max_length=64)]


class DescribeResponse(BaseModel):
    """A caption of a picture, or of the middle of a moment."""

    id: str
    caption: str
    log_probability: float


class AskRequest(Strict):
    """A question about what the pictures show."""

    question: Annotated[str, Field(min_length=1, max_length=2000)]
    k: Annotated[int, Field(ge=1, le=20)] = 3


class EvidenceModel(BaseModel):
    """One thing that an answer rests on."""

    id: str
    path: str
    start: float | None
    end: float | None
    caption: str
    score: float
    media_url: str
    thumb_url: str


class AskResponse(BaseModel):
    """The answer, which cites its evidence as [1], [2]."""

    question: str
    answer: str
    evidence: list[EvidenceModel]


class WatchModel(BaseModel):
    """What indexing in the background does now."""

    state: str
    done: int
    total: int
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


class HealthResponse(BaseModel):
    """The index can be read."""

    status: str


class ErrorResponse(BaseModel):
    """What was wrong, in one sentence."""

    error: str

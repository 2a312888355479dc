"""Queries check their values when they are made, and speak of what a program gave."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from retrieval.errors import QueryError
from retrieval.types import Filter, Hit, Item, Query, Rerank


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "photo"}, "unknown kind 'photo'; use image, video, text"),
        ({"k": 0}, "k must be a whole number of at least 1, not 0"),
        ({"k": 2.5}, "k must be"),
        ({"k": True}, "k must be"),
        ({"min_relevance": 1.5}, "min_relevance must be in 0..1"),
        ({"text": 7}, "text must be a string, not int"),
        ({"negatives": (3,)}, "negatives must hold strings"),
        ({"images": "photo.jpg"}, "open a file with mmsearch.open_image"),
        ({"images": None}, "images must hold Pillow images, not NoneType"),
        ({"kind": "text", "filter": Filter(kinds=("image",))}, "differ"),
    ],
)
def test_a_query_with_a_wrong_value_is_refused_at_once(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(QueryError) as caught:
        Query(**{"text": "x", **fields})
    assert reason in str(caught.value)
    assert "--" not in str(caught.value) and "-k" not in str(caught.value)


def test_single_values_are_taken_as_one() -> None:
    """A string of negatives was once taken letter by letter, and a single image was a TypeError."""
    photo = Image.new("RGB", (2, 2))
    query = Query(images=photo, negatives="people", like=["a", "b"])  # type: ignore[arg-type]
    assert (query.images, query.negatives, query.like) == ((photo,), ("people",), ("a", "b"))
    assert Query(images=(photo, (photo, photo))).images == (photo, (photo, photo))


def test_filters_and_re_ranking_check_their_values() -> None:
    with pytest.raises(QueryError, match="unknown kind"):
        Filter(kinds=("sound",))  # type: ignore[arg-type]
    with pytest.raises(QueryError, match="candidates must be at least 1"):
        Rerank(candidates=0)
    with pytest.raises(QueryError, match="milliseconds"):
        Rerank(milliseconds=-1)


def test_a_hit_has_every_key_of_the_contract() -> None:
    item = Item(
        id="i",
        path="/p.jpg",
        source="/p.jpg",
        kind="image",
        taken_at="2023-12-25T18:30:00",
        camera="X",
        place="Paris, France",
    )
    value = Hit(rank=1, score=0.5, first_stage_score=0.5, rerank_score=None, item=item, relevance=0.9).to_json()
    assert " ".join(value) == (
        "rank score first_stage_score rerank_score id kind path start end text width height"
        " relevance taken_at camera latitude longitude place matched matched_words copies moments"
    )
    assert (value["relevance"], value["taken_at"], value["camera"]) == (0.9, "2023-12-25T18:30:00", "X")
    assert (value["place"], value["matched"], value["copies"]) == ("Paris, France", ["meaning"], [])

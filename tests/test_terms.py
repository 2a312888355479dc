"""Terms: what counts as the same word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.terms import LONGEST_TERM, query_words, tokens, whole


def terms(text: str) -> set[str]:
    cut = tokens([text])
    return {term for spans in (cut.parts, cut.compounds, cut.characters, cut.pairs) for term, _ in spans.terms()}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("IMG_2034.jpg", {"img", "2034", "img2034", "jpg"}),
        ("img-2034", {"img", "2034", "img2034"}),
        ("2023-06-24", {"2023", "06", "24", "20230624"}),
        ("summerHoliday", {"summer", "holiday", "summerholiday"}),
        ("HTMLFile", {"html", "file", "htmlfile"}),
        ("Łódź Straße København", {"lodz", "strasse", "kobenhavn"}),
        ("ＡＢＣ ﬁne x²", {"abc", "fine", "x", "2", "x2"}),
        ("İstanbul ISTANBUL ıstanbul", {"istanbul"}),
        ("ΆΛΦΑ άλφα", {"αλφα"}),
        ("東京タワー", {"東", "京", "タ", "ワ", "ー", "東京", "京タ", "タワ", "ワー"}),
        ("안녕 हिन्दी", {"안녕", "हिन्दी"}),
        ("١٢٣", {"123"}),
        ("…!?", set()),
        ("", set()),
    ],
)
def test_words_are_the_same_in_every_spelling(text: str, wanted: set[str]) -> None:
    assert terms(text) == wanted


@given(st.lists(st.text(max_size=30), max_size=8))
def test_texts_cut_together_are_as_each_alone(texts: list[str]) -> None:
    """A text must not run into the next one, also with a zero, a surrogate or nothing in it."""
    cut = tokens(texts)
    for name in ("parts", "compounds", "characters", "pairs", "wholes"):
        together = getattr(cut, name).terms()
        for number, text in enumerate(texts):
            alone = [term for term, _ in getattr(tokens([text]), name).terms()]
            assert [term for term, owner in together if owner == number] == alone


@given(st.text(max_size=40))
def test_a_query_has_only_terms_that_an_index_of_the_same_text_has(text: str) -> None:
    for word in query_words(text):
        assert set(word.parts) <= terms(text)
        assert word.compound is None or word.compound in terms(text)


def test_a_query_keeps_its_words_as_they_were_typed_each_once() -> None:
    words = query_words("“IMG_2034”, dog Dog 東京 犬 …")
    assert [(word.typed, word.parts, word.compound) for word in words] == [
        ("IMG_2034", ("img", "2034"), "img2034"),
        ("dog", ("dog",), None),
        ("東京", ("東京",), None),
        ("犬", ("犬",), None),
    ]


def test_a_text_that_is_one_endless_word_has_no_terms() -> None:
    assert terms("x" * (LONGEST_TERM + 1)) == set()
    assert whole("Summer Holiday/2023") == "summerholiday2023"
    assert whole("…") == ""

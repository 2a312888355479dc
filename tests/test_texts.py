"""Texts: encodings, passages, captions tables, and token ids against open_clip's own tokenizer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from media.text import PASSAGE_CHARS, caption_lines, caption_rows, decode_text, passages
from retrieval.errors import MediaError
from retrieval.models.tokens import TextTokenizer
from retrieval.models.weights import MINI


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_common_encodings_are_read(encoding: str) -> None:
    text = "Café in Zürich, à la carte, and some more plain words to tell the encoding by"
    assert decode_text(text.encode(encoding)) == text


def test_one_bad_byte_does_not_refuse_a_text() -> None:
    assert decode_text(b"good \xff\xfe words") == "good ÿþ words"


def test_binary_data_is_no_text() -> None:
    with pytest.raises(MediaError, match="binary"):
        decode_text(bytes(range(256)) * 20 + b"\0\0\0" * 400)


@given(st.text(max_size=3000))
def test_passages_keep_every_word_and_stay_short(text: str) -> None:
    found = passages(text)
    assert " ".join(found).replace(" ", "") == "".join(text.split())
    assert all(0 < len(one) <= PASSAGE_CHARS + 1 for one in found)


def test_caption_lines_leave_blank_lines_out() -> None:
    assert caption_lines("a dog \n\n  two   cats\n") == ["a dog", "two cats"]


def test_caption_tables_of_every_form_agree() -> None:
    wanted = [("a.jpg", "a dog, running"), ("b.jpg", "two cats")]
    assert caption_rows('path,caption\na.jpg,"a dog, running"\nb.jpg,two cats\n', ".csv") == wanted
    assert caption_rows("image\ttext\na.jpg\ta dog, running\nb.jpg\ttwo cats\n", ".tsv") == wanted
    lines = [{"file_name": "a.jpg", "caption": "a dog, running"}, {"file_name": "b.jpg", "captions": ["two cats"]}]
    assert caption_rows("\n".join(map(json.dumps, lines)), ".jsonl") == wanted


@pytest.mark.parametrize(
    ("text", "suffix", "reason"),
    [("a,b\n1,2\n", ".csv", "no column for the image"), ("path,b\n1,2\n", ".csv", "no column for the caption"),
     ("{]", ".jsonl", "line 1 is not JSON"), ("[1]", ".jsonl", "not a JSON object")],
)  # fmt: skip
def test_a_table_that_is_none_says_what_it_lacks(text: str, suffix: str, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        caption_rows(text, suffix)


@pytest.fixture(scope="module")
def clip() -> tuple[object, TextTokenizer]:
    from open_clip.tokenizer import SimpleTokenizer

    from retrieval.models.loading import tokenizer_of

    own = SimpleTokenizer()
    return own, tokenizer_of(own, "clip-bpe")


AWKWARD = [
    "a photo of a cat",
    "It's the dogs' ball!!! 12345 #tag @you",
    "Ünïcödé — “quotes” … 日本語 emoji 🐕‍🦺 ﬁne",
    "&amp;lt; html &quot;entities&quot;",
    "schÃ¶n mojibake",
    "word " * 200,
    "<start_of_text> tricky <end_of_text>",
    "\t\n spaced \u00a0 out",
]


def test_clip_ids_are_open_clips_own(clip: tuple[object, TextTokenizer]) -> None:
    own, ours = clip
    texts = [text for text in AWKWARD if "<start_of_text>" not in text]
    assert np.array_equal(ours.encode(texts), own(texts).numpy())  # type: ignore[operator]


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=60))
def test_clip_ids_agree_on_any_text(clip: tuple[object, TextTokenizer], text: str) -> None:
    own, ours = clip
    if "<start_of_text>" in text or "<end_of_text>" in text:
        return
    assert np.array_equal(ours.encode([text]), own([text]).numpy())  # type: ignore[operator]


def test_minis_tokenizer_round_trips_and_cuts_long_texts() -> None:
    tokenizer = TextTokenizer.open(MINI)
    for text in ("a dog's ball, running.", "two children on a skateboard", "a man in a t-shirt: look!"):
        ids = tokenizer.encode([text])[0]
        assert tokenizer.decode(ids.tolist()) == text
    long = tokenizer.encode(["dog " * 10_000])[0]
    assert long[0] == tokenizer.rules.prefix[0]
    assert long[-1] == tokenizer.rules.suffix[0]
    assert len(long) == tokenizer.rules.length

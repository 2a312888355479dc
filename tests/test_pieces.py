"""The table of a large vocabulary cuts every text as the tokenizer that it was made from, and is opened at once."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from benchmarks.published import piece_tokenizer, write_tokenizer
from retrieval.errors import ModelError
from retrieval.models.loading import tokenizer_of
from retrieval.models.pieces import PieceTable
from retrieval.models.tokens import TextTokenizer

# Of many scripts, with what the vocabulary has not: emoji, rare letters, control characters.
LETTERS = (
    "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCÄÖÜßéèñçøåıİſΑΩσςабвгдежзийклмнопрстуфхцчшщъыьэюя" + "0123456789"
    "אבגדהابتثجदेवनागरीกขคงあいうえおカタカナ一丁七万三上下不中人日本語漢字한국어"
    + "🐕🎉👍🏽‍❤️𝔘"
    + "\u0300\u00a0\u2003\u200d\t\n▁'’“”—….,!?()_-&<>"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer of a SigLIP 2 with a small vocabulary, as open_clip loads it."""
    from open_clip.tokenizer import HFTokenizer

    folder = tmp_path_factory.mktemp("gemma")
    write_tokenizer(folder, piece_tokenizer(20_000))
    return HFTokenizer(str(folder), context_length=64, clean="canonicalize")


@pytest.fixture(scope="module")
def opened(original: Any, tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    folder = tmp_path_factory.mktemp("exported")
    tokenizer_of(original, "gemma").save(folder)
    tokenizer = TextTokenizer.open(folder)
    assert tokenizer._table is not None
    return tokenizer


def corpus(count: int, seed: int = 4) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(LETTERS + "    ") for _ in range(rng.randint(0, 90))) for _ in range(count)]


def test_ids_are_open_clips_own_on_texts_of_many_scripts(original: Any, opened: TextTokenizer) -> None:
    texts = [*corpus(3000), "A Dog, RUNNING!", "", "word " * 300, "漢字" * 200, "  two   spaces ", "<eos> and <pad>"]
    wanted = original(texts).numpy()
    assert np.array_equal(opened.encode(texts), wanted)
    assert wanted.shape == (len(texts), 64)
    # Padded behind the end marker, which a cut text keeps.
    assert wanted[3002, -1] == 1 and (wanted[3001] == [1, *[0] * 63]).all()


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("Cs", "Cn", "Co")), max_size=60))
def test_ids_agree_on_any_text(original: Any, opened: TextTokenizer, text: str) -> None:
    assert np.array_equal(opened.encode([text]), original([text]).numpy())


def test_texts_with_tokens_of_their_own_are_left_to_the_whole_tokenizer(tmp_path: Path) -> None:
    model = piece_tokenizer(8_000)
    table = PieceTable.of(model)
    assert table is not None
    for text in ("a <eos> b", "two\n\nlines", "a  b", "▁▁"):
        assert not table.reads(text)
    assert table.reads("a b\nc")
    for text in corpus(500):
        if table.reads(text):
            ids = [token for _, ids in table.chunks(text) for token in ids]
            assert ids == model.encode(text, add_special_tokens=False).ids, text


def test_lower_case_and_a_mark_before_the_text_are_normalised_alike() -> None:
    model = piece_tokenizer(8_000)
    model.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    table = PieceTable.of(model)
    assert table is not None
    for text in [text for text in corpus(500) if table.reads(text)]:
        ids = [token for _, ids in table.chunks(text) for token in ids]
        assert ids == model.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("change", ["bytes", "kind", "pieces over spaces", "pre-tokenizer", "dropout"])
def test_tokenizers_of_another_kind_have_no_table(change: str) -> None:
    value = json.loads(piece_tokenizer(8_000).to_str())
    if change == "bytes":
        del value["model"]["vocab"]["<0xE2>"]
    elif change == "pieces over spaces":
        value["model"]["vocab"]["a▁"] = 8_000
        value["model"]["merges"].append(["a", "▁"])
    elif change == "dropout":
        value["model"]["dropout"] = 0.1
    model = Tokenizer.from_str(json.dumps(value))
    if change == "pre-tokenizer":
        model.pre_tokenizer = pre_tokenizers.Digits(individual_digits=True)
    elif change == "kind":
        model.model = models.WordLevel({"a": 0}, "a")
    assert PieceTable.of(model) is None


def test_a_vocabulary_of_256_000_pieces_is_opened_and_used_within_a_tenth_of_a_second(tmp_path: Path) -> None:
    model = piece_tokenizer(256_000)
    table = PieceTable.of(model)
    assert table is not None
    table.save(tmp_path)
    began = time.process_time()
    again = PieceTable.open(tmp_path)
    assert again is not None
    mine = [[token for _, ids in again.chunks(text) for token in ids] for text in ("a dog in the snow", "собака и кот")]
    assert time.process_time() - began < 0.1
    assert mine == [model.encode(text, add_special_tokens=False).ids for text in ("a dog in the snow", "собака и кот")]


def test_words_have_the_places_of_their_tokens(original: Any, opened: TextTokenizer) -> None:
    row = opened.encode(["zwei hunde laufen"])[0].tolist()
    whole = tokenizer_of(original, "gemma")
    assert opened.words("zwei hunde laufen") == whole.words("zwei hunde laufen")
    words = opened.words("zwei hunde laufen")
    assert [word for word, _ in words] == ["zwei", "hunde", "laufen"]
    assert [place for _, places in words for place in places] == list(range(row.index(1)))
    long = opened.words("hund " * 300)
    assert long[-1][1][-1] == 62


def test_everyday_texts_do_not_read_the_whole_vocabulary(original: Any, tmp_path: Path) -> None:
    tokenizer_of(original, "gemma").save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    texts = ["a dog in the snow", "zwei Hunde & 1 Katze", "собака, 犬 🐕", "naïve café"]
    assert np.array_equal(TextTokenizer.open(tmp_path).encode(texts), original(texts).numpy())


def test_whether_a_text_fits_is_told_by_its_ids(opened: TextTokenizer) -> None:
    assert opened.fits("a dog in the snow")
    assert not opened.fits("a dog in the snow " * 50)
    assert opened.fits("")


def test_words_in_scripts_without_an_alphabet_are_known(opened: TextTokenizer) -> None:
    assert opened.knows("一丁") and opened.knows("あい")
    # Of letters that the vocabulary does not have, nothing but bytes is left.
    assert not opened.knows("𒀀𒀁𒀂")


def test_a_damaged_table_is_a_model_error(original: Any, tmp_path: Path) -> None:
    tokenizer_of(original, "gemma").save(tmp_path)
    (tmp_path / "pairs.npy").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="cannot read the tokenizer"):
        TextTokenizer.open(tmp_path)

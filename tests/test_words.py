"""Words: the lexical index against counting, and what a search makes of it over real indexes."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval.errors import FormatError, QueryError
from retrieval.ranking.fusion import K, fuse, look_up, ranks_of
from retrieval.ranking.words import find_words
from retrieval.search import Calibrations, search
from retrieval.state import IndexState
from retrieval.store import shards
from retrieval.store.keys import words_file
from retrieval.store.manifest import read_manifest
from retrieval.store.writer import IndexWriter
from retrieval.terms import tokens
from retrieval.types import KINDS, Answer, Filter, Hit, Item, Query
from tests.stores import remove_rows, result, spec, unit_rows

NONE = Calibrations(cosine=None, fused=None)
DIRECTION = unit_rows(1, seed=500)[0]


def image(path: str) -> Item:
    return Item(
        id=path, path=f"/media/{path}", source=f"/media/{path}", kind="image", sha256=f"{hash(path) % 10**9:064d}"
    )


def caption(path: str, text: str, number: int = 0) -> Item:
    source = f"/media/{path}.{number}.txt"
    return Item(id=f"{path} {number} {text[:20]}", path=f"/media/{path}", source=source, kind="text", text=text)


def cue(path: str, start: float, text: str) -> Item:
    return Item(
        id=f"{path} at {start}", path=f"/media/{path}", source=f"/media/{path}.srt", kind="text", start=start,
        end=start + 1, text=text,
    )  # fmt: skip


def moment(path: str, start: float, end: float) -> Item:
    return Item(
        id=f"{path} {start}", path=f"/media/{path}", source=f"/media/{path}", kind="video", start=start, end=end,
        sha256=f"{int(start):064d}",
    )  # fmt: skip


def at_angle(cosines: Sequence[float], seed: int = 0) -> NDArray[np.float32]:
    """Unit rows with these cosines to `DIRECTION`."""
    noise = unit_rows(len(cosines), seed=seed)
    noise -= (noise @ DIRECTION)[:, None] * DIRECTION
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    wanted = np.array(cosines, np.float32)[:, None]
    return np.asarray(wanted * DIRECTION + np.sqrt(1 - wanted**2) * noise, np.float32)


def build(folder: Path, *publications: Sequence[tuple[Item, float]]) -> IndexState:
    """An index of these items with these cosines, one publication each."""
    with IndexWriter(folder, spec()) as writer:
        for seed, rows in enumerate(publications):
            items = [item for item, _ in rows]
            writer.add_root("/media")
            writer.journal(result(writer, items, at_angle([cosine for _, cosine in rows], seed)))
            writer.publish()
    return opened(folder)


def opened(folder: Path) -> IndexState:
    return IndexState(folder, read_manifest(folder), "cpu")


def ask(state: IndexState, text: str, **settings: object) -> Answer:
    return search(state, replace(Query(text=text), **settings), DIRECTION, NONE, None)  # type: ignore[arg-type]


def names(hits: Sequence[Hit]) -> list[str]:
    return [hit.item.path.removeprefix("/media/") for hit in hits]


VOCABULARY = ["ada", "bob", "cleo", "dora", "emil", "fritz", "greta", "hugo", "ines", "jana"]


@given(
    captions=st.lists(st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=12), min_size=4, max_size=30),
    wanted=st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=3, unique=True),
    cut=st.integers(1, 29),
)
@settings(max_examples=25, deadline=None)
def test_scores_equal_those_of_naive_counting_in_whatever_pieces(
    tmp_path_factory: pytest.TempPathFactory, captions: list[list[str]], wanted: list[str], cut: int
) -> None:
    """BM25 by its formula, over all pieces together: a piece of its own must not change a score."""
    folder = tmp_path_factory.mktemp("naive")
    rows = [(caption(f"{n}.jpg", " ".join(words), n), 0.1) for n, words in enumerate(captions)]
    try:
        state = build(folder, *(part for part in (rows[:cut], rows[cut:]) if part))
        living = state.selections.select(Filter(kinds=KINDS))
        hits = find_words(state.lexicon, living, " ".join(wanted), ("text",))
    finally:
        shutil.rmtree(folder)
    documents = {word: sum(word in words for words in captions) for word in wanted}
    telling = {
        word
        for word, count in documents.items()
        if count > 0 and (count <= len(captions) / 2 or 3 >= count < len(captions))
    }
    mean = sum(len(words) for words in captions) / len(captions)
    naive = {}
    for number, words in enumerate(captions):
        if not telling & set(words):
            continue
        counts = Counter(words)
        naive[f"{number}.jpg"] = sum(
            math.log(1 + (len(captions) - documents[word] + 0.5) / (documents[word] + 0.5))
            * counts[word] * 2.2 / (counts[word] + 1.2 * (0.25 + 0.75 * len(words) / mean))
            for word in wanted
        )  # fmt: skip
    assert (hits is None) == (not naive)
    if hits is not None:
        assert sorted(naive.values(), reverse=True) == pytest.approx(hits.scores.tolist(), rel=1e-5)
        assert all(
            rank == 1 + sum(score > own for score in hits.scores.tolist())
            for rank, own in zip(hits.ranks.tolist(), hits.scores.tolist(), strict=True)
        )


@given(st.lists(st.text(max_size=40), min_size=2, max_size=12))
@settings(max_examples=25, deadline=None)
def test_a_term_is_found_in_just_the_rows_that_have_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("terms")
    try:
        state = build(folder, [(caption(f"{n}.jpg", text, n), 0.1) for n, text in enumerate(texts)])
        words = state.lexicon.shards[0]
        every: dict[str, Counter[int]] = {}
        cut = tokens(texts)
        for spans in (cut.parts, cut.compounds, cut.characters, cut.pairs):
            for term, number in spans.terms():
                every.setdefault(term, Counter())[number] += 1
        for term, counts in every.items():
            start, stop = words.postings(*words.term_range(term.encode()))
            assert dict(zip(words.rows[start:stop].tolist(), words.counts[start:stop].tolist(), strict=True)) == counts
        assert words.term_range(b"zzzzz")[0] == words.term_range(b"zzzzz")[1]
        assert words.lengths.tolist() == [sum(c[n] for c in every.values()) for n in range(len(texts))]
    finally:
        shutil.rmtree(folder)


def test_fused_scores_are_those_computed_by_hand() -> None:
    meaning, words = np.array([1, 2, 0, 0]), np.array([0, 3, 1, 1])
    coverage, exact = np.array([0, 0.5, 1, 1], np.float32), np.array([False, False, False, True])
    assert fuse(meaning, words, coverage, exact).tolist() == pytest.approx(
        [1 / 61, 1 / 62 + 2 * 0.5 / 63, 2 / 61, 1 + 2 / 61]
    )
    assert K == 60
    keys, ranks = ranks_of(np.array([7, 7, 3, 9, 3]), most=2)
    assert (keys.tolist(), ranks.tolist()) == ([7, 3], [1, 2])
    assert look_up(np.array([3, 9, 7]), keys, ranks).tolist() == [2, 0, 1]


def test_a_photo_is_found_first_by_its_name_before_fifty_that_look_like_it(tmp_path: Path) -> None:
    rows = [(image(f"trip/IMG_{1000 + n}.jpg"), 0.9 - n / 100) for n in range(50)]
    state = build(tmp_path, [*rows, (image("other/IMG_2034.jpg"), -0.5)])
    for line in ("IMG_2034", "img-2034", "IMG 2034.jpg", "2034"):
        hit, *others = ask(state, line).hits
        assert names([hit]) == ["other/IMG_2034.jpg"]
        assert "words" in hit.matched
        assert hit.first_stage_score == pytest.approx(-0.5, abs=1e-3)
        assert names(others) == [f"trip/IMG_{1000 + n}.jpg" for n in range(9)]
        assert {other.matched for other in others} == {("meaning",)}
        assert hit.score == others[0].score > others[1].score


def test_a_caption_finds_its_image_and_says_by_which_words(tmp_path: Path) -> None:
    state = build(
        tmp_path,
        [(image(f"{n:03d}.jpg"), 0.5 - n / 1000) for n in range(300)],
        [
            (caption("290.jpg", "A scanned boarding pass, LH1234 to Łódź"), 0.0),
            (caption("291.jpg", "a boarding school"), 0.0),
        ],
    )
    hits = ask(state, "boarding pass lh 1234 lodz", k=3).hits
    assert names(hits)[0] == "290.jpg"
    assert hits[0].matched_words == ("boarding", "pass", "lh", "1234", "lodz")
    assert hits[0].item.kind == "image"
    assert hits[0].to_json()["matched"] == ["words"]
    assert hits[0].to_json()["matched_words"] == ["boarding", "pass", "lh", "1234", "lodz"]
    assert names(ask(state, "boarding", match="words").hits) == ["291.jpg", "290.jpg"]


def test_words_of_a_name_and_of_a_caption_count_together(tmp_path: Path) -> None:
    rows = [(image(f"{folder}/{n}.jpg"), 0.1) for folder in ("lisbon", "porto") for n in range(20)]
    texts = [(caption(f"{folder}/3.jpg", "a yellow tram on a hill"), 0.0) for folder in ("lisbon", "porto")]
    state = build(tmp_path, rows, texts)
    hit = ask(state, "tram lisbon", k=1).hits[0]
    assert (names([hit]), hit.matched_words) == (["lisbon/3.jpg"], ("tram", "lisbon"))


def test_common_words_alone_find_nothing_and_leave_everything_as_it_was(tmp_path: Path) -> None:
    rows = [(image(f"{n}.jpg"), 0.5 - n / 100) for n in range(30)]
    texts = [(caption(f"{n}.jpg", f"the picture of a thing {n}"), 0.0) for n in range(30)]
    state = build(tmp_path, [*rows, (image("a.jpg"), -0.9), (image("the one/x.jpg"), -0.9)], texts)
    for line in ("the of a", "the moon", "a unicorn", "…"):
        hits = ask(state, line, k=40).hits
        assert hits == ask(state, line, k=40, match="meaning").hits
        assert {hit.matched for hit in hits} == {("meaning",)}
        assert ask(state, line, match="words").hits == ()


def test_a_few_words_of_many_do_not_outweigh_the_meaning_of_all(tmp_path: Path) -> None:
    rows = [(image(f"{n}.jpg"), 0.5 - n / 1000) for n in range(300)]
    state = build(tmp_path, [*rows, (image("apple export/x.jpg"), -0.9)])
    assert names(ask(state, "a red apple on a wooden kitchen table", k=10).hits) == [f"{n}.jpg" for n in range(10)]


def test_what_is_said_in_a_video_leads_to_its_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the video goes on in another shard."""
    monkeypatch.setattr(shards, "SHARD_ROWS", 15)
    films = [(moment(f"film{n}.mp4", 10.0 * m, 10.0 * m + 10), 0.2 - m / 100) for n in range(4) for m in range(6)]
    cues = [(cue(f"film{n}.mp4", 31.5, f"welcome to valley {'north' if n == 2 else 'south'}"), 0.0) for n in range(4)]
    state = build(tmp_path, films, [*((image(f"{n}.jpg"), 0.6) for n in range(20))], cues)
    hit = ask(state, "valley north", k=3).hits[0]
    assert (names([hit]), hit.item.start, hit.matched_words) == (["film2.mp4"], 30.0, ("valley", "north"))
    assert [row.item.start for row in hit.moments][:3] == [30.0, 0.0, 10.0]
    by_name = ask(state, "film 3", k=1).hits[0]
    assert (names([by_name]), by_name.item.start) == (["film3.mp4"], 0.0)
    single = ask(state, "valley north", k=1, group=False).hits[0]
    assert (names([single]), single.item.start) == (["film2.mp4"], 30.0)


def test_a_search_of_texts_finds_the_texts_themselves(tmp_path: Path) -> None:
    rows = [(image(f"{n}.jpg"), 0.5) for n in range(5)]
    texts = [(caption(f"{n % 5}.jpg", f"number {n} {VOCABULARY[n]}", n), 0.5 - n / 100) for n in range(10)]
    state = build(tmp_path, rows, texts)
    hits = ask(state, "hugo", kind="text").hits
    assert (hits[0].item.text, hits[0].matched_words) == ("number 7 hugo", ("hugo",))
    assert names(ask(state, "hugo").hits)[0] == "2.jpg"


@given(seed=st.integers(0, 10_000), k=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_a_filter_leaves_the_order_as_it_is(mixed: IndexState, seed: int, k: int) -> None:
    chance = np.random.default_rng(seed)
    line = " ".join(chance.choice(VOCABULARY, chance.integers(1, 4)))
    every = ask(mixed, line, k=500).hits
    assert len(every) == 300
    assert [hit.score for hit in every] == sorted((hit.score for hit in every), reverse=True)
    assert names(ask(mixed, line, k=k).hits) == names(every)[:k]
    for kind in ("image", "video"):
        wanted = [hit for hit in every if hit.item.kind == kind]
        assert names(ask(mixed, line, k=k, kind=kind).hits) == names(wanted)[:k]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> IndexState:
    chance = np.random.default_rng(5)
    images = [(image(f"{chance.choice(VOCABULARY)}/{n}.jpg"), float(chance.uniform(-0.5, 0.9))) for n in range(250)]
    films = [(moment(f"film{n // 3}.mp4", n % 3, n % 3 + 1), float(chance.uniform(-0.5, 0.9))) for n in range(150)]
    texts = [
        (caption(item.id, " ".join(chance.choice(VOCABULARY, 5)), n), 0.0) for n, (item, _) in enumerate(images[::3])
    ]
    cues = [(cue(f"film{n}.mp4", 1.5, " ".join(chance.choice(VOCABULARY, 3))), 0.0) for n in range(0, 50, 3)]
    return build(tmp_path_factory.mktemp("mixed"), images[:100], [*images[100:], *films], [*texts, *cues])


def test_negatives_leave_out_what_mentions_them(tmp_path: Path) -> None:
    rows = [(image(f"{n}.jpg"), 0.5 - n / 100) for n in range(12)]
    texts = [(caption("7.jpg", "a lighthouse and people"), 0.0), (caption("8.jpg", "a lighthouse"), 0.0)]
    state = build(tmp_path, rows, texts)
    assert set(names(ask(state, "lighthouse", match="words").hits)) == {"7.jpg", "8.jpg"}
    assert names(ask(state, "lighthouse", match="words", negatives=("the people",)).hits) == ["8.jpg"]


def test_what_looks_like_an_unwanted_image_is_no_hit_by_words(tmp_path: Path) -> None:
    rows = [(image(f"harbour/{n}.jpg"), 0.6) for n in range(3)] + [
        (image(f"{n}.jpg"), n / 100 - 0.3) for n in range(60)
    ]
    state = build(tmp_path, rows)
    unwanted = state.embeddings.take(np.array([0]), np.array([1])).astype(np.float32)
    query = Query(text="harbour", match="words")
    hits = search(state, query, DIRECTION, NONE, None, unwanted).hits
    assert sorted(names(hits)) == ["harbour/0.jpg", "harbour/2.jpg"]


def test_the_beginning_of_the_last_word_finds_while_it_is_typed(tmp_path: Path) -> None:
    rows = [(image(f"{n}.jpg"), 0.5 - n / 100) for n in range(20)]
    state = build(tmp_path, [*rows, (image("lighthouse keeper/x.jpg"), -0.5), (image("lighter/y.jpg"), -0.6)])
    assert set(names(ask(state, "lighth", match="words", prefix=True).hits)) == {"lighthouse keeper/x.jpg"}
    assert len(ask(state, "ligh", match="words", prefix=True).hits) == 2
    assert names(ask(state, "lighthouse ke", match="words", prefix=True).hits)[0] == "lighthouse keeper/x.jpg"
    assert ask(state, "ligh", match="words").hits == ()
    assert ask(state, "ligh ", match="words", prefix=True).hits == ()


def test_what_is_gone_is_not_found_by_its_words(tmp_path: Path) -> None:
    """A tombstone has words until its shard is written anew, and so has a caption whose image is gone."""
    rows = [(image(f"{n}.jpg"), 0.5) for n in range(9)] + [(image("tower.jpg"), 0.1), (image("bridge.jpg"), 0.1)]
    build(tmp_path, rows, [(caption("bridge.jpg", "a viaduct"), 0.0)])
    with IndexWriter(tmp_path) as writer:
        remove_rows(writer, 0, np.array([9, 10]))
        for _ in range(2):
            state = opened(tmp_path)
            for line in ("tower", "bridge", "viaduct"):
                assert ask(state, line, match="words").hits == ()
            writer.compact()


def test_shards_of_an_older_version_get_their_words_at_the_next_run(tmp_path: Path) -> None:
    rows = [(image(f"{n}.jpg"), 0.5) for n in range(9)]
    build(tmp_path, [*rows, (image("tower.jpg"), 0.1)], [(image("bridge.jpg"), 0.1)])
    files = [shard.file for shard in read_manifest(tmp_path).shards]
    made = (tmp_path / words_file(files[0])).read_bytes()
    (tmp_path / words_file(files[0])).unlink()
    answer = ask(opened(tmp_path), "tower")
    assert (answer.unindexed, {hit.matched for hit in answer.hits}) == (10, {("meaning",)})
    assert ask(opened(tmp_path), "tower", match="meaning").unindexed == 0
    with IndexWriter(tmp_path) as writer:
        writer.publish()
    assert (tmp_path / words_file(files[0])).read_bytes() == made
    answer = ask(opened(tmp_path), "tower", k=1)
    assert (answer.unindexed, names(answer.hits)) == (0, ["tower.jpg"])


def test_damaged_words_say_what_mends_them_and_it_does(tmp_path: Path) -> None:
    build(tmp_path, [(image(f"{n}.jpg"), 0.5) for n in range(9)])
    file = tmp_path / words_file(read_manifest(tmp_path).shards[0].file)
    made = file.read_bytes()
    for damage in (made[:-3], made[:20], b"", b"X" + made[1:]):
        file.write_bytes(damage)
        with pytest.raises(FormatError, match="--rebuild-vectors"):
            ask(opened(tmp_path), "tower")
    with IndexWriter(tmp_path) as writer:
        writer.rebuild_vectors()
    assert file.read_bytes() == made
    assert len(ask(opened(tmp_path), "tower").hits) == 9


def test_a_way_of_matching_that_is_none_is_refused() -> None:
    with pytest.raises(QueryError, match="auto, meaning, words"):
        Query(text="x", match="magic")  # type: ignore[arg-type]


def test_ten_thousand_words_are_a_query_like_any_other(mixed: IndexState) -> None:
    assert ask(mixed, " ".join(f"{word}{n}" for n in range(1000) for word in VOCABULARY), k=5).hits

"""The engine: against brute force, over real indexes, with the embedded model for real queries."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

import mmsearch
from indexer.build import IndexBuild
from indexer.config import BuildConfig
from media.image import decode_image
from retrieval.engine import Engine
from retrieval.errors import IndexNotFoundError, MmsearchError, ModelError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.models.query_encoder import NEGATIVE_WEIGHT
from retrieval.store import vector_files as vec
from retrieval.store.manifest import read_manifest, write_manifest
from retrieval.store.shards import ShardReader
from retrieval.types import Query
from tests.conftest import write_photos


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    """Forty pictures and some captions, indexed by the embedded model."""
    folder = tmp_path_factory.mktemp("media")
    write_photos(folder, 40)
    lines = "".join(
        f"photo{n:04d}.jpg,a picture of {word}\n" for n, word in enumerate(["dogs", "snow", "a car", "people"])
    )
    (folder / "captions.csv").write_text("path,caption\n" + lines)
    build = IndexBuild([folder], folder / ".mmsearch", cast(Encoder, mini), BuildConfig())
    for _ in build:
        pass
    return folder


def stored(folder: Path, kind: str) -> tuple[list[str], np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    reader = ShardReader(folder / ".mmsearch", read_manifest(folder / ".mmsearch"))
    shards, places = reader.living()
    found = reader.items(shards, places)
    rows = reader.embeddings(shards, places).astype(np.float32)
    keep = [number for number, item in enumerate(found) if item.kind == kind]
    return [found[number].id for number in keep], rows[keep]


def picture_of(folder: Path, number: int) -> Image.Image:
    return decode_image((folder / f"photo{number:04d}.jpg").read_bytes(), 256).rgb


def test_a_text_query_equals_brute_force_and_repeats_exactly(media: Path) -> None:
    ids, rows = stored(media, "image")
    with Engine.open(media) as engine:
        query = Query(text="a dog in the snow", k=15, match="meaning")
        direction = engine.embed(query)
        hits = engine.search(query)
        assert engine.search(query) == hits
    wanted = np.lexsort((np.arange(len(rows)), -(rows @ direction)))[:15]
    assert [hit.item.id for hit in hits] == [ids[n] for n in wanted]
    assert [hit.rank for hit in hits] == list(range(1, 16))
    assert np.allclose([hit.score for hit in hits], (rows @ direction)[wanted], atol=2e-6)
    with Engine.open(media / ".mmsearch") as again:
        assert again.search(query) == hits


def test_a_picture_finds_itself_and_its_captions(media: Path, mini: object) -> None:
    with Engine.open(media) as engine:
        hits = engine.search(Query(images=(picture_of(media, 7),), k=3))
        assert Path(hits[0].item.path).name == "photo0007.jpg"
        assert hits[0].score > 0.999
        texts = engine.search(Query(images=(picture_of(media, 7),), kind="text", k=4))
    assert [hit.item.kind for hit in texts] == ["text"] * 4
    direction = cast(Encoder, mini).encode_images([picture_of(media, 7)])[0]
    ids, rows = stored(media, "text")
    assert [hit.item.id for hit in texts] == [ids[n] for n in np.lexsort((np.arange(4), -(rows @ direction)))]


def test_words_pictures_and_negatives_add_up(media: Path, mini: object) -> None:
    encoder = cast(Encoder, mini)
    words = encoder.encode_texts(["at night", "people"])
    image = encoder.encode_images([picture_of(media, 3)])[0]
    wanted = words[0] + image - NEGATIVE_WEIGHT * words[1]
    with Engine.open(media) as engine:
        direction = engine.embed(Query(text="at night", images=(picture_of(media, 3),), negatives=("people",)))
    assert float(direction @ wanted / np.linalg.norm(wanted)) > 0.998


def test_without_a_kind_captions_do_not_crowd_out_pictures(media: Path) -> None:
    with Engine.open(media) as engine:
        assert {hit.item.kind for hit in engine.search(Query(text="a picture of dogs", k=10))} == {"image"}
        texts = engine.search(Query(text="a picture of dogs", kind="text", k=1))
        assert texts[0].item.text == "a picture of dogs"
        assert Path(texts[0].item.path).name == "photo0000.jpg"
        assert engine.search(Query(text="a dog", kind="video")) == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (Query(), "empty"),
        (Query(text="   "), "empty"),
        (Query(negatives=("x",)), "empty"),
        (Query(text="x", negatives=("",)), "empty"),
    ],
)
def test_a_query_without_sense_is_refused(media: Path, query: Query, reason: str) -> None:
    with Engine.open(media) as engine, pytest.raises(QueryError, match=reason):
        engine.search(query)


def test_a_query_of_ten_thousand_words_is_answered(media: Path) -> None:
    with Engine.open(media) as engine:
        assert len(engine.search(Query(text="dog " * 10_000, k=3))) == 3


def test_an_approximate_index_gives_exact_scores(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.store.writer import IndexWriter

    query = Query(text="a red car", k=10)
    with Engine.open(media) as engine:
        exact = engine.search(query)
    monkeypatch.setattr(vec, "EXACT_WORK", 1000)
    with IndexWriter(media / ".mmsearch") as writer:
        writer.rebuild_vectors()
    with Engine.open(media) as engine:
        assert "ivf" in str(engine.status()["vector_index"])
        approximate = engine.search(query)
    scores = {hit.item.id: hit.score for hit in exact}
    assert sum(hit.item.id in scores for hit in approximate) >= 9
    for hit in approximate:
        assert hit.score == pytest.approx(scores.get(hit.item.id, hit.score), abs=2e-6)
    monkeypatch.undo()
    with IndexWriter(media / ".mmsearch") as writer:
        writer.rebuild_vectors()


def test_a_reader_keeps_its_state_while_the_index_changes(tmp_path: Path, mini: object) -> None:
    from retrieval.store.writer import IndexWriter

    write_photos(tmp_path, 8)

    def build() -> None:
        for _ in IndexBuild([tmp_path], tmp_path / ".mmsearch", cast(Encoder, mini), BuildConfig()):
            pass

    build()
    query = Query(text="anything", k=20)
    with Engine.open(tmp_path) as engine:
        for file in list(tmp_path.glob("*.jpg"))[:5]:
            file.unlink()
        build()
        with IndexWriter(tmp_path / ".mmsearch") as writer:
            writer.compact()
        assert len(engine.search(query)) == 8
        with Engine.open(tmp_path) as later:
            assert len(later.search(query)) == 3


def test_an_index_whose_weights_changed_is_refused_with_both_hashes(tmp_path: Path, mini: object) -> None:
    from dataclasses import replace

    write_photos(tmp_path, 2)
    for _ in IndexBuild([tmp_path], tmp_path / ".mmsearch", cast(Encoder, mini), BuildConfig()):
        pass
    state = read_manifest(tmp_path / ".mmsearch")
    write_manifest(tmp_path / ".mmsearch", replace(state, model=replace(state.model, weights_sha256="ab" * 32)))
    with Engine.open(tmp_path) as engine, pytest.raises(ModelError) as caught:
        engine.search(Query(text="x"))
    assert "abababababab" in str(caught.value)
    assert state.model.weights_sha256[:12] in str(caught.value)


def test_the_public_module_does_the_same(media: Path, tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    report = mmsearch.index(str(tmp_path), model="mini")
    assert (report.indexed, report.items) == (3, 3)
    with mmsearch.open(tmp_path) as engine:
        with pytest.raises(QueryError, match=r"Query, not 'a dog'.*Query\.parse"):
            engine.search("a dog")  # type: ignore[arg-type]
        with pytest.raises(MmsearchError, match=r"nowhere\.jpg: No such file"):
            mmsearch.open_image("nowhere.jpg")
        hits = engine.search(mmsearch.Query(images=mmsearch.open_image(tmp_path / "photo0001.jpg"), k=1))  # type: ignore[arg-type]
    assert Path(hits[0].item.path).name == "photo0001.jpg"
    with pytest.raises(IndexNotFoundError):
        mmsearch.open(tmp_path / "nowhere")


@pytest.mark.parametrize("words", ["asdkjh qwpoei", "xqzvw", "lkjhgf bvcxz"])
def test_keys_struck_at_random_are_relevant_to_nothing(media: Path, words: str) -> None:
    with Engine.open(media) as engine:
        answer = engine.answer(Query(text=words, k=5))
        assert [round(hit.relevance or 0, 3) for hit in answer.hits] == [0.0] * 5
        assert any("knows none of these words" in note for note in answer.notes)
        assert engine.search(Query(text=words, min_relevance=0.1)) == []


@pytest.mark.parametrize(
    "words", ["a dog", "espresso", "cathedral", "golden retriever", "xqzvw dog", "1998", "no", "?"]
)
def test_words_that_a_model_may_know_are_judged(media: Path, words: str) -> None:
    with Engine.open(media) as engine:
        assert not any("knows none" in note for note in engine.answer(Query(text=words)).notes)

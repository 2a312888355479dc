"""Re-ranking: its scores against the formula by hand, and what happens to candidates that cannot be read."""

from __future__ import annotations

import io
import json
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from PIL.Image import Image

import mmsearch
from benchmarks.samples import copy_samples
from media.reader import ImageReader
from media.types import Place
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.crossmodal.rerank import Reranked, Reranker, RerankFusion, TokenCache
from retrieval.errors import MediaError, ModelError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.models.loading import LoadedModel
from retrieval.ranking.fitted import Fitted
from retrieval.types import Query, Rerank
from tests.cocas import conv_coca, loaded_coca, open_coca
from tests.conftest import Command, picture, write_photos
from tests.stores import items

FUSION = RerankFusion(fitted=Fitted(weight=0.3, text_weight=0.2, null_share=0.7))


@pytest.fixture(scope="module", params=[conv_coca, open_coca])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return loaded_coca(request.param)


class Seeded:
    """The image of each of `items`, by the number in its path; those in `gone` are not there."""

    def __init__(self, gone: frozenset[int] = frozenset(), seconds: float = 0.0) -> None:
        self.gone, self.seconds = gone, seconds
        self.opened: list[str] = []

    def image(self, place: Place) -> Image:
        self.opened.append(place.path)
        time.sleep(self.seconds)
        number = int(place.path.removeprefix("/media/image"))
        if number in self.gone:
            raise MediaError("read", "No such file or directory")
        return picture(number, 48, 40)


seeded = Seeded()


def cosines(count: int) -> NDArray[np.float32]:
    return np.asarray(0.9 - np.arange(count) / 100, np.float32)


def by_text(
    reranker: Reranker, text: str, count: int, images: Seeded | None = None, milliseconds: float | None = None
) -> Reranked:
    """The first so many images read again."""
    return reranker.by_text(text, items(count), cosines(count), images or seeded, milliseconds)


def by_hand(loaded: LoadedModel, text: str, image: Image | None) -> float:
    """Mean log-probability of a text's tokens and its end, token by token, with the model's own modules."""
    ids = loaded.tokenizer.encode([text])[0]
    length = int((ids != 0).sum())
    pixels = torch.zeros(1, 3, 32, 32) if image is None else loaded.preprocess(image)[None]
    with torch.inference_mode():
        tokens = loaded.model._encode_image(pixels)[1]
        states = loaded.model._encode_text(torch.from_numpy(ids)[None])[1]
        logits = loaded.model.text_decoder(tokens, states[:, :-1]).float().log_softmax(-1)[0]
    return sum(float(logits[at - 1, ids[at]]) for at in range(1, length)) / (length - 1)


def test_scores_are_those_of_the_formula(loaded: LoadedModel) -> None:
    done = by_text(Reranker(loaded, FUSION), "a dog runs", 5)
    assert (done.unreadable, done.out_of_time, done.text_cut) == ((), False, False)
    prior = by_hand(loaded, "a dog runs", None)
    for number, item in enumerate(items(5)):
        second = by_hand(loaded, "a dog runs", seeded.image(item.image_place)) - prior
        assert done.second[number] == pytest.approx(second, abs=1e-4)
        assert done.fused[number] == pytest.approx(cosines(5)[number] + 0.3 * second, abs=1e-4)


def test_a_score_does_not_depend_on_the_other_candidates(loaded: LoadedModel) -> None:
    reranker = Reranker(loaded, FUSION)
    together = by_text(reranker, "two children", 20).fused
    for number in range(0, 20, 6):
        one = slice(number, number + 1)
        alone = reranker.by_text("two children", items(20)[one], cosines(20)[one], seeded)
        assert alone.fused[0] == pytest.approx(together[number], abs=1e-4)


def test_a_padding_id_inside_a_text_does_not_cut_it(loaded: LoadedModel) -> None:
    """Id 0 is CLIP's padding and its exclamation mark: what follows one still counts."""
    decoder = CaptionDecoder(loaded)
    tokens = decoder.image_tokens(torch.stack([loaded.preprocess(picture(3, 48, 40))]))
    ids = torch.from_numpy(loaded.tokenizer.encode(["a dog runs"]))
    inside = ids.clone()
    inside[0, 2] = 0
    real = inside[:, 1:] != 0
    with torch.inference_mode():
        states = loaded.model._encode_text(inside)[1][:, :-1]
        scores = loaded.model.text_decoder(tokens, states).float().log_softmax(-1)
    wanted = (scores.gather(-1, inside[:, 1:, None])[..., 0] * real).sum() / real.sum()
    assert float(decoder.log_probabilities(tokens, inside)[0]) == pytest.approx(float(wanted), abs=1e-4)


def test_texts_are_ordered_by_a_picture(loaded: LoadedModel) -> None:
    texts = ["a dog runs on the grass", "two children play", "snow", "a man rides a red bike past a wall"]
    found = [replace(item, text=text) for item, text in zip(items(4, "text"), texts, strict=True)]
    images = [picture(1, 48, 40), picture(2, 48, 40)]
    done = Reranker(loaded, FUSION).by_images(images, found, cosines(4))
    for number, text in enumerate(texts):
        likely = (by_hand(loaded, text, images[0]) + by_hand(loaded, text, images[1])) / 2
        second = likely - 0.7 * by_hand(loaded, text, None)
        assert done.second[number] == pytest.approx(second, abs=1e-4)
        assert done.fused[number] == pytest.approx(cosines(4)[number] + 0.2 * second, abs=1e-4)


def test_a_vanished_candidate_keeps_its_score_and_is_named(loaded: LoadedModel) -> None:
    done = by_text(Reranker(loaded, FUSION), "a dog", 4, Seeded(gone=frozenset((1,))))
    assert done.fused[1] == cosines(4)[1]
    assert np.isnan(done.second).tolist() == [False, True, False, False]
    assert done.unreadable == (("/media/image1", "No such file or directory"),)


def test_a_score_that_is_no_number_never_reaches_a_user() -> None:
    loaded = loaded_coca(conv_coca)
    with torch.no_grad():
        loaded.model.text_decoder.text_projection.fill_(torch.nan)
    done = by_text(Reranker(loaded, FUSION), "a dog", 3)
    assert np.isnan(done.second).all()
    assert np.array_equal(done.fused, cosines(3))


def test_the_budget_stops_after_the_part_in_hand(loaded: LoadedModel) -> None:
    slow = Seeded(seconds=0.005)
    done = by_text(Reranker(loaded, FUSION), "a dog", 60, slow, milliseconds=0.001)
    assert (np.isfinite(done.second).sum(), done.out_of_time) == (16, True)
    assert np.array_equal(done.fused[16:], cosines(60)[16:])
    assert len(slow.opened) < 60
    whole = by_text(Reranker(loaded, FUSION), "a dog", 60, slow, milliseconds=60_000)
    assert (np.isfinite(whole.second).sum(), whole.out_of_time) == (60, False)


def test_a_text_longer_than_the_model_reads_is_cut_and_told(loaded: LoadedModel) -> None:
    reranker = Reranker(loaded, FUSION)
    done = by_text(reranker, "dog " * 100, 2)
    assert done.text_cut
    assert np.isfinite(done.fused).all()
    with pytest.raises(QueryError, match="needs words"):
        by_text(reranker, "  ", 2)


def test_image_tokens_are_computed_once_and_a_damaged_file_costs_only_time(loaded: LoadedModel, tmp_path: Path) -> None:
    counted = Seeded()
    first = by_text(Reranker(loaded, FUSION, tmp_path), "a dog", 6, counted)
    again = by_text(Reranker(loaded, FUSION, tmp_path), "a dog", 6, counted)
    assert len(counted.opened) == 6
    assert np.allclose(again.fused, first.fused, atol=5e-3)
    next(file for file in tmp_path.rglob("*") if file.is_file()).write_bytes(b"damaged")
    by_text(Reranker(loaded, FUSION, tmp_path), "a dog", 6, counted)
    assert len(counted.opened) == 7


def test_the_cache_has_a_bound_and_gives_back_what_it_keeps(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path, limit=5000)
    for number in range(20):
        cache.put(f"{number:064d}", torch.full((10, 50), float(number)))
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 5000
    kept = cache.get(f"{19:064d}")
    assert kept is not None and float(kept.float().mean()) == 19.0
    assert cache.get("") is None


def test_a_cache_that_cannot_be_written_is_no_failure(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert np.isfinite(by_text(Reranker(loaded, FUSION, tmp_path / "file"), "a dog", 2).second).all()


def test_pictures_are_read_from_files_tars_and_tables(tmp_path: Path) -> None:
    file = write_photos(tmp_path, 1)[0]
    data = io.BytesIO()
    picture(9).save(data, "PNG")
    with tarfile.open(tmp_path / "set.tar", "w") as out:
        for name, content in (("a/1.png", data.getvalue()), ("a/2.jpg", file.read_bytes())):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    table = pa.table({"image_id": ["x", "y"], "image": [data.getvalue(), file.read_bytes()]})
    pq.write_table(table, tmp_path / "set.parquet", row_group_size=1)
    reader = ImageReader(32)
    assert reader.read(str(file)) == file.read_bytes()
    assert reader.read(f"{tmp_path}/set.tar::a/1.png") == data.getvalue()
    assert reader.read(f"{tmp_path}/set.tar::a/2.jpg") == file.read_bytes()
    assert reader.read(f"{tmp_path}/set.parquet::y") == file.read_bytes()
    item = replace(items(1)[0], path=f"{tmp_path}/set.parquet::x")
    assert reader.image(item.image_place).size == (64, 48)
    for path in ("set.tar::a/3.png", "set.parquet::z", "gone.tar::a", "gone.jpg", "set.zip::a"):
        with pytest.raises(MediaError):
            reader.read(f"{tmp_path}/{path}")


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_photos(folder, 30)
    (folder / "captions.csv").write_text("path,caption\nphoto0000.jpg,a dog runs\nphoto0001.jpg,two men\n")
    mmsearch.index([folder], model="mini", device="cpu", precision="fp32")
    return folder


def test_a_search_re_ranks_by_words_and_by_a_picture(media: Path) -> None:
    with mmsearch.open(media, device="cpu") as engine:
        plain = engine.search(Query(text="a dog in the snow", k=30))
        done = engine.search(Query(text="a dog in the snow", k=5, rerank=Rerank(candidates=12)))
        whole = engine.answer(Query(text="a dog in the snow", k=30, rerank=Rerank(candidates=12)))
        photo = mmsearch.open_image(media / "photo0003.jpg")
        texts = engine.search(Query(images=(photo,), kind="text", rerank=Rerank()))
        with pytest.raises(QueryError, match="neither"):
            engine.search(Query(images=(photo,), rerank=Rerank()))
        with pytest.raises(QueryError, match="candidates must be"):
            Rerank(candidates=0)
        with pytest.raises(ModelError, match="has no decoder"):
            folder = Path(mmsearch.__file__).parent
            engine.search(
                Query(
                    text="a dog", rerank=Rerank(reranker=f"ViT-B-32@{folder}/retrieval/models/mini/model.safetensors")
                )
            )
    assert len(done) == 5
    assert {hit.item.id for hit in done} <= {hit.item.id for hit in plain[:12]}
    assert all(hit.rerank_score is not None for hit in done)
    assert whole.seen == 12
    assert [hit.item.id for hit in whole.hits[12:]] == [hit.item.id for hit in plain[12:]]
    assert [hit.rerank_score is not None for hit in texts] == [True, True]


def test_the_command_re_ranks_and_tells_what_it_could_not_read(tmp_path: Path, mini: object, command: Command) -> None:
    # ImageSource that no other test re-ranked: those would be in the cache, and could be read after they are gone.
    media = tmp_path / "unseen"
    write_photos(media, 30, start=700)
    mmsearch.index([media], model="mini", device="cpu", precision="fp32")
    (media / "photo0729.jpg").rename(media / "away.jpg")
    done = command("search", "a dog", "--rerank", "--candidates", "30", "-k", "30", "--index", str(media), "--json")
    (media / "away.jpg").rename(media / "photo0729.jpg")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 30
    assert [hit["path"] for hit in found if hit["rerank_score"] is None] == [str(media / "photo0729.jpg")]
    assert "not re-ranked" in done.stderr and "photo0729.jpg" in done.stderr
    assert [hit["score"] for hit in found] == sorted((hit["score"] for hit in found), reverse=True)
    short = command("search", "a dog", "--rerank", "--rerank-ms", "0.01", "--index", str(media))
    assert "re-ranked 16 candidates" in short.stderr
    wrong = command("search", "--image", str(media / "photo0701.jpg"), "--rerank", "--index", str(media))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: re-ranking orders images by words")


def test_minis_captions_are_likelier_for_their_pictures_than_for_a_plain_one(mini: Encoder, tmp_path: Path) -> None:
    """What the shipped decoder says comes from the picture, not only from what captions are like."""
    copy_samples(tmp_path)
    loaded = mini.loaded
    decoder = CaptionDecoder(loaded)
    photos = [
        ImageReader(192).image(replace(items(1)[0], path=str(tmp_path / name)).image_place)
        for name in ("chelsea.png", "rocket.jpg", "coffee.png")
    ]
    for photo, caption in zip(photos, decoder.describe(photos), strict=True):
        ids = torch.from_numpy(loaded.tokenizer.encode([caption.text]))
        both = torch.stack([loaded.preprocess(photo), torch.zeros(3, loaded.spec.image_size, loaded.spec.image_size)])
        seen, plain = decoder.log_probabilities(decoder.image_tokens(both), ids).tolist()
        assert seen > plain

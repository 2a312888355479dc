"""`bench recall`: the real command over tables and folders, and what does not fit told instead of miscounted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL.Image import Image

from benchmarks.datasets import from_container, from_folder
from benchmarks.metrics import recall_both_ways
from benchmarks.recall import measure_recall
from media.types import Place
from retrieval.crossmodal.rerank import Reranker, RerankFusion
from retrieval.errors import MmsearchError
from retrieval.models.encoder import Encoder
from retrieval.models.weights import resolve
from tests.conftest import Command, picture, write_photos
from tests.stores import items

KEYS = "model images texts rerank text_to_image image_to_text seconds fusion index confidence_95"
WORDS = ["a dog runs", "two men on a bench", "snow on a hill", "a boy in a red shirt", "the beach", "a brown dog jumps"]


class Shown:
    """Images of `items`, by the number in the path."""

    def __init__(self, photos: list[Image]) -> None:
        self._photos = photos

    def image(self, place: Place) -> Image:
        return self._photos[int(place.path.removeprefix("/media/image"))]


def encoded(seed: int) -> bytes:
    out = io.BytesIO()
    picture(seed, 80, 60).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = {
        "image_id": [str(n) for n in range(6)],
        "image": [encoded(n) for n in range(6)],
        "captions": [[word, f"{word} again"] for word in WORDS],
    }
    pq.write_table(pa.table(rows), tmp_path / "set.parquet")
    return tmp_path / "set.parquet"


def test_a_table_is_measured_as_its_embeddings_say(table: Path, mini: Encoder) -> None:
    report = measure_recall(from_container(table), resolve("mini"), mini, [None])[0]
    images = mini.encode_images([picture(n, 80, 60) for n in range(6)])
    texts = mini.encode_texts([text for word in WORDS for text in (word, f"{word} again")])
    to_image, to_text = recall_both_ways(images, texts, np.repeat(np.arange(6), 2))
    assert (report.text_to_image.recall(), report.image_to_text.recall()) == (to_image, to_text)
    assert (report.images, report.texts) == (6, 12)


def test_re_ranked_ranks_are_those_that_a_search_gives(table: Path, mini: Encoder) -> None:
    plain, again = measure_recall(from_container(table), resolve("mini"), mini, [None, "weighted"])
    assert (plain.to_json()["rerank"], again.to_json()["rerank"]) == (False, True)
    photos = [picture(n, 80, 60) for n in range(6)]
    rows = mini.encode_images(photos)
    reranker = Reranker(mini.loaded, RerankFusion.of(resolve("mini").folder))
    ranks = []
    for text, own in [(text, n) for n, word in enumerate(WORDS) for text in (word, f"{word} again")]:
        cosines = rows @ mini.encode_texts([text])[0]
        order = np.argsort(-cosines)
        done = reranker.by_text(text, [items(6)[n] for n in order], cosines[order], Shown(photos))
        ranks.append(int(np.flatnonzero(order[np.argsort(-done.fused, kind="stable")] == own)[0]) + 1)
    assert again.text_to_image.first.tolist() == ranks


def test_the_command_prints_the_contracts_object(table: Path, command: Command) -> None:
    done = command("bench", "recall", "--parquet", str(table), "--model", "mini", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert " ".join(value) == KEYS
    assert list(value["text_to_image"]) == ["R@1", "R@5", "R@10", "median_rank", "mAP@10"]
    assert (value["images"], value["texts"], value["rerank"]) == (6, 12, False)
    again = command("bench", "recall", "--parquet", str(table), "--model", "mini", "--rerank", "--json")
    assert json.loads(again.stdout)["rerank"] is True
    shown = command("bench", "recall", "--parquet", str(table), "--model", "mini", "--rerank")
    assert len(shown.stdout.strip().splitlines()) == 5
    assert "6 pictures are few" in shown.stderr


def test_a_folder_with_gaps_counts_them(tmp_path: Path, command: Command, mini: object) -> None:
    write_photos(tmp_path / "p", 3)
    lines = ["path,caption", "photo0000.jpg,a dog", "photo0000.jpg,a dog", "photo0001.jpg,a cat", "gone.jpg,x"]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    done = command("bench", "recall", "--images", "p", "--captions", "c.csv", "--model", "mini", "--json")
    value = json.loads(done.stdout)
    assert (value["images"], value["texts"]) == (2, 2)
    assert "1 picture(s) that are not there, the first is gone.jpg" in done.stderr
    assert "1 caption(s) that repeat" in done.stderr


def test_what_cannot_be_measured_is_an_error(tmp_path: Path, table: Path, command: Command) -> None:
    captions = pa.array([[]], pa.list_(pa.string()))
    pq.write_table(
        pa.table({"image_id": ["a"], "image": [encoded(1)], "captions": captions}), tmp_path / "bare.parquet"
    )
    with pytest.raises(MmsearchError, match="no picture with a caption"):
        from_container(tmp_path / "bare.parquet")
    twice = pa.concat_tables([pq.read_table(table), pq.read_table(table)])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(MmsearchError, match="6 image"):
        from_container(tmp_path / "twice.parquet")
    with pytest.raises(MmsearchError, match="no such folder"):
        from_folder(tmp_path / "none", tmp_path / "c.csv")
    assert command("bench", "recall").returncode == 2
    assert command("bench", "recall", "--parquet", "x", "--images", "y").returncode == 2
    gone = command("bench", "recall", "--parquet", "gone.parquet")
    assert gone.returncode == 1 and "no such file" in gone.stderr


def test_words_find_by_what_other_captions_say_and_cost_nothing_where_there_are_none(
    tmp_path: Path, command: Command, mini: object
) -> None:
    files = write_photos(tmp_path, 12)
    names = (
        "anvil",
        "bassoon",
        "cactus",
        "dynamo",
        "easel",
        "ferret",
        "gazebo",
        "harp",
        "igloo",
        "jackal",
        "kiln",
        "lute",
    )
    rows = [
        f"{file.name},{text} {name}" for file, name in zip(files, names, strict=True) for text in ("the", "one more")
    ]
    (tmp_path / "captions.csv").write_text("\n".join(["path,caption", *rows, ""]))
    done = command(
        "bench", "recall", "--images", ".", "--captions", "captions.csv", "--model", "mini", "--json",
        "--match", "words", "--match", "auto", "--match", "meaning",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reports = {
        (value["match"], value["captions_indexed"]): value for value in map(json.loads, done.stdout.splitlines())
    }
    assert len(reports) == 6
    recall = {key: value["text_to_image"]["R@1"] for key, value in reports.items()}
    assert recall["words", True] == recall["auto", True] == 1
    assert recall["words", False] == 0
    assert recall["auto", False] == recall["meaning", False] == recall["meaning", True]

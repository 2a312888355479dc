"""Every benchmark by its command or its function: data sets of each form, what an index costs, speed, reports, comparison."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from benchmarks.ann import Workload, choose, measure_ann, of_index, synthetic
from benchmarks.compare import compare, read_measurements
from benchmarks.datasets import CaptionSet, from_container, from_folder
from benchmarks.encoded import encode_set, second_stage
from benchmarks.filters import measure as measure_filters
from benchmarks.made_up import CLIP, MINI, MadeUp, fit
from benchmarks.recall import measure_recall
from benchmarks.relevance import measure as measure_relevance
from benchmarks.samples import copy_samples
from benchmarks.shots import measure_shots
from retrieval.crossmodal.decoder import CaptionDecoder
from retrieval.engine import Engine
from retrieval.errors import MmsearchError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.models.weights import resolve
from retrieval.ranking.relevance import Calibration
from retrieval.store.manifest import VectorPolicy, read_manifest
from retrieval.store.writer import IndexWriter
from retrieval.types import Query
from tests.conftest import Command, write_photos
from tests.stores import items, result, unit_rows

FLOOR = Path(__file__).parents[1] / "benchmarks" / "floor.json"
WORDS = ["a dog runs", "two men on a bench", "snow on a hill", "a boy in a red shirt", "the beach", "a brown dog jumps"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder, 6)
    lines = [f"photo{n:04d}.jpg,{word}" for n, word in enumerate(WORDS)]
    (folder / "captions.csv").write_text("path,caption\n" + "\n".join(lines) + "\n")
    return folder


def karpathy(splits: list[str]) -> dict[str, object]:
    pictures = [
        {"filename": f"photo{n:04d}.jpg", "filepath": "val2014", "split": split,
         "sentences": [{"raw": WORDS[n]}, {"raw": f"{WORDS[n]} ."}]}
        for n, split in enumerate(splits)
    ]  # fmt: skip
    return {"images": pictures, "dataset": "x"}


def test_karpathys_json_gives_one_split(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "dataset_x.json"
    file.write_text(json.dumps(karpathy(["train", "test", "test", "val", "test", "train"])))
    data = from_folder(photos, file)
    assert [Path(path).name for path in data.paths] == ["photo0001.jpg", "photo0002.jpg", "photo0004.jpg"]
    assert data.captions[0] == (WORDS[1], f"{WORDS[1]} .")
    assert len(from_folder(photos, file, "train").paths) == 2
    with pytest.raises(MmsearchError, match="no split 'dev'; it has test, train, val"):
        from_folder(photos, file, "dev")


def test_cocos_json_counts_what_is_missing(photos: Path, tmp_path: Path) -> None:
    value = {
        "images": [{"id": n, "file_name": f"photo{n:04d}.jpg"} for n in range(6)]
        + [{"id": 9, "file_name": "gone.jpg"}],
        "annotations": [{"image_id": n, "caption": WORDS[n]} for n in range(5)] + [{"image_id": 9, "caption": "lost"}],
    }
    file = tmp_path / "captions_val.json"
    file.write_text(json.dumps(value))
    data = from_folder(photos, file)
    assert len(data.paths) == 5 and "1 picture(s) that are not there, the first is gone.jpg" in data.notes[0]
    with pytest.raises(MmsearchError, match="has no splits"):
        from_folder(photos, file, "val")
    file.write_text('{"images": [{"x": 1}]}')
    with pytest.raises(MmsearchError, match="neither Karpathy's nor COCO's"):
        from_folder(photos, file)


def test_a_webdataset_is_a_set(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as out:
        for number, word in enumerate(WORDS):
            for suffix, content in (
                (".jpg", (photos / f"photo{number:04d}.jpg").read_bytes()),
                (".txt", word.encode()),
            ):
                member = tarfile.TarInfo(f"{number:04d}{suffix}")
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    data = from_container(tmp_path / "set.tar")
    assert [many[0] for many in data.captions] == WORDS
    assert [one.size for one in data.images(64)] == [one.size for one in from_csv(photos).images(64)]


def from_csv(photos: Path) -> CaptionSet:
    return from_folder(photos, photos / "captions.csv")


def test_a_part_is_a_slice_and_an_empty_one_an_error(photos: Path) -> None:
    data = from_csv(photos)
    assert data.part(2, 4).captions == data.captions[2:4]
    with pytest.raises(MmsearchError, match="holds no caption"):
        data.part(6, None)


def test_an_encoded_set_is_read_back_by_content_and_model(photos: Path, tmp_path: Path, mini: Encoder) -> None:
    data = from_csv(photos)
    first = encode_set(data, mini, None, tmp_path)
    files = set(tmp_path.iterdir())
    told: list[int] = []
    again = encode_set(data, mini, None, tmp_path, told.append)
    assert (first.images == again.images).all() and (first.texts == again.texts).all()
    assert told == [6], "nothing was encoded anew"
    with_reader = encode_set(data, mini, CaptionDecoder(mini.loaded), tmp_path)
    assert len(with_reader.tokens) == 6 and set(tmp_path.iterdir()) > files
    next(iter(files)).write_bytes(b"damaged")
    assert (encode_set(data, mini, None, tmp_path).images == first.images).all()
    other = replace(data, captions=(*data.captions[:-1], ("another text",)))
    assert (encode_set(other, mini, None, tmp_path).texts[-1] != first.texts[-1]).any()


def test_second_scores_are_the_decoders(photos: Path, mini: Encoder) -> None:
    decoder = CaptionDecoder(mini.loaded)
    data = encode_set(from_csv(photos), mini, decoder)
    to_image, to_text = second_stage(data, mini, decoder)
    assert to_image.right.sum() == to_text.right.sum() == 6
    row, column = 2, 3
    image = int(to_image.answers[row, column])
    alone = decoder.log_probabilities(data.tokens[image : image + 1], data.ids[row : row + 1])
    assert to_image.likely[row, column] == pytest.approx(float(alone[0]), abs=1e-4)
    assert to_image.cosine[row, column] == pytest.approx(float(data.texts[row] @ data.images[image]), abs=1e-5)


def test_every_fusion_is_measured_and_the_worst_are_told(photos: Path, mini: Encoder) -> None:
    reports = measure_recall(from_csv(photos), resolve("mini"), mini, [None, "weighted", "attention", "concat"])
    assert [report.fusion for report in reports] == [None, "weighted", "attention", "concat"]
    plain = reports[0]
    assert [miss.rank for miss in plain.misses] == sorted((r for r in plain.text_to_image.first if r > 1), reverse=True)
    for miss in plain.misses:
        assert WORDS[miss.right] == miss.text and miss.top != miss.right


def test_a_real_index_answers_as_exact_scores_do(photos: Path, mini: Encoder) -> None:
    plain, through = measure_recall(from_csv(photos), resolve("mini"), mini, [None], through_index=True)
    assert (plain.index, through.index) == (None, "flat")
    assert through.image_to_text.first.tolist() == plain.image_to_text.first.tolist()
    # Words go through the exported text tower, whose weights are rounded: ranks may differ by a place.
    assert np.abs(through.text_to_image.first - plain.text_to_image.first).max() <= 1


class Outside(HTMLParser):
    """Every address that a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href") and tag not in ("use", "image")]


def test_a_report_is_whole_in_itself(photos: Path, tmp_path: Path, command: Command) -> None:
    done = command(
        "bench", "recall", "--images", str(photos), "--captions", str(photos / "captions.csv"), "--model", "mini",
        "--rerank", "--html", "r.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    reader = Outside()
    reader.feed(page)
    assert all(one.startswith(("data:", "#")) for one in reader.found)
    assert "bench recall --images" in page and "<svg" in page and "processor" in page and "weighted" in page


def test_two_measurements_are_compared(tmp_path: Path, command: Command) -> None:
    old = {"seconds": 2, "way": {"R@1": 0.5}, "rate": {"median": 10, "min": 9, "max": 11},
           "confidence_95": {"way": {"R@1": [0.45, 0.55]}}}  # fmt: skip
    new = {"seconds": 3, "way": {"R@1": 0.6}, "rate": {"median": 10.5, "min": 10, "max": 12},
           "confidence_95": {"way": {"R@1": [0.56, 0.64]}}}  # fmt: skip
    found = {change.name: change for change in compare(old, new)}
    assert (found["way R@1"].beyond, found["rate"].beyond, found["seconds"].beyond) == (True, False, None)
    (tmp_path / "a.json").write_text(json.dumps(old) + "\n")
    (tmp_path / "b.json").write_text(json.dumps(new) + "\n")
    shown = command("bench", "compare", "a.json", "b.json")
    assert "+20.0 %" in shown.stdout and "within noise" in shown.stdout
    (tmp_path / "a.json").write_text("no json")
    with pytest.raises(MmsearchError, match="not what --json writes"):
        read_measurements(tmp_path / "a.json")


def test_index_types_are_measured_against_brute_force() -> None:
    work = synthetic(3000, 32)
    points = measure_ann(work, 5)
    flat, *others = points
    assert [kind for kind, _ in itertools.groupby(point.type for point in points)] == [
        "flat", "ivf128,sq8", "ivf128,pq8x4fs", "ivf128,rabitq"
    ]  # fmt: skip
    for kind in ("ivf", "pq4", "rabitq"):
        of_kind = [point for point in others if point.policy.type == kind]
        assert of_kind[-1].recall_text > 0.9 and len({point.row_bytes for point in of_kind}) == 1
    assert others[-1].row_bytes < others[0].row_bytes
    inverted = [point for point in others if point.policy.type == "ivf"]
    assert (flat.type, flat.recall_text, flat.recall_image) == ("flat", 1.0, 1.0)
    recalls = [point.recall_text for point in inverted]
    assert [point.nprobe for point in inverted][:3] == [1, 2, 4] and recalls[0] < recalls[-1]
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(recalls))
    assert any(point.pareto for point in points) and choose(points, 1.0) == flat
    assert flat.disk_mb == pytest.approx(3000 * 32 * 2 / 1e6, rel=0.05)
    assert inverted[0].read_mb < inverted[-1].read_mb


def test_made_up_rows_lie_as_their_shape_says() -> None:
    """A cone, the gap between both modalities, and texts that agree with pictures only so far; and a fit finds it again."""
    made = MadeUp(2000, 64, CLIP)
    rows = np.concatenate(list(made.blocks())).astype(np.float32)
    texts = made.texts(2000)
    assert rows.shape == (2000, 64)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3) and np.allclose(np.linalg.norm(texts, axis=1), 1)
    means = rows.mean(0), texts.mean(0)
    assert np.linalg.norm(means[0] - means[1]) == pytest.approx(CLIP.gap, abs=0.05)
    assert np.linalg.norm(means[0]) == pytest.approx(CLIP.image_mean, abs=0.05)
    assert CLIP.gap == pytest.approx(0.82, abs=0.01)
    again = np.concatenate(list(MadeUp(2000, 64, CLIP).blocks()))
    assert np.array_equal(again.astype(np.float32), rows) and np.array_equal(MadeUp(2000, 64, CLIP).texts(2000), texts)


def test_a_shape_is_fitted_to_embeddings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, tried in (("_TOPICS", (100,)), ("_SHARES", (0.3, 0.6)), ("_BLENDS", (0.0, 0.6))):
        monkeypatch.setattr(f"benchmarks.made_up.{name}", tried)
    shape = replace(MINI, image_mean=0.5, decay=6.0, stretch=0.8)
    made = MadeUp(800, 48, shape)
    rows = np.concatenate(list(made.blocks())).astype(np.float32)
    texts = made.captions(rows)
    found = fit(rows, texts, np.arange(800))
    assert found.image_mean == pytest.approx(0.5, abs=0.05)
    assert found.gap == pytest.approx(shape.gap, abs=0.05)
    assert found.agreement == pytest.approx(shape.agreement, abs=0.06)
    assert (found.topic_share, found.blend) == (shape.topic_share, shape.blend)


def test_a_picture_query_does_not_count_itself() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((400, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    own = np.array([3, 5])
    work = Workload(name="x", rows=rows.astype(np.float16), texts=rows[:2], images=rows[own], own_rows=own)
    assert measure_ann(work, 3)[0].recall_image == 1.0


def test_apply_switches_an_index_and_searches_stay_right(tmp_path: Path, command: Command, mini: Encoder) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((600, mini.spec.dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    folder = tmp_path / "index"
    with IndexWriter(folder, mini.spec) as writer:
        writer.journal(result(writer, items(600), rows))
        writer.publish()
    done = command("bench", "ann", "--index", str(folder), "--made-up", "--json")
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert {type(point["recall_made_up"]) for point in points} == {float}
    assert sum(point["chosen"] for point in points) == 1 and {point["k"] for point in points} == {10}
    with IndexWriter(folder) as writer:
        writer.rebuild_vectors(VectorPolicy(type="ivf", nprobe=3))
    state = read_manifest(folder)
    assert state.policy == VectorPolicy(type="ivf", nprobe=3) and state.vectors[0].type.startswith("ivf")
    with Engine.open(folder) as engine:
        few = [hit.score for hit in engine.search(Query(like=(items(600)[7].id,), k=10))]
    switched = command("bench", "ann", "--index", str(folder), "--target", "1.0", "--apply", "--html", "a.html")
    assert switched.returncode == 0, switched.stderr
    assert "is now" in switched.stderr and (tmp_path / "a.html").read_text().count("<svg") == 1
    with Engine.open(folder) as engine:
        hits = engine.search(Query(like=(items(600)[7].id,), k=10))
    assert hits[0].item.id == items(600)[7].id and hits[0].score == pytest.approx(1, abs=1e-3)
    assert hits[-1].score >= few[-1] - 1e-6
    with pytest.raises(QueryError, match="every search is exact"):
        of_index(_small(tmp_path / "small", mini))


def _small(folder: Path, mini: Encoder) -> Path:
    with IndexWriter(folder, mini.spec) as writer:
        writer.journal(result(writer, items(4), np.eye(4, mini.spec.dim, dtype=np.float32)))
        writer.publish()
    return folder


def test_speed_is_told_by_stage(photos: Path, tmp_path: Path, command: Command) -> None:
    done = command(
        "bench", "speed", "--images", str(photos), "--model", "mini", "--rounds", "1", "--html", "s.html", "--json"
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert list(value["stages"]) == ["read", "decode", "preprocess", "encode", "write"]
    assert value["images"] == 6 and value["share"]["median"] > 0 and value["peak_gb"] > 0.1
    assert value["cold_query_ms"]["median"] > value["warm_query_ms"]["median"]
    assert "<svg" in (tmp_path / "s.html").read_text()
    assert command("bench", "speed", "--profile", "x.svg").returncode == 2


def test_pictures_find_their_shots(photos: Path, mini: Encoder) -> None:
    report = measure_shots(from_csv(photos), mini, seconds=1.5)
    assert report.image_to_moment.recall().r1 >= 5 / 6
    assert report.shots == 6 and report.moments >= 6
    photo, moment = report.text_to_photo.first, report.text_to_moment.first
    assert len(photo) == len(moment) == 6


def test_rows_of_the_index_can_be_asked_for(photos: Path, mini: Encoder, tmp_path: Path) -> None:
    folder = _small(tmp_path / "i", mini)
    with Engine.open(folder) as engine:
        identities = [item.id for item in items(4)]
        assert engine.item(identities[2]).id == identities[2]
        assert engine.embeddings(("image",)).shape == (4, mini.spec.dim)
        like = engine.search(Query(like=(identities[1],), unlike=(identities[2],), k=4))
        assert like[0].item.id == identities[1] and like[-1].item.id == identities[2]
        with pytest.raises(QueryError, match="no item 'nope'"):
            engine.search(Query(like=("nope",)))


def test_mini_stays_above_its_floor(tmp_path: Path, command: Command, mini: object) -> None:
    """The regression guard: photos and captions that no training saw, measured by the command, against a stored floor."""
    copy_samples(tmp_path / "samples")
    done = command(
        "bench", "recall", "--images", "samples", "--captions", "samples/captions.csv", "--model", "mini",
        "--precision", "fp32", "--rerank", "--json",
    )  # fmt: skip
    again = json.loads(done.stdout)
    plain = json.loads(
        command(
            "bench", "recall", "--images", "samples", "--captions", "samples/captions.csv", "--model", "mini",
            "--precision", "fp32", "--json",
        ).stdout
    )  # fmt: skip
    floor = json.loads(FLOOR.read_text())
    for name, value in (("plain", plain), ("weighted", again)):
        for way in ("text_to_image", "image_to_text"):
            for key, least in floor[name][way].items():
                assert value[way][key] >= least, f"{name} {way} {key}"


def test_false_positives_are_counted_where_nothing_is_there() -> None:
    """Labels that lie apart are told from chance; labels that are random directions are not."""
    rng = np.random.default_rng(3)
    texts = unit_rows(20, 64, seed=1)
    labels = np.repeat(np.arange(20), 60)
    noise = rng.normal(size=(1200, 64)).astype(np.float32) / 8
    near = (texts[labels] + noise).astype(np.float32)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    names = [4 * chr(ord("a") + number) for number in range(20)]
    seen = measure_relevance(near, texts, labels, names, None, 500)["sample"]
    assert (seen["very likely"]["false"] or 0) <= 0.05 and (seen["likely"]["right"] or 0) > 0.9
    judge = Calibration(slope=0, intercept=3)
    blind = measure_relevance(unit_rows(1200, 64, seed=2), texts, labels, names, judge, 500)
    assert (blind["sample"]["likely"]["false"] or 0) <= 0.1 and blind["fitted"]["very likely"]["false"] == 1


def test_photos_of_labels_that_share_a_word_are_not_counted_as_false() -> None:
    """Two labels of one thing, whose photos and texts are the same: either is a true hit for the other."""
    texts = unit_rows(12, 64, seed=1)
    texts[1] = texts[0]
    labels = np.repeat(np.arange(12), 40)
    judge = Calibration(slope=40, intercept=-20)
    apart = [4 * chr(ord("a") + number) for number in range(12)]
    same = ["crocodile", "head of a crocodile", *apart[2:]]
    shares = [
        measure_relevance(texts[labels], texts, labels, names, judge, 200)["fitted"]["likely"]["false"]
        for names in (apart, same)
    ]
    assert shares == [round(2 / 12, 3), 0]


def test_filters_and_facets_are_timed_on_a_real_index(site: Path) -> None:
    value = measure_filters(site / ".mmsearch", 2, 0.9)
    passes = value["passes"]
    assert isinstance(passes, float) and 0 < passes <= 0.9
    assert {"facets_ms_opened", "facets_ms_again", "warm_ms", "warm_filtered_ms"} <= set(value)

"""Videos in an index: moments, searches for them, what is said, summaries, and the commands over all of it."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import mmsearch
from benchmarks.samples import copy_samples
from indexer.build import IndexBuild
from indexer.config import BuildConfig, BuildReport
from media.cutting import cut
from media.reader import ImageReader, query_media
from media.sound import WhisperRecogniser
from media.subtitles import Cue
from media.video import Ending, Frame, SampleConfig
from retrieval.crossmodal.moments import FrameSpan, fuse, merge
from retrieval.crossmodal.summary import Segment, choose, paragraph
from retrieval.crossmodal.viewing import view_video
from retrieval.engine import Engine
from retrieval.errors import MediaError, ModelError
from retrieval.models.encoder import Encoder
from retrieval.store.journal import UnitResult
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, Query, Rerank
from tests.conftest import Command, picture, write_photos
from tests.films import SMALL, animation, film, same_picture, scene, with_subtitles

SEEDS = (11, 12, 13, 14, 15)


def build(folder: Path, encoder: Encoder, config: BuildConfig | None = None) -> BuildReport:
    run = IndexBuild([folder], folder / ".mmsearch", encoder, config or BuildConfig())
    for _ in run:
        pass
    assert run.report is not None
    return run.report


def overlap(item: Item, start: float, end: float) -> float:
    """Intersection over union of a moment and a span."""
    assert item.start is not None and item.end is not None
    both = min(item.end, end) - max(item.start, start)
    return max(0.0, both) / (max(item.end, end) - min(item.start, start))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """Photos, a film with subtitles beside it, the same film in another container, an animation, and damaged files."""
    folder = tmp_path_factory.mktemp("library")
    write_photos(folder, 6)
    film(folder / "film.mp4", SEEDS, draw=scene)
    film(folder / "other" / "film.mkv", SEEDS, draw=scene)
    animation(folder / "moving.gif", (21, 22))
    (folder / "film.en.srt").write_text("1\n00:00:02,500 --> 00:00:03,500\nA dog barks loudly\n\n")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "words.mkv").write_text("not a film")
    (folder / "program.ts").write_text("const answer: number = 42;")
    whole = (folder / "other" / "film.mkv").read_bytes()
    (folder / "half.mkv").write_bytes(whole[: len(whole) // 2])
    report = build(folder, mini)
    # half.mkv is indexed as far as it goes, and in the ledger for the rest.
    assert (report.failed, report.indexed) == (3, 6 + 1 + 4)
    return folder


def test_a_film_is_journalled_in_one_part(tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that dies between a film's moments and its words would never come back for them."""
    film(tmp_path / "plain.mkv", SEEDS[:2], draw=scene)
    with_subtitles(tmp_path / "plain.mkv", "1\n00:00:00,000 --> 00:00:01,000\nsaid\n", tmp_path / "said.mkv")
    (tmp_path / "plain.mkv").unlink()
    parts: list[list[str]] = []
    journal = IndexWriter.journal

    def noted(self: IndexWriter, result: UnitResult) -> None:
        parts.append(sorted({item.kind for item in result.items}))
        journal(self, result)

    monkeypatch.setattr(IndexWriter, "journal", noted)
    build(tmp_path, mini)
    assert parts == [["text", "video"]]


@pytest.fixture
def engine(library: Path) -> Iterator[Engine]:
    with mmsearch.open(library) as opened:
        yield opened


def test_a_shots_picture_finds_the_shot(engine: Engine) -> None:
    for number, seed in enumerate(SEEDS):
        query = Query(images=(scene(seed),), kind="video", k=40, group=False)
        whole = [hit for hit in engine.search(query) if "half" not in hit.item.path]
        best = whole[0].item
        assert overlap(best, 2.0 * number, 2.0 * number + 2) >= 0.9
        assert (best.width, best.height, os.path.basename(best.source)) == (160, 120, os.path.basename(best.path))


def test_two_containers_give_the_same_moments(engine: Engine) -> None:
    query = Query(images=(picture(1),), kind="video", k=100, group=False)
    spans: dict[str, list[tuple[float, float]]] = {}
    for hit in engine.search(query):
        spans.setdefault(os.path.basename(hit.item.path), []).append((hit.item.start or 0.0, hit.item.end or 0.0))
    assert sorted(spans["film.mp4"]) == pytest.approx(np.array(sorted(spans["film.mkv"])), abs=0.05)
    assert len(spans["film.mp4"]) >= 5 and len(spans["moving.gif"]) == 2


def test_moments_of_a_video_are_one_hit_unless_asked(engine: Engine) -> None:
    query = Query(images=(scene(SEEDS[2]),), k=10)
    grouped, flat = engine.search(query), engine.search(replace(query, group=False))
    paths = [hit.item.path for hit in grouped]
    assert len(set(paths)) == len(paths) == 10
    assert [hit.rank for hit in grouped] == list(range(1, 11))
    best = next(hit for hit in grouped if hit.item.path.endswith("film.mp4"))
    assert best.moments[0].item == best.item
    assert len(best.moments) >= 5 and {one.item.path for one in best.moments} == {best.item.path}
    assert len({hit.item.path for hit in flat}) < len(flat)
    assert grouped[0].item == flat[0].item


def test_what_is_said_is_found_at_its_time(engine: Engine) -> None:
    hit = engine.search(Query(text="a dog barks", kind="text", k=1))[0]
    assert (hit.item.text, hit.item.start, hit.item.end) == ("A dog barks loudly", 2.5, 3.5)
    assert hit.item.path.endswith("film.mp4") and hit.item.source.endswith("film.en.srt")


def test_the_ledger_says_where_reading_stopped(engine: Engine) -> None:
    reasons = {os.path.basename(one.path): one.reason for one in engine.failures()}
    assert set(reasons) == {"empty.mp4", "words.mkv", "half.mkv"}
    assert reasons["half.mkv"].startswith("read up to 4 s") or reasons["half.mkv"].startswith("read up to 5 s")
    assert engine.status()["videos"] == 4


def test_an_unchanged_library_is_left_alone(library: Path, mini: Encoder) -> None:
    again = build(library, mini)
    assert (again.indexed, again.encoded, again.failed) == (0, 0, 3)
    assert again.unchanged == 6 + 1 + 4


def test_a_moments_picture_is_from_its_middle(engine: Engine) -> None:
    reader = ImageReader(64)
    hits = engine.search(Query(images=(scene(SEEDS[1]),), kind="video", k=1))
    assert same_picture(reader.image(hits[0].item.image_place), scene(SEEDS[1])) < 30


def test_moments_are_re_ranked_like_pictures(engine: Engine) -> None:
    done = engine.answer(Query(text="a dog", kind="video", k=3, rerank=Rerank(candidates=20)))
    assert len(done.hits) == 3 and not done.unreadable
    assert all(hit.rerank_score is not None for hit in done.hits)
    # The cache of image tokens goes by content: moments of one file must not share theirs.
    flat = engine.answer(Query(text="a dog", kind="video", k=20, group=False, rerank=Rerank(candidates=20))).hits
    film_scores = [hit.rerank_score for hit in flat if hit.item.path.endswith("film.mp4")]
    assert len(set(film_scores)) == len(film_scores)


def test_a_video_is_a_query(engine: Engine, library: Path, tmp_path: Path) -> None:
    film(tmp_path / "query.mp4", SEEDS[3:4], draw=scene)
    clip = query_media(os.fspath(tmp_path / "query.mp4"))
    assert isinstance(clip, tuple) and len(clip) >= 1
    best = engine.search(Query(images=(clip,), kind="video", k=1, group=False))[0].item
    assert overlap(best, 6, 8) >= 0.9
    alone, frames = engine.embed(Query(images=(clip,))), engine.embed(Query(images=clip))
    assert float(alone @ frames) > 0.999
    with_words = engine.embed(Query(text="a dog", images=(clip,)))
    words = engine.embed(Query(text="a dog"))
    assert with_words @ words == pytest.approx(with_words @ alone, abs=1e-3), "the clip counts as one picture"


def test_a_cut_plays_and_shows_the_moment(engine: Engine, tmp_path: Path) -> None:
    hits = engine.search(Query(images=(scene(SEEDS[4]),), kind="video", k=30, group=False))
    for name in ("film.mp4", "film.mkv"):
        hit = next(one for one in hits if one.item.path.endswith(name))
        file = cut(hit.item.image_place, tmp_path, hit.rank)
        with av.open(os.fspath(file)) as opened:
            frames = list(opened.decode(video=0))
        assert 1.5 <= len(frames) / 20 <= 2 + 2.1
        shown = frames[-5]
        assert isinstance(shown, av.VideoFrame)
        assert same_picture(Image.fromarray(shown.to_ndarray(format="rgb24")), scene(SEEDS[4])) < 30
    with pytest.raises(MediaError, match="only moments"):
        cut(replace(hit.item, start=None).image_place, tmp_path, 1)


def test_frames_merge_within_a_shot_while_they_look_alike() -> None:
    one, other = np.eye(4, dtype=np.float32)[:2]
    near = np.array([0.98, np.sqrt(1 - 0.98**2), 0, 0], np.float32)
    spans = [FrameSpan(start=n, end=n + 1, shot=shot) for n, shot in enumerate((0, 0, 0, 1, 1))]
    found = merge(spans, np.stack([one, near, other, other, other]))
    assert [(moment.start, moment.end) for moment in found] == [(0, 2), (2, 3), (3, 5)]
    assert found[0].embedding == pytest.approx((one + near) / np.linalg.norm(one + near), abs=1e-6)
    assert merge([], np.empty((0, 4), np.float32)) == []


def test_attention_fusion_is_its_formula_and_trusts_the_many() -> None:
    rows = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    mean = rows.mean(0) / np.linalg.norm(rows.mean(0))
    weights = np.exp(20 * rows @ mean) / np.exp(20 * rows @ mean).sum()
    wanted = weights @ rows / np.linalg.norm(weights @ rows)
    assert fuse(rows, "attention") == pytest.approx(wanted, abs=1e-5)
    assert fuse(rows, "attention")[0] > fuse(rows, "mean")[0]


class Heard:
    """Stands in for a speech model: what it hears in a file named so."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def transcribe(self, path: str) -> Iterator[Cue]:
        self.asked.append(os.path.basename(path))
        if "silent" in path:
            raise MediaError("decode", "no speech in it")
        yield Cue(start=1.0, end=2.0, text="hello from the sea", kind="speech")


def test_speech_is_transcribed_once_where_asked(tmp_path: Path, mini: Encoder) -> None:
    film(tmp_path / "plain.mp4", SEEDS[:1], draw=scene)
    film(tmp_path / "inner.mkv", SEEDS[:1], draw=scene)
    with_subtitles(
        tmp_path / "inner.mkv",
        "1\n00:00:00,000 --> 00:00:01,000\nwritten\n",
        tmp_path / "said.mkv",
        [(0.0, 1.0, "the start")],
    )
    (tmp_path / "inner.mkv").unlink()
    (tmp_path / "talk.mp3").write_bytes(b"sound")
    (tmp_path / "silent.wav").write_bytes(b"sound")
    assert build(tmp_path, mini).indexed == 2
    ear = Heard()
    report = build(tmp_path, mini, BuildConfig(recogniser=ear))
    assert (sorted(ear.asked), report.failed) == (["plain.mp4", "silent.wav", "talk.mp3"], 1)
    with mmsearch.open(tmp_path) as engine:
        texts = {
            (hit.item.text, os.path.basename(hit.item.path), hit.item.text_kind)
            for hit in engine.search(Query(text="x", kind="text"))
        }
    assert texts == {
        ("hello from the sea", "plain.mp4", "speech"), ("hello from the sea", "talk.mp3", "speech"),
        ("written", "said.mkv", "subtitle"), ("the start", "said.mkv", "chapter"),
    }  # fmt: skip
    plain = build(tmp_path, mini)
    assert (plain.removed, plain.items, plain.unchanged) == (0, report.items, 3), "a transcript outlives a run without"
    again = Heard()
    assert build(tmp_path, mini, BuildConfig(recogniser=again)).indexed == 0
    assert not again.asked


def test_a_missing_speech_model_is_told() -> None:
    with pytest.raises(ModelError, match=r"pip install faster-whisper|cannot be loaded"):
        WhisperRecogniser("/nowhere")


def test_a_summary_covers_every_shot_of_a_short_film(library: Path, mini: Encoder) -> None:
    seen = view_video(os.fspath(library / "film.mp4"), mini)
    picked = choose(seen.embeddings, seen.seconds, 8)
    for number, seed in enumerate(SEEDS):
        mine = [n for n in picked if abs(seen.moments[n].start - 2.0 * number) < 0.2]
        assert mine, f"shot {number}"
        assert same_picture(seen.image(mine[0]), scene(seed)) < 30
    assert seen.transcript(1) == "A dog barks loudly" and seen.transcript(0) is None


def test_a_long_video_leaves_one_small_frame_a_moment_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours at a frame a second were gigabytes of frames."""
    alive: set[int] = set()
    most = 0

    class Decoder:
        def __enter__(self) -> Decoder:
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to end."""

        def sample(self, path: str, config: SampleConfig) -> Iterator[object]:
            nonlocal most
            for second in range(7200):
                shot = second // 100 if second < 3600 else 36
                rgb = Image.new("RGB", (640, 360), (shot * 7 % 256, second % 100, 0))
                alive.add(id(rgb))
                weakref.finalize(rgb, alive.discard, id(rgb))
                most = max(most, len(alive))
                yield Frame(time=float(second), start=float(second), end=second + 1.0, shot=shot, rgb=rgb)
                del rgb
            yield Ending(width=640, height=360, duration=7200.0, stopped=None)

    class Shots:
        def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
            rows = np.zeros((len(images), 256), np.float32)
            rows[np.arange(len(images)), [image.getpixel((0, 0))[0] for image in images]] = 1  # type: ignore[index]
            return rows

    monkeypatch.setattr("retrieval.crossmodal.viewing.VideoDecoder", Decoder)
    seen = view_video("/nowhere.mp4", Shots())  # type: ignore[arg-type]
    assert [(moment.start, moment.end) for moment in seen.moments[:2]] == [(0, 100), (100, 200)]
    assert len(seen.moments) == len(seen.frames) == 37
    assert most <= 64
    assert sum(map(len, seen.frames)) < 2_000_000
    # The frame of the short moments is from their middle, give or take a sixteenth of them.
    assert abs(seen.image(3).getpixel((0, 0))[1] - 50) <= 8  # type: ignore[index]


def test_few_moments_stand_for_many() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    rows = np.stack([centres[n % 3] + 0.1 * rng.normal(size=16) for n in range(30)]).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = choose(rows, np.ones(30), 3)
    assert chosen == sorted(chosen) and {n % 3 for n in chosen} == {0, 1, 2}
    assert choose(rows[:2], np.ones(2), 5) == [0, 1]


def test_a_paragraph_joins_captions_in_order() -> None:
    segments = [
        Segment(start=n, end=n + 1, caption=words, transcript=None)
        for n, words in enumerate(["a dog runs.", "a dog runs", "snow on a hill", "the end"])
    ]
    assert paragraph(segments) == "First a dog runs. Then snow on a hill. At the end the end."
    assert paragraph(segments[:2]) == "A dog runs." and paragraph([]) == ""


def test_the_commands_over_videos(library: Path, command: Command, tmp_path: Path) -> None:
    index = ("--index", str(library))
    scene(SEEDS[0]).save(tmp_path / "q.png")
    shown = command("search", "--image", "q.png", "--kind", "video", *index, "-k", "3")
    assert "00:00–00:02" in shown.stdout and "also" in shown.stdout
    flat = command("search", "--image", "q.png", "--kind", "video", "--moments", *index, "-k", "30", "--json")
    assert len([json.loads(line) for line in flat.stdout.splitlines()]) > 4
    made = command(
        "search",
        "--image",
        str(library / "film.mp4"),
        "--kind",
        "video",
        *index,
        "-k",
        "2",
        "--clip",
        "clips",
        "--html",
        "s.html",
    )
    assert made.returncode == 0, made.stderr
    assert len(list((tmp_path / "clips").iterdir())) == 2
    assert "<video controls" in (tmp_path / "s.html").read_text() and "#t=" in (tmp_path / "s.html").read_text()
    told = command("describe", str(library / "film.mp4"), str(library / "photo0000.jpg"), "--model", "mini", "--json")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert len(lines) >= 6 and lines[0]["start"] == 0 and lines[-1]["start"] is None
    summary = command("summarize", str(library / "film.mp4"), "--model", "mini", "--html", "film.html", "--json")
    value = json.loads(summary.stdout)
    assert list(value) == ["path", "duration", "summary", "segments"]
    assert list(value["segments"][0]) == ["start", "end", "caption", "transcript"]
    assert len(value["segments"]) >= 5 and value["duration"] == pytest.approx(10, abs=0.2)
    assert (tmp_path / "film.html").read_text().count("<img") == len(value["segments"])
    bad = command("summarize", str(library / "words.mkv"), "--model", "mini")
    assert bad.returncode == 1 and "words.mkv" in bad.stderr and len(bad.stderr.strip().splitlines()) == 1


def test_texts_alone_are_no_evidence(tmp_path: Path, mini: Encoder) -> None:
    (tmp_path / "notes.txt").write_text("a dog in the snow")
    build(tmp_path, mini)
    with mmsearch.open(tmp_path) as engine:
        assert engine.evidence("what is the dog doing?") == []


def test_a_text_query_finds_the_shot_of_a_photo(tmp_path: Path, mini: Encoder) -> None:
    """Real photos as shots: words find the shot about as well as they find the photo."""
    from benchmarks.synthetic_videos import Shot, write_video

    copy_samples(tmp_path / "photos")
    names = sorted(path for path in (tmp_path / "photos").iterdir() if path.suffix in (".jpg", ".png"))[:6]
    shots = [Shot(image=Image.open(name).convert("RGB"), seconds=2) for name in names]
    (tmp_path / "films").mkdir()
    edges = write_video(tmp_path / "films" / "all.mp4", shots, replace(SMALL, width=320, height=240))
    build(tmp_path / "films", mini)
    photos = mini.encode_images([shot.image for shot in shots])
    with mmsearch.open(tmp_path / "films") as engine:
        for words in ("a cat", "a person", "a cup of coffee"):
            order = np.argsort(-(photos @ engine.embed(Query(text=words))))
            found = engine.search(Query(text=words, k=2, group=False))
            spans = [(edges[n], edges[n + 1]) for n in order[:3]]
            assert any(overlap(found[0].item, *span) >= 0.5 for span in spans), words

"""The text in pictures: read after all else, kept through kills and changes, and what a search finds by it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import indexer.ocr
from benchmarks.samples import copy_samples
from indexer.build import IndexBuild
from indexer.change import ModelChange
from indexer.config import BuildConfig, BuildReport, OcrConfig, ocr_config
from media.errors import ModelError
from media.recognition import RapidRecogniser, TextLine, at_reading_size, is_sure
from retrieval.engine import Engine
from retrieval.errors import UsageError
from retrieval.models.encoder import Encoder
from retrieval.store.leases import open_state
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.pictures import Reading
from retrieval.store.shards import ShardReader
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, Query
from tests.conftest import ROOT, Command, picture
from tests.stores import LettersRecogniser, OtherEncoder, PlainEncoder, word_of


class PaperEncoder(PlainEncoder):
    """Light pictures look like a page of text, all others like a photo."""

    def encode_pixels(self, pixels: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        super().encode_pixels(pixels)
        return self.encode_texts(["text" if one.mean() > 0.2 else "photo" for one in pixels])


def paper(seed: int, tint: tuple[int, int, int] = (250, 250, 250)) -> Image.Image:
    """A light picture unlike any other."""
    page = Image.new("RGB", (128, 96), tint)
    page.paste(picture(seed, 128, 40).point(lambda value: 120 + value // 2), (0, 50))
    return page


def jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


class Shelf:
    """A folder, its index, and a recogniser that counts."""

    def __init__(self, folder: Path) -> None:
        self.media, self.index = folder / "media", folder / "index"
        self.media.mkdir()
        self.recogniser = LettersRecogniser()
        self.encoder = PaperEncoder()

    def write(self, name: str, image: Image.Image) -> str:
        """Keep a picture; gives the word that is read in it."""
        (self.media / name).write_bytes(jpeg(image))
        return word_of(image)

    def run(self, reading: Reading | None = "all", *, retry_failed: bool = False) -> tuple[BuildReport, int]:
        """Bring the index up to date; gives how many pictures were read, too."""
        before = self.recogniser.read_pictures
        ocr = OcrConfig(recogniser=self.recogniser, reading=reading) if reading is not None else None
        config = BuildConfig(batch_size=4, workers=2, ocr=ocr, retry_failed=retry_failed)
        build = IndexBuild([self.media], self.index, self.encoder, config)
        for _ in build:
            pass
        assert build.report is not None
        return build.report, self.recogniser.read_pictures - before

    def items(self) -> list[Item]:
        lease = open_state(self.index)
        try:
            reader = ShardReader(self.index, lease.manifest)
            return reader.items(*reader.living())
        finally:
            lease.close()

    def texts(self) -> dict[str, str]:
        """What was recognised in each picture, by its name."""
        texts = [item for item in self.items() if item.text_kind == "ocr"]
        assert len({item.id for item in texts}) == len(texts)
        return {os.path.basename(item.path): (item.text or "").removeprefix("the word ") for item in texts}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_picture_is_read_once_and_its_text_is_a_row_about_it(shelf: Shelf) -> None:
    word = shelf.write("page.png", paper(1))
    shelf.write("dark.png", Image.new("RGB", (90, 90), (20, 20, 20)))
    report, read = shelf.run()
    assert (read, report.indexed, report.items) == (2, 2, 3)
    assert report.ocr is not None and (report.ocr.read, report.ocr.with_text, report.ocr.failed) == (2, 1, 0)
    assert shelf.texts() == {"page.png": word}
    text = next(item for item in shelf.items() if item.text_kind == "ocr")
    image = next(item for item in shelf.items() if item.path == text.path and item.kind == "image")
    assert (text.kind, text.source, text.taken_at) == ("text", image.path, image.taken_at)
    report, read = shelf.run()
    assert (read, report.unchanged, report.items) == (0, 2, 3)


def test_auto_leaves_out_what_looks_like_a_photo_and_all_reads_just_those_later(shelf: Shelf) -> None:
    word = shelf.write("page.png", paper(1))
    for number in range(3):
        shelf.write(f"photo{number}.png", picture(number).point(lambda value: value // 3))
    report, read = shelf.run("auto")
    assert report.ocr is not None and (read, report.ocr.left_out) == (1, 3)
    assert shelf.texts() == {"page.png": word}
    assert shelf.run("auto")[1] == 0
    assert shelf.run(None)[1] == 0
    assert shelf.texts() == {"page.png": word}, "off forgets nothing"
    assert shelf.run("all")[1] == 3
    assert shelf.run("all")[1] == shelf.run("auto")[1] == 0


def test_a_changed_picture_has_its_new_text_and_a_removed_one_none(shelf: Shelf) -> None:
    words = [shelf.write(f"{number}.png", paper(number)) for number in range(3)]
    shelf.run()
    assert set(shelf.texts().values()) == set(words)
    changed = shelf.write("1.png", paper(11))
    (shelf.media / "2.png").unlink()
    report, read = shelf.run()
    assert (read, report.removed) == (1, 1)
    assert shelf.texts() == {"0.png": words[0], "1.png": changed}
    shelf.write("1.png", Image.new("RGB", (90, 90), (10, 10, 10)))
    shelf.run()
    assert shelf.texts() == {"0.png": words[0]}
    with IndexWriter(shelf.index) as writer:
        writer.compact()
    assert shelf.texts() == {"0.png": words[0]}
    assert shelf.run()[1] == 0


def test_a_picture_that_moved_or_has_another_sidecar_keeps_its_text_unread(shelf: Shelf) -> None:
    word, other = shelf.write("page.png", paper(1)), shelf.write("other.png", paper(2))
    shelf.run()
    (shelf.media / "page.png").rename(shelf.media / "renamed.png")
    (shelf.media / "other.png.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"/></rdf:RDF></x:xmpmeta>'
    )
    os.utime(shelf.media / "other.png")
    _, read = shelf.run()
    assert (read, shelf.texts()) == (0, {"renamed.png": word, "other.png": other})
    assert {item.rating for item in shelf.items() if item.path.endswith("other.png")} == {5}


def test_members_of_a_tar_are_read_and_the_run_goes_on_within_it(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer.ocr, "_STEP_PICTURES", 2)
    words = []
    with tarfile.open(shelf.media / "set.tar", "w") as out:
        for number in range(7):
            page = paper(number) if number % 3 else picture(number).point(lambda value: value // 3)
            words += [word_of(page)] if number % 3 else []
            info = tarfile.TarInfo(f"{number:03d}.png")
            info.size = len(jpeg(page))
            out.addfile(info, io.BytesIO(jpeg(page)))
    ocr = OcrConfig(recogniser=shelf.recogniser, reading="auto")
    build = iter(IndexBuild([shelf.media], shelf.index, shelf.encoder, BuildConfig(batch_size=4, workers=2, ocr=ocr)))
    assert next(event for event in build if event.stage == "ocr").total == 7
    build.close()  # type: ignore[attr-defined]
    assert len(shelf.texts()) == shelf.recogniser.read_pictures == 1
    assert shelf.run("auto")[1] == 3
    assert sorted(shelf.texts().values()) == sorted(words)
    assert [shelf.run("all")[1], shelf.run("all")[1]] == [3, 0]


def test_a_picture_whose_text_fails_costs_a_line_of_the_ledger(shelf: Shelf) -> None:
    word = shelf.write("page.png", paper(1))
    shelf.write("sea.png", paper(2, (20, 40, 250)))
    report, _ = shelf.run()
    assert report.failed == 1
    failures = read_failures(shelf.index, read_manifest(shelf.index))
    assert [(os.path.basename(one.path), one.stage, one.reason) for one in failures] == [
        ("sea.png", "decode", "its text cannot be read: too blue")
    ]
    assert (shelf.texts(), len(shelf.items())) == ({"page.png": word}, 3), "it is found by what it looks like"
    assert shelf.run()[1] == 0
    assert shelf.run(retry_failed=True)[1] == 1


def test_pictures_are_searchable_before_their_text_is_read(shelf: Shelf) -> None:
    shelf.write("page.png", paper(1))
    seen: list[int] = []

    class Looking(LettersRecogniser):
        def read(self, image: Image.Image) -> list[TextLine]:
            seen.append(sum(shard.alive for shard in read_manifest(shelf.index).shards))
            return super().read(image)

    shelf.recogniser = Looking()
    report, _ = shelf.run()
    assert (seen, report.items) == ([1], 2)


def test_ctrl_c_keeps_what_was_read(shelf: Shelf) -> None:
    for number in range(4):
        shelf.write(f"{number}.png", paper(number))

    class Interrupted(LettersRecogniser):
        def read(self, image: Image.Image) -> list[TextLine]:
            if self.read_pictures == 2:
                raise KeyboardInterrupt
            return super().read(image)

    shelf.recogniser = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        shelf.run()
    assert len(shelf.texts()) == 2
    shelf.recogniser = LettersRecogniser()
    assert (shelf.run()[1], len(shelf.texts())) == (2, 4)


def test_a_killed_run_goes_on_where_it_was(shelf: Shelf) -> None:
    words = {f"{number:02d}.png": shelf.write(f"{number:02d}.png", paper(number)) for number in range(8)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", "ocr", str(shelf.index), str(shelf.media)],
        cwd=ROOT, env={**os.environ, "KILLED_AFTER": "13"}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr.decode()
    shelf.encoder = PlainEncoder()  # type: ignore[assignment]
    _, read = shelf.run()
    assert 0 < read < 8, "what was durable is not read again"
    assert (shelf.encoder.encoded, shelf.texts()) == (0, words)


def test_a_file_that_changes_meanwhile_is_left_to_the_next_run(shelf: Shelf) -> None:
    shelf.write("0.png", paper(0))
    shelf.write("1.png", paper(1))

    shelf.run(None)
    later = shelf.write("1.png", paper(5))
    ocr = OcrConfig(recogniser=shelf.recogniser, reading="all")
    with IndexWriter(shelf.index) as writer:
        texts = indexer.ocr.PictureTexts(writer, [str(shelf.media)], shelf.encoder, ocr)
        assert len(list(texts)) == 2
    assert set(shelf.texts()) == {"0.png"}
    assert (shelf.run()[1], shelf.texts()["1.png"]) == (1, later)


def test_another_model_has_the_texts_too(shelf: Shelf) -> None:
    word = shelf.write("page.png", paper(1))
    shelf.run()
    config = BuildConfig(workers=2, ocr=OcrConfig(recogniser=shelf.recogniser, reading="all"))
    for _ in ModelChange([str(shelf.media)], shelf.index, OtherEncoder(), config):
        pass
    assert shelf.texts() == {"page.png": word}


def test_what_is_asked_for_without_the_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ocr_config("off") is None
    with pytest.raises(UsageError, match="auto, all or off"):
        ocr_config("some")
    monkeypatch.setattr("media.recognition.importlib.util.find_spec", lambda name: None)
    assert ocr_config(None) is None
    with pytest.raises(ModelError, match="pip install rapidocr"):
        ocr_config("auto")


def test_short_uncertain_lines_are_no_text() -> None:
    kept = [("LH 2034", 0.7), ("ok", 0.9)]
    dropped = [("LH 2034", 0.5), ("i", 0.7), ("- -", 0.99)]
    assert all(is_sure(TextLine(text=text, confidence=sure)) for text, sure in kept)
    assert not any(is_sure(TextLine(text=text, confidence=sure)) for text, sure in dropped)


def test_a_picture_is_read_at_a_bounded_size_and_a_strip_stays_legible() -> None:
    sizes = [(4000, 3000), (800, 600), (600, 6000), (20_000, 1000)]
    assert [at_reading_size(Image.new("L", size)).size for size in sizes] == [
        (1600, 1200), (800, 600), (400, 4000), (4000, 200),
    ]  # fmt: skip


def boarding_pass() -> Image.Image:
    page = Image.new("RGB", (640, 300), (236, 238, 242))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 640, 60), fill=(20, 50, 110))
    draw.text((20, 14), "BOARDING PASS", font=ImageFont.load_default(30), fill=(255, 255, 255))
    draw.text((20, 100), "FLIGHT LH 2034", font=ImageFont.load_default(34), fill=(20, 20, 30))
    draw.text((20, 190), "SEAT 14A   GATE G22", font=ImageFont.load_default(28), fill=(20, 20, 30))
    return page


class Desk(NamedTuple):
    """A folder, what the command reported of it, and what it said."""

    folder: Path
    report: dict[str, Any]
    messages: str


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Desk:
    """A boarding pass, a note that lies on its side, a pale sign, and photos, indexed by the command."""
    folder = tmp_path_factory.mktemp("desk")
    copy_samples(folder / "samples")
    for name in ("coffee.png", "chelsea.png", "rocket.jpg"):
        shutil.copyfile(folder / "samples" / name, folder / name)
    shutil.rmtree(folder / "samples")
    boarding_pass().save(folder / "scan0001.png")
    note = Image.new("RGB", (420, 160), (255, 255, 250))
    ImageDraw.Draw(note).text((20, 50), "Invoice QX7731", font=ImageFont.load_default(40), fill=(0, 0, 0))
    note.rotate(90, expand=True).save(folder / "scan0002.png")
    sign = Image.new("RGB", (420, 160), (196, 200, 190))
    ImageDraw.Draw(sign).text((20, 50), "Harbour Office", font=ImageFont.load_default(40), fill=(160, 166, 158))
    sign.save(folder / "scan0003.png")
    done = subprocess.run(
        [sys.executable, "-m", "mmsearch", "index", str(folder), "--model", "mini", "--ocr", "all", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Desk(folder, json.loads(done.stdout), done.stderr)


def test_a_scanned_boarding_pass_is_found_first_by_its_flight_number(desk: Desk, command: Command) -> None:
    done = command("search", "LH 2034", "--index", str(desk.folder), "--json")
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert (os.path.basename(hits[0]["path"]), hits[0]["kind"]) == ("scan0001.png", "image")
    assert hits[0]["matched_words"] == ["LH", "2034"]
    assert "words" in hits[0]["matched"]


def test_a_note_on_its_side_and_a_pale_sign_are_found_by_their_words(desk: Desk) -> None:
    engine = Engine.open(desk.folder / ".mmsearch")
    for query, name in (("lh2034", "scan0001.png"), ("invoice QX7731", "scan0002.png"), ("harbour", "scan0003.png")):
        hit = engine.answer(Query(text=query)).hits[0]
        assert (os.path.basename(hit.item.path), hit.item.kind) == (name, "image")
        assert "words" in hit.matched
    engine.close()


def test_the_report_tells_of_the_text_and_the_recogniser_is_quiet(desk: Desk) -> None:
    ocr = desk.report["ocr"]
    assert [ocr[name] for name in ("read", "left_out", "failed")] == [6, 0, 0]
    assert ocr["with_text"] >= 3, "a photo may have letters in it, too"
    assert "INFO" not in desk.messages and "onnx" not in desk.messages.lower()


def test_an_unknown_reading_is_wrong_usage(command: Command, tmp_path: Path) -> None:
    done = command("index", str(tmp_path), "--ocr", "some")
    assert done.returncode == 2
    assert "'some' is not auto, all or off" in done.stderr


def test_auto_reads_the_scan_and_not_the_cat(desk: Desk, mini: Encoder, tmp_path: Path) -> None:
    for name in ("scan0001.png", "chelsea.png"):
        shutil.copyfile(desk.folder / name, tmp_path / name)
    config = BuildConfig(ocr=OcrConfig(recogniser=RapidRecogniser(1)))
    build = IndexBuild([tmp_path], tmp_path / ".mmsearch", mini, config)
    for _ in build:
        pass
    assert build.report is not None and build.report.ocr is not None
    assert (build.report.ocr.read, build.report.ocr.with_text, build.report.ocr.left_out) == (1, 1, 1)

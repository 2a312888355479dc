"""Copies of a picture are one hit, the best of them first; strangers that look alike stay apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from retrieval.engine import Engine
from retrieval.errors import FormatError
from retrieval.ranking.relevance import Calibration
from retrieval.search import Calibrations, search
from retrieval.state import IndexState
from retrieval.store.copy_groups import CopyGroups
from retrieval.store.embeddings import StoredEmbeddings
from retrieval.store.manifest import read_manifest
from retrieval.store.writer import IndexWriter
from retrieval.types import Hit, Kind, Query
from tests.conftest import Command, build, picture, write_photos
from tests.films import film
from tests.libraries import Library, run
from tests.servers import serving
from tests.stores import PlainEncoder

if TYPE_CHECKING:
    from retrieval.models.encoder import Encoder

NONE = Calibrations(cosine=None, fused=None)


def groups(index: Path) -> set[tuple[str, tuple[str, ...]]]:
    """Kind and file names of every group."""
    with Engine.open(index, device="cpu") as engine:
        return {(group.kind, tuple(Path(item.path).name for item in group.items)) for group in engine.duplicates()}


def paths_of_groups(index: Path) -> set[frozenset[str]]:
    with Engine.open(index, device="cpu") as engine:
        return {frozenset(item.path for item in group.items) for group in engine.duplicates()}


def hits_of(index: Path, seed: int, k: int = 10, *, copies: bool = False, kind: Kind | None = None) -> tuple[Hit, ...]:
    """What a search for a picture gives."""
    encoder = PlainEncoder()
    direction = encoder.encode_pixels([encoder.preprocess(picture(seed, 320, 240))])[0]
    state = IndexState(index, read_manifest(index), "cpu")
    return search(state, Query(text="x", k=k, copies=copies, kind=kind), direction, NONE, None).hits


def names(hit: Hit) -> list[str]:
    return [Path(path).name for path in (hit.item.path, *hit.copies)]


def photo(seed: int) -> Image.Image:
    return picture(seed, 320, 240)


def write_copies(media: Path, seed: int) -> list[str]:
    """A photo, and what becomes of it in mails, on phones and in editors; their names, best first."""
    media.mkdir(parents=True, exist_ok=True)
    (media / "sent").mkdir(exist_ok=True)
    whole = photo(seed)
    whole.save(media / f"a{seed}.png")
    shutil.copyfile(media / f"a{seed}.png", media / "sent" / f"b{seed}.png")
    whole.save(media / f"c{seed}.jpg", quality=60)
    ImageEnhance.Brightness(whole).enhance(1.1).save(media / "sent" / f"d{seed}.webp", quality=40)
    whole.resize((160, 120), Image.Resampling.LANCZOS).save(media / f"e{seed}.jpg", quality=85)
    return [f"a{seed}.png", f"b{seed}.png", f"c{seed}.jpg", f"d{seed}.webp", f"e{seed}.jpg"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five copies each of two photos, and forty strangers; `media` is beside its index."""
    folder = tmp_path_factory.mktemp("album")
    for seed in (1, 2):
        write_copies(folder / "media", seed)
    write_photos(folder / "media", 40, start=100)
    run(folder / "index", folder / "media")
    return folder


def test_copies_of_other_size_quality_and_format_are_one_hit(album: Path) -> None:
    best = hits_of(album / "index", 1)[0]
    assert best.item.path.endswith("a1.png") and best.rank == 1
    assert set(names(best)) == {"a1.png", "b1.png", "c1.jpg", "d1.webp", "e1.jpg"}
    assert names(best)[:2] == ["a1.png", "b1.png"] and names(best)[-1] == "e1.jpg"
    assert best.to_json()["copies"] == list(best.copies)


def test_each_copy_is_a_hit_where_they_are_asked_for(album: Path) -> None:
    hits = hits_of(album / "index", 1, k=5, copies=True)
    assert {Path(hit.item.path).name for hit in hits} == {"a1.png", "b1.png", "c1.jpg", "d1.webp", "e1.jpg"}
    assert all(hit.copies == () for hit in hits)


def test_k_hits_are_k_hits_and_fewer_are_the_first_of_them(album: Path) -> None:
    every = hits_of(album / "index", 1, k=100)
    assert len(every) == 42 and [hit.rank for hit in every] == list(range(1, 43))
    assert sum(len(hit.copies) for hit in every) == 8
    for k in (1, 2, 7, 30):
        assert hits_of(album / "index", 1, k=k) == every[:k]


def test_the_score_is_that_of_the_nearest_copy(album: Path) -> None:
    hit = hits_of(album / "index", 2)[0]
    assert hit.score == pytest.approx(max(other.score for other in hits_of(album / "index", 2, k=5, copies=True)))


def test_strangers_are_in_no_group(album: Path) -> None:
    assert {members for _, members in groups(album / "index") if any("photo" in name for name in members)} == set()
    assert len(groups(album / "index")) == 2


def test_equal_files_are_a_group_of_their_own_kind(tmp_path: Path) -> None:
    files = write_photos(tmp_path / "media", 3)
    shutil.copyfile(files[0], tmp_path / "media" / "z.jpg")
    run(tmp_path / "index", tmp_path / "media")
    assert groups(tmp_path / "index") == {("same", ("photo0000.jpg", "z.jpg"))}


def test_pictures_without_a_drawing_are_copies_of_equal_ones_alone(tmp_path: Path) -> None:
    """Blank, black and graded pictures have hashes of all zeros or ones: they once made one group of hundreds."""
    media = tmp_path / "media"
    media.mkdir()
    across, down = np.meshgrid(np.arange(64), np.arange(48))
    drawings = {
        "black": across * 0,
        "white": across * 0 + 255,
        "dark": across * 0 + 40,
        "right": across * 3,
        "down": down * 4,
    }
    for name, values in drawings.items():
        for quality in (50, 90):
            Image.fromarray(values.astype(np.uint8)).save(media / f"{name}{quality}.jpg", quality=quality)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(media / "black.jpg", quality=90)
    run(tmp_path / "index", media)
    assert groups(tmp_path / "index") == {("same", ("black.jpg", "black90.jpg"))}


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A photo as phones and services name what belongs to it, beside strangers of like names."""
    media = tmp_path / "media"
    media.mkdir()
    photo(9).save(media / "IMG_0009.jpg", quality=90)
    photo(70).save(media / "IMG_E0009.jpg", quality=90)
    film(media / "IMG_0009.mov", [9], 2.0)
    photo(11).save(media / "beach.jpg", quality=90)
    photo(71).save(media / "beach-edited.jpg", quality=90)
    for number, seed in enumerate((20, 21, 22)):
        cover = "_COVER" if number == 1 else ""
        photo(seed).save(media / f"00{number}IMG_00{number}_BURST20240102030405678{cover}.jpg", quality=90)
    # Of one name, and yet not one shot: another format of another picture, and a long film.
    photo(30).save(media / "logo.png")
    photo(31).save(media / "logo.jpg", quality=90)
    photo(40).save(media / "DSC_0001.jpg", quality=90)
    film(media / "DSC_0001.mov", [40, 41, 42, 43], 2.5)
    (media / "other").mkdir()
    photo(50).save(media / "other" / "IMG_E0009.jpg", quality=90)
    run(tmp_path / "index", media)
    return tmp_path


def test_what_a_phone_stores_for_one_shot_is_one_hit(family: Path) -> None:
    assert groups(family / "index") == {
        ("stack", ("IMG_0009.jpg", "IMG_E0009.jpg", "IMG_0009.mov")),
        ("stack", ("beach.jpg", "beach-edited.jpg")),
        (
            "stack",
            (
                "001IMG_001_BURST20240102030405678_COVER.jpg",
                "000IMG_000_BURST20240102030405678.jpg",
                "002IMG_002_BURST20240102030405678.jpg",
            ),
        ),
    }
    hit = hits_of(family / "index", 9)[0]
    assert names(hit) == ["IMG_0009.jpg", "IMG_E0009.jpg", "IMG_0009.mov"] and hit.moments == ()


def test_the_nearest_copy_is_found_and_the_best_is_shown(family: Path) -> None:
    """The words match the edit: its photo stands for it."""
    hit = hits_of(family / "index", 71)[0]
    assert names(hit) == ["beach.jpg", "beach-edited.jpg"] and hit.score > 0.95


def test_copies_that_do_not_pass_the_filter_are_not_shown(family: Path) -> None:
    hit = hits_of(family / "index", 9, kind="video")[0]
    assert hit.item.path.endswith("IMG_0009.mov") and hit.copies == () and hit.moments
    assert names(hits_of(family / "index", 9, kind="image")[0]) == ["IMG_0009.jpg", "IMG_E0009.jpg"]


def test_moments_that_are_hits_of_their_own_leave_their_group(family: Path) -> None:
    encoder = PlainEncoder()
    direction = encoder.encode_pixels([encoder.preprocess(photo(9))])[0]
    state = IndexState(family / "index", read_manifest(family / "index"), "cpu")
    hits = search(state, Query(text="x", k=100, group=False), direction, NONE, None).hits
    assert any(hit.item.path.endswith("IMG_0009.mov") for hit in hits[:2])
    assert len(hits) == sum(entry.alive for entry in state.manifest.shards) - 4


def test_a_film_in_two_places_is_one_hit_with_its_moments(tmp_path: Path) -> None:
    film(tmp_path / "media" / "a.mp4", [1, 2, 3])
    shutil.copyfile(tmp_path / "media" / "a.mp4", tmp_path / "media" / "z.mp4")
    film(tmp_path / "media" / "other.mp4", [4, 5])
    run(tmp_path / "index", tmp_path / "media")
    hits = hits_of(tmp_path / "index", 2)
    assert [names(hit) for hit in hits] == [["a.mp4", "z.mp4"], ["other.mp4"]]
    assert len(hits[0].moments) == 3 and all(moment.item.path == hits[0].item.path for moment in hits[0].moments)


def test_deleted_copies_leave_and_the_next_best_is_shown(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    first, *others = write_copies(media, 1)
    write_photos(media, 5, start=50)
    run(index, media)
    (media / first).unlink()
    run(index, media)
    assert names(hits_of(index, 1)[0])[0] == "b1.png" and len(groups(index)) == 1
    for name in others[1:]:
        next(media.rglob(name)).unlink()
    run(index, media)
    assert names(hits_of(index, 1)[0]) == ["b1.png"] and groups(index) == set()
    photo(1).resize((640, 480)).save(media / "large.jpg", quality=95)
    run(index, media)
    assert names(hits_of(index, 1)[0]) == ["large.jpg", "b1.png"]


def test_many_runs_find_what_one_run_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files come, change, move and go in forty runs of random edits; so do they in one, after a compaction, rebuilt, and where
    all rows are not looked up together."""
    library = Library(tmp_path, seed=5)
    for _ in range(10):
        for _ in range(6):
            library.edit()
        run(tmp_path / "index", *library.roots)
    run(tmp_path / "fresh", *library.roots)
    expected = paths_of_groups(tmp_path / "fresh")
    assert len(expected) > 2
    assert paths_of_groups(tmp_path / "index") == expected
    for act in (IndexWriter.compact, IndexWriter.rebuild_vectors):
        with IndexWriter(tmp_path / "index") as writer:
            act(writer)
        assert paths_of_groups(tmp_path / "index") == expected
    monkeypatch.setattr("retrieval.store.copies._AT_ONCE", 1)
    monkeypatch.setattr("retrieval.store.shards.SHARD_ROWS", 7)
    with IndexWriter(tmp_path / "index") as writer:
        writer.compact()
        assert len(writer.manifest.shards) > 3
        assert len(list((tmp_path / "index" / "copies").glob("*.prints"))) == len(writer.manifest.copies.segments)
    assert paths_of_groups(tmp_path / "index") == expected


def test_an_index_that_knows_no_copies_opens_and_learns_them(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    expected = set(write_copies(media, 1))
    run(index, media)
    value = json.loads((index / "manifest.json").read_text())
    del value["copies"]
    (index / "manifest.json").write_text(json.dumps(value))
    assert all(hit.copies == () for hit in hits_of(index, 1))
    run(index, media)
    assert set(names(hits_of(index, 1)[0])) == expected


@pytest.mark.parametrize("harm", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-8])])
@pytest.mark.parametrize("pattern", ["*.groups", "*.prints"])
def test_damaged_files_are_one_clear_error_and_made_anew(
    tmp_path: Path, harm: Callable[[Path], object], pattern: str
) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_copies(media, 1)
    run(index, media)
    harm(next((index / "copies").glob(pattern)))
    if pattern == "*.groups":
        with pytest.raises(FormatError, match="--rebuild-vectors"):
            hits_of(index, 1)
    photo(1).resize((200, 150)).save(media / "new.jpg")
    run(index, media)
    assert len(names(hits_of(index, 1)[0])) == 6


def test_a_reader_keeps_the_groups_that_it_opened_and_no_old_file_stays(tmp_path: Path) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    write_copies(media, 1)
    run(index, media)
    with Engine.open(index, device="cpu") as engine:
        write_copies(media, 2)
        run(index, media)
        assert len(list(engine.duplicates())) == 1
    with IndexWriter(index) as writer:
        state = writer.manifest
    files = {f"copies/{file.name}" for file in (index / "copies").iterdir()}
    assert files == {entry.file for entry in state.files() if entry.file.startswith("copies/")}
    assert len(CopyGroups.open(index, state) or ()) == 2


def test_a_run_that_adds_little_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cost follows the change: of the rows that were there, those that may be copies of a new one are read."""
    media, index = tmp_path / "media", tmp_path / "index"
    write_photos(media, 120)
    run(index, media)
    taken: list[int] = []
    real = StoredEmbeddings.take

    def counted(self: StoredEmbeddings, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float16]:
        taken.append(len(rows))
        return real(self, shards, rows)

    monkeypatch.setattr(StoredEmbeddings, "take", counted)
    picture(7).save(media / "new.png")
    run(index, media)
    assert groups(index) == {("near", ("new.png", "photo0007.jpg"))}
    assert sum(taken) < 10


def test_min_relevance_and_copies_go_together(album: Path) -> None:
    encoder = PlainEncoder()
    direction = encoder.encode_pixels([encoder.preprocess(photo(1))])[0]
    state = IndexState(album / "index", read_manifest(album / "index"), "cpu")
    calibrations = replace(NONE, cosine=Calibration(slope=100.0, intercept=-90.0))
    hits = search(state, Query(text="x", k=5, min_relevance=0.5), direction, calibrations, None).hits
    assert len(hits) == 1 and len(hits[0].copies) == 4


def test_the_command_lists_shows_and_deletes_nothing(tmp_path: Path, command: Command) -> None:
    media, index = tmp_path / "media", tmp_path / "index"
    expected = {*write_copies(media, 1), "<b>.jpg"}
    shutil.copyfile(media / "c1.jpg", media / "<b>.jpg")
    write_photos(media, 3, start=50)
    run(index, media)
    before = sorted(media.rglob("*"))
    listed = command("duplicates", "--index", str(index), "--json")
    (group,) = [json.loads(line) for line in listed.stdout.splitlines()]
    assert list(group) == ["kind", "paths"] and group["kind"] == "near"
    assert {Path(path).name for path in group["paths"]} == expected
    assert group["paths"][0] == str(media / "a1.png")
    freed = sum(Path(path).stat().st_size for path in group["paths"][1:])
    table = command("duplicates", "--index", str(index))
    assert "nearly equal" in table.stdout and f"would free {freed / 1000:.1f} kB" in table.stderr
    sheet = command("duplicates", "--index", str(index), "--html", str(tmp_path / "copies.html"))
    assert (sheet.returncode, sheet.stdout) == (0, "")
    text = (tmp_path / "copies.html").read_text()
    assert text.count("data:image/jpeg") == 6 and "<b>" not in text and "http" not in text
    assert sorted(media.rglob("*")) == before
    lost = command("duplicates", "--index", str(index), "--html", str(tmp_path / "no" / "copies.html"))
    assert lost.returncode == 1 and "cannot write" in lost.stderr


def test_search_shows_copies_where_it_is_asked_to(tmp_path: Path, mini: Encoder, command: Command) -> None:
    media = tmp_path / "media"
    expected = write_copies(media, 1)
    build(media, mini)
    asked = ("search", "colours", "--index", str(media))
    (hit,) = [json.loads(line) for line in command(*asked, "--json").stdout.splitlines()]
    assert {Path(path).name for path in (hit["path"], *hit["copies"])} == set(expected)
    each = [json.loads(line) for line in command(*asked, "--json", "--copies").stdout.splitlines()]
    assert {Path(hit["path"]).name for hit in each} == set(expected) and not any(hit["copies"] for hit in each)
    assert "+4 copies" in command(*asked).stdout
    with serving(media / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        (served,) = web.post("/api/search", json={"text": "colours"}).json()["hits"]
        assert (served["path"], served["copies"]) == (hit["path"], hit["copies"])
        assert len(web.post("/api/search", json={"text": "colours", "copies": True}).json()["hits"]) == 5
        form = web.post("/api/search", files={"text": (None, "colours"), "copies": (None, "true")})
        assert len(form.json()["hits"]) == 5


def test_an_index_without_copies_says_so(tmp_path: Path, command: Command) -> None:
    write_photos(tmp_path / "media", 3)
    run(tmp_path / "index", tmp_path / "media")
    done = command("duplicates", "--index", str(tmp_path / "index"))
    assert (done.returncode, done.stdout) == (0, "no copies\n")
    assert command("duplicates", "--index", str(tmp_path / "index"), "--json").stdout == ""

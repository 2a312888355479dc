"""Containers: what a file says about other files is not to be trusted, and each member is told from every other."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from media.containers import expand
from media.errors import MediaError
from media.reader import ImageReader
from media.types import Place, Record, Source
from media.walk import walk
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from tests.conftest import write_photos
from tests.libraries import jpeg, rows_of, run, write_tar
from tests.stores import PlainEncoder


def records(file: Path, *roots: Path) -> list[Record]:
    source = next(one for one in walk([str(file)]) if isinstance(one, Source))
    return list(expand(source, [str(root) for root in roots]))


def write_members(file: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(file, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def failures(index: Path) -> str:
    return " ".join(failure.reason for failure in read_failures(index, read_manifest(index)))


@pytest.mark.parametrize("name", ["{out}/secret.jpg", "../outside/secret.jpg", "link.jpg", "away/secret.jpg"])
def test_a_caption_table_names_no_file_outside_of_the_indexed_folders(tmp_path: Path, name: str) -> None:
    write_photos(tmp_path / "outside", 1)[0].rename(tmp_path / "outside" / "secret.jpg")
    write_photos(tmp_path / "media", 1)
    (tmp_path / "media" / "link.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (tmp_path / "media" / "away").symlink_to(tmp_path / "outside")
    named = name.format(out=tmp_path / "outside")
    (tmp_path / "media" / "captions.csv").write_text(f"path,caption\n{named},taken\nphoto0000.jpg,fine\n")
    index = tmp_path / "index"
    run(index, tmp_path / "media")
    assert {row[0] for row in rows_of(index)} == {str(tmp_path / "media" / "photo0000.jpg")}
    assert "outside of the indexed folders" in failures(index)
    assert "leads out of the indexed folders" in failures(index)


def test_a_key_file_that_a_caption_table_names_is_no_item(tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("secret")
    write_photos(tmp_path / "media", 1)
    (tmp_path / "media" / "captions.jsonl").write_text('{"path": "../id_rsa", "caption": "key"}\n')
    run(tmp_path / "index", tmp_path / "media")
    assert len(rows_of(tmp_path / "index")) == 1


def test_a_table_may_name_images_of_another_indexed_root(tmp_path: Path) -> None:
    photo = write_photos(tmp_path / "photos", 1)[0]
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "captions.csv").write_text(f"path,caption\n{photo},a dog\n")
    run(tmp_path / "index", tmp_path / "photos", tmp_path / "tables")
    assert [row[0] for row in rows_of(tmp_path / "index") if row[3] == "a dog"] == [str(photo)]


def test_a_link_that_is_turned_outwards_later_leaves_the_index(tmp_path: Path) -> None:
    inner, outer = write_photos(tmp_path / "media", 1)[0], write_photos(tmp_path / "outside", 1, start=5)[0]
    hidden = tmp_path / "media" / ".kept.jpg"
    hidden.write_bytes(write_photos(tmp_path / "other", 1, start=9)[0].read_bytes())
    link = tmp_path / "media" / "link.jpg"
    link.symlink_to(hidden)
    run(tmp_path / "index", tmp_path / "media")
    assert len(rows_of(tmp_path / "index")) == 2
    link.unlink()
    link.symlink_to(outer)
    run(tmp_path / "index", tmp_path / "media")
    assert [row[0] for row in rows_of(tmp_path / "index")] == [str(inner)]


def test_lines_of_captions_are_cut_at_line_ends_alone(tmp_path: Path) -> None:
    write_photos(tmp_path, 1)
    odd = "one\u2028two\u0085three\x0bfour"
    (tmp_path / "captions.jsonl").write_text(
        f'{{"path": "photo0000.jpg", "caption": "{odd}"}}\r\n'.replace("\x0b", " ")
    )
    texts = [passage.text for record in records(tmp_path / "captions.jsonl") for passage in record.texts]
    assert len(texts) == 1 and texts[0].startswith("one") and texts[0].endswith("four")


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_container_without_images_is_read_once(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, 1)
    if kind == "tar":
        write_members(tmp_path / "set.tar", [("a.bin", b"0" * 5000)])
    else:
        pq.write_table(
            pa.table({"image_id": pa.array([], pa.string()), "image": pa.array([], pa.binary())}),
            tmp_path / "t.parquet",
        )
    assert run(tmp_path / ".mmsearch", tmp_path).failed == 1
    read: list[str] = []

    def never(source: Source, roots: object) -> list[Record]:
        read.append(source.path)
        return []

    monkeypatch.setattr("indexer.work.expand", never)
    assert run(tmp_path / ".mmsearch", tmp_path).failed == 1
    assert not read


def test_equal_ids_in_a_table_are_told_apart(tmp_path: Path) -> None:
    table = {"image_id": ["x", "x", "x#2", "y"], "image": [jpeg(n) for n in range(4)]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    run(tmp_path / ".mmsearch", tmp_path)
    paths = [row[0].rpartition("::")[2] for row in rows_of(tmp_path / ".mmsearch")]
    assert len(set(paths)) == 4 and "x" in paths and "y" in paths
    reader = ImageReader(32)
    assert {reader.read(f"{tmp_path}/t.parquet::{path}") for path in paths} == {jpeg(n) for n in range(4)}


def test_members_with_dots_in_their_names_keep_their_own_captions(tmp_path: Path) -> None:
    members = [
        (f"trip.{n}{suffix}", data) for n in range(5) for suffix, data in ((".jpg", jpeg(n)), (".txt", b"about %d" % n))
    ]
    write_members(tmp_path / "set.tar", members)
    captions = {
        record.path.rpartition("::")[2]: record.texts[0].text
        for record in records(tmp_path / "set.tar")
        if record.texts
    }
    assert captions == {f"trip.{n}.jpg": f"about {n}" for n in range(5)}


def test_a_tar_of_one_key_is_never_held_whole(tmp_path: Path) -> None:
    write_members(tmp_path / "set.tar", [(f"trip.{n:04d}.jpg", jpeg(n % 7)) for n in range(700)])
    stream = expand(next(one for one in walk([str(tmp_path / "set.tar")]) if isinstance(one, Source)))
    first = next(stream)
    assert first.data == jpeg(0)
    assert 1 + sum(1 for _ in stream) == 700


def test_a_tar_that_was_replaced_gives_its_new_bytes(tmp_path: Path) -> None:
    write_tar(tmp_path / "set.tar", [1, 2, 3])
    reader = ImageReader(32)
    assert reader.read(f"{tmp_path}/set.tar::00003.jpg") == jpeg(3)
    write_tar(tmp_path / "new.tar", [3, 9])
    os.replace(tmp_path / "new.tar", tmp_path / "set.tar")
    assert reader.read(f"{tmp_path}/set.tar::00003.jpg") == jpeg(3)
    assert reader.read(f"{tmp_path}/set.tar::00009.jpg") == jpeg(9)
    with pytest.raises(MediaError, match="no member"):
        reader.read(f"{tmp_path}/set.tar::00001.jpg")


def test_what_has_no_image_is_told_without_reading_it(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("words")
    (tmp_path / "talk.mp3").write_bytes(b"sound")
    for place in (Place(path=str(tmp_path / "notes.md")), Place(path=str(tmp_path / "talk.mp3"), start=1.0, end=2.0)):
        with pytest.raises(MediaError, match="no image"):
            ImageReader(32).image(place)


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (1, 1)])
def test_whatever_one_file_does_the_run_goes_on(tmp_path: Path, size: tuple[int, int]) -> None:
    from PIL import Image

    write_photos(tmp_path, 3)
    Image.new("RGB", size).save(tmp_path / "odd.png")

    class Refusing(PlainEncoder):
        def preprocess(self, image: Image.Image) -> object:  # type: ignore[override]
            if min(image.size) == 1:
                raise RecursionError("too deep")
            return super().preprocess(image)

    report = run(tmp_path / ".mmsearch", tmp_path, encoder=Refusing())
    assert (report.indexed, report.failed) == (3, 1)
    assert "RecursionError: too deep" in failures(tmp_path / ".mmsearch")


def test_a_text_that_no_embedding_is_made_of_costs_itself_alone(tmp_path: Path) -> None:
    write_photos(tmp_path, 1)
    (tmp_path / "photo0000.txt").write_text("fine\npoison\nalso fine\n")

    class Poisoned(PlainEncoder):
        def encode_texts(self, texts: object) -> object:  # type: ignore[override]
            if "poison" in list(texts):  # type: ignore[call-overload]
                raise FloatingPointError
            return super().encode_texts(texts)  # type: ignore[arg-type]

    (tmp_path / "other.md").write_text("words")
    report = run(tmp_path / ".mmsearch", tmp_path, encoder=Poisoned())
    texts = {row[3] for row in rows_of(tmp_path / ".mmsearch") if row[1].startswith("text")}
    assert texts == {"fine", "also fine", "words"}
    assert report.failed == 1

"""Building: what changed is encoded, what did not is not, and every source gives what it holds."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from indexer.build import IndexBuild
from indexer.config import BuildConfig, BuildReport
from indexer.roots import roots_of
from media.types import Source, Unreadable
from media.walk import walk
from retrieval.errors import IndexNotFoundError
from retrieval.models.encoder import Encoder
from retrieval.results import Failure
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.store.shards import ShardReader
from retrieval.types import Item
from tests.conftest import picture, write_photos
from tests.stores import PlainEncoder


def run(folder: Path, *paths: Path, retry: bool = False, encoder: PlainEncoder | None = None) -> BuildReport:
    build = IndexBuild(
        paths or (folder,),
        folder / ".mmsearch",
        cast(Encoder, encoder or PlainEncoder()),
        BuildConfig(batch_size=4, workers=2, retry_failed=retry),
    )
    for _ in build:
        pass
    assert build.report is not None
    return build.report


def rows(folder: Path) -> list[Item]:
    state = read_manifest(folder / ".mmsearch")
    reader = ShardReader(folder / ".mmsearch", state)
    shards, places = reader.living()
    return sorted(reader.items(shards, places), key=lambda item: (item.path, item.kind, item.text or ""))


def vector(folder: Path, path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    reader = ShardReader(folder / ".mmsearch", read_manifest(folder / ".mmsearch"))
    shards, places = reader.living()
    found = reader.items(shards, places)
    number = next(n for n, item in enumerate(found) if item.path == str(path))
    return np.asarray(reader.embeddings(shards[[number]], places[[number]])[0], np.float16)


def failures(folder: Path) -> dict[str, Failure]:
    index = folder / ".mmsearch"
    return {failure.path: failure for failure in read_failures(index, read_manifest(index))}


def counts(report: BuildReport) -> tuple[int, int, int, int, int]:
    return report.indexed, report.unchanged, report.removed, report.failed, report.items


def test_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    write_photos(tmp_path, 11)
    encoder = PlainEncoder()
    assert counts(run(tmp_path, encoder=encoder)) == (11, 0, 0, 0, 11)
    assert encoder.encoded == 11
    before = read_manifest(tmp_path / ".mmsearch")
    assert counts(run(tmp_path, encoder=encoder)) == (0, 11, 0, 0, 11)
    assert encoder.encoded == 11
    assert read_manifest(tmp_path / ".mmsearch") == before


def test_embeddings_in_the_index_are_the_models_own(tmp_path: Path) -> None:
    files = write_photos(tmp_path, 6)
    run(tmp_path)
    encoder = PlainEncoder()
    for file in files:
        own = encoder.encode_pixels([encoder.preprocess(Image.open(file).convert("RGB"))])[0]
        assert np.array_equal(vector(tmp_path, file), own.astype(np.float16))


def test_a_renamed_file_is_not_encoded_again(tmp_path: Path) -> None:
    files = write_photos(tmp_path, 5)
    encoder = PlainEncoder()
    run(tmp_path, encoder=encoder)
    kept = vector(tmp_path, files[2])
    files[2].rename(tmp_path / "renamed.jpg")
    assert counts(run(tmp_path, encoder=encoder)) == (1, 4, 1, 0, 5)
    assert encoder.encoded == 5
    assert np.array_equal(vector(tmp_path, tmp_path / "renamed.jpg"), kept)
    assert str(files[2]) not in {item.path for item in rows(tmp_path)}


def test_a_changed_file_is_encoded_again_and_a_touched_one_is_not(tmp_path: Path) -> None:
    files = write_photos(tmp_path, 4)
    encoder = PlainEncoder()
    run(tmp_path, encoder=encoder)
    old = vector(tmp_path, files[0])
    picture(777).save(files[0])
    os.utime(files[1], ns=(1, 1))
    assert counts(run(tmp_path, encoder=encoder)) == (2, 2, 0, 0, 4)
    assert encoder.encoded == 5
    assert not np.array_equal(vector(tmp_path, files[0]), old)


def test_a_vanished_file_is_gone_and_an_unrelated_root_is_not(tmp_path: Path) -> None:
    write_photos(tmp_path / "a", 3)
    write_photos(tmp_path / "b", 3, start=50)
    run(tmp_path)
    (tmp_path / "a" / "photo0001.jpg").unlink()
    shutil.rmtree(tmp_path / "b")
    assert counts(run(tmp_path, tmp_path / "a")) == (0, 2, 1, 0, 5)
    assert counts(run(tmp_path)) == (0, 2, 3, 0, 2)


def test_equal_content_under_two_paths_gives_two_items(tmp_path: Path) -> None:
    files = write_photos(tmp_path, 1)
    shutil.copyfile(files[0], tmp_path / "copy.jpg")
    assert run(tmp_path).items == 2
    assert len({item.id for item in rows(tmp_path)}) == 2


def test_failures_are_in_the_ledger_and_tried_again_only_when_asked(tmp_path: Path) -> None:
    write_photos(tmp_path, 3)
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xff\xe0 nothing")
    assert counts(run(tmp_path)) == (3, 0, 0, 1, 3)
    assert failures(tmp_path)[str(bad)].stage == "decode"
    assert counts(run(tmp_path)) == (0, 3, 0, 1, 3)
    stamp = bad.stat()
    data = io.BytesIO()
    picture(5).save(data, "PNG")
    bad.write_bytes(data.getvalue())
    assert counts(run(tmp_path)) == (1, 3, 0, 0, 4)
    assert failures(tmp_path) == {}
    assert bad.stat().st_mtime_ns != stamp.st_mtime_ns
    bad.write_bytes(b"x")
    run(tmp_path)
    assert counts(run(tmp_path, retry=True)) == (0, 3, 0, 1, 3)
    bad.unlink()
    run(tmp_path)
    assert failures(tmp_path) == {}


def test_captions_belong_to_their_pictures(tmp_path: Path) -> None:
    files = write_photos(tmp_path, 3)
    files[0].with_suffix(".txt").write_text("a dog runs\na brown dog\n")
    (tmp_path / "captions.csv").write_text(
        "filename,caption\nphoto0001.jpg,two cats\nphoto0002,a bird\nmissing.jpg,gone\n"
    )
    (tmp_path / "notes.md").write_text("# Title\n\nSome words.\n")
    assert counts(run(tmp_path)) == (6, 0, 0, 1, 9)
    texts = {(item.path, item.text, item.text_kind) for item in rows(tmp_path) if item.kind == "text"}
    assert texts == {
        (str(files[0]), "a dog runs", "caption"),
        (str(files[0]), "a brown dog", "caption"),
        (str(files[1]), "two cats", "caption"),
        (str(files[2]), "a bird", "caption"),
        (str(tmp_path / "notes.md"), "# Title", "passage"),
        (str(tmp_path / "notes.md"), "Some words.", "passage"),
    }
    assert "missing.jpg" in failures(tmp_path)[str(tmp_path / "captions.csv")].reason
    assert counts(run(tmp_path)) == (0, 6, 0, 1, 9)
    files[0].unlink()
    run(tmp_path)
    assert {item.path for item in rows(tmp_path) if item.text == "a dog runs a brown dog"} == {
        str(files[0].with_suffix(".txt"))
    }


def test_a_tar_and_a_table_give_their_members(tmp_path: Path) -> None:
    write_photos(tmp_path / "loose", 4)
    with tarfile.open(tmp_path / "set.tar", "w") as out:
        for number in range(2):
            out.add(tmp_path / "loose" / f"photo000{number}.jpg", f"{number}.jpg")
            caption = f"caption {number}".encode()
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = len(caption)
            out.addfile(info, io.BytesIO(caption))
    table = {
        "image_id": ["x", "y"],
        "image": [(tmp_path / "loose" / f"photo000{n}.jpg").read_bytes() for n in (2, 3)],
        "captions": [["one", "two"], []],
    }
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    shutil.rmtree(tmp_path / "loose")
    report = run(tmp_path)
    assert counts(report) == (4, 0, 0, 0, 8)
    tar, parquet = f"{tmp_path}/set.tar::", f"{tmp_path}/t.parquet::"
    assert [(item.path, item.text) for item in rows(tmp_path)] == [
        (tar + "0.jpg", None), (tar + "0.jpg", "caption 0"), (tar + "1.jpg", None), (tar + "1.jpg", "caption 1"),
        (parquet + "x", None), (parquet + "x", "one"), (parquet + "x", "two"), (parquet + "y", None),
    ]  # fmt: skip
    assert counts(run(tmp_path)) == (0, 4, 0, 0, 8)
    (tmp_path / "set.tar").unlink()
    assert counts(run(tmp_path)) == (0, 2, 2, 0, 4)


def test_a_damaged_container_is_a_failure_and_keeps_what_it_gave(tmp_path: Path) -> None:
    write_photos(tmp_path, 1)
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 300)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    report = run(tmp_path)
    assert (report.indexed, report.failed) == (1, 3)
    assert "columns image_id and image" in failures(tmp_path)[str(tmp_path / "other.parquet")].reason


def test_hidden_files_and_link_loops_are_left_out(tmp_path: Path) -> None:
    write_photos(tmp_path / "real", 2)
    write_photos(tmp_path / ".hidden", 2)
    write_photos(tmp_path / ".mmsearch" / "x", 1)
    shutil.copyfile(tmp_path / "real" / "photo0000.jpg", tmp_path / ".secret.jpg")
    (tmp_path / "real" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "real" / "dangling.jpg").symlink_to(tmp_path / "nowhere.jpg")
    found = list(walk([str(tmp_path)]))
    assert sorted(Path(one.path).name for one in found if isinstance(one, Source)) == ["photo0000.jpg", "photo0001.jpg"]
    assert [Path(one.path).name for one in found if isinstance(one, Unreadable)] == ["dangling.jpg"]


def test_strange_names_are_indexed_and_come_back_byte_for_byte(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "x", 1)[0].read_bytes()
    names = [
        b"new\nline.jpg",
        "emoji \U0001f415\u200d\U0001f9ba.jpg".encode(),
        b"invalid-\xff\xfe.jpg",
        b" space .jpg",
        b"-dash.jpg",
    ]
    for name in names:
        with open(os.fsencode(tmp_path / "x") + b"/" + name, "wb") as out:
            out.write(data)
    assert run(tmp_path).items == 6
    stored = {os.path.basename(os.fsencode(item.path)) for item in rows(tmp_path)}
    assert stored == {*names, b"photo0000.jpg"}
    assert counts(run(tmp_path)) == (0, 6, 0, 0, 6)


def test_a_folder_that_cannot_be_read_is_a_failure_and_its_items_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "a", 2)
    write_photos(tmp_path / "b", 2, start=9)
    run(tmp_path)
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("media.walk.os.scandir", refuse)
    report = run(tmp_path)
    assert (report.removed, report.failed, report.items) == (0, 1, 4)
    assert failures(tmp_path)[str(tmp_path / "b")].stage == "read"


def test_nothing_to_index_is_an_error_and_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexNotFoundError, match="nothing to index"):
        run(tmp_path)
    assert not (tmp_path / ".mmsearch").exists()
    with pytest.raises(IndexNotFoundError, match="No such file"):
        roots_of([tmp_path / "no"])
    (tmp_path / "x.xyz").write_text("")
    with pytest.raises(IndexNotFoundError, match="not a kind"):
        roots_of([tmp_path / "x.xyz"])


def test_an_interrupted_run_commits_what_it_has(tmp_path: Path) -> None:
    write_photos(tmp_path, 20)
    build = IndexBuild([tmp_path], tmp_path / ".mmsearch", cast(Encoder, PlainEncoder()), BuildConfig(batch_size=4))
    with pytest.raises(KeyboardInterrupt):
        for event in build:
            if event.done == 9:
                raise KeyboardInterrupt
        pytest.fail("the build ended before it was interrupted")
    del build
    encoder = PlainEncoder()
    report = run(tmp_path, encoder=encoder)
    assert report.items == 20
    assert report.unchanged >= 8
    assert encoder.encoded <= 12


def test_an_embedding_that_is_not_finite_costs_its_own_file_only(tmp_path: Path) -> None:
    files = write_photos(tmp_path, 6)

    class Poisoned(PlainEncoder):
        def encode_pixels(self, pixels: object) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
            batch = cast("list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]", pixels)
            if any(abs(float(one.mean()) - bad) < 1e-7 for one in batch):
                raise FloatingPointError("the model gave an embedding that is not finite")
            return super().encode_pixels(batch)

    encoder = Poisoned()
    bad = float(encoder.preprocess(Image.open(files[3]).convert("RGB")).mean())
    report = run(tmp_path, encoder=encoder)
    assert (report.indexed, report.failed) == (5, 1)
    assert failures(tmp_path)[str(files[3])].stage == "encode"


def test_what_the_file_says_of_itself_is_stored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0110], exif[0x0132] = "Pixel 9", "2024:02:29 01:02:03"
    picture(1, 90, 60).save(tmp_path / "p.jpg", exif=exif)
    run(tmp_path)
    item = rows(tmp_path)[0]
    assert (item.camera, item.taken_at, item.width, item.height) == ("Pixel 9", "2024-02-29T01:02:03", 90, 60)
    assert item.dhash is not None
    assert len(item.sha256) == 64

"""Media in a store: the same index as of the same files on a disk, whatever the store answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest

import indexer.cluster
from cli.terminal import file_url
from indexer.build import IndexBuild
from indexer.config import BuildConfig, BuildReport, ClusterConfig
from indexer.roots import roots_of
from indexer.run import index_folder
from media import storage
from media.errors import MediaError, UsageError
from media.reader import ImageReader, query_media
from media.types import Place
from media.walk import walk
from retrieval.engine import Engine
from retrieval.errors import IndexNotFoundError, MmsearchError
from retrieval.models.encoder import Encoder
from retrieval.store.ledger import read_failures
from retrieval.store.manifest import read_manifest
from retrieval.types import Query
from tests.buckets import BUCKET, Bucket, store
from tests.clusters import make_small
from tests.conftest import Command, picture, write_photos
from tests.films import film
from tests.libraries import jpeg, rows_of, write_moving, write_table, write_tar
from tests.servers import serving
from tests.stores import PlainEncoder
from tests.test_kill import check_whole


@pytest.fixture(scope="module")
def shared() -> Iterator[Bucket]:
    with store() as bucket:
        yield bucket


@pytest.fixture
def bucket(shared: Bucket) -> Bucket:
    shared.gate.clear()
    return shared


def run(index: Path, *paths: str | Path, encoder: PlainEncoder | None = None, **more: bool) -> BuildReport:
    build = IndexBuild(list(paths), index, encoder or PlainEncoder(), BuildConfig(batch_size=4, workers=2, **more))  # type: ignore[arg-type]
    for _ in build:
        pass
    assert build.report is not None
    return build.report


def library(folder: Path) -> None:
    """Files of every kind."""
    write_photos(folder / "one", 6)
    write_photos(folder / "two" / "deep", 3, start=20)
    (folder / "one" / "photo0002.txt").write_text("a caption")
    (folder / "one" / "photo0003.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>'
    )
    (folder / "note.md").write_text("a passage of a document")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "captions.csv").write_text("path,caption\none/photo0001.jpg,from a table\n")
    (folder / ".mmsearchignore").write_text("left-out*\n")
    (folder / "left-out.jpg").write_bytes(jpeg(99))
    write_tar(folder / "members.tar", list(range(40, 52)))
    write_table(folder / "rows.parquet", list(range(60, 72)))
    write_moving(folder / "moving.gif", [1, 60, 90])


def test_a_bucket_gives_the_index_of_the_same_files_on_a_disk(tmp_path: Path, bucket: Bucket) -> None:
    library(tmp_path / "files")
    film(tmp_path / "files" / "film.mp4", (50, 56))
    root = bucket.upload(tmp_path / "files", "all")
    there = run(tmp_path / "store", root)
    here = run(tmp_path / "local", tmp_path / "files")
    assert (there.indexed, there.failed, there.items, there.encoded) == (
        here.indexed, here.failed, here.items, here.encoded
    )  # fmt: skip
    kept, wanted = check_whole(tmp_path / "store"), check_whole(tmp_path / "local")

    def below(path: str, top: str) -> str:
        assert path.startswith(f"{top}/")
        return path[len(top) + 1 :]

    files = str(tmp_path / "files")
    rows = sorted(((below(row[0], root), row[1], row[3], below(row[4], root)), row[5]) for row in kept)
    others = sorted(((below(row[0], files), row[1], row[3], below(row[4], files)), row[5]) for row in wanted)
    assert [row[0] for row in rows] == [row[0] for row in others]
    assert np.allclose([row[1] for row in rows], [row[1] for row in others], atol=2e-3)
    failures = read_failures(tmp_path / "store", read_manifest(tmp_path / "store"))
    assert [failure.path for failure in failures] == [f"{root}/broken.jpg"]


def test_an_unchanged_bucket_is_listed_and_not_read(tmp_path: Path, bucket: Bucket) -> None:
    write_photos(tmp_path / "files", 5)
    write_tar(tmp_path / "files" / "members.tar", [1, 2])
    root = bucket.upload(tmp_path / "files", "unchanged")
    run(tmp_path / "index", root)
    bucket.gate.clear()
    again = run(tmp_path / "index", root)
    assert (again.indexed, again.unchanged, again.encoded) == (0, 7, 0)
    assert not [call for call in bucket.gate.calls if call.startswith("GET") and not call.endswith("list")]


def test_what_changes_in_a_bucket_is_followed(tmp_path: Path, bucket: Bucket) -> None:
    for seed in range(4):
        bucket.put(f"moves/photo{seed}.jpg", jpeg(seed))
    root = f"s3://{BUCKET}/moves"
    run(tmp_path / "index", root)
    bucket.put("moves/photo0.jpg", jpeg(100) + b"\0")
    bucket.delete("moves/photo1.jpg")
    bucket.put("moves/renamed.jpg", jpeg(2))
    bucket.delete("moves/photo2.jpg")
    report = run(tmp_path / "index", root)
    assert (report.indexed, report.unchanged, report.removed, report.encoded) == (2, 1, 2, 1), (
        "renamed: not encoded again"
    )
    names = {row[0].removeprefix(f"{root}/") for row in check_whole(tmp_path / "index")}
    assert names == {"photo0.jpg", "photo3.jpg", "renamed.jpg"}


def test_a_prefix_that_is_gone_takes_nothing_along(tmp_path: Path, bucket: Bucket) -> None:
    bucket.put("short/photo.jpg", jpeg(1))
    run(tmp_path / "index", f"s3://{BUCKET}/short")
    bucket.delete("short/photo.jpg")
    run(tmp_path / "index", f"s3://{BUCKET}/short")
    assert len(rows_of(tmp_path / "index")) == 1


def test_one_request_that_fails_costs_nothing_whichever_it_is(tmp_path: Path, bucket: Bucket) -> None:
    write_photos(tmp_path / "files", 2)
    (tmp_path / "files" / "photo0001.txt").write_text("a caption")
    write_tar(tmp_path / "files" / "members.tar", [40, 41])
    write_table(tmp_path / "files" / "rows.parquet", [60])
    root = bucket.upload(tmp_path / "files", "fails-once")
    bucket.gate.clear()
    wanted = run(tmp_path / "wanted", root)
    calls = len(bucket.gate.calls)
    assert calls > 8
    # Two requests of each run fail, the second far behind the first.
    half = (calls + 1) // 2
    for number in range(1, half + 1):
        status = (503, 500, -1)[number % 3]
        bucket.gate.clear()
        bucket.gate.fails = lambda call, _, n=number, s=status: s if call in (n, n + half) else 0  # type: ignore[misc]
        index = tmp_path / f"index{number}"
        report = run(index, root)
        reasons = [failure.reason for failure in read_failures(index, read_manifest(index))]
        assert (reasons, report.items) == ([], wanted.items), f"request {number} failed with {status}"


def test_a_store_that_goes_away_loses_nothing_and_the_next_run_goes_on(tmp_path: Path, bucket: Bucket) -> None:
    write_photos(tmp_path / "files", 6)
    root = bucket.upload(tmp_path / "files", "goes-away")
    index = tmp_path / "index"
    run(index, root)
    for seed in range(6, 12):
        bucket.put(f"goes-away/photo{seed:04d}.jpg", jpeg(seed))
    bucket.gate.clear()
    bucket.gate.fails = lambda _, call: 403 if call.startswith("GET") and not call.endswith("list") else 0
    report = run(index, root)
    assert (report.failed, report.items) == (6, 6)
    reasons = {failure.reason for failure in read_failures(index, read_manifest(index))}
    assert len(reasons) == 1 and f"s3://{BUCKET} gives no access" in reasons.pop()
    bucket.gate.fails = lambda number, call: 403
    with pytest.raises(MmsearchError, match="gives no access"):
        run(index, root)
    assert len(check_whole(index)) == 6, "what cannot be looked at is not gone"
    bucket.gate.clear()
    report = run(index, root, retry_failed=True)
    assert (report.failed, report.items) == (0, 12)
    assert len(check_whole(index)) == 12


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("s3://no-such-bucket-here/all", 0, "No such file or directory"),
        (f"s3://{BUCKET}/nothing-here", 0, "No such file or directory"),
        (f"s3://{BUCKET}/all", 403, "let AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name somebody"),
        (f"s3://{BUCKET}/all", 503, "too busy 5 times"),
    ],
)
def test_what_is_wrong_with_a_bucket_is_said_in_one_line(bucket: Bucket, path: str, status: int, said: str) -> None:
    bucket.gate.fails = lambda number, call: status
    with pytest.raises(IndexNotFoundError) as caught:
        roots_of([path])
    assert said in str(caught.value) and path in str(caught.value) and "\n" not in str(caught.value)
    assert len(bucket.gate.calls) <= 2 * storage.ATTEMPTS, "retries have a bound"


def test_a_half_written_object_is_in_the_ledger_until_it_is_whole(tmp_path: Path, bucket: Bucket) -> None:
    whole = jpeg(3)
    bucket.put("half/photo.jpg", whole[: len(whole) // 5])
    bucket.put("half/other.jpg", jpeg(4))
    report = run(tmp_path / "index", f"s3://{BUCKET}/half")
    assert (report.indexed, report.failed) == (1, 1)
    bucket.put("half/photo.jpg", whole)
    report = run(tmp_path / "index", f"s3://{BUCKET}/half")
    assert (report.indexed, report.failed, report.items) == (1, 0, 2)


def test_a_reader_gives_pictures_members_rows_and_moments_of_a_bucket(tmp_path: Path, bucket: Bucket) -> None:
    library(tmp_path / "files")
    film(tmp_path / "files" / "film.mp4", (50, 56))
    root = bucket.upload(tmp_path / "files", "read")
    there, here = ImageReader(), ImageReader()
    for place in (
        Place(path="one/photo0001.jpg"), Place(path="members.tar::00041.jpg"), Place(path="rows.parquet::row61"),
        Place(path="film.mp4", start=1.0, end=2.0), Place(path="moving.gif", start=0.0, end=0.5),
    ):  # fmt: skip
        images = [
            np.asarray(reader.image(Place(path=f"{top}/{place.path}", start=place.start, end=place.end)))
            for reader, top in ((there, root), (here, tmp_path / "files"))
        ]
        assert np.array_equal(images[0], images[1]), place
    with pytest.raises(MediaError, match="No such file"):
        there.read(f"{root}/gone.jpg")
    assert len(query_media(f"{root}/film.mp4")) == len(query_media(str(tmp_path / "files" / "film.mp4")))  # type: ignore[arg-type]


def test_a_tar_is_read_by_ranges_and_its_members_are_found_without_reading_all_of_it(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tar(tmp_path / "big.tar", list(range(200)))
    path = bucket.put("ranges/big.tar", (tmp_path / "big.tar").read_bytes())
    reader = ImageReader()
    first = reader.read(f"{path}::00199.jpg")
    bucket.gate.clear()
    assert reader.read(f"{path}::00150.jpg") == jpeg(150) and first == jpeg(199)
    assert len([call for call in bucket.gate.calls if call.startswith("GET")]) == 1


def test_paths_are_written_in_one_way() -> None:
    assert storage.absolute("s3://bucket//a/./b/") == "s3://bucket/a/./b"
    assert storage.absolute("file:///a%20b/c") == "/a b/c"
    assert storage.absolute("gs://bucket") == "gs://bucket"
    assert storage.inside("s3://bucket/a/b", "../c.jpg") == "s3://bucket/a/c.jpg"
    assert storage.absolute("x.jpg") == os.path.abspath("x.jpg")


def test_a_folder_by_its_url_is_that_folder(tmp_path: Path) -> None:
    write_photos(tmp_path / "my photos", 1)
    (root,) = roots_of([f"file://{quote(str(tmp_path / 'my photos'))}"])
    assert root == str(tmp_path / "my photos")
    assert index_folder(None, [root]) == tmp_path / "my photos" / ".mmsearch"


def test_an_index_of_a_bucket_needs_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    with pytest.raises(UsageError, match="--index"):
        index_folder(None, [f"s3://{BUCKET}/all"])


def test_a_walk_gives_objects_in_the_order_of_files(tmp_path: Path, bucket: Bucket) -> None:
    library(tmp_path / "files")
    root = bucket.upload(tmp_path / "files", "walked")
    there = [entry.path.removeprefix(f"{root}/") for entry in walk([root])]
    assert there == [os.path.relpath(entry.path, tmp_path / "files") for entry in walk([str(tmp_path / "files")])]


def test_the_command_finds_objects_and_the_server_shows_them(
    tmp_path: Path, mini: Encoder, bucket: Bucket, command: Command
) -> None:
    write_photos(tmp_path / "files", 3)
    film(tmp_path / "files" / "film.mp4", (50, 56))
    write_tar(tmp_path / "files" / "members.tar", [40, 41])
    root = bucket.upload(tmp_path / "files", "served")
    index = tmp_path / "index"
    done = command("index", root, "--index", str(index), "--model", "mini", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexed"] == 6
    done = command("search", "colours", "--index", str(index), "--json", "-k", "3", f"in:{root}")
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(hits) == 3 and all(str(hit["path"]).startswith(f"{root}/") for hit in hits)
    with Engine.open(index) as engine:
        found = engine.search(Query(images=(picture(1),), k=1))[0].item
        assert found.path == f"{root}/photo0001.jpg"
    with serving(index) as address, httpx.Client(base_url=address, timeout=120) as web:
        for hit in web.post("/api/search", json={"text": "colours", "k": 9}).json()["hits"]:
            assert web.get(hit["thumb_url"]).headers["content-type"] == "image/jpeg"
            media = web.get(hit["media_url"])
            assert media.status_code == 200
            if "::" not in hit["path"]:
                name = hit["path"].removeprefix(f"{root}/")
                assert media.content == (tmp_path / "files" / name).read_bytes()
                part = web.get(hit["media_url"], headers={"Range": "bytes=10-19"})
                assert (part.status_code, part.content) == (206, media.content[10:20])
                assert part.headers["content-range"] == f"bytes 10-19/{len(media.content)}"
                head = web.head(hit["media_url"])
                assert head.headers["content-length"] == str(len(media.content)) and not head.content
                assert web.get(hit["media_url"], headers={"If-None-Match": media.headers["etag"]}).status_code == 304
            if hit["kind"] == "video":
                assert web.get(f"/preview/{hit['id']}").content[4:8] == b"ftyp"
        bucket.delete("served/photo0002.jpg")
        lost = web.get(f"/media/{next(row[2] for row in rows_of(index) if row[0].endswith('photo0002.jpg'))}")
        assert lost.status_code == 404 and "gone" in lost.json()["error"]


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_token")
def test_a_cluster_reads_a_bucket_as_one_process_does(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for name in ("CPUS_A_WORKER", "WORKER_MEMORY", "STORE_BYTES", "FILES_A_CALL"):
        monkeypatch.setattr(indexer.cluster, name, getattr(indexer.cluster, name))
    make_small()
    library(tmp_path / "files")
    root = bucket.upload(tmp_path / "files", "cluster")
    config = BuildConfig(batch_size=4, workers=2, cluster=ClusterConfig(address="local"))
    build = IndexBuild([root], tmp_path / "cluster", PlainEncoder(), config)
    for _ in build:
        pass
    wanted = run(tmp_path / "index", root)
    assert build.report is not None and build.report.encoded == wanted.encoded
    kept, rows = rows_of(tmp_path / "cluster"), rows_of(tmp_path / "index")
    assert [row[:5] for row in kept] == [row[:5] for row in rows]
    assert np.allclose([row[5] for row in kept], [row[5] for row in rows], atol=2e-3)


def test_the_address_of_an_object_in_a_page_is_its_own(tmp_path: Path) -> None:
    assert file_url("s3://bucket/a b.jpg") == "s3://bucket/a%20b.jpg"
    assert file_url(str(tmp_path)).startswith("file:///")

"""`serve --watch`, and what the server remembers while the index changes under it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from indexer.build import IndexBuild
from retrieval.models.encoder import Encoder
from retrieval.store.manifest import read_manifest
from server.app import ServeConfig
from server.guard import host_names
from server.watch import Watcher, _Hidden
from tests.conftest import build, picture, write_photos
from tests.servers import serving

PATIENCE = 180.0


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)
    return condition()


@contextmanager
def watched(folder: Path, encoder: Encoder, poll: float | None = None) -> Iterator[httpx.Client]:
    build(folder, encoder)
    config = ServeConfig(
        folder=folder / ".mmsearch", hosts=host_names("127.0.0.1", []), device="cpu", watch=True, watch_poll=poll
    )
    with serving(folder / ".mmsearch", config=config) as address, httpx.Client(base_url=address, timeout=60) as web:
        assert until(lambda: web.get("/api/status").json()["watch"]["state"] == "watching")
        yield web


def images(web: httpx.Client) -> int:
    return int(web.get("/api/status").json()["images"])


def hits(web: httpx.Client) -> dict[str, dict[str, Any]]:
    found = web.post("/api/search", json={"text": "colours", "k": 50}).json()["hits"]
    return {Path(hit["path"]).name: hit for hit in found}


@pytest.mark.parametrize("poll", [None, 1.0])
def test_what_is_new_below_a_root_that_lies_in_a_hidden_folder_is_indexed(
    tmp_path: Path, mini: Encoder, poll: float | None
) -> None:
    root = tmp_path / ".hidden" / "photos"
    write_photos(root, 2)
    with watched(root, mini, poll) as web:
        write_photos(root / "new", 2, start=50)
        assert until(lambda: images(web) == 4)
        assert web.get("/api/status").json()["watch"]["error"] is None


def test_what_a_dot_hides_below_a_root_is_not_heard_and_what_hides_the_root_does_not_matter(tmp_path: Path) -> None:
    root = tmp_path / ".hidden" / "photos"
    hidden = _Hidden(root / ".mmsearch", [root])
    assert str(root / "a.jpg") not in hidden and str(root / "b" / "c.jpg") not in hidden
    for path in (root / ".mmsearch" / "manifest.json", root / ".trash" / "a.jpg", root / "b" / ".c.jpg"):
        assert str(path) in hidden
    assert str(root / ".mmsearch-not" / "a.jpg") in hidden
    inner = root / ".kept"
    both = _Hidden(tmp_path / "index", [root, inner])
    assert str(inner / "a.jpg") not in both, "named itself"


def test_what_changes_during_the_first_run_is_not_lost(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that comes when the first run has looked already, and has not ended yet."""
    write_photos(tmp_path, 2)
    build(tmp_path, mini)
    looked, release = threading.Event(), threading.Event()
    plain = IndexBuild.__iter__
    runs: list[int] = []

    def run(self: IndexBuild) -> Iterator[Any]:
        runs.append(1)
        yield from plain(self)
        if len(runs) == 1:
            looked.set()
            release.wait(PATIENCE)

    monkeypatch.setattr(IndexBuild, "__iter__", run)
    watcher = Watcher(tmp_path / ".mmsearch", [tmp_path], "cpu")
    watcher.start()
    try:
        assert looked.wait(PATIENCE)
        write_photos(tmp_path, 1, start=9)
        time.sleep(1.5)
        release.set()
        assert until(lambda: len(runs) >= 2)
    finally:
        release.set()
        watcher.close()


def test_the_paths_that_changed_reach_the_run(tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photos(tmp_path, 1)
    build(tmp_path, mini)
    runs: list[frozenset[str] | None] = []

    def noted(_: Watcher, changed: frozenset[str] | None) -> bool:
        runs.append(changed)
        return True

    monkeypatch.setattr(Watcher, "_index", noted)
    watcher = Watcher(tmp_path / ".mmsearch", [tmp_path], "cpu")
    watcher.start()
    try:
        assert until(lambda: runs == [None])
        (file,) = write_photos(tmp_path, 1, start=5)
        assert until(lambda: len(runs) > 1)
        assert {str(file)} == set().union(*(run or () for run in runs))
    finally:
        watcher.close()


def test_a_run_after_one_that_failed_compares_everything(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.watch._RETRY_SECONDS", 1.0)
    write_photos(tmp_path, 1)
    build(tmp_path, mini)
    index, runs = Watcher._index, []

    def failing(self: Watcher, changed: frozenset[str] | None) -> bool:
        runs.append(changed)
        return index(self, changed) if len(runs) != 2 else False

    monkeypatch.setattr(Watcher, "_index", failing)
    watcher = Watcher(tmp_path / ".mmsearch", [tmp_path], "cpu")
    watcher.start()
    try:
        assert until(lambda: len(runs) == 1 and watcher.state.state == "watching")
        write_photos(tmp_path, 1, start=5)
        assert until(lambda: len(runs) >= 3)
        assert runs[1] and runs[-1] is None
        assert until(lambda: read_manifest(tmp_path / ".mmsearch").counts.files == 2)
    finally:
        watcher.close()


def test_events_are_told_in_the_spelling_of_the_root_and_links_to_folders_make_every_run_whole(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "real" / "z", 1)
    (tmp_path / "named").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "a").symlink_to(tmp_path / "real" / "z")
    root = tmp_path / "named"
    build(root, mini)
    index, runs = Watcher._index, []

    def noted(self: Watcher, changed: frozenset[str] | None) -> bool:
        runs.append(changed)
        return index(self, changed)

    monkeypatch.setattr(Watcher, "_index", noted)
    watcher = Watcher(root / ".mmsearch", [root], "cpu")
    assert watcher._as_indexed(str(tmp_path / "real" / "z" / "x.jpg")) == str(root / "z" / "x.jpg")
    watcher.start()
    try:
        assert until(lambda: len(runs) == 1 and watcher.state.state == "watching")
        write_photos(tmp_path / "real" / "z", 1, start=5)
        assert until(lambda: read_manifest(root / ".mmsearch").counts.files == 2)
        assert set(runs) == {None}
    finally:
        watcher.close()


def test_a_folder_that_cannot_be_watched_says_what_to_do(
    tmp_path: Path, mini: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("OS file watch limit reached.")

    write_photos(tmp_path, 1)
    build(tmp_path, mini)
    monkeypatch.setattr("server.watch.watch", refuse)
    watcher = Watcher(tmp_path / ".mmsearch", [tmp_path], "cpu")
    watcher.start()
    try:
        assert until(lambda: "--watch-poll" in (watcher.state.error or "")), "and the first run was done all the same"
    finally:
        watcher.close()


def test_a_photo_that_is_edited_has_another_thumbnail_and_other_facts(tmp_path: Path, mini: Encoder) -> None:
    """Neither the server nor a browser goes on showing the old one: nothing was searched for meanwhile."""
    write_photos(tmp_path, 3)
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        before = hits(web)["photo0001.jpg"]
        old = web.get(before["thumb_url"])
        assert "immutable" in old.headers["cache-control"]
        picture(500, 90, 30).save(tmp_path / "photo0001.jpg", quality=92)
        build(tmp_path, mini)
        item = web.get(f"/api/items/{before['id']}").json()
        assert (item["width"], item["height"]) == (90, 30) and item["thumb_url"] != before["thumb_url"]
        new = web.get(item["thumb_url"])
        assert new.content != old.content and new.headers["etag"] != old.headers["etag"]
        assert Image.open(io.BytesIO(new.content)).size == (90, 30)
        plain = web.get(f"/thumb/{before['id']}", headers={"If-None-Match": old.headers["etag"]})
        assert plain.status_code == 200, "the address without a version is asked for again each time"
        assert "immutable" not in web.get(before["thumb_url"]).headers["cache-control"]
        assert hits(web)["photo0001.jpg"]["thumb_url"] == item["thumb_url"]


def test_a_photo_that_is_deleted_is_no_item_any_more(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 3)
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        gone = hits(web)["photo0002.jpg"]
        assert web.get(f"/api/items/{gone['id']}").status_code == 200
        (tmp_path / "photo0002.jpg").unlink()
        build(tmp_path, mini)
        for path in (f"/api/items/{gone['id']}", gone["thumb_url"], gone["media_url"]):
            assert web.get(path).status_code == 404, path


def test_a_cursor_of_another_state_says_that_results_changed(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 30)
    build(tmp_path, mini)
    with serving(tmp_path / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        first = web.post("/api/search", json={"text": "colours", "k": 10}).json()
        again = web.post("/api/search", json={"text": "colours", "k": 10, "cursor": first["next"]})
        assert again.status_code == 200
        write_photos(tmp_path, 5, start=100)
        build(tmp_path, mini)
        changed = web.post("/api/search", json={"text": "colours", "k": 10, "cursor": first["next"]})
        assert changed.status_code == 409 and "search again" in changed.json()["error"]
        assert web.post("/api/search", json={"text": "colours", "k": 10}).status_code == 200


def test_the_end_of_the_pages_is_told_apart_from_the_end_of_the_results(tmp_path: Path, mini: Encoder) -> None:
    write_photos(tmp_path, 30)
    build(tmp_path, mini)
    config = ServeConfig(folder=tmp_path / ".mmsearch", hosts=host_names("127.0.0.1", []), device="cpu", deepest=20)
    with serving(tmp_path / ".mmsearch", config=config) as address, httpx.Client(base_url=address, timeout=60) as web:
        seen, cursor = [], None
        while True:
            page = web.post("/api/search", json={"text": "colours", "k": 10, "cursor": cursor}).json()
            seen += page["hits"]
            cursor = page["next"]
            if cursor is None:
                break
        assert len(seen) == 20 and page["more"] is True
        whole = web.post("/api/search", json={"text": "colours", "k": 30}).json()
        assert (len(whole["hits"]), whole["next"], whole["more"]) == (30, None, False)

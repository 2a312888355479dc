"""An index of several folders: files of each are served, what is refused says why, and a part goes into the index around it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import mmsearch
from indexer.build import IndexBuild
from indexer.config import BuildConfig
from tests.conftest import Command, picture, write_photos
from tests.servers import serving

if TYPE_CHECKING:
    from retrieval.models.encoder import Encoder


@pytest.fixture
def two(tmp_path: Path, mini: Encoder) -> Path:
    """An index in `first` of `first` and `second`, with links from the first into the second and out of both."""
    write_photos(tmp_path / "first", 2)
    write_photos(tmp_path / "second", 2, start=10)
    write_photos(tmp_path / "elsewhere", 1, start=20)
    (tmp_path / "first" / "link.jpg").symlink_to(tmp_path / "second" / "photo0010.jpg")
    write_photos(tmp_path / "second" / "deep", 1, start=30)
    (tmp_path / "first" / "folder").symlink_to(tmp_path / "second" / "deep")
    write_photos(tmp_path / "second" / ".kept", 1, start=40)
    (tmp_path / "first" / "hidden.jpg").symlink_to(tmp_path / "second" / ".kept" / "photo0040.jpg")
    for _ in IndexBuild(
        [tmp_path / "first", tmp_path / "second"], tmp_path / "first" / ".mmsearch", mini, BuildConfig()
    ):
        pass
    return tmp_path


def test_files_of_every_indexed_root_are_served(two: Path) -> None:
    """Those of the second were called gone, and so were photos behind links into it."""
    with serving(two / "first" / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        hits = web.post("/api/search", json={"text": "a photo", "k": 20}).json()["hits"]
        paths = {os.path.relpath(hit["path"], two) for hit in hits}
        # Links to what is indexed by its own name are no second items.
        names = {"photo0000.jpg", "photo0001.jpg", "hidden.jpg"}
        assert {f"first/{name}" for name in names} | {"second/photo0010.jpg", "second/deep/photo0030.jpg"} <= paths
        for hit in hits:
            assert web.get(hit["media_url"]).status_code == 200, hit["path"]
            assert web.get(hit["thumb_url"]).status_code == 200, hit["path"]


def test_what_is_not_served_says_why(two: Path) -> None:
    with serving(two / "first" / ".mmsearch") as address, httpx.Client(base_url=address, timeout=60) as web:
        hits = web.post("/api/search", json={"text": "a photo", "k": 20}).json()["hits"]
        urls = {os.path.relpath(hit["path"], two): hit["media_url"] for hit in hits}
        (two / "first" / "photo0001.jpg").unlink()
        (two / "first" / "photo0001.jpg").symlink_to(two / "elsewhere" / "photo0020.jpg")
        (two / "first" / "photo0000.jpg").unlink()
        shutil.move(two / "second", two / "away")
        reasons = {name: web.get(url).json()["error"] for name, url in urls.items()}
    assert "a link that leads out of the indexed folders" in reasons["first/photo0001.jpg"]
    assert reasons["first/photo0000.jpg"] == "the file is gone"
    assert f"its folder {two / 'second'} is not there now" in reasons["second/photo0010.jpg"]


def test_a_root_that_is_not_there_is_told_at_start(two: Path) -> None:
    from cli.serve import _refused

    assert _refused(two / "first" / ".mmsearch") == []
    shutil.move(two / "second", two / "away")
    lines = _refused(two / "first" / ".mmsearch")
    assert len(lines) == 1 and str(two / "second") in lines[0]


def test_a_subfolder_goes_into_the_index_around_it(tmp_path: Path, mini: Encoder, command: Command) -> None:
    """It silently got an index of its own, nested in the other."""
    library = tmp_path / "library"
    write_photos(library, 2)
    write_photos(library / "sub", 2, start=10)
    for _ in IndexBuild([library], library / ".mmsearch", mini, BuildConfig()):
        pass
    write_photos(library, 1, start=50)
    picture(60).save(library / "sub" / "new.jpg")
    (library / "sub" / "photo0010.jpg").unlink()
    done = command("index", "library/sub", "--json")
    report = json.loads(done.stdout)
    assert (report["indexed"], report["removed"], report["unchanged"], report["items"]) == (1, 1, 1, 4)
    assert report["index"] == str(library / ".mmsearch") and not (library / "sub" / ".mmsearch").exists()
    assert f"{library / 'sub'} is part of the index of {library}" in done.stderr and "--index" in done.stderr
    # A file of it, and from Python.
    assert command("index", "library/photo0050.jpg").returncode == 0
    assert mmsearch.index(library / "sub").items == 5
    # One that is asked for is made.
    apart = command("index", "library/sub", "--index", "library/sub/.mmsearch", "--json")
    assert json.loads(apart.stdout)["items"] == 2 and (library / "sub" / ".mmsearch" / "manifest.json").is_file()
    # And from then on the nearest one is meant.
    assert json.loads(command("index", "library/sub", "--json").stdout)["index"] == str(library / "sub" / ".mmsearch")

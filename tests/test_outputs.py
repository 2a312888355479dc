"""What mmsearch writes does not come back as what it finds."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mmsearch
from cli.outputs import output_place
from media.cutting import cut
from media.types import Place
from tests.conftest import Command, build, write_photos
from tests.films import film

if TYPE_CHECKING:
    from retrieval.models.encoder import Encoder


@pytest.fixture
def library(tmp_path: Path, mini: Encoder) -> Iterator[Path]:
    folder = tmp_path / "library"
    write_photos(folder, 2)
    film(folder / "film.mp4", (5, 6))
    build(folder, mini)
    yield folder


def test_what_mmsearch_wrote_is_recognised_and_left_out(library: Path, command: Command, tmp_path: Path) -> None:
    """Explanations and clips that were put into the library came back as photos and films of it."""
    photo = str(library / "photo0000.jpg")
    done = command("explain", photo, "a dog", "--model", "mini", "--output", "why.png", cwd=library)
    assert done.returncode == 0, done.stderr
    assert command("search", "a dog", "--kind", "video", "--clip", "cuts", cwd=library).returncode == 0
    written = [library / "why.png", *(library / "cuts").iterdir()]
    assert len(written) == 2
    before = json.loads(command("status", "--json", cwd=library).stdout)
    again = command("index", str(library), "--json")
    report = json.loads(again.stdout)
    assert (report["indexed"], report["failed"], report["items"]) == (0, 0, before["items"])
    assert "2 new file(s) left out: mmsearch itself wrote them" in again.stderr
    # It is remembered, and asked for by name it is a film like any other.
    assert command("index", str(library), "--json").stderr == ""
    assert command("search", "--image", str(written[1]), "-k", "1", cwd=library).returncode == 0


def test_a_clip_of_any_container_is_recognised(tmp_path: Path, mini: Encoder) -> None:
    for suffix in (".mp4", ".mov", ".mkv", ".ts"):
        source = tmp_path / f"film{suffix}"
        film(source, (5, 6))
        for start in (0.0, 0.3):
            shutil.move(
                cut(Place(path=str(source), start=start, end=1.5), tmp_path / "clips", 1),
                tmp_path / "clips" / f"{start}{suffix}.mkv",
            )
    write_photos(tmp_path / "clips", 1)
    build(tmp_path / "clips", mini)
    with mmsearch.open(tmp_path / "clips") as engine:
        assert (engine.status()["videos"], engine.status()["images"], engine.failures()) == (0, 1, [])


def test_an_output_without_a_name_stays_out_of_an_indexed_folder(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`explain` wrote into the library."""
    home = tmp_path / "home"
    (home / "Documents").mkdir(parents=True)
    (library / "sub").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_DOCUMENTS_DIR", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    for place in (library, library / "sub"):
        monkeypatch.chdir(place)
        assert output_place("x.png") == home / "Documents" / "mmsearch" / "x.png"
    monkeypatch.chdir(tmp_path)
    assert output_place("x.png") == Path("x.png")
    other = tmp_path / "other"
    shutil.move(library, other)
    monkeypatch.setenv("MMSEARCH_INDEX", str(other))
    monkeypatch.chdir(other / "sub")
    assert output_place("x.png").parent == home / "Documents" / "mmsearch"
    os.rmdir(home / "Documents" / "mmsearch")
    os.rmdir(home / "Documents")
    assert not output_place("x.png").is_relative_to(other)

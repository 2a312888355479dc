"""An index changes its model in one command: the old one is searched until the new one is whole, wherever that is killed."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmsearch
import retrieval.store.succession as succession
from indexer.change import ModelChange
from indexer.config import BuildConfig
from retrieval.engine import Engine
from retrieval.errors import MmsearchError
from retrieval.models.weights import MINI
from retrieval.store.leases import write_lease
from retrieval.store.manifest import read_manifest, write_manifest
from retrieval.store.writer import IndexWriter
from retrieval.types import Query
from tests.conftest import ROOT, Command, write_photos
from tests.libraries import rows_of, run, write_tar
from tests.servers import serving
from tests.stores import OtherEncoder, PlainEncoder
from tests.test_kill import check_whole

OTHER = "e" * 64


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, mini: object) -> str:
    """The NAME of a relative of mini with weights of its own."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(MINI, folder)
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        if values.ndim > 1:
            weights[name] = np.asarray(
                values * (1 + 0.2 * (np.arange(values.size) % 3).reshape(values.shape)), values.dtype
            )
    save_file(weights, folder / "model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Two roots, of which one has a tar, in the index of the first."""
    write_photos(tmp_path / "first" / "sub", 8)
    (tmp_path / "first" / "note.txt").write_text("a note about a dog")
    write_photos(tmp_path / "second", 6, start=20)
    write_tar(tmp_path / "second" / "some.tar", [40, 41, 42])
    run(tmp_path / "first" / ".mmsearch", tmp_path / "first")
    run(tmp_path / "first" / ".mmsearch", tmp_path / "second")
    return tmp_path


def change(media: Path, encoder: PlainEncoder | None = None, config: BuildConfig | None = None) -> ModelChange:
    """Change the index of `media`, naming its first root alone."""
    done = ModelChange(
        [str(media / "first")], media / "first" / ".mmsearch", encoder or OtherEncoder(), config or BuildConfig()
    )
    for _ in done:
        pass
    return done


def files_of(index: Path) -> set[str]:
    return {f"{part}/{file.name}" for part in ("shards", "vectors", "sources") for file in (index / part).iterdir()}


def test_every_root_is_encoded_anew_and_the_old_files_go(media: Path) -> None:
    index = media / "first" / ".mmsearch"
    before, old_files = rows_of(index), files_of(index)
    encoder = OtherEncoder()
    report = change(media, encoder).report
    assert report is not None and report.indexed == 8 + 1 + 6 + 3
    assert encoder.encoded == 8 + 6 + 3
    after = check_whole(index)
    assert [row[:5] for row in after] == [row[:5] for row in before], "the same items by the same ids"
    assert all(new[5] != old[5] for new, old in zip(after, before, strict=True) if new[1].startswith("image"))
    assert read_manifest(index).model.weights_sha256 == OTHER
    assert not files_of(index) & old_files
    assert not (index / ".successor").exists() and not (index / "succession.json").exists()
    again = OtherEncoder()
    unchanged = run(index, media / "first", encoder=again)
    assert (unchanged.unchanged, again.encoded) == (9, 0), "a later run finds it up to date"


def test_killed_in_the_middle_the_old_index_is_searched_and_the_change_goes_on(media: Path) -> None:
    index = media / "first" / ".mmsearch"
    before = rows_of(index)
    killed = subprocess.run(
        [sys.executable, "-m", "tests.killed", "change", str(index), str(media / "first")],
        cwd=ROOT, env={**os.environ, "KILLED_AFTER": "9"}, capture_output=True, check=False,
    )  # fmt: skip
    assert killed.returncode == 9, killed.stderr.decode()
    assert (index / ".successor").is_dir()
    assert check_whole(index) == before
    write_photos(media / "first", 1, start=90)
    run(index, media / "first")
    assert len(check_whole(index)) == len(before) + 1, "and it can be brought up to date meanwhile"
    encoder = OtherEncoder()
    change(media, encoder)
    assert 0 < encoder.encoded < 8 + 1 + 6 + 3, "what was done is not done again"
    assert len(check_whole(index)) == len(before) + 1
    assert read_manifest(index).model.weights_sha256 == OTHER


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk operation number `step` of a succession be the last."""
    done = 0

    def counting(real: Callable[..., object]) -> Callable[..., object]:
        def operation(*arguments: object, **settings: object) -> object:
            nonlocal done
            done += 1
            if done > step:
                raise Killed
            return real(*arguments, **settings)

        return operation

    for name in ("replace", "unlink", "rename", "rmdir"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    monkeypatch.setattr(succession, "write_lease", counting(write_lease))
    monkeypatch.setattr(succession, "write_manifest", counting(write_manifest))
    monkeypatch.setattr(succession, "give_up_succession", counting(succession.give_up_succession))


def test_killed_at_any_step_of_the_succession_one_whole_index_is_there(media: Path, tmp_path: Path) -> None:
    index = media / "first" / ".mmsearch"
    before = rows_of(index)
    successor = ModelChange([str(media / "first")], index, OtherEncoder(), BuildConfig())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(IndexWriter, "succeed", lambda writer: writer.manifest)
        for _ in successor:
            pass
    kept = tmp_path / "kept"
    shutil.copytree(index, kept)
    states = []
    for step in range(200):
        shutil.rmtree(index)
        shutil.copytree(kept, index)
        with pytest.MonkeyPatch.context() as patched:
            killed_at(step, patched)
            try:
                with IndexWriter(index) as writer:
                    writer.succeed()
                break
            except Killed:
                pass
        changed = read_manifest(index).model.weights_sha256 == OTHER
        states.append(changed)
        seen = check_whole(index)
        assert [row[:5] for row in seen] == [row[:5] for row in before]
        planned = (index / "succession.json").exists()
        # Whoever writes next, for whatever reason, ends it.
        with IndexWriter(index) as writer:
            assert (writer.manifest.model.weights_sha256 == OTHER) == (changed or planned)
        check_whole(index)
        assert not planned or not (index / ".successor").exists()
    assert states == sorted(states) and False in states and True in states
    assert read_manifest(index).model.weights_sha256 == OTHER


def test_who_has_the_old_index_open_searches_on(media: Path) -> None:
    index = media / "first" / ".mmsearch"
    with Engine.open(index, device="cpu") as engine:
        held = engine.manifest
        change(media)
        assert engine.item(rows_of(index)[0][2]).kind
        assert all((index / entry.file).is_file() for entry in held.files())
    run(index, media / "first", encoder=OtherEncoder())
    assert not any((index / entry.file).exists() for entry in held.files()), "then its files go"


def test_a_root_that_is_not_mounted_stops_the_change_before_anything_is_done(media: Path) -> None:
    index = media / "first" / ".mmsearch"
    before = rows_of(index)
    (media / "second").rename(media / "elsewhere")
    (media / "second").mkdir()
    with pytest.raises(MmsearchError, match=r"7 files of this index are in .*second, .*mount it .*--prune"):
        change(media)
    assert rows_of(index) == before and not (index / ".successor").exists()
    report = change(media, config=BuildConfig(prune=True)).report
    assert report is not None and report.items == 9


def test_the_command_asks_for_a_word_and_then_changes_the_model(command: Command, tmp_path: Path, other: str) -> None:
    write_photos(tmp_path / "m", 5)
    assert command("index", "m", "--model", "mini").returncode == 0
    index = tmp_path / "m" / ".mmsearch"
    asked = command("index", "m", "--model", other)
    assert asked.returncode == 2
    assert "--change-model" in asked.stderr and "this index is of mini" in asked.stderr.replace("\n", " ")
    assert read_manifest(index).model.name == "mini" and not (index / ".successor").exists()
    done = command("index", "m", "--model", other, "--change-model", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["indexed"], report["model"], report["index"]) == (5, other, str(index))
    assert read_manifest(index).model.name == other
    assert len(command("search", "a dog", "--index", "m", "--json").stdout.splitlines()) == 5


def test_on_a_terminal_the_change_is_offered(tmp_path: Path, other: str) -> None:
    write_photos(tmp_path / "m", 2)
    words = [sys.executable, "-m", "mmsearch", "index", str(tmp_path / "m"), "--model"]
    assert subprocess.run([*words, "mini"], cwd=ROOT, capture_output=True, check=False).returncode == 0
    for answer, status, model in (("n", 2, "mini"), ("y", 0, other)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen([*words, other], cwd=ROOT, stdin=theirs, stderr=theirs, stdout=subprocess.DEVNULL)
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        shown = b"".join(_read_all(ours)).decode()
        assert process.wait(timeout=120) == status, shown
        assert "change the model?" in shown
        assert read_manifest(tmp_path / "m" / ".mmsearch").model.name == model


def _read_all(descriptor: int) -> Iterator[bytes]:
    try:
        while data := os.read(descriptor, 4096):
            yield data
    except OSError:
        pass
    os.close(descriptor)


def test_an_unfinished_change_is_told_and_can_be_given_up(command: Command, tmp_path: Path, other: str) -> None:
    write_photos(tmp_path / "m", 2)
    assert command("index", "m", "--model", "mini").returncode == 0
    index = tmp_path / "m" / ".mmsearch"
    with IndexWriter(index) as writer:
        spec = OtherEncoder().spec
        succession.begin_succession(index, writer.manifest, spec)
    assert "a change to test was begun: the same command with --model test goes on" in command("index", "m").stderr
    assert "is given up" in command("index", "m", "--model", "mini").stderr
    assert not (index / ".successor").exists()


def test_a_server_goes_over_to_the_new_model_without_a_restart(tmp_path: Path, command: Command, other: str) -> None:
    write_photos(tmp_path / "m", 5)
    assert command("index", "m", "--model", "mini").returncode == 0
    with serving(tmp_path / "m" / ".mmsearch") as address, httpx.Client(base_url=address, timeout=120) as web:
        first = web.post("/api/search", json={"text": "a dog", "k": 5}).json()
        assert first["model"] == "mini"
        assert command("index", "m", "--model", other, "--change-model").returncode == 0
        second = web.post("/api/search", json={"text": "a dog", "k": 5, "rerank": True}).json()
        assert (second["model"], len(second["hits"])) == (other, 5)
        third = web.post("/api/search", json={"text": "a dog", "k": 5}).json()
        assert third["model"] == other
        assert {hit["id"] for hit in third["hits"]} == {hit["id"] for hit in first["hits"]}
        assert [hit["score"] for hit in third["hits"]] != [hit["score"] for hit in first["hits"]]
        assert web.get("/api/status").json()["model"] == other
        identity = third["hits"][0]["id"]
        assert web.post("/api/describe", json={"id": identity}).status_code == 200
    with Engine.open(tmp_path / "m") as engine:
        assert len(engine.search(Query(text="a dog"))) == 5


def test_from_python_another_model_is_refused_in_words_of_python_and_can_be_let_in(
    tmp_path: Path, mini: object, other: str
) -> None:
    write_photos(tmp_path / "m", 2)
    mmsearch.index(tmp_path / "m", model="mini", device="cpu")
    with pytest.raises(
        MmsearchError, match=r"this index is of mini, the model given is local-dir:.*; change_model lets it"
    ):
        mmsearch.index(tmp_path / "m", model=other, device="cpu")
    assert mmsearch.index(tmp_path / "m", model=other, device="cpu", change_model=True).indexed == 2
    with mmsearch.open(tmp_path / "m") as engine:
        assert engine.model.name == other

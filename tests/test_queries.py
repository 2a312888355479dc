"""`mmsearch search --queries` and `models use`, by the real command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from retrieval.engine import Engine
from retrieval.errors import MmsearchError
from retrieval.models.weights import resolve
from retrieval.settings import choose_model, chosen_model
from retrieval.types import Query
from tests.conftest import ROOT, Command, build, write_photos


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    write_photos(folder, 6)
    build(folder, mini)  # type: ignore[arg-type]
    return folder


def test_each_line_is_answered_as_if_it_were_asked_alone(media: Path, command: Command, tmp_path: Path) -> None:
    lines = ["a dog in the snow", "", "a red car", "Ein Café 🐕"]
    (tmp_path / "q.txt").write_text("\n".join(lines) + "\n", "utf-8")
    done = command("search", "--queries", "q.txt", "-k", "3", "--json", "--index", str(media))
    assert done.returncode == 0, done.stderr
    hits = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(hit["query_number"], hit["query"], hit["rank"]) for hit in hits] == [
        (number, lines[number - 1], rank) for number in (1, 3, 4) for rank in (1, 2, 3)
    ]
    with Engine.open(media, device="cpu") as engine:
        for number in (1, 3, 4):
            alone = engine.search(Query(text=lines[number - 1], k=3))
            together = [hit for hit in hits if hit["query_number"] == number]
            assert [hit["id"] for hit in together] == [hit.item.id for hit in alone]
            assert [hit["score"] for hit in together] == pytest.approx([hit.score for hit in alone], abs=1e-5)


def test_lines_come_from_standard_input_as_well(media: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmsearch", "search", "--queries", "-", "-k", "1", "--index", str(media)],
        cwd=ROOT, input="a dog\na cat\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1. a dog" in done.stdout and "2. a cat" in done.stdout


def test_queries_beside_a_query_and_a_missing_file_are_told(media: Path, command: Command, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("a dog\n")
    assert command("search", "a cat", "--queries", "q.txt", "--index", str(media)).returncode == 2
    done = command("search", "--queries", "missing.txt", "--index", str(media))
    assert (done.returncode, done.stderr) == (1, "error: cannot read missing.txt: No such file or directory\n")


def test_a_chosen_model_makes_new_indexes(command: Command, tmp_path: Path) -> None:
    config = {"MMSEARCH_CONFIG": str(tmp_path / "my" / "config.toml")}
    done = command("models", "use", "mini", env=config)
    assert done.returncode == 0, done.stderr
    assert "new indexes are made by mini" in done.stdout
    write_photos(tmp_path / "m", 1)
    indexed = command("index", "m", "--json", env=config)
    assert json.loads(indexed.stdout)["model"] == "mini"
    assert indexed.stderr == "", "a choice is no fallback to warn of"
    refused = command("models", "use", "ViT-B-16/dfn2b", env=config)
    assert refused.returncode == 1 and "mmsearch models pull ViT-B-16/dfn2b" in refused.stderr


def test_a_choice_is_kept_in_a_file_that_people_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("MMSEARCH_CONFIG", str(file))
    assert chosen_model() is None
    file.write_text("# mine\n")
    choose_model("mini")
    assert (chosen_model(), file.read_text()) == ("mini", '# mine\nmodel = "mini"\n')
    assert (resolve("auto").name, resolve("auto").notice) == ("mini", None)
    choose_model(None)
    assert (chosen_model(), file.read_text()) == (None, "# mine\n")
    assert resolve("auto").notice is not None
    choose_model("ViT-B-16/dfn2b")
    with pytest.raises(MmsearchError, match=r"models pull ViT-B-16/dfn2b .*config\.toml names.*models use auto"):
        resolve("auto")
    for text, expected in (
        ("modell = 'x'", "'modell' that is not known"),
        ("model = 3", "in quotes"),
        ("=", "no TOML"),
    ):
        file.write_text(text)
        with pytest.raises(MmsearchError, match=expected):
            chosen_model()

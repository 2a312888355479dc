"""Help, completion and `doctor`: what a person meets before anything is indexed."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import EXTRAS
from cli.layout import complete_command
from cli.main import application
from cli.options import complete_index
from cli.parts import parts_of
from retrieval.models.catalog import CURATED, DEFAULT, READER
from retrieval.models.processor import may_have_cuda
from tests.conftest import ROOT, Command, write_photos
from tests.test_house import loaded_by


def commands(command: Any, path: str = "mmsearch") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, part in getattr(command, "commands", {}).items():
        yield from commands(part, f"{path} {name}")


def test_every_command_and_option_has_help_and_a_name_for_its_value() -> None:
    seen = 0
    for path, command in commands(complete_command(application())):
        assert command.help, path
        for parameter in command.params:
            if parameter.name in ("install_completion", "show_completion"):
                continue
            where = f"{path} {parameter.name}"
            assert parameter.help and parameter.help.strip().endswith("."), f"{where}: help that is a sentence"
            if not getattr(parameter, "is_flag", False):
                assert parameter.metavar, f"{where}: what its value is called (metavar)"
                assert "<" not in parameter.metavar, where
            seen += 1
    assert seen > 100


def test_commands_are_in_groups_and_values_are_called_by_what_they_are(command: Command) -> None:
    top = command("--help", env={"COLUMNS": "120"}).stdout
    assert top.startswith("Usage: mmsearch [OPTIONS]")
    headings = ["Index and search:", "Pictures and films in words:", "Look after an index:", "Models and figures:"]
    assert [line for line in top.splitlines() if line in headings] == headings
    for name in complete_command(application()).commands:
        assert f"\n  {name} " in top
    shown = command("index", "--help", env={"COLUMNS": "120"}).stdout
    assert "[PATH]..." in shown and "\n  PATH..." in shown
    assert "--device auto|cpu|cuda|cuda:N" in shown and "[default: 32" in shown
    assert "<str" not in shown and "<list" not in shown
    for name in ("index", "search"):
        shown = command(name, "--help", env={"COLUMNS": "120"}).stdout
        headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
        assert len(headings) >= 5 and (headings[0], headings[-1]) == ("Arguments:", "Options:")


def completed(command: Command, line: str, cwd: Path) -> list[str]:
    """What bash would offer at the end of a line."""
    words = line.split(" ")
    done = command(
        cwd=cwd,
        env={"_MMSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)},
    )
    return done.stdout.splitlines()


def test_a_shell_completes_kinds_models_and_index_folders(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photos" / ".mmsearch").mkdir(parents=True)
    (tmp_path / "photos" / ".mmsearch" / "manifest.json").write_text("{}")
    (tmp_path / "plain").mkdir()
    assert completed(command, "mmsearch search --kind ", tmp_path) == ["image", "video", "text"]
    models = completed(command, "mmsearch index --model ", tmp_path)
    assert {model.name for model in CURATED} <= set(models)
    assert completed(command, "mmsearch status --index p", tmp_path) == ["photos", f"plain{os.sep}"]
    assert completed(command, "mmsearch exp", tmp_path) == ["explain", "export"]


def test_folders_are_completed_below_a_path_and_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "library" / ".mmsearch").mkdir(parents=True)
    (tmp_path / "library" / ".mmsearch" / "manifest.json").write_text("{}")
    assert list(complete_index("~/li")) == ["~/library"]
    assert list(complete_index(f"{tmp_path}/li")) == [f"{tmp_path}/library"]
    assert list(complete_index("/no/such/fol")) == []


def test_completion_loads_no_library() -> None:
    code = (
        "import os, sys, cli.main\n"
        "os.environ.update(_MMSEARCH_COMPLETE='complete_bash', COMP_WORDS='mmsearch index --model ', COMP_CWORD='3')\n"
        "sys.argv = ['mmsearch']\ntry:\n    cli.main.main()\nexcept SystemExit:\n    pass"
    )
    assert not loaded_by(code) & {"torch", "faiss", "open_clip", "pyarrow", "onnxruntime", "PIL"}


def test_doctor_lists_models_and_extras_and_says_what_would_be_better(command: Command, tmp_path: Path) -> None:
    done = command("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    models = {model["name"]: model for model in report["models"]}
    assert set(models) == {model.name for model in CURATED}
    assert models["mini"]["cached"] and models["mini"]["bytes"] > 1_000_000
    assert (models[DEFAULT]["cached"], models[DEFAULT]["bytes"]) == (False, None)
    assert {extra["name"] for extra in report["extras"]} == set(EXTRAS)
    assert all(extra["installed"] == (not extra["missing"]) and extra["brings"] for extra in report["extras"])
    assert {"memory_bytes", "cache_free_bytes", "threads", "cuda", "faiss", "torch", "config"} <= set(report)
    assert any(f"mmsearch models pull {DEFAULT}" in line for line in report["advice"])
    assert any(f"mmsearch models pull {READER}" in line for line in report["advice"])
    assert not any("--model" in line for line in report["advice"])
    write_photos(tmp_path / "m", 1)
    assert command("index", "m", "--model", "mini").returncode == 0
    shown = command("doctor", "--index", "m").stdout
    assert f"better: the index here stays on mini until it changes: mmsearch index FOLDER --model {DEFAULT}" in shown
    assert " MB" in next(line for line in shown.splitlines() if line.strip().startswith("mini"))
    missing = command("doctor", "--index", "nowhere")
    assert missing.returncode == 1 and missing.stderr.startswith("error: no index at")


def test_doctor_knows_the_extras_that_can_be_installed() -> None:
    with open(ROOT / "pyproject.toml", "rb") as opened:
        extras = tomllib.load(opened)["project"]["optional-dependencies"]
    wanted = {
        name: tuple(package.partition(">")[0] for package in packages)
        for name, packages in extras.items()
        if name != "test"
    }
    assert {name: extra.packages for name, extra in EXTRAS.items()} == wanted


def test_advice_comes_after_the_work_and_never_before_an_error(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (("index", "empty"), ("describe", "missing.jpg"), ("explain", "missing.jpg", "a dog")):
        done = command(*arguments)
        assert done.returncode == 1
        assert "models pull" not in done.stderr, arguments
        assert done.stderr.splitlines()[-1].startswith("error: ")
    write_photos(tmp_path / "m", 1)
    done = command("index", "m")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert f"mmsearch models pull {DEFAULT}; an index made by mini stays on mini until: mmsearch index FOLDER" in line


def test_one_model_is_recommended_wherever_pictures_are_read() -> None:
    for file in [*(ROOT / "cli").glob("*.py"), *(ROOT / "retrieval").rglob("*.py"), *(ROOT / "server").glob("*.py")]:
        if file.name != "catalog.py":
            assert "coca_ViT-L-14" not in file.read_text("utf-8"), file
    readme = (ROOT / "README.md").read_text("utf-8")
    assert f"`{READER}`" in readme and "mscoco_finetuned" not in readme


def test_doctor_says_which_model_runtime_and_precision_each_part_uses_and_why(command: Command, tmp_path: Path) -> None:
    write_photos(tmp_path / "m", 1)
    assert command("index", str(tmp_path / "m"), "--model", "mini", "--device", "cpu").returncode == 0
    done = command("doctor", "--json", "--index", str(tmp_path / "m"))
    parts = json.loads(done.stdout)["parts"]
    assert list(parts) == ["text queries", "image queries", "indexing", "captions"]
    for part in parts.values():
        assert list(part) == ["model", "runtime", "precision", "why"]
        assert part["model"] == "mini"
    if not may_have_cuda():
        assert parts["text queries"]["runtime"] == "ONNX Runtime on cpu"
        assert parts["indexing"]["runtime"] == parts["image queries"]["runtime"] == "OpenVINO on cpu"
        assert parts["indexing"]["precision"] in ("bf16", "fp32")
        assert "cosine" in parts["indexing"]["why"]
    assert parts["captions"]["runtime"].startswith("torch on")
    shown = command("doctor", "--index", str(tmp_path / "m")).stdout
    assert "what runs what, in the index of mini" in shown
    # A model that is not there any more is told of, and is no reason to fail.
    lost = parts_of("local-dir:/nowhere")
    assert all(part.runtime == "none" and "no such model folder" in part.why for part in lost)

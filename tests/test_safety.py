"""A folder of media is data: nothing in it is ever run, whatever it is called and wherever the command is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from media.child import module_command, module_environment
from tests.conftest import ROOT, write_photos
from tests.libraries import write_moving

# Modules that the program, its children and their libraries import.
NAMES = (
    "av",
    "numpy",
    "PIL",
    "json",
    "torch",
    "faiss",
    "pyarrow",
    "onnxruntime",
    "indexer",
    "retrieval",
    "media",
    "cli",
)


def test_no_file_of_a_media_folder_is_imported(tmp_path: Path, mini: object) -> None:
    media = tmp_path / "media"
    write_photos(media, 2)
    write_moving(media / "moving.gif", [3, 4])
    trap = "import pathlib\npathlib.Path(__file__ + '.ran').touch()\n"
    for name in NAMES:
        (media / f"{name}.py").write_text(trap)
    for act in (["index", ".", "--model", "mini"], ["search", "a dog"], ["search", "--image", "moving.gif"]):
        done = subprocess.run(
            [sys.executable, "-m", "mmsearch", *act],
            cwd=media, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
    assert not list(media.glob("*.ran"))


def test_a_child_finds_this_program_and_nothing_by_way_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit(3)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("", ".", str(tmp_path / "own"))))
    monkeypatch.chdir(tmp_path)
    environment = module_environment()
    assert environment["PYTHONPATH"] == os.pathsep.join((str(ROOT), str(tmp_path / "own")))
    done = subprocess.run(module_command("colorsys"), env=environment, capture_output=True, check=False)
    assert done.returncode == 0

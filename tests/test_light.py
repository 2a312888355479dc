"""Without torch: once a model's towers are exported, indexing, searching, watching and serving run where none of its libraries
can be imported, in this program's processes and in those that it starts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement

from media.child import module_environment
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported
from tests.conftest import ROOT, write_photos
from tests.test_towers import FAMILIES, published

ABSENT = ("torch", "torchvision", "open_clip", "timm", "transformers", "onnx")
# Python imports this in every process of the tree, before anything else.
BLOCKER = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def light(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine without torch."""
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(BLOCKER)
    there = module_environment()
    return {**there, "PYTHONPATH": os.pathsep.join([str(tmp_path / "blocked"), there["PYTHONPATH"]])}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mmsearch", *arguments],
        capture_output=True, text=True, check=False, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_blocker_blocks(light: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], capture_output=True, text=True, check=False, env=light
    )
    assert "No module named 'torch'" in done.stderr


@pytest.mark.parametrize("which", ["mini", "open_clip"])
def test_everything_but_reading_pictures_runs_without_torch(
    which: str, mini: Encoder, light: dict[str, str], tmp_path: Path
) -> None:
    name = "mini"
    if which == "open_clip":
        name = published(tmp_path / "tiny", *FAMILIES["siglip"])
        assert ensure_exported(name) == []
    folder = tmp_path / "photos"
    photos = write_photos(folder, 4)
    (folder / "photo0001.txt").write_text("a caption")
    index = ("index", str(folder), "--model", name, "--json")
    assert json.loads(run(light, *index))["indexed"] == 5
    assert json.loads(run(light, *index))["indexed"] == 0
    write_photos(folder, 1, start=10)
    assert json.loads(run(light, *index))["indexed"] == 1
    words = run(light, "search", "a dog", "--index", str(folder), "--json").splitlines()
    assert len(words) == 5
    by_image = run(light, "search", "--image", str(photos[2]), "--index", str(folder), "--json").splitlines()
    assert json.loads(by_image[0])["path"] == str(photos[2])
    assert json.loads(run(light, "status", str(folder), "--json"))["images"] == 5
    models = json.loads(run(light, "doctor", "--json", "--index", str(folder)))["parts"]
    assert models["image queries"]["runtime"] == "OpenVINO on cpu"


def test_the_server_answers_without_torch(mini: Encoder, light: dict[str, str], tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    run(light, "index", str(tmp_path / "photos"), "--model", "mini")
    command = [
        sys.executable,
        "-P",
        "-m",
        "mmsearch",
        "serve",
        "--index",
        str(tmp_path / "photos"),
        "--port",
        "0",
        "--watch",
    ]
    with subprocess.Popen(command, env=light, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            said = ""
            while "http://" not in said:
                line = server.stdout.readline()
                assert line, said
                said += line
            address = said[said.index("http://") :].split()[0].rstrip("/.,")
            with httpx.Client(base_url=address, timeout=120) as client:
                assert len(client.post("/api/search", json={"text": "a dog"}).json()["hits"]) == 3
                with photos[1].open("rb") as image:
                    found = client.post("/api/search", files={"image": image}).json()
                assert found["hits"][0]["path"] == str(photos[1])
                described = client.post("/api/describe", json={"id": found["hits"][0]["id"]})
                assert described.status_code == 503
                assert "pip install torch" in described.json()["error"]
        finally:
            server.terminate()


def test_what_needs_torch_says_so_in_one_line(mini: Encoder, light: dict[str, str], tmp_path: Path) -> None:
    (photo,) = write_photos(tmp_path / "photos", 1)
    run(light, "index", str(tmp_path / "photos"), "--model", "mini")
    for arguments in (
        ("describe", str(photo), "--model", "mini"),
        ("search", "a dog", "--rerank", "--index", str(tmp_path / "photos")),
        (
            "index",
            str(tmp_path / "photos"),
            "--model",
            "mini",
            "--precision",
            "fp16",
            "--index",
            str(tmp_path / "other"),
        ),
    ):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "mmsearch", *arguments], capture_output=True, text=True, check=False, env=light
        )
        assert done.returncode == 1, done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "pip install" in line and "torch" in line


def test_the_light_requirements_are_those_of_the_package_without_torch() -> None:
    listed = {Requirement(line).name for line in _requirements()}
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    needed = {Requirement(line).name for line in package}
    assert needed - listed == {"torch", "open-clip-torch", "transformers", "onnx", "faiss-gpu"}
    assert listed <= needed
    both = {str(Requirement(line)) for line in _requirements()} - {"faiss-cpu>=1.9"}
    assert both <= {str(Requirement(line)) for line in package}


def _requirements() -> list[str]:
    lines = (ROOT / "requirements-light.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]

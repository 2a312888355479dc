"""The documentation is true: its commands run, and it has every command, option, variable, name and route, and no other."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.documents import DOCS, Block, Page, pages

_ADDRESS = "localhost:8000"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, mini: object) -> Path:
    """A home with the folder `Pictures` of sample photos and a film that the pages speak of, indexed by `mini`."""
    from PIL import Image

    from benchmarks.samples import copy_samples
    from tests.conftest import build
    from tests.films import film

    home = tmp_path_factory.mktemp("home")
    pictures = home / "Pictures"
    copy_samples(pictures)
    (pictures / "2023" / "holiday").mkdir(parents=True)
    for name, source in (
        ("beach.jpg", "coffee.png"),
        ("street.jpg", "rocket.jpg"),
        ("2023/holiday/kite.jpg", "horse.png"),
    ):
        exif = Image.Exif()
        exif[0x0110], exif.get_ifd(0x8769)[0x9003] = "iPhone 15", "2023:07:14 18:30:00"
        Image.open(pictures / source).convert("RGB").save(pictures / name, exif=exif)
    film(pictures / "holiday.mp4", (50, 56, 51))
    build(pictures, mini)  # type: ignore[arg-type]
    return home


class Reader:
    """Someone who types what a page says, in a home of their own."""

    def __init__(self, home: Path, tools: Path, address: str | None) -> None:
        self.folder, self._home, self._address = home / "Pictures", home, address
        self._state = home.parent / "folder.txt"
        self._environment = {
            **os.environ,
            "HOME": str(home),
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore",
            "MMSEARCH_CONFIG": str(home / "config.toml"),
        }

    def type(self, block: Block, text: str) -> str | None:
        """Run a block, or several of Python as one. Returns what is wrong where a command fails, or says something else than
        the page."""
        if block.language == "python":
            done = self._run([sys.executable, "-"], text)
            return _failure(block, done)
        if block.language == "sh":
            return _failure(block, self._shell(text))
        for command, answer in _dialogue(text):
            done = self._shell(command)
            wrong = _failure(block, done)
            if wrong is not None or not _is_like(done.stdout, answer):
                return wrong or f"{block}: {command}\nprinted\n{done.stdout}\nand not\n{answer}"
        return None

    def _shell(self, text: str) -> subprocess.CompletedProcess[str]:
        if self._address is not None:
            text = text.replace(_ADDRESS, self._address.removeprefix("http://"))
        # The folder of one block is that of the next.
        return self._run(["bash", "-euo", "pipefail", "-c", f"trap 'pwd > {self._state}' EXIT\n{text}"], None)

    def _run(self, arguments: list[str], typed: str | None) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            arguments, input=typed, capture_output=True, text=True, cwd=self.folder, env=self._environment, check=False
        )
        if self._state.is_file():
            self.folder = Path(self._state.read_text("utf-8").strip())
        return done


def _failure(block: Block, done: subprocess.CompletedProcess[str]) -> str | None:
    return f"{block}: exit {done.returncode}\n{done.stdout}\n{done.stderr}" if done.returncode else None


def _dialogue(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a `console` block, each with what the page says that it prints."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        count = 1 + next(n for n, line in enumerate(lines) if not line.endswith("\\"))
        yield "\n".join(lines[:count]), "\n".join(lines[count:])


def _is_like(printed: str, answer: str) -> bool:
    """Whether a page's answer is what was printed; `…` stands for anything, and spaces for spaces of any number."""
    if not answer.strip():
        return True
    pattern = re.sub(r"(\\ |\s|\\\n)+", r"\\s+", re.escape(answer.strip())).replace("…", ".*")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.fixture(scope="module")
def tools(preloaded: tuple[str, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH with the command of this checkout, and its Python."""
    folder = tmp_path_factory.mktemp("tools")
    for name, words in (("python", ""), ("mmsearch", f" -S -E '{ROOT}/tests/preloaded.py' '{preloaded[0]}'")):
        tool = folder / name
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}"{words} "$@"\n', "utf-8")
        tool.chmod(0o755)
    return folder


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_a_page_tells_to_type_does_run(page: Page, library: Path, tools: Path, tmp_path: Path) -> None:
    from tests.servers import serving

    home = tmp_path / "home"
    shutil.copytree(library, home)
    if page.name == "index.md":
        # Here nothing is indexed yet.
        shutil.rmtree(home / "Pictures" / ".mmsearch")
    blocks = [block for block in page.blocks() if block.runs]

    wrong: list[str | None] = []

    def read(address: str | None) -> None:
        reader = Reader(home, tools, address)
        for language, group in groupby(blocks, lambda block: block.language):
            several = list(group)
            if language == "python":
                # They go on with the names of those before.
                wrong.append(reader.type(several[0], "\n".join(block.text for block in several)))
            else:
                wrong.extend(reader.type(block, block.text) for block in several)

    if any(_ADDRESS in block.text for block in blocks):
        with serving(home / "Pictures" / ".mmsearch") as address:
            read(address)
    else:
        read(None)
    assert not any(wrong), "\n\n".join(filter(None, wrong))


def test_the_pages_of_the_site_are_those_of_its_menu() -> None:
    listed = re.findall(r"^  - .*: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(file.name for file in DOCS.glob("*.md"))


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    for name in ("docs", "mkdocs.yml"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [str(Path(sys.executable).with_name("zensical")), "build", "--strict"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    elsewhere = re.compile(r'<(?:script|img)[^>]*src="(https?:[^"]*)"|<link[^>]*stylesheet[^>]*"(https?:[^"]*)"')
    for file in (tmp_path / "build" / "docs").rglob("*.html"):
        loaded = elsewhere.findall(file.read_text("utf-8"))
        assert not loaded, f"{file.name} loads {loaded} from elsewhere"


def test_every_picture_of_the_documentation_is_shown() -> None:
    shown = {name for page in pages() for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.text)}
    assert shown == {file.name for file in DOCS.iterdir() if file.suffix != ".md"}


def test_links_of_files_beside_the_site_lead_somewhere() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "training/README.md"):
        file = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", file.read_text("utf-8")):
            assert "://" in target or (file.parent / target).exists(), f"{name} links to {target}"


def test_files_that_a_text_names_are_there() -> None:
    """The formulas of re-ranking were said to be in a file that had moved."""
    texts = [
        *DOCS.glob("*.md"),
        *ROOT.glob("*.md"),
        *(ROOT / name / "README.md" for name in ("benchmarks", "training")),
    ]
    pattern = r"`((?:retrieval|indexer|media|cli|server|benchmarks|training|tests)/[\w/.]+)`"
    named = {(file.name, path) for file in texts for path in re.findall(pattern, file.read_text("utf-8"))}
    assert len(named) > 5
    assert not [entry for entry in named if not (ROOT / entry[1]).exists()]

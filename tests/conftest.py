"""Shared fixtures: an isolated cache, the embedded model loaded once, and folders of real encoded pictures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import portalocker
import pytest
from hypothesis import settings
from PIL import Image

from tests.preloaded import run as preloaded_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from retrieval.models.encoder import Encoder
    from tests.browsers import Tab

ROOT = Path(__file__).parents[1]
if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes share the cores: teams of threads in each would wait for each other. Libraries read this when they are
    # loaded, and commands inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# An example may take long where other work runs beside it: that says nothing of the program.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of our own for the whole session, and no network."""
    folder = tmp_path_factory.mktemp("cache")
    keep = {
        name: os.environ.get(name)
        for name in ("MMSEARCH_CACHE", "HF_HUB_OFFLINE", "HF_HOME", "MMSEARCH_INDEX", "MMSEARCH_CONFIG", "MMSEARCH_OCR")
    }
    os.environ["MMSEARCH_CACHE"] = str(folder)
    os.environ["MMSEARCH_CONFIG"] = str(folder / "config.toml")
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Reading pictures takes a second each: the tests of that ask for it.
    os.environ["MMSEARCH_OCR"] = "off"
    os.environ["HF_HOME"] = str(folder / "hf")
    os.environ.pop("MMSEARCH_INDEX", None)
    yield folder
    # A library that makes itself a real-time process starves all others of this machine, and every child of this one does.
    assert not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) == os.SCHED_OTHER
    for name, value in keep.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def mini(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The embedded model, exported once, by whichever process of a run comes first, and loaded."""
    from retrieval.models.encoder import Encoder
    from retrieval.models.export import ensure_exported

    several = "PYTEST_XDIST_WORKER" in os.environ
    shared = (tmp_path_factory.getbasetemp().parent if several else tmp_path_factory.mktemp("exported")) / "mini"
    with portalocker.Lock(f"{shared}.lock", timeout=300):
        if shared.exists():
            shutil.copytree(shared, cache, dirs_exist_ok=True)
        assert ensure_exported("mini") == []
        if not shared.exists():
            for form in ("text", "towers"):
                shutil.copytree(cache / form, shared / form)
    return Encoder.load("mini", "cpu", "fp32")


EVIL = "<img src=x onerror=alert(1)>.jpg"


def build(folder: Path, encoder: Encoder) -> None:
    """Index a folder into itself."""
    from indexer.build import IndexBuild
    from indexer.config import BuildConfig

    for _ in IndexBuild([folder], folder / ".mmsearch", encoder, BuildConfig()):
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, mini: Encoder) -> Path:
    """Sample photos with captions, more photos than a page holds, a film, and names and words that are markup."""
    from benchmarks.samples import copy_samples
    from tests.films import film

    folder = tmp_path_factory.mktemp("site")
    copy_samples(folder)
    write_photos(folder / "more", 60)
    film(folder / "film.mp4", (50, 56, 51))
    picture(77).save(folder / EVIL)
    (folder / f"{EVIL[:-4]}.txt").write_text("<script>alert(2)</script> a strange caption")
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    picture(99).save(outside)
    (folder / ".kept").mkdir()
    picture(99).save(folder / ".kept" / "inside.jpg")
    link = folder / "link.jpg"
    link.symlink_to(folder / ".kept" / "inside.jpg")
    build(folder, mini)
    # A link that leads out is no item; this one was turned outwards after it had become one.
    link.unlink()
    link.symlink_to(outside)
    return folder


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """The address of a server over `site`."""
    from tests.servers import serving

    with serving(site / ".mmsearch") as served:
        yield served


@pytest.fixture
def web(address: str) -> Iterator[httpx.Client]:
    """A client of that server."""
    with httpx.Client(base_url=address, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of the page."""
    from tests.browsers import chromium

    with chromium() as opened:
        yield opened


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Tab]:
    """A tab that is open on nothing yet, of the server over `site`."""
    from tests.browsers import tab_of

    with tab_of(browser, address) as opened:
        yield opened


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture unlike any other: blurred colour noise, which survives lossy encoding."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), "RGB")
    return small.resize((width, height), Image.Resampling.BICUBIC)


def write_photos(folder: Path, count: int, start: int = 0) -> list[Path]:
    """`count` JPEG files named by their seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in range(start, start + count):
        file = folder / f"photo{seed:04d}.jpg"
        picture(seed).save(file, quality=92)
        files.append(file)
    return files


# The beginnings of settings that Python and libraries read once, when they are started or imported.
_READ_ON_IMPORT = ("PYTHONW", "PYTHONI", "PYTHONU", "HF_", "OMP_", "LD_", "OPENBLAS_", "MKL_")


def read_on_import(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_ON_IMPORT)}


Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def preloaded(cache: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The address of a process that forks commands, and what its environment has that is read once."""
    # Not below pytest's folders: an address may have about a hundred letters.
    with tempfile.TemporaryDirectory() as folder:
        address = os.path.join(folder, "socket")
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.preloaded", address], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield address, read_on_import(os.environ)


@pytest.fixture
def command(tmp_path: Path, preloaded: tuple[str, dict[str, str]]) -> Command:
    """The real command as a process of its own."""
    address, started = preloaded

    def run(
        *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        home = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": home, **(env or {})}
        words = ["mmsearch", *arguments]
        if read_on_import(environment) == started:
            return subprocess.CompletedProcess(
                words, *preloaded_run(address, [*arguments], str(cwd or tmp_path), environment)
            )
        return subprocess.run(
            [sys.executable, "-m", *words],
            capture_output=True,
            text=True,
            errors="surrogateescape",
            cwd=cwd or tmp_path,
            env=environment,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def ray_token() -> Iterator[None]:
    """A token of the tests' own, in place of one in the home folder. Ray reads it once in each process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", uuid.uuid4().hex * 2)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser and a cluster are programs of others, with timers of their own, that a busy machine lets wait: what fails there
    is tried once more. A fault of ours fails twice."""
    for item in items:
        if item.path.name.startswith("test_page") or item.path.name in ("test_cluster.py", "test_storage.py"):
            item.add_marker(pytest.mark.flaky(reruns=1))

"""Where the time of indexing and searching goes, stage by stage, on the user's own images: what `bench speed` reports."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.speed import ROOT, command, spread
from indexer.build import IndexBuild
from indexer.config import BuildConfig
from indexer.roots import roots_of
from media.containers import read_bytes
from media.image import decode_image
from media.types import Source
from media.walk import walk
from retrieval.engine import Engine
from retrieval.errors import MediaError, MmsearchError, QueryError
from retrieval.models.encoder import Encoder
from retrieval.models.export import ensure_exported
from retrieval.store.journal import UnitResult
from retrieval.store.writer import IndexWriter
from retrieval.types import Item, Query

BATCH = 32
WORDS = ("a dog", "people at night", "a red car", "snow on a mountain", "an old book", "two children", "the sea")


@dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """Images a second of each stage alone on one thread (`encode` on as many as the model takes), of the bare forward pass and
    of a whole index run; milliseconds of text queries; gigabytes at the most. Medians with least and greatest."""

    model: str
    running: str
    images: int
    stages: dict[str, dict[str, float]]
    bare: dict[str, float]
    end_to_end: dict[str, float]
    share: dict[str, float]
    cold_query_ms: dict[str, float]
    warm_query_ms: dict[str, float]
    peak_gb: float


def measure_speed(
    images: Path | None,
    encoder: Encoder,
    rounds: int = 3,
    limit: int = 512,
    on_progress: Callable[[str], None] = lambda _: None,
) -> SpeedReport:
    """Measure on at most `limit` images of a folder, or on made-up ones. Raises `QueryError` where there are none."""
    ensure_exported(encoder.spec.name)
    with tempfile.TemporaryDirectory(prefix="mmsearch-speed-") as scratch:
        root = Path(scratch)
        folder = images if images is not None else _made_up(root / "pictures", min(limit, 256))
        paths = [
            entry.path for entry in walk(roots_of([folder])) if isinstance(entry, Source) and entry.kind == "image"
        ]
        paths = paths[:limit]
        if not paths:
            raise QueryError(f"{folder} holds no pictures")
        copies = root / "copies"
        copies.mkdir()
        for number, path in enumerate(paths):
            # No links: those that lead out of a folder are not indexed.
            shutil.copyfile(path, copies / f"{number:06d}{os.path.splitext(path)[1]}")
        encoder.warm()
        stages: dict[str, list[float]] = {}
        bare: list[float] = []
        whole: list[float] = []
        for number in range(rounds):
            on_progress(f"round {number + 1} of {rounds}")
            for name, value in _stages(paths, encoder, root / f"written{number}").items():
                stages.setdefault(name, []).append(value)
            bare.append(_bare(encoder, len(paths)))
            build = IndexBuild([copies], root / f"index{number}", encoder, BuildConfig(batch_size=BATCH))
            for _ in build:
                pass
            if build.report is None:
                raise AssertionError("a build that ended has a report")
            whole.append(build.report.images_per_second)
        on_progress("queries")
        cold = [_cold(root / "index0", WORDS[n % len(WORDS)]) for n in range(rounds + 1)][1:]
        warm = _warm(root / "index0")
    return SpeedReport(
        model=encoder.spec.name,
        running=encoder.running_on,
        images=len(paths),
        stages={name: spread(values) for name, values in stages.items()},
        bare=spread(bare),
        end_to_end=spread(whole),
        share=spread([rate / other for rate, other in zip(whole, bare, strict=True)]),
        cold_query_ms=spread(cold),
        warm_query_ms=spread(warm),
        peak_gb=round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform != "darwin" else 1e9), 3
        ),
    )


def profile(images: Path, model: str, file: Path) -> None:
    """A flame graph of indexing a folder, as SVG. Raises `MmsearchError` where py-spy is not installed or not allowed."""
    with tempfile.TemporaryDirectory(prefix="mmsearch-profile-") as scratch:
        run = command("index", os.fspath(images), "--model", model, "--index", scratch)
        recorder = ["py-spy", "record", "--output", os.fspath(file), "--subprocesses", "--", *run]
        try:
            subprocess.run(recorder, cwd=ROOT, capture_output=True, text=True, check=True)
        except FileNotFoundError as error:
            raise MmsearchError("a profile needs py-spy; install it with: pip install py-spy") from error
        except subprocess.CalledProcessError as error:
            raise MmsearchError(f"py-spy: {(error.stderr.strip().splitlines() or ['py-spy failed'])[-1]}") from error


def _stages(paths: list[str], encoder: Encoder, written: Path) -> dict[str, float]:
    """Images a second of each stage alone."""
    out: dict[str, float] = {}

    def timed(name: str, work: Callable[[], int]) -> None:
        began = time.perf_counter()
        out[name] = work() / max(1e-9, time.perf_counter() - began)

    data: list[bytes] = []
    rgb: list[Image.Image] = []
    pixels: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []

    def read() -> int:
        data.extend(read_bytes(path) for path in paths)
        return len(data)

    def decode() -> int:
        for content in data:
            try:
                rgb.append(decode_image(content, encoder.spec.image_size).rgb)
            except MediaError:
                continue
        return len(data)

    def preprocess() -> int:
        pixels.extend(encoder.preprocess(image) for image in rgb)
        return len(rgb)

    rows: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []

    def encode() -> int:
        for part in (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)):
            rows.append(encoder.encode_pixels(part))
        return len(pixels)

    def write() -> int:
        count = 0
        with IndexWriter(written, encoder.spec) as writer:
            writer.add_root("/")
            for part in rows:
                items = [_item(count + n) for n in range(len(part))]
                writer.journal(UnitResult.of_rows(items, part, writer.manifest.roots))
                count += len(part)
            writer.publish()
        return count

    for name, work in (
        ("read", read),
        ("decode", decode),
        ("preprocess", preprocess),
        ("encode", encode),
        ("write", write),
    ):
        timed(name, work)
    return out


def _item(number: int) -> Item:
    return Item(
        id=f"{number:024x}", path=f"/{number}.jpg", source=f"/{number}.jpg", kind="image", sha256=f"{number:064x}"
    )


def _bare(encoder: Encoder, count: int) -> float:
    size = encoder.spec.image_size
    pixels = [np.random.default_rng(n).standard_normal((3, size, size), np.float32) for n in range(BATCH)]
    encoder.encode_pixels(pixels)
    batches = max(1, count // BATCH)
    began = time.perf_counter()
    for _ in range(batches):
        encoder.encode_pixels(pixels)
    return BATCH * batches / (time.perf_counter() - began)


def _cold(index: Path, words: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        command("search", words, "--index", os.fspath(index), "--json"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        json.loads(line)
    return 1000 * (time.perf_counter() - began)


def _warm(index: Path) -> list[float]:
    milliseconds = []
    with Engine.open(index) as engine:
        for number in range(50):
            began = time.perf_counter()
            engine.search(Query(text=WORDS[number % len(WORDS)]))
            milliseconds.append(1000 * (time.perf_counter() - began))
    return milliseconds[5:]


def _made_up(folder: Path, count: int) -> Path:
    """JPEG files of smooth noise with grain, 1024×768."""
    folder.mkdir()
    for seed in range(count):
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((1024, 768), Image.Resampling.BICUBIC), np.float32)
        grainy = smooth + rng.normal(0, 4, (768, 1024, 1)).astype(np.float32)
        Image.fromarray(np.clip(grainy, 0, 255).astype(np.uint8)).save(folder / f"{seed:05d}.jpg", quality=90)
    return folder

"""What mmsearch promises about time and memory, measured on the real command: `python -m benchmarks.speed --help`.

Every figure is a median over runs that alternate with what they are compared to, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.metrics import unit

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    weights = commands.add_parser("weights", help="write random weights of an architecture, to measure with")
    weights.add_argument("architecture")
    weights.add_argument("file", type=Path)
    photos = commands.add_parser("photos", help="write JPEG files to measure with")
    photos.add_argument("folder", type=Path)
    photos.add_argument("--count", type=int, default=160)
    photos.add_argument("--size", default="640x480")
    index = commands.add_parser("index", help="indexing against the bare forward pass, and peak memory")
    index.add_argument("folder", type=Path)
    index.add_argument("--model", required=True)
    index.add_argument("--rounds", type=int, default=3)
    rows = commands.add_parser("rows", help="write an index of many made-up rows")
    rows.add_argument("folder", type=Path)
    rows.add_argument("--model", required=True)
    rows.add_argument("--count", type=int, default=1_000_000)
    search = commands.add_parser("search", help="cold text queries through the whole command")
    search.add_argument("folder", type=Path)
    search.add_argument("--rounds", type=int, default=11)
    add = commands.add_parser("add", help="adding new files to a large index")
    add.add_argument("index", type=Path)
    add.add_argument("photos", type=Path)
    given = parser.parse_args(arguments)
    if given.what == "weights":
        write_weights(given.architecture, given.file)
    elif given.what == "photos":
        width, _, height = given.size.partition("x")
        write_photos(given.folder, given.count, int(width), int(height))
    elif given.what == "index":
        report(measure_index(given.folder, given.model, given.rounds))
    elif given.what == "rows":
        write_rows(given.folder, given.model, given.count)
    elif given.what == "search":
        report(measure_search(given.folder, given.rounds))
    else:
        report(measure_add(given.index, given.photos))
    return 0


def report(value: dict[str, object]) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def write_weights(architecture: str, file: Path) -> None:
    """Random weights: as fast as trained ones, and as good for measuring time."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.create_model(architecture)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)


def write_photos(folder: Path, count: int, width: int, height: int, seed: int = 0) -> None:
    """JPEG files cut at random from scikit-image's photos, with a little noise: they cost what camera files cost. Another
    `seed` gives other photos."""
    from PIL import Image

    from benchmarks.samples import copy_samples

    source = folder.with_name(folder.name + "-samples")
    copy_samples(source)
    images = [Image.open(file).convert("RGB") for file in sorted(source.glob("*")) if file.suffix != ".csv"]
    images = [image for image in images if min(image.size) >= 256]
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        image = images[number % len(images)]
        share = rng.uniform(0.6, 1.0)
        across, down = int(image.width * share), int(image.height * share)
        left, top = int(rng.integers(0, image.width - across + 1)), int(rng.integers(0, image.height - down + 1))
        cut = image.crop((left, top, left + across, top + down)).resize((width, height), Image.Resampling.BICUBIC)
        noise = rng.normal(0, 4, (height, width, 1)).astype(np.float32)
        pixels = np.clip(np.asarray(cut, np.float32) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05d}.jpg", quality=90)
    shutil.rmtree(source)


def command(*arguments: str) -> list[str]:
    """The real command, started as a user's shell would."""
    return [sys.executable, "-m", "mmsearch", *arguments]


def measure_index(folder: Path, model: str, rounds: int) -> dict[str, object]:
    """Images a second of `mmsearch index` from nothing, against the model alone on the same number of images."""
    from retrieval.models.encoder import Encoder

    count = len(list(folder.glob("*.jpg")))
    encoder = Encoder.load(model)
    size = encoder.spec.image_size
    pixels = [np.random.default_rng(n).standard_normal((3, size, size), np.float32) for n in range(32)]
    encoder.encode_pixels(pixels)
    bare: list[float] = []
    whole: list[float] = []
    index = folder.with_name(folder.name + "-index")
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(max(1, count // 32)):
            encoder.encode_pixels(pixels)
        bare.append(32 * max(1, count // 32) / (time.perf_counter() - began))
        shutil.rmtree(index, ignore_errors=True)
        done = subprocess.run(
            command("index", str(folder), "--model", model, "--index", str(index), "--json"),
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        whole.append(float(json.loads(done.stdout)["images_per_second"]))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return {
        "model": model,
        "images": count,
        "running": encoder.running_on,
        "bare_images_per_second": spread(bare),
        "index_images_per_second": spread(whole),
        "share": spread([rate / other for rate, other in zip(whole, bare, strict=True)]),
        "peak_gb": round(peak, 3),
    }


def write_rows(folder: Path, model: str, count: int) -> None:
    """An index of `count` image rows around 5,000 centres, as the model's embeddings of photos lie around topics."""
    from retrieval.models.encoder import Encoder
    from retrieval.models.export import ensure_exported
    from retrieval.store.journal import UnitResult
    from retrieval.store.writer import IndexWriter
    from retrieval.types import Item

    spec = Encoder.load(model).spec
    ensure_exported(spec.name)
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((5000, spec.dim), np.float32))
    with IndexWriter(folder, spec) as writer:
        writer.add_root("/photos")
        for start in range(0, count, 16_384):
            size = min(16_384, count - start)
            rows = centres[rng.integers(0, len(centres), size)]
            rows = unit(rows + rng.standard_normal((size, spec.dim), np.float32) * np.float32(1.2 / spec.dim**0.5))
            names = [f"/photos/{number // 1000:05d}/{number:08d}.jpg" for number in range(start, start + size)]
            items = [
                Item(id=f"{start + n:024x}", path=name, source=name, kind="image", width=4000, height=3000, size=1, mtime_ns=1,
                     sha256=f"{start + n:064x}")
                for n, name in enumerate(names)
            ]  # fmt: skip
            writer.journal(UnitResult.of_rows(items, rows, writer.manifest.roots))
            if writer.pending >= 16 * 16_384:
                writer.publish()
        began = time.perf_counter()
        state = writer.publish(merge=True)
        report(
            {
                "rows": count,
                "last_publication_seconds": round(time.perf_counter() - began, 1),
                "vectors": [entry.type for entry in state.vectors],
                "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            }
        )


def measure_search(folder: Path, rounds: int) -> dict[str, object]:
    """Seconds of a whole text query, process start to exit, with the files in the page cache."""
    seconds: list[float] = []
    words = ["a dog", "people at night", "red car", "snow on a mountain", "an old book"]
    for number in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run(
            command("search", words[number % len(words)], "--index", str(folder), "--json"),
            cwd=ROOT, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    from retrieval.engine import Engine

    with Engine.open(folder) as engine:
        status = engine.status()
    return {"items": status["items"], "vector_index": status["vector_index"], "seconds": spread(seconds[1:])}


def measure_add(index: Path, photos: Path) -> dict[str, object]:
    """Seconds to add the files of a folder to an index, model loading left out and counted in."""
    began = time.perf_counter()
    done = subprocess.run(
        command("index", str(photos), "--index", str(index), "--json"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    value = json.loads(done.stdout)
    return {
        "added": value["indexed"],
        "items": value["items"],
        "seconds": value["seconds"],
        "encoding_at": value["images_per_second"],
        "wall_seconds": round(time.perf_counter() - began, 2),
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    raise SystemExit(main())

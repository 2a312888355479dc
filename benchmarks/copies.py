"""How well copies are recognised, and how long it takes among many: `python -m benchmarks.copies found` and `… rows DIR`.

`found` makes 2,000 files, originals with copies that were resized, compressed, converted, cut or brightened, and as many
strangers, half of them beaches that look alike; it indexes them, and compares the groups with what it made.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from retrieval.errors import MmsearchError

COPIES = 4
_LIKENESSES: dict[str, Callable[[Image.Image], tuple[bytes, str]]] = {
    "half the size": lambda whole: _jpeg(
        whole.resize((whole.width // 2, whole.height // 2), Image.Resampling.LANCZOS), 88
    ),
    "JPEG quality 40": lambda whole: _jpeg(whole, 40),
    "WebP quality 60": lambda whole: _encoded(whole, "WEBP", ".webp", quality=60),
    "PNG": lambda whole: _encoded(whole, "PNG", ".png"),
    "cut by 2 %": lambda whole: _jpeg(_cut(whole, 0.02), 90),
    "brighter by 20 %": lambda whole: _jpeg(ImageEnhance.Brightness(whole).enhance(1.2), 90),
    "more contrast by 20 %": lambda whole: _jpeg(ImageEnhance.Contrast(whole).enhance(1.2), 90),
    "equal": lambda whole: _jpeg(whole, 92),
}


def _encoded(image: Image.Image, name: str, suffix: str, **how: object) -> tuple[bytes, str]:
    out = io.BytesIO()
    image.save(out, name, **how)
    return out.getvalue(), suffix


def _jpeg(image: Image.Image, quality: int) -> tuple[bytes, str]:
    return _encoded(image, "JPEG", ".jpg", quality=quality)


def _cut(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(share * width), round(share * height), round((1 - share) * width), round((1 - share) * height))
    )


def beach(seed: int) -> Image.Image:
    """Sky, sea and sand under a sun: of one layout, yet each another picture."""
    rng = np.random.default_rng(seed)
    width, height = 512, 384
    horizon, shore = rng.uniform(0.35, 0.5) * height, rng.uniform(0.6, 0.75) * height
    down = np.arange(height)[:, None, None] / height
    sky = np.array([90, 150, 220]) + rng.normal(0, 15, 3) + 90 * down
    sea, sand = np.array([30, 90, 140]) + rng.normal(0, 15, 3), np.array([210, 190, 140]) + rng.normal(0, 12, 3)
    rows = np.arange(height)[:, None, None]
    pixels = np.where(rows < horizon, sky, np.where(rows < shore, sea, sand)) * np.ones((1, width, 1))
    image = Image.fromarray(np.clip(pixels + rng.normal(0, 5, pixels.shape), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(3, 9))):
        x, y = rng.uniform(0, width), rng.uniform(0.3, 1) * height
        size = rng.uniform(8, 60)
        colour = tuple(int(value) for value in rng.integers(0, 255, 3))
        draw.ellipse((x, y, x + size, y + rng.uniform(0.4, 1.5) * size), fill=colour)
    x, y = rng.uniform(0, width), rng.uniform(0, 0.25) * height
    draw.ellipse((x, y, x + 40, y + 40), fill=(255, 250, 210))
    return image


def scene(seed: int) -> Image.Image:
    """Smooth noise with shapes on it: alike to no other."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
    image = small.resize((512, 384), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, size = rng.uniform(0, 500), rng.uniform(0, 380), rng.uniform(10, 120)
        draw.rectangle((x, y, x + size, y + size), fill=tuple(int(value) for value in rng.integers(0, 255, 3)))
    return image


def pictures(parquet: Path | None, count: int) -> Iterator[Image.Image]:
    """Different pictures: those of a table, or made ones, every other a beach."""
    if parquet is None:
        yield from (beach(seed) if seed % 2 else scene(seed) for seed in range(count))
        return
    from benchmarks.datasets import from_container

    given = from_container(parquet)
    if len(given.paths) < count:
        raise MmsearchError(f"{parquet} has {len(given.paths)} pictures; {count} are needed")
    yield from given.part(0, count).images(4096)


def write_set(folder: Path, files: int, parquet: Path | None) -> dict[str, tuple[int, str]]:
    """Write so many files; returns for each name the number of its original and how it was made, `""` for originals."""
    originals = files // (2 * (1 + COPIES))
    strangers = files - originals * (1 + COPIES)
    rng = np.random.default_rng(0)
    made: dict[str, tuple[int, str]] = {}
    for number, whole in enumerate(pictures(parquet, originals + strangers)):
        data, suffix = _jpeg(whole, 92)
        name = f"{number:05d}{suffix}"
        (folder / name).write_bytes(data)
        made[name] = (number, "")
        chosen = rng.permutation(list(_LIKENESSES))[:COPIES].tolist() if number < originals else []
        for how in chosen:
            data, suffix = _LIKENESSES[how](whole)
            name = f"{number:05d} {how.replace(' ', '-')}{suffix}"
            (folder / name).write_bytes(data)
            made[name] = (number, how)
    return made


def measure_found(files: int, model: str, parquet: Path | None) -> dict[str, object]:
    """Precision and recall over pairs of copies, and the share of copies of each sort that stand with their original."""
    from indexer.build import IndexBuild
    from indexer.config import BuildConfig
    from retrieval.engine import Engine
    from retrieval.models.encoder import Encoder

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "media"
        folder.mkdir()
        made = write_set(folder, files, parquet)
        for _ in IndexBuild([folder], Path(scratch) / "index", Encoder.load(model, "cpu", "auto"), BuildConfig()):
            pass
        with Engine.open(Path(scratch) / "index", device="cpu") as engine:
            groups = [[os.path.basename(item.path) for item in group.items] for group in engine.duplicates()]
    group_of = {name: number for number, group in enumerate(groups) for name in group}
    names = sorted(made)
    right = wrong = wanted = 0
    for at, name in enumerate(names):
        for other in names[at + 1 :]:
            copies = made[name][0] == made[other][0]
            grouped = name in group_of and group_of[name] == group_of.get(other)
            wanted += copies
            right += copies and grouped
            wrong += grouped and not copies
    by_way: dict[str, float | None] = {}
    for how in _LIKENESSES:
        pairs = [(name, f"{number:05d}.jpg") for name, (number, way) in made.items() if way == how]
        together = [group_of.get(name, -1) == group_of.get(original, -2) for name, original in pairs]
        by_way[how] = round(float(np.mean(together)), 3) if together else None
    return {
        "files": len(made),
        "model": model,
        "pictures": "made" if parquet is None else parquet.name,
        "precision": round(right / max(1, right + wrong), 4),
        "recall": round(right / max(1, wanted), 4),
        "pairs": wanted,
        "wrong_pairs": wrong,
        "with_their_original": by_way,
    }


def made_hashes(count: int, seed: int) -> NDArray[np.int64]:
    """Difference hashes of smooth random pictures. How fast fine detail falls off is chosen so that as many pairs are near by
    chance as among Flickr8k's photos: one in 40,000 differs in ten bits or fewer."""
    rng = np.random.default_rng(seed)
    across = np.cos(np.pi * np.outer(np.arange(8), np.arange(9) + 0.5) / 9).astype(np.float32)
    down = np.cos(np.pi * np.outer(np.arange(8), np.arange(8) + 0.5) / 8).astype(np.float32)
    fall = ((1 + np.hypot.outer(np.arange(8), np.arange(8))) ** -1.7).astype(np.float32)
    grey = np.einsum(
        "nij,iy,jx->nyx", rng.standard_normal((count, 8, 8), np.float32) * fall, down, across, optimize=True
    )
    bits = (grey[:, :, :-1] < grey[:, :, 1:]).reshape(count, 64)
    return np.packbits(bits, axis=1).view(">i8")[:, 0].astype(np.int64)


def measure_rows(folder: Path, rows: int) -> dict[str, object]:
    """Seconds of looking for copies among made-up rows, a tenth of which are copies, and of adding a hundred to them."""
    from benchmarks.ann import made_up_spec
    from retrieval.store.copies import with_copies
    from retrieval.store.journal import UnitResult
    from retrieval.store.manifest import CopiesState, VectorPolicy
    from retrieval.store.writer import IndexWriter
    from retrieval.types import Item

    dim, batch = 64, 32_768
    shutil.rmtree(folder, ignore_errors=True)
    rng = np.random.default_rng(1)

    def add(writer: IndexWriter, first: int, count: int) -> float:
        hashes = made_hashes(count, first)
        embeddings = rng.standard_normal((count, dim), np.float32)
        copies = count // 10
        hashes[-copies:] = hashes[:copies] ^ (np.int64(1) << rng.integers(0, 63, copies))
        embeddings[-copies:] = embeddings[:copies]
        embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
        items = [
            Item(
                id=f"{number:024x}", path=f"/made-up/{number:08d}.jpg", source=f"/made-up/{number:08d}.jpg", kind="image",
                width=4000, height=3000, sha256=f"{number:064x}", dhash=value,
            )
            for number, value in enumerate(hashes.tolist(), first)
        ]  # fmt: skip
        writer.journal(UnitResult.of_rows(items, embeddings, writer.manifest.roots))
        began = time.perf_counter()
        writer.publish()
        return time.perf_counter() - began

    with IndexWriter(folder, made_up_spec(dim)) as writer:
        writer.add_root("/made-up")
        writer.rebuild_vectors(VectorPolicy(type="flat"))
        published = [add(writer, first, min(batch, rows - first)) for first in range(0, rows, batch)]
        adding = add(writer, rows, 100)
        began = time.perf_counter()
        state = with_copies(
            folder, replace(writer.manifest, copies=CopiesState(), generation=writer.manifest.generation + 1)
        )
        whole = time.perf_counter() - began
    files = [entry for entry in (*state.copies.segments, state.copies.groups) if entry is not None]
    return {
        "rows": rows,
        "in_groups": state.copies.groups.rows if state.copies.groups is not None else 0,
        "seconds_at_once": round(whole, 1),
        "seconds_of_the_last_publication": round(published[-1], 2),
        "seconds_of_adding_a_hundred": round(adding, 2),
        "bytes_a_row": round(sum(entry.bytes for entry in files) / rows, 1),
    }


def main() -> int:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copies", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    found = commands.add_parser("found", help="precision and recall on a made set")
    found.add_argument("--files", type=int, default=2000)
    found.add_argument("--model", default="mini")
    found.add_argument("--parquet", type=Path, help="take the pictures from the column `image` of this table")
    among = commands.add_parser("rows", help="seconds among many made-up rows")
    among.add_argument("folder", type=Path)
    among.add_argument("--rows", type=int, default=1_000_000)
    given = parser.parse_args()
    try:
        if given.command == "found":
            report = measure_found(given.files, given.model, given.parquet)
        else:
            report = measure_rows(given.folder, given.rows)
    except MmsearchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

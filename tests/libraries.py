"""Media folders that live: random edits of files of every kind, and what an index must hold of them afterwards."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.build import IndexBuild
from indexer.config import BuildConfig, BuildReport
from retrieval.store.leases import open_state
from retrieval.store.shards import ShardReader
from tests.conftest import picture
from tests.stores import PlainEncoder

Row = tuple[str, str, str, str | None, str, tuple[float, ...]]


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    picture(seed).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_tar(file: Path, seeds: list[int]) -> None:
    """A webdataset with an image and a caption for each seed."""
    with tarfile.open(file, "w") as out:
        for seed in seeds:
            for suffix, data in ((".jpg", jpeg(seed)), (".txt", f"member {seed}".encode())):
                info = tarfile.TarInfo(f"{seed:05d}{suffix}")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))


def write_table(file: Path, seeds: list[int]) -> None:
    """A table with an image and two captions for each seed."""
    columns = {
        "image_id": [f"row{seed}" for seed in seeds],
        "image": [jpeg(seed) for seed in seeds],
        "captions": [[f"first of {seed}", f"second of {seed}"] for seed in seeds],
    }
    pq.write_table(pa.table(columns), file, row_group_size=8)


def write_moving(file: Path, seeds: list[int]) -> None:
    """An animated GIF: a video without an encoder."""
    first, *rest = (picture(seed).convert("P") for seed in seeds)
    first.save(file, save_all=True, append_images=rest, duration=700, loop=0)


class Library:
    """Two roots whose files change at random."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.roots = (folder / "first", folder / "second")
        for root in self.roots:
            (root / "sub" / "deep").mkdir(parents=True)
        self._chance = random.Random(seed)
        self._next = 0
        for _ in range(30):
            self.edit()

    def edit(self) -> None:
        """One random change."""
        chance = self._chance
        root = chance.choice(self.roots)
        folder = chance.choice([root, root / "sub", root / "sub" / "deep", root / "sub!"])
        folder.mkdir(exist_ok=True)
        images = sorted(folder.glob("*.jpg"))
        act = chance.choice(
            ["add", "add", "add", "change", "rename", "remove", "sidecar", "sidecar", "tar", "table", "captions", "move",
             "touch", "text", "copy"]
        )  # fmt: skip
        self._next += 1
        if act == "add" or not images:
            (folder / f"photo{self._next:05d}.jpg").write_bytes(jpeg(self._next))
            return
        file = chance.choice(images)
        if act == "change":
            file.write_bytes(jpeg(self._next))
        elif act == "rename":
            file.rename(chance.choice([folder, root, root / "sub"]) / f"moved{self._next:05d}.jpg")
        elif act == "remove":
            file.unlink()
        elif act == "touch":
            os.utime(file)
        elif act == "copy":
            shutil.copyfile(file, folder / f"copy{self._next:05d}.jpg")
        elif act == "sidecar":
            text = file.with_suffix(".txt")
            text.unlink() if text.exists() and chance.random() < 0.5 else text.write_text(f"about {self._next}\nmore\n")
        elif act == "text":
            (folder / "notes.md").write_text(f"# Notes\n\nNumber {self._next}.\n")
        elif act == "captions":
            named = "".join(f"{one.name},caption {self._next}\n" for one in images[:3])
            (folder / "captions.csv").write_text("path,caption\n" + named)
        elif act == "move" and (root / "sub" / "deep").exists():
            target = root / f"away{self._next}"
            (root / "sub" / "deep").rename(target)
            (root / "sub" / "deep").mkdir()
        else:
            container = folder / ("set.tar" if act == "tar" else "set.parquet")
            if container.exists() and chance.random() < 0.3:
                container.unlink()
            else:
                seeds = [10_000 + chance.randrange(40) for _ in range(chance.randrange(5))]
                (write_tar if act == "tar" else write_table)(container, sorted(set(seeds)))


def run(
    index: Path, *paths: Path, encoder: PlainEncoder | None = None, config: BuildConfig | None = None
) -> BuildReport:
    """Bring an index up to date for these paths."""
    build = IndexBuild(paths, index, encoder or PlainEncoder(), config or BuildConfig(batch_size=4, workers=2))
    for _ in build:
        pass
    assert build.report is not None
    return build.report


def rows_of(index: Path) -> list[Row]:
    """Everything that a search could return, in an order of its own."""
    lease = open_state(index)
    try:
        reader = ShardReader(index, lease.manifest)
        shards, places = reader.living()
        embeddings = reader.embeddings(shards, places)
        rows: list[Row] = [
            (
                item.path,
                f"{item.kind} {item.start or 0:.3f}",
                item.id,
                item.text,
                item.source,
                tuple(np.asarray(row, np.float32).tolist()),
            )
            for item, row in zip(reader.items(shards, places), embeddings, strict=True)
        ]
    finally:
        lease.close()
    return sorted(rows, key=lambda row: (row[0], row[1], row[3] or "", row[5], row[2]))

"""A writer killed at random moments: the index always opens, and in the end nothing is lost or doubled."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from indexer.build import BuildConfig, IndexBuild
from retrieval.models.encoder import Encoder
from retrieval.store.manifest import read_manifest
from retrieval.store.selection import Selection
from retrieval.store.shards import ShardReader
from retrieval.store.vector_index import VectorIndex
from tests.conftest import ROOT, picture, write_photos
from tests.stores import PlainEncoder

ROUNDS = 24


def check_whole(folder: Path) -> Counter[str]:
    """Open the index as a reader would, and return how often each path is there."""
    index = folder / ".mmsearch"
    if not (index / "manifest.json").exists():
        return Counter()
    state = read_manifest(index)
    reader = ShardReader(index, state)
    catalogue = reader.catalogue()
    found = reader.items(catalogue.shard, catalogue.row)
    vectors = VectorIndex(index, state)
    rows = reader.embeddings(catalogue.shard, catalogue.row).astype(np.float32)
    for number in range(0, len(found), 29):
        _, shards, places = vectors.search(rows[number], 1, Selection.of_kinds(state, [found[number].kind]))
        assert len(places) == 1
        del shards
    return Counter(f"{item.kind} {item.path} {item.text}" for item in found)


def test_a_killed_writer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(11)
    media = tmp_path / "media"
    write_photos(media, 90)
    (media / "captions.csv").write_text(
        "path,caption\n" + "".join(f"photo{n:04d}.jpg,caption {n}\n" for n in range(30))
    )
    with tarfile.open(media / "set.tar", "w") as out:
        for number in range(40):
            data = io.BytesIO()
            picture(1000 + number).save(data, "JPEG")
            info = tarfile.TarInfo(f"{number:03d}.jpg")
            info.size = data.tell()
            data.seek(0)
            out.addfile(info, data)
    killed = 0
    for round_number in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.killed", str(media)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(chance.uniform(0, 0.35))
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed += process.returncode == -signal.SIGKILL
        process.stdout.close()
        present = check_whole(media)
        assert not present or max(present.values()) == 1, present.most_common(3)
        # The folder lives on between the rounds: files come, change, move and go.
        write_photos(media, 5, start=200 + 5 * round_number)
        changed = media / f"photo{chance.randrange(60):04d}.jpg"
        if changed.exists():
            picture(5000 + round_number).save(changed, quality=90)
        moved = media / f"photo{60 + round_number:04d}.jpg"
        if moved.exists():
            os.rename(moved, media / f"moved{round_number:04d}.jpg")
    assert killed >= ROUNDS * 3 // 4
    encoder = PlainEncoder()
    build = IndexBuild([media], media / ".mmsearch", cast(Encoder, encoder), BuildConfig(batch_size=8))
    for _ in build:
        pass
    files = sorted(media.glob("*.jpg"))
    wanted = Counter([f"image {file} None" for file in files])
    wanted.update(f"image {media}/set.tar::{number:03d}.jpg None" for number in range(40))
    wanted.update(f"text {media}/photo{number:04d}.jpg caption {number}" for number in range(30))
    assert check_whole(media) == wanted
    index = media / ".mmsearch"
    reader = ShardReader(index, read_manifest(index))
    catalogue = reader.catalogue()
    rows = reader.embeddings(catalogue.shard, catalogue.row)
    for item, row in zip(reader.items(catalogue.shard, catalogue.row), rows, strict=True):
        if item.kind == "image" and "::" not in item.path:
            own = encoder.encode_pixels([encoder.preprocess(Image.open(item.path).convert("RGB"))])[0]
            assert np.allclose(row, own, atol=1e-3), item.path

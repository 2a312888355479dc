"""mmsearch against rclip and clip-retrieval: the same photos, ViT-B-32-256 with the same local weights, in turns.

`prepare` makes an environment for each peer from the package index, and random weights in the form that each reads: they
take as long as trained ones. `run` measures. Run by hand; nothing of this is part of the tests.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.speed import ROOT, command, report, spread, write_weights

ARCHITECTURE = "ViT-B-32-256"
# Where rclip looks for its one model, below its data folder.
RCLIP_MODEL = "ViT-B-32-256-datacomp_s34b_b86k"
PACKAGES = {"rclip": ["rclip>=3.3"], "clip-retrieval": ["clip-retrieval>=2.45", "setuptools<80"]}
WORDS = "a dog in the snow"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, or measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.run", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("prepare", "run"):
        subcommand = commands.add_parser(name)
        subcommand.add_argument("work", type=Path, help="folder for environments, weights and indexes")
        if name == "run":
            subcommand.add_argument("photos", type=Path)
            subcommand.add_argument("--rounds", type=int, default=3)
            subcommand.add_argument("--without", action="append", default=[], choices=sorted(PACKAGES))
    given = parser.parse_args(arguments)
    if given.what == "prepare":
        prepare(given.work)
    else:
        peers = [name for name in PACKAGES if name not in given.without]
        report(measure(given.work.resolve(), given.photos.resolve(), given.rounds, peers))
    return 0


def prepare(work: Path) -> None:
    """Environments and weights; what is there already stays."""
    work.mkdir(parents=True, exist_ok=True)
    for name, packages in PACKAGES.items():
        place = work / name
        if not place.exists():
            venv.create(place, with_pip=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", *packages], check=True)
    weights = work / "weights.safetensors"
    if not weights.exists():
        write_weights(ARCHITECTURE, weights)
    _export_for_rclip(weights, work / "rclip-data")


def _export_for_rclip(weights: Path, data: Path) -> None:
    """The two towers as ONNX, batch first, input and output named as rclip names them, and the tokenizer's vocabulary."""
    import open_clip
    import torch

    folder = data / RCLIP_MODEL
    folder.mkdir(parents=True, exist_ok=True)
    (data / "tokenizer").mkdir(exist_ok=True)
    vocabulary = "bpe_simple_vocab_16e6.txt.gz"
    shutil.copyfile(Path(open_clip.__file__).with_name(vocabulary), data / "tokenizer" / vocabulary)
    model = open_clip.create_model(ARCHITECTURE, pretrained=str(weights)).eval()

    class Tower(torch.nn.Module):
        def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.inner, self.encode = model, encode

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return self.encode(value)

    for name, encode, example in (
        ("visual", model.encode_image, torch.zeros(2, 3, 256, 256)),
        ("textual", model.encode_text, torch.zeros(2, 77, dtype=torch.long)),
    ):
        torch.onnx.export(
            Tower(encode), (example,), str(folder / f"{name}.onnx"), input_names=["input"], output_names=["output"],
            dynamic_axes={"input": {0: "n"}, "output": {0: "n"}}, dynamo=False,
        )  # fmt: skip


# What is timed of each program; `index` is from nothing, the others are whole commands over that index.
ACTS = ("index", "text query", "image query", "unchanged", "one added")


def measure(work: Path, photos: Path, rounds: int, peers: Sequence[str]) -> dict[str, object]:
    """Seconds of each act, where the program has a command for it; ratios above 1 say that mmsearch took less time."""
    model = f"{ARCHITECTURE}@{work / 'weights.safetensors'}"
    folder = work / "photos"
    if not folder.is_dir():
        shutil.copytree(photos, folder)
    ways: dict[str, Callable[[], dict[str, float]]] = {"mmsearch": lambda: _ours(work, folder, model)}
    if "rclip" in peers:
        ways["rclip"] = lambda: _rclip(work, folder)
    if "clip-retrieval" in peers:
        ways["clip-retrieval"] = lambda: _clip_retrieval(work, folder)
    _ours(work, folder, model)  # exports the towers, once for each model
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            for act, taken in way().items():
                seconds[name].setdefault(act, []).append(taken)
    out: dict[str, object] = {"photos": len(list(folder.glob("*.jpg"))), "rounds": rounds}
    for name, of_acts in seconds.items():
        out[name] = {act: spread(taken) for act, taken in of_acts.items()}
        if name != "mmsearch":
            out[f"{name}, ratio"] = {
                act: spread([peer / our for peer, our in zip(taken, seconds["mmsearch"][act], strict=True)])
                for act, taken in of_acts.items()
            }
    return out


def _added(photos: Path) -> Path:
    """A photo of the folder again, with other bytes and a name of its own; it goes before a folder is indexed anew."""
    added = photos / "added.jpg"
    if not added.exists():
        added.write_bytes(min(photos.glob("*.jpg")).read_bytes() + os.urandom(16))
    return added


def _ours(work: Path, photos: Path, model: str) -> dict[str, float]:
    index = work / "mmsearch-index"
    shutil.rmtree(index, ignore_errors=True)
    (photos / "added.jpg").unlink(missing_ok=True)
    build = command("index", str(photos), "--model", model, "--index", str(index))
    first = str(min(photos.glob("*.jpg")))
    taken = {
        "index": _timed(build, ROOT),
        "text query": _middle(command("search", WORDS, "--index", str(index)), ROOT),
        "image query": _middle(command("search", "--image", first, "--index", str(index)), ROOT),
        "unchanged": _middle(build, ROOT),
    }
    _added(photos)
    return {**taken, "one added": _timed(build, ROOT)}


def _rclip(work: Path, photos: Path) -> dict[str, float]:
    """rclip indexes when it searches: an index from nothing is told less a query that indexes nothing, the last two are with
    the query."""
    data = work / "rclip-data"
    for database in data.glob("db.sqlite3*"):
        database.unlink()
    (photos / "added.jpg").unlink(missing_ok=True)
    program = [str(work / "rclip" / "bin" / "rclip"), "--filepath-only"]
    looking = [*program, "--indexing-batch-size", "32", WORDS]
    place = str(data)
    first = _timed(looking, photos, RCLIP_DATADIR=place)
    text = _middle([*program, "--no-indexing", WORDS], photos, RCLIP_DATADIR=place)
    taken = {
        "index": first - text,
        "text query": text,
        "image query": _middle(
            [*program, "--no-indexing", str(min(photos.glob("*.jpg")))], photos, RCLIP_DATADIR=place
        ),
        "unchanged": _middle(looking, photos, RCLIP_DATADIR=place),
    }
    _added(photos)
    return {**taken, "one added": _timed(looking, photos, RCLIP_DATADIR=place)}


def _middle(run: Sequence[str], place: Path, **more: str) -> float:
    return statistics.median(_timed(run, place, **more) for _ in range(3))


def _clip_retrieval(work: Path, photos: Path) -> dict[str, float]:
    """Inference and index, its two commands; its queries go to a server, so none is timed."""
    program = str(work / "clip-retrieval" / "bin" / "clip-retrieval")
    embeddings, index = work / "cr-embeddings", work / "cr-index"
    shutil.rmtree(embeddings, ignore_errors=True)
    shutil.rmtree(index, ignore_errors=True)
    inference = [
        program, "inference", "--input_dataset", str(photos), "--output_folder", str(embeddings),
        "--clip_model", f"open_clip:{ARCHITECTURE}/{work / 'weights.safetensors'}", "--use_jit", "False",
        "--enable_text", "False", "--enable_metadata", "False", "--batch_size", "32",
        "--num_prepro_workers", str(os.cpu_count() or 1), "--input_format", "files",
    ]  # fmt: skip
    seconds = _timed(inference, work)
    seconds += _timed([program, "index", "--embeddings_folder", str(embeddings), "--index_folder", str(index)], work)
    return {"index": seconds}


def _timed(run: Sequence[str], place: Path, **more: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(run, cwd=place, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"{run[0]} ended with {done.returncode}")
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
